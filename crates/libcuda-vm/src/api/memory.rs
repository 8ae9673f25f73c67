//! Allocation: device, page-locked, registered, managed.
use super::pointer::Location;
use crate::{
    capture, context,
    ffi::{Out, api},
    graph_memory::GraphMemory,
    handle::lock,
    host::{self, Kind},
    op::Op,
    place,
    result::{Code, Result},
    submit,
};

/// Bytes that a pitch is a multiple of.
const PITCH: usize = 512;
/// `CU_MEMHOSTALLOC_*`, `CU_MEMHOSTREGISTER_*`: all the flags there are.
const HOST_FLAGS: u32 = 0xf;

api! {
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let memory = &context::current()?.device.memory;
        free.put(memory.capacity() - memory.used());
        total.put(memory.capacity());
        Ok(())
    }

    fn cuMemAlloc_v2(out: Out<u64>, bytes: usize) {
        out.required()?.set(alloc(bytes)?)
    }

    fn cuMemAllocPitch_v2(out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        let (out, pitch) = (out.required()?, pitch.required()?);
        if !matches!(element, 4 | 8 | 16) {
            return Err(Code::INVALID_VALUE.because(format!("elements of {element} bytes; 4, 8 or 16 are possible")));
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Code::INVALID_VALUE)?;
        let address = alloc(row.checked_mul(height).ok_or(Code::OUT_OF_MEMORY)?)?;
        pitch.put(row);
        out.set(address)
    }

    fn cuMemFree_v2(address: u64) {
        let context = context::current()?;
        if address == 0 {
            return Ok(());
        }
        capture::forbid()?;
        // Work under way may use the memory: the real driver waits for it too.
        context.synchronize()?;
        if host::find(address as usize).is_some() {
            return host::remove(address as usize, &[Kind::Managed]);
        }
        if let Some(memory) = GraphMemory::at(address) {
            memory.let_go()?;
            return memory.renew();
        }
        match place::device_of(address) {
            Some((device, ..)) => device.free(address),
            None => Err(Code::INVALID_VALUE.because(format!("{address:#x} is in no live allocation"))),
        }
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, address: u64) {
        context::current()?;
        let (start, bytes) = match place::device_of(address) {
            Some((_, start, bytes)) => (start, bytes),
            None => {
                let found = host::find(address as usize).map(|(start, range)| (start as u64, range.bytes));
                found.ok_or_else(|| Code::NOT_FOUND.because(format!("{address:#x} is in no live allocation")))?
            }
        };
        base.put(start);
        size.put(bytes);
        Ok(())
    }

    fn cuMemAllocHost_v2(out: Out<usize>, bytes: usize) {
        alloc_host(out, bytes, 0)
    }

    fn cuMemHostAlloc(out: Out<usize>, bytes: usize, flags: u32) {
        alloc_host(out, bytes, flags)
    }

    fn cuMemFreeHost(address: usize) {
        let context = context::current()?;
        if address == 0 {
            return Ok(());
        }
        context.synchronize()?;
        host::remove(address, &[Kind::Allocated])
    }

    fn cuMemHostRegister_v2(address: usize, bytes: usize, flags: u32) {
        let context = context::current()?;
        check_flags(flags)?;
        host::add(&context, address, bytes, Kind::Registered, flags)
    }

    fn cuMemHostUnregister(address: usize) {
        let context = context::current()?;
        context.synchronize()?;
        host::remove(address, &[Kind::Registered])
    }

    fn cuMemHostGetDevicePointer_v2(out: Out<u64>, address: usize, flags: u32) {
        let out = out.required()?;
        context::current()?;
        if flags != 0 || host::find(address).is_none() {
            return Err(Code::INVALID_VALUE.because("no mapped host memory there"));
        }
        out.set(address as u64)
    }

    fn cuMemHostGetFlags(out: Out<u32>, address: usize) {
        let out = out.required()?;
        context::current()?;
        match host::find(address) {
            // Mapped and, with unified addressing, portable in effect; the client sees what it asked for.
            Some((_, range)) if range.kind == Kind::Allocated => out.set(range.flags | 2),
            _ => Err(Code::INVALID_VALUE.because("no page-locked allocation there")),
        }
    }

    fn cuMemAllocManaged(out: Out<u64>, bytes: usize, flags: u32) {
        let out = out.required()?;
        let context = context::current()?;
        capture::forbid()?;
        if !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE.because("managed memory is attached to the host or globally"));
        }
        out.set(host::alloc(&context, bytes, Kind::Managed, flags)? as u64)
    }

    fn cuMemAdvise(address: u64, bytes: usize, advice: i32, _device: i32) {
        advise(address, bytes, advice)
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: i32, _location: Location) {
        advise(address, bytes, advice)
    }

    ptsz fn cuMemPrefetchAsync(address: u64, bytes: usize, _device: i32, stream: usize) {
        managed(address, bytes)?;
        submit::to(stream, Op::Empty)
    }

    ptsz fn cuMemPrefetchAsync_v2(address: u64, bytes: usize, _location: Location, flags: u32, stream: usize) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE.because("the flags are 0"));
        }
        managed(address, bytes)?;
        submit::to(stream, Op::Empty)
    }

    ptsz fn cuStreamAttachMemAsync(stream: usize, address: u64, _bytes: usize, flags: u32) {
        managed(address, 1)?;
        if !matches!(flags, 1 | 2 | 4) {
            return Err(Code::INVALID_VALUE.because("unknown flags"));
        }
        submit::to(stream, Op::Empty)
    }

    fn cuMemRetainAllocationHandle(_handle: Out<u64>, _address: usize) {
        Err(Code::INVALID_VALUE.because("not memory of the virtual memory management calls"))
    }
}

fn alloc(bytes: usize) -> Result<u64> {
    let context = context::current()?;
    capture::forbid()?;
    if bytes == 0 {
        return Err(Code::INVALID_VALUE.because("an allocation of no bytes"));
    }
    context.device.alloc(bytes, context.handle, None)
}

fn alloc_host(out: Out<usize>, bytes: usize, flags: u32) -> Result<()> {
    let out = out.required()?;
    let context = context::current()?;
    capture::forbid()?;
    check_flags(flags)?;
    out.set(host::alloc(&context, bytes, Kind::Allocated, flags)?)
}

fn check_flags(flags: u32) -> Result<()> {
    if flags & !HOST_FLAGS == 0 { Ok(()) } else { Err(Code::INVALID_VALUE.because("unknown flags")) }
}

/// Checks that the range is managed memory.
fn managed(address: u64, bytes: usize) -> Result<()> {
    context::current()?;
    let found = host::find(address as usize).filter(|(_, range)| range.kind == Kind::Managed);
    let fits = found.is_some_and(|(start, range)| address as usize - start + bytes <= range.bytes);
    if fits { Ok(()) } else { Err(Code::INVALID_VALUE.because("not a range of managed memory")) }
}

/// Advice about managed memory changes nothing here: host and devices share it.
fn advise(address: u64, bytes: usize, advice: i32) -> Result<()> {
    managed(address, bytes)?;
    if (1..=6).contains(&advice) {
        Ok(())
    } else {
        Err(Code::INVALID_VALUE.because(format!("no advice {advice}")))
    }
}

/// The device pool's lock is taken here so that `cuMemAllocAsync` and `cuDeviceSetMemPool` agree on one pool.
pub fn current_pool(context: &context::Context) -> std::sync::Arc<crate::pool::Pool> {
    lock(&context.device.pool).clone()
}
