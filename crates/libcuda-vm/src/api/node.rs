//! Graph nodes: adding them, reading and changing what they do.
use super::{copy::Copy3d, fill, graph_memory};
use crate::{
    event::EVENTS,
    ffi::{In, Out, api},
    graph::{EXECS, Exec, GRAPHS, Graph, NODES},
    launch::{self, Grid},
    module,
    op::{FillOp, HostOp, KernelOp, Op},
    place::Place,
    result::{Code, Result},
};
use std::sync::Arc;

/// `CUDA_KERNEL_NODE_PARAMS` of version 1: what all versions start with.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelV1 {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    params: In<usize>,
    extra: In<usize>,
}

/// `CUDA_KERNEL_NODE_PARAMS` of versions 2 and 3.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelV2 {
    v1: KernelV1,
    kernel: usize,
    context: usize,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fill {
    dst: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Host {
    function: Option<extern "C" fn(usize)>,
    data: usize,
}

/// `CUDA_MEMCPY_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CopyParams {
    flags: i32,
    reserved: i32,
    context: usize,
    copy: Copy3d,
}

/// The start of `CUgraphNodeParams`; what follows depends on the kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Params {
    kind: i32,
    reserved: [i32; 3],
}

api! {
    fn cuGraphAddKernelNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<KernelV1>) {
        add(out, graph, after, count, || kernel(params.get()?, 0))
    }

    fn cuGraphAddKernelNode_v2(out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<KernelV2>) {
        add(out, graph, after, count, || kernel(params.get()?.v1, params.get()?.kernel))
    }

    fn cuGraphAddMemcpyNode(
        out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<Copy3d>, _context: usize,
    ) {
        add(out, graph, after, count, || Ok(Op::Copy(params.get()?.op()?)))
    }

    fn cuGraphAddMemsetNode(
        out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<Fill>, _context: usize,
    ) {
        add(out, graph, after, count, || params.get()?.op())
    }

    fn cuGraphAddHostNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<Host>) {
        add(out, graph, after, count, || params.get()?.op())
    }

    fn cuGraphAddChildGraphNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, child: usize) {
        add(out, graph, after, count, || nested(child))
    }

    fn cuGraphAddEmptyNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize) {
        add(out, graph, after, count, || Ok(Op::Empty))
    }

    fn cuGraphAddEventRecordNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, event: usize) {
        add(out, graph, after, count, || Ok(Op::Record(EVENTS.get(event)?)))
    }

    fn cuGraphAddEventWaitNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, event: usize) {
        add(out, graph, after, count, || Ok(Op::Wait(EVENTS.get(event)?)))
    }

    fn cuGraphAddNode(out: Out<usize>, graph: usize, after: In<usize>, count: usize, params: In<Params>) {
        add(out, graph, after, count, || any(params))
    }

    fn cuGraphAddNode_v2(
        out: Out<usize>, graph: usize, after: In<usize>, _edges: In<u64>, count: usize, params: In<Params>,
    ) {
        add(out, graph, after, count, || any(params))
    }

    fn cuGraphAddNode_v3(
        out: Out<usize>, graph: usize, after: In<usize>, _edges: In<u64>, count: usize, params: In<Params>,
    ) {
        add(out, graph, after, count, || any(params))
    }

    fn cuGraphNodeGetType(node: usize, kind: Out<i32>) {
        let kind = kind.required()?;
        kind.set(kind_of(&NODES.get(node)?.op()?))
    }

    fn cuGraphKernelNodeGetParams(node: usize, params: Out<KernelV1>) {
        params.required()?.set(kernel_params(node)?)
    }

    fn cuGraphKernelNodeGetParams_v2(node: usize, params: Out<KernelV2>) {
        params.required()?.set(KernelV2 { v1: kernel_params(node)?, kernel: 0, context: 0 })
    }

    fn cuGraphKernelNodeSetParams(node: usize, params: In<KernelV1>) {
        NODES.get(node)?.set_op(kernel(params.get()?, 0)?)
    }

    fn cuGraphKernelNodeSetParams_v2(node: usize, params: In<KernelV2>) {
        NODES.get(node)?.set_op(kernel(params.get()?.v1, params.get()?.kernel)?)
    }

    fn cuGraphMemcpyNodeGetParams(node: usize, params: Out<Copy3d>) {
        match NODES.get(node)?.op()? {
            Op::Copy(op) => params.set(Copy3d::of(&op)),
            _ => Err(other_kind()),
        }
    }

    fn cuGraphMemcpyNodeSetParams(node: usize, params: In<Copy3d>) {
        NODES.get(node)?.set_op(Op::Copy(params.get()?.op()?))
    }

    fn cuGraphMemsetNodeGetParams(node: usize, params: Out<Fill>) {
        match NODES.get(node)?.op()? {
            Op::Fill(op) => params.set(Fill::of(&op)),
            _ => Err(other_kind()),
        }
    }

    fn cuGraphMemsetNodeSetParams(node: usize, params: In<Fill>) {
        NODES.get(node)?.set_op(params.get()?.op()?)
    }

    fn cuGraphHostNodeGetParams(node: usize, params: Out<Host>) {
        match NODES.get(node)?.op()? {
            Op::Host(op) => params.set(Host { function: Some(op.function), data: op.data }),
            _ => Err(other_kind()),
        }
    }

    fn cuGraphHostNodeSetParams(node: usize, params: In<Host>) {
        NODES.get(node)?.set_op(params.get()?.op()?)
    }

    fn cuGraphChildGraphNodeGetGraph(node: usize, graph: Out<usize>) {
        match NODES.get(node)?.op()? {
            Op::Graph(exec) => graph.set(exec.handle),
            _ => Err(other_kind()),
        }
    }

    fn cuGraphEventRecordNodeGetEvent(node: usize, event: Out<usize>) {
        match NODES.get(node)?.op()? {
            Op::Record(e) => event.set(e.handle),
            _ => Err(other_kind()),
        }
    }

    fn cuGraphEventWaitNodeGetEvent(node: usize, event: Out<usize>) {
        match NODES.get(node)?.op()? {
            Op::Wait(e) => event.set(e.handle),
            _ => Err(other_kind()),
        }
    }

    fn cuGraphEventRecordNodeSetEvent(node: usize, event: usize) {
        NODES.get(node)?.set_op(Op::Record(EVENTS.get(event)?))
    }

    fn cuGraphEventWaitNodeSetEvent(node: usize, event: usize) {
        NODES.get(node)?.set_op(Op::Wait(EVENTS.get(event)?))
    }

    fn cuGraphNodeSetParams(node: usize, params: In<Params>) {
        NODES.get(node)?.set_op(any(params)?)
    }

    fn cuGraphNodeSetParams_v2(node: usize, params: In<Params>) {
        NODES.get(node)?.set_op(any(params)?)
    }

    fn cuGraphExecKernelNodeSetParams(exec: usize, node: usize, params: In<KernelV1>) {
        EXECS.get(exec)?.set_op(node, kernel(params.get()?, 0)?)
    }

    fn cuGraphExecKernelNodeSetParams_v2(exec: usize, node: usize, params: In<KernelV2>) {
        EXECS.get(exec)?.set_op(node, kernel(params.get()?.v1, params.get()?.kernel)?)
    }

    fn cuGraphExecMemcpyNodeSetParams(exec: usize, node: usize, params: In<Copy3d>, _context: usize) {
        EXECS.get(exec)?.set_op(node, Op::Copy(params.get()?.op()?))
    }

    fn cuGraphExecMemsetNodeSetParams(exec: usize, node: usize, params: In<Fill>, _context: usize) {
        EXECS.get(exec)?.set_op(node, params.get()?.op()?)
    }

    fn cuGraphExecHostNodeSetParams(exec: usize, node: usize, params: In<Host>) {
        EXECS.get(exec)?.set_op(node, params.get()?.op()?)
    }

    fn cuGraphExecChildGraphNodeSetParams(exec: usize, node: usize, child: usize) {
        EXECS.get(exec)?.set_op(node, nested(child)?)
    }

    fn cuGraphExecEventRecordNodeSetEvent(exec: usize, node: usize, event: usize) {
        EXECS.get(exec)?.set_op(node, Op::Record(EVENTS.get(event)?))
    }

    fn cuGraphExecEventWaitNodeSetEvent(exec: usize, node: usize, event: usize) {
        EXECS.get(exec)?.set_op(node, Op::Wait(EVENTS.get(event)?))
    }

    fn cuGraphExecNodeSetParams(exec: usize, node: usize, params: In<Params>) {
        EXECS.get(exec)?.set_op(node, any(params)?)
    }
}

