//! Stream-ordered allocation and memory pools.
//!
//! An allocation is there when the call returns; a free happens in stream order. When memory is short, pending frees are
//! waited for.
use super::{memory::current_pool, pointer::Location};
use crate::{
    capture, context,
    device::Device,
    driver,
    ffi::{In, Out, api},
    graph_memory::GraphMemory,
    handle::lock,
    op::Op,
    place,
    pool::{POOLS, Pool},
    result::{Code, Result},
    stream, submit,
};
use std::sync::Arc;

/// `CUmemPoolProps`, as far as the VM reads it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    alloc_type: i32,
    handle_types: i32,
    location: Location,
    security: usize,
    max_size: usize,
    rest: [u8; 56],
}

impl Properties {
    /// Plain memory of a device.
    pub fn plain(ordinal: usize) -> Properties {
        let location = Location { kind: 1, id: ordinal as i32 };
        Properties { alloc_type: 1, handle_types: 0, location, security: 0, max_size: 0, rest: [0; 56] }
    }

    /// The device, if it is plain memory of one.
    pub fn device(self) -> Result<&'static Device> {
        if self.alloc_type != 1 || self.handle_types != 0 {
            return Err(Code::NOT_SUPPORTED.because("pools of other than plain device memory"));
        }
        self.location.device()
    }
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Access {
    location: Location,
    flags: i32,
}

/// `CU_MEMPOOL_ATTR_*` numbers.
const RESERVED_NOW: i32 = 5;
const RESERVED_HIGH: i32 = 6;
const USED_NOW: i32 = 7;
const USED_HIGH: i32 = 8;

api! {
    ptsz fn cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: usize) {
        let out = out.required()?;
        let (context, _) = stream::target(stream)?;
        out.set(alloc(stream, bytes, current_pool(&context))?)
    }

    ptsz fn cuMemAllocFromPoolAsync(out: Out<u64>, bytes: usize, pool: usize, stream: usize) {
        let out = out.required()?;
        out.set(alloc(stream, bytes, POOLS.get(pool)?)?)
    }

    ptsz fn cuMemFreeAsync(address: u64, stream: usize) {
        let found = place::device_of(address).filter(|(device, ..)| lock(&device.allocations).contains_key(&address));
        let Some((device, ..)) = found else {
            return Err(Code::INVALID_VALUE.because(format!("no allocation starts at {address:#x}")));
        };
        let (_, target) = stream::target(stream)?;
        let capturing = capture::of(&target)?.is_some();
        match GraphMemory::at(address) {
            Some(memory) => {
                if !capturing {
                    memory.let_go()?;
                }
                submit::to(stream, Op::GraphFree(memory))
            }
            None if capturing => Err(Code::INVALID_VALUE.because("a graph frees what it allocated itself")),
            None => submit::to(stream, Op::Free(address, device)),
        }
    }

    fn cuMemPoolCreate(out: Out<usize>, properties: In<Properties>) {
        let (out, properties) = (out.required()?, properties.get()?);
        out.set(Pool::new(properties.device()?.ordinal, properties.max_size).handle)
    }

    fn cuMemPoolDestroy(pool: usize) {
        let found = POOLS.get(pool)?;
        let device = driver::device(found.device as i32)?;
        if device.default_pool.handle == pool {
            return Err(Code::INVALID_VALUE.because("a device's default pool stays"));
        }
        POOLS.remove(pool)?;
        let mut current = lock(&device.pool);
        if current.handle == pool {
            *current = device.default_pool.clone();
        }
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: usize, _keep: usize) {
        POOLS.get(pool).map(|_| ())
    }

    fn cuMemPoolSetAttribute(pool: usize, attribute: i32, value: In<u64>) {
        let pool = POOLS.get(pool)?;
        match attribute {
            1..=3 => lock(&pool.attributes).insert(attribute, u64::from(value.cast::<u32>().get()?)),
            4 => lock(&pool.attributes).insert(attribute, value.get()?),
            RESERVED_HIGH | USED_HIGH if value.get()? == 0 => {
                pool.reset_high();
                None
            }
            _ => return Err(Code::INVALID_VALUE.because(format!("pool attribute {attribute} cannot be set so"))),
        };
        Ok(())
    }

    fn cuMemPoolGetAttribute(pool: usize, attribute: i32, value: Out<u64>) {
        let value = value.required()?;
        let pool = POOLS.get(pool)?;
        let (now, high) = pool.used();
        match attribute {
            1..=3 => value.cast::<u32>().put(lock(&pool.attributes).get(&attribute).map_or(0, |&v| v as u32)),
            4 => value.put(lock(&pool.attributes).get(&attribute).copied().unwrap_or(0)),
            // Nothing is held back, so what is reserved is what is used.
            RESERVED_NOW | USED_NOW => value.put(now),
            RESERVED_HIGH | USED_HIGH => value.put(high),
            _ => return Err(Code::INVALID_VALUE.because(format!("no pool attribute {attribute}"))),
        }
        Ok(())
    }

    fn cuMemPoolSetAccess(pool: usize, accesses: In<Access>, count: usize) {
        let pool = POOLS.get(pool)?;
        for access in accesses.array(count)? {
            let device = access.location.device()?;
            match (device.ordinal == pool.device, access.flags) {
                (true, 3) | (false, 0) => {}
                (true, _) => return Err(Code::INVALID_VALUE.because("a device keeps access to its own pool")),
                (false, _) => return Err(Code::INVALID_DEVICE.because("kernels reach their own device's memory only")),
            }
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: Out<i32>, pool: usize, location: In<Location>) {
        let flags = flags.required()?;
        let own = location.get()?.device()?.ordinal == POOLS.get(pool)?.device;
        flags.set(if own { 3 } else { 0 })
    }
}

fn alloc(stream: usize, bytes: usize, pool: Arc<Pool>) -> Result<u64> {
    let (context, stream) = stream::target(stream)?;
    if bytes == 0 {
        return Err(Code::INVALID_VALUE.because("an allocation of no bytes"));
    }
    let device = driver::device(pool.device as i32)?;
    if let Some(member) = capture::of(&stream)? {
        let memory = GraphMemory::new(device, bytes, &device.graph_pool)?;
        capture::add(&stream, &member, Op::Alloc(memory.clone()))?;
        return Ok(memory.address);
    }
    let attempt = || {
        if !pool.has_room(bytes) {
            return Err(
                Code::OUT_OF_MEMORY.because(format!("the pool is limited to {} bytes", pool.max_bytes))
            );
        }
        device.alloc(bytes, context.handle, Some(pool.clone()))
    };
    match attempt() {
        Err(failure) if failure.code == Code::OUT_OF_MEMORY => {
            context::Context::synchronize(&context)?;
            attempt()
        }
        result => result,
    }
}
