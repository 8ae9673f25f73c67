//! Events.
use crate::{
    capture, context,
    event::{self, EVENTS, Event},
    ffi::{Out, api},
    op::Op,
    result::{Code, Result},
    stream::{self, Kind},
    submit,
};
use std::sync::Arc;

/// `CU_EVENT_RECORD_EXTERNAL`: in a capture, a node that records, not a fork.
const EXTERNAL: u32 = 1;

api! {
    fn cuEventCreate(out: Out<usize>, flags: u32) {
        let out = out.required()?;
        let context = context::current()?;
        if flags & !7 != 0 || (flags & 4 != 0 && flags & event::DISABLE_TIMING == 0) {
            return Err(Code::INVALID_VALUE.because(format!("{flags:#x} are no event flags")));
        }
        out.set(Event::create(&context, flags).handle)
    }

    fn cuEventDestroy_v2(event: usize) {
        EVENTS.remove(event).map(|_| ())
    }

    ptsz fn cuEventRecord(event: usize, stream: usize) {
        record(event, stream, 0)
    }

    ptsz fn cuEventRecordWithFlags(event: usize, stream: usize, flags: u32) {
        record(event, stream, flags)
    }

    fn cuEventQuery(event: usize) {
        let event = EVENTS.get(event)?;
        owner(&event)?.failure()?;
        match event.pending()? {
            Some(fence) if !fence.is_reached() => Err(Code::NOT_READY.into()),
            _ => owner(&event)?.failure(),
        }
    }

    fn cuEventSynchronize(event: usize) {
        let event = EVENTS.get(event)?;
        owner(&event)?.failure()?;
        if let Some(fence) = event.pending()? {
            fence.wait();
        }
        crate::counters::flush_sometimes();
        owner(&event)?.failure()
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }
}

fn owner(event: &Event) -> Result<Arc<context::Context>> {
    event.context.upgrade().ok_or_else(|| Code::CONTEXT_IS_DESTROYED.into())
}

fn record(event: usize, stream: usize, flags: u32) -> Result<()> {
    let event = EVENTS.get(event)?;
    let (context, stream) = stream::target(stream)?;
    if !std::ptr::eq(event.context.as_ptr(), Arc::as_ptr(&context)) {
        return Err(Code::INVALID_HANDLE.because("event and stream belong to different contexts"));
    }
    match capture::of(&stream)? {
        Some(_) if flags & EXTERNAL != 0 => submit::to_stream(&context, &stream, Op::Record(event)),
        Some(member) => {
            event.set_captured(capture::record(&member));
            Ok(())
        }
        None => {
            if stream.kind == Kind::Legacy {
                capture::forbid_legacy(&context)?;
            }
            event.set_fence(stream.submit(&context, &[], true, Box::new(|| Ok(()))));
            Ok(())
        }
    }
}

fn elapsed(milliseconds: Out<f32>, start: usize, end: usize) -> Result<()> {
    let milliseconds = milliseconds.required()?;
    let (start, end) = (EVENTS.get(start)?, EVENTS.get(end)?);
    owner(&start)?.failure()?;
    milliseconds.set(event::elapsed(&start, &end)?)
}