/// A node's parameters are asked for as another kind's.
pub fn other_kind() -> crate::result::Failure {
    Code::INVALID_VALUE.because("the node is of another kind")
}

/// Numbers of the nodes of those handles, which must be in the graph.
pub fn indices(graph: &Arc<Graph>, handles: In<usize>, count: usize) -> Result<Vec<usize>> {
    handles.array(count)?.into_iter().map(|h| graph.index_of(h)).collect()
}

/// Adds a node.
pub fn add(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    op: impl FnOnce() -> Result<Op>,
) -> Result<()> {
    let out = out.required()?;
    let graph = GRAPHS.get(graph)?;
    let after = indices(&graph, after, count)?;
    out.set(graph.add(op()?, &after)?.handle)
}

fn kernel(params: KernelV1, kernel: usize) -> Result<Op> {
    let KernelV1 { function, grid, block, shared_bytes, params, extra } = params;
    let function = module::function(if function == 0 { kernel } else { function })?;
    let grid = Grid { grid, block, shared_bytes, cooperative: false };
    Ok(Op::Kernel(Arc::new(launch::prepare(function, grid, params, extra)?)))
}

/// The parameters of a kernel node; their values stay where the pointers point until the node changes or goes.
fn kernel_params(node: usize) -> Result<KernelV1> {
    let Op::Kernel(op) = NODES.get(node)?.op()? else { return Err(other_kind()) };
    let KernelOp { function, grid, block, shared_bytes, .. } = &*op;
    let params = In::from_address(op.param_pointers()?);
    let extra = In::from_address(0);
    Ok(KernelV1 {
        function: function.handle,
        grid: *grid,
        block: *block,
        shared_bytes: *shared_bytes,
        params,
        extra,
    })
}

