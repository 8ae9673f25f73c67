//! Graph nodes that allocate and free.
use super::{
    node::{add, other_kind},
    pool::Properties,
};
use crate::{
    driver,
    ffi::{In, Out, api},
    graph::NODES,
    graph_memory::GraphMemory,
    op::Op,
    result::{Code, Result},
};

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AllocParams {
    pool: Properties,
    access: usize,
    access_count: usize,
    bytes: usize,
    address: u64,
}

api! {
    fn cuGraphAddMemAllocNode(
        out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: Out<AllocParams>,
    ) {
        add(out, graph, after, count, || alloc(params))
    }

    fn cuGraphAddMemFreeNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, address: u64) {
        add(out, graph, after, count, || free(address))
    }

    fn cuGraphMemAllocNodeGetParams(node: usize, params: Out<AllocParams>) {
        let params = params.required()?;
        match NODES.get(node)?.op()? {
            Op::Alloc(m) => params.set(AllocParams {
                pool: Properties::plain(m.device.ordinal),
                access: 0,
                access_count: 0,
                bytes: m.bytes,
                address: m.address,
            }),
            _ => Err(other_kind()),
        }
    }

    fn cuGraphMemFreeNodeGetParams(node: usize, address: Out<u64>) {
        match NODES.get(node)?.op()? {
            Op::GraphFree(memory) => address.set(memory.address),
            _ => Err(other_kind()),
        }
    }

    fn cuDeviceGraphMemTrim(dev: i32) {
        driver::device(dev).map(|_| ())
    }

    fn cuDeviceGetGraphMemAttribute(dev: i32, attribute: i32, value: Out<u64>) {
        let value = value.required()?;
        let (now, high) = driver::device(dev)?.graph_pool.used();
        match attribute {
            // Used and reserved are the same here: addresses are taken with their memory.
            0 | 2 => value.set(now),
            1 | 3 => value.set(high),
            _ => Err(Code::INVALID_VALUE.because(format!("no attribute {attribute} of graphs' memory"))),
        }
    }

    fn cuDeviceSetGraphMemAttribute(dev: i32, attribute: i32, value: In<u64>) {
        let device = driver::device(dev)?;
        match (attribute, value.get()?) {
            (1 | 3, 0) => device.graph_pool.reset_high(),
            _ => return Err(Code::INVALID_VALUE.because("only the high-water marks can be set, to 0")),
        }
        Ok(())
    }
}

/// The operation of an allocating node; its address goes back into the parameters.
pub fn alloc(params: Out<AllocParams>) -> Result<Op> {
    let given = params.get()?;
    let device = given.pool.device()?;
    let memory = GraphMemory::new(device, given.bytes, &device.graph_pool)?;
    params.put(AllocParams { address: memory.address, ..given });
    Ok(Op::Alloc(memory))
}

/// The operation of a freeing node.
pub fn free(address: u64) -> Result<Op> {
    let memory = GraphMemory::at(address);
    memory.map(Op::GraphFree).ok_or_else(|| Code::INVALID_VALUE.because("no graph allocates at this address"))
}
