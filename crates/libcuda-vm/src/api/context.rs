//! Contexts and each thread's stack of them.
use super::device::check_flags;
use crate::{
    capture,
    context::{self, Context},
    driver,
    event::EVENTS,
    ffi::{In, Out, api},
    handle::lock,
    result::{Code, Result},
    stream::PRIORITIES,
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// `CUctxCreateParams`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CreateParams {
    affinity: usize,
    affinities: i32,
    cig: usize,
}

api! {
    fn cuCtxCreate_v2(out: Out<usize>, flags: u32, dev: i32) {
        create(out, flags, dev)
    }

    fn cuCtxCreate_v3(out: Out<usize>, _affinity: In<u8>, affinities: i32, flags: u32, dev: i32) {
        match affinities {
            0 => create(out, flags, dev),
            _ => Err(Code::UNSUPPORTED_EXEC_AFFINITY.into()),
        }
    }

    fn cuCtxCreate_v4(out: Out<usize>, params: In<CreateParams>, flags: u32, dev: i32) {
        if !params.is_null() {
            let params = params.get()?;
            if params.affinities != 0 {
                return Err(Code::UNSUPPORTED_EXEC_AFFINITY.into());
            }
            if params.cig != 0 {
                return Err(Code::NOT_SUPPORTED.because("contexts shared with graphics"));
            }
        }
        create(out, flags, dev)
    }

    fn cuCtxDestroy_v2(handle: usize) {
        let context = context::find(handle)?;
        if context.primary {
            return Err(Code::INVALID_CONTEXT.because("a primary context is released, not destroyed"));
        }
        if context::top().is_some_and(|top| top.handle == handle) {
            context::pop();
        }
        context.destroy();
        Ok(())
    }

    fn cuCtxPushCurrent_v2(handle: usize) {
        context::push(context::find(handle)?);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(out: Out<usize>) {
        let context = context::pop().ok_or_else(|| Code::INVALID_CONTEXT.because("the stack is empty"))?;
        out.put(context.handle);
        Ok(())
    }

    fn cuCtxSetCurrent(handle: usize) {
        let context = if handle == 0 { None } else { Some(context::find(handle)?) };
        context::set_top(context);
        Ok(())
    }

    fn cuCtxGetCurrent(out: Out<usize>) {
        out.set(context::top().map_or(0, |c| c.handle))
    }

    fn cuCtxGetDevice(out: Out<i32>) {
        let out = out.required()?;
        out.set(context::current_even_broken()?.device.ordinal as i32)
    }

    fn cuCtxGetDevice_v2(out: Out<i32>, handle: usize) {
        let out = out.required()?;
        out.set(given_or_current(handle)?.device.ordinal as i32)
    }

    fn cuCtxGetFlags(out: Out<u32>) {
        let out = out.required()?;
        out.set(context::current_even_broken()?.flags.load(Relaxed))
    }

    fn cuCtxSetFlags(flags: u32) {
        check_flags(flags)?;
        context::current()?.flags.store(flags, Relaxed);
        Ok(())
    }

    fn cuCtxGetId(handle: usize, out: Out<u64>) {
        let out = out.required()?;
        out.set(given_or_current(handle)?.id)
    }

    fn cuCtxGetApiVersion(handle: usize, out: Out<u32>) {
        let out = out.required()?;
        given_or_current(handle)?;
        out.set(3020)
    }

    fn cuCtxSynchronize() {
        synchronize(&*context::current()?)
    }

    fn cuCtxSynchronize_v2(handle: usize) {
        let context = given_or_current(handle)?;
        context.failure()?;
        synchronize(&context)
    }

    fn cuCtxGetLimit(out: Out<usize>, limit: i32) {
        let out = out.required()?;
        let context = context::current()?;
        let default = default_limit(limit)?;
        let set = lock(&context.limits).get(&limit).copied();
        out.set(set.unwrap_or(default))
    }

    fn cuCtxSetLimit(limit: i32, value: usize) {
        let context = context::current()?;
        default_limit(limit)?;
        lock(&context.limits).insert(limit, value);
        Ok(())
    }

    fn cuCtxGetCacheConfig(out: Out<i32>) {
        let out = out.required()?;
        out.set(context::current()?.cache_config.load(Relaxed))
    }

    fn cuCtxSetCacheConfig(config: i32) {
        if !(0..=3).contains(&config) {
            return Err(Code::INVALID_VALUE.because(format!("no cache configuration {config}")));
        }
        context::current()?.cache_config.store(config, Relaxed);
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(out: Out<i32>) {
        let out = out.required()?;
        context::current()?;
        // Banks of four bytes: the only ones there are since sm_50.
        out.set(1)
    }

    fn cuCtxSetSharedMemConfig(config: i32) {
        context::current()?;
        if (0..=2).contains(&config) { Ok(()) } else { Err(Code::INVALID_VALUE.into()) }
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        context::current()?;
        least.put(PRIORITIES.0);
        greatest.put(PRIORITIES.1);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        context::current().map(|_| ())
    }

    fn cuCtxEnablePeerAccess(peer: usize, _flags: u32) {
        context::current()?;
        context::find(peer)?;
        Err(Code::PEER_ACCESS_UNSUPPORTED.because("kernels reach the memory of their own device only; copies go anywhere"))
    }

    fn cuCtxDisablePeerAccess(peer: usize) {
        context::current()?;
        context::find(peer)?;
        Err(Code::PEER_ACCESS_NOT_ENABLED.into())
    }

    fn cuCtxRecordEvent(handle: usize, event: usize) {
        let context = given_or_current(handle)?;
        context.failure()?;
        let event = EVENTS.get(event)?;
        // A marker on the legacy stream comes after all blocking streams; the others are waited for through fences.
        let after: Vec<_> = context.streams().iter().filter_map(|s| s.last()).collect();
        event.set_fence(context.legacy.submit(&context, &after, true, Box::new(|| Ok(()))));
        Ok(())
    }

    fn cuCtxWaitEvent(handle: usize, event: usize) {
        let context = given_or_current(handle)?;
        context.failure()?;
        let event = EVENTS.get(event)?;
        if let Some(fence) = event.pending()? {
            for stream in context.streams() {
                stream.submit(&context, std::slice::from_ref(&fence), true, Box::new(|| Ok(())));
            }
        }
        Ok(())
    }
}

fn create(out: Out<usize>, flags: u32, dev: i32) -> Result<()> {
    let out = out.required()?;
    check_flags(flags)?;
    let context = Context::create(driver::device(dev)?, flags, false);
    out.put(context.handle);
    context::push(context);
    Ok(())
}

fn given_or_current(handle: usize) -> Result<Arc<Context>> {
    if handle == 0 { context::current_even_broken() } else { context::find(handle) }
}

fn synchronize(context: &Context) -> Result<()> {
    capture::forbid_context(context)?;
    context.synchronize()
}

/// What a limit is unless the client sets it.
fn default_limit(limit: i32) -> Result<usize> {
    match limit {
        0 => Ok(1 << 10), // stack of a thread
        1 => Ok(1 << 20), // printf
        2 => Ok(8 << 20), // heap
        4 => Ok(2048),    // pending launches from kernels
        5 => Ok(128),     // L2 fetch
        6 => Ok(0),       // persisting L2
        3 | 7..=10 => Err(Code::UNSUPPORTED_LIMIT.into()),
        _ => Err(Code::INVALID_VALUE.because(format!("no limit {limit}"))),
    }
}