impl Fill {
    fn op(self) -> Result<Op> {
        let Fill { dst, pitch, value, element, width, height } = self;
        if !matches!(element, 1 | 2 | 4) {
            return Err(Code::INVALID_VALUE.because(format!("elements of {element} bytes")));
        }
        let fill = fill::rows(dst, pitch, value, element as usize, width, height)?;
        fill.map(Op::Fill).ok_or_else(|| Code::INVALID_VALUE.because("a fill of nothing"))
    }

    fn of(op: &FillOp) -> Fill {
        let dst = match op.dst {
            Place::Device(at, _) => at,
            Place::Host(at) => at as u64,
            Place::Staged(..) => 0,
        };
        let FillOp { pitch, value, element, width, height, .. } = *op;
        Fill { dst, pitch, value, element: element as u32, width, height }
    }
}

impl Host {
    fn op(self) -> Result<Op> {
        let function =
            self.function.ok_or_else(|| Code::INVALID_VALUE.because("the host function is null"))?;
        Ok(Op::Host(HostOp { function, data: self.data }))
    }
}

fn nested(graph: usize) -> Result<Op> {
    let graph = GRAPHS.get(graph)?;
    graph.without_memory("be a part of another")?;
    Ok(Op::Graph(Exec::nested(&graph)?))
}

/// `CU_GRAPH_NODE_TYPE_*`.
fn kind_of(op: &Op) -> i32 {
    match op {
        Op::Kernel(_) => 0,
        Op::Copy(_) => 1,
        Op::Fill(_) => 2,
        Op::Host(_) => 3,
        Op::Graph(_) => 4,
        Op::Empty => 5,
        Op::Wait(_) => 6,
        Op::Record(_) => 7,
        Op::Alloc(_) => 10,
        Op::Free(..) | Op::GraphFree(_) => 11,
        Op::Write(_) | Op::Await(..) => 12,
    }
}

/// A node of any kind: the kind's own parameters follow the head.
fn any(params: In<Params>) -> Result<Op> {
    let head = params.get()?;
    let body = params.address() + size_of::<Params>();
    match head.kind {
        0 => {
            let params = In::<KernelV2>::from_address(body).get()?;
            kernel(params.v1, params.kernel)
        }
        1 => Ok(Op::Copy(In::<CopyParams>::from_address(body).get()?.copy.op()?)),
        2 => In::<Fill>::from_address(body).get()?.op(),
        3 => In::<Host>::from_address(body).get()?.op(),
        4 => nested(In::from_address(body).get()?),
        5 => Ok(Op::Empty),
        6 => Ok(Op::Wait(EVENTS.get(In::from_address(body).get()?)?)),
        7 => Ok(Op::Record(EVENTS.get(In::from_address(body).get()?)?)),
        10 => graph_memory::alloc(Out::from_address(body)),
        11 => graph_memory::free(In::from_address(body).get()?),
        kind => Err(Code::NOT_SUPPORTED.because(format!("graph nodes of kind {kind}"))),
    }
}
