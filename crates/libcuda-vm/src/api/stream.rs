//! Streams.
use crate::{
    capture, context,
    event::EVENTS,
    ffi::{In, Out, api},
    handle::lock,
    op::{Op, Test, WordOp},
    place,
    result::{Code, Result},
    stream::{self, Kind, PRIORITIES, STREAMS, Stream},
    submit,
};
use std::sync::Arc;

/// `CU_EVENT_WAIT_EXTERNAL`: in a capture, a node that waits, not a join.
const EXTERNAL: u32 = 1;

type Callback = Option<extern "C" fn(usize, i32, usize)>;

api! {
    fn cuStreamCreate(out: Out<usize>, flags: u32) {
        create(out, flags, 0)
    }

    fn cuStreamCreateWithPriority(out: Out<usize>, flags: u32, priority: i32) {
        create(out, flags, priority)
    }

    fn cuStreamDestroy_v2(handle: usize) {
        context::current_even_broken()?;
        let stream = STREAMS.remove(handle)?;
        if let Some(member) = lock(&stream.capture).take() {
            member.capture.invalidate();
        }
        stream.close();
        Ok(())
    }

    ptsz fn cuStreamQuery(handle: usize) {
        let (context, stream) = stream::target(handle)?;
        capture::forbid_in(&stream)?;
        match waited_for(&context, &stream).iter().any(|s| s.last().is_some()) {
            true => Err(Code::NOT_READY.into()),
            false => context.failure(),
        }
    }

    ptsz fn cuStreamSynchronize(handle: usize) {
        let (context, stream) = stream::target(handle)?;
        capture::forbid_in(&stream)?;
        for stream in waited_for(&context, &stream) {
            stream.drain();
        }
        crate::counters::flush_sometimes();
        context.failure()
    }

    ptsz fn cuStreamGetPriority(handle: usize, priority: Out<i32>) {
        let priority = priority.required()?;
        priority.set(stream::target(handle)?.1.priority)
    }

    ptsz fn cuStreamGetFlags(handle: usize, flags: Out<u32>) {
        let flags = flags.required()?;
        flags.set(u32::from(stream::target(handle)?.1.non_blocking))
    }

    ptsz fn cuStreamGetId(handle: usize, id: Out<u64>) {
        let id = id.required()?;
        id.set(stream::target(handle)?.1.id)
    }

    ptsz fn cuStreamGetCtx(handle: usize, out: Out<usize>) {
        let out = out.required()?;
        out.set(stream::target(handle)?.0.handle)
    }

    ptsz fn cuStreamGetCtx_v2(handle: usize, out: Out<usize>, green: Out<usize>) {
        let out = out.required()?;
        green.put(0);
        out.set(stream::target(handle)?.0.handle)
    }

    ptsz fn cuStreamGetDevice(handle: usize, dev: Out<i32>) {
        let dev = dev.required()?;
        dev.set(stream::target(handle)?.0.device.ordinal as i32)
    }

    ptsz fn cuStreamWaitEvent(handle: usize, event: usize, flags: u32) {
        let event = EVENTS.get(event)?;
        let (context, stream) = stream::target(handle)?;
        let member = capture::of(&stream)?;
        if member.is_some() && flags & EXTERNAL != 0 {
            return submit::to_stream(&context, &stream, Op::Wait(event));
        }
        match (event.captured(), member) {
            (Some(recorded), _) => capture::join(&stream, &recorded),
            (None, Some(member)) if event.fence().is_some() => {
                member.capture.invalidate();
                Err(Code::STREAM_CAPTURE_ISOLATION.into())
            }
            (None, Some(_)) => Ok(()),
            (None, None) => {
                if let Some(fence) = event.fence().filter(|f| !f.is_reached()) {
                    stream.submit(&context, &[fence], true, Box::new(|| Ok(())));
                }
                Ok(())
            }
        }
    }

    ptsz fn cuStreamAddCallback(handle: usize, callback: Callback, data: usize, flags: u32) {
        let callback = callback.ok_or_else(|| Code::INVALID_VALUE.because("the callback is null"))?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE.because("the flags are 0"));
        }
        let (context, stream) = stream::target(handle)?;
        capture::forbid_in(&stream)?;
        let owner = context.clone();
        let work = move || {
            let status = owner.failure().err().map_or(0, |f| f.code.0);
            stream::calling_back(|| callback(handle, status, data));
            Ok(())
        };
        stream.submit(&context, &[], true, Box::new(work));
        Ok(())
    }

    ptsz fn cuStreamWriteValue32_v2(handle: usize, address: u64, value: u32, _flags: u32) {
        submit::to(handle, Op::Write(word(address, 4, value.into())?))
    }

    ptsz fn cuStreamWriteValue64_v2(handle: usize, address: u64, value: u64, _flags: u32) {
        submit::to(handle, Op::Write(word(address, 8, value)?))
    }

    ptsz fn cuStreamWaitValue32_v2(handle: usize, address: u64, value: u32, flags: u32) {
        submit::to(handle, Op::Await(word(address, 4, value.into())?, test(flags)?))
    }

    ptsz fn cuStreamWaitValue64_v2(handle: usize, address: u64, value: u64, flags: u32) {
        submit::to(handle, Op::Await(word(address, 8, value)?, test(flags)?))
    }

    ptsz fn cuStreamCopyAttributes(dst: usize, src: usize) {
        stream::target(dst).and(stream::target(src)).map(|_| ())
    }

    ptsz fn cuStreamGetAttribute(handle: usize, attribute: i32, value: Out<[u64; 8]>) {
        let value = value.required()?;
        let stream = stream::target(handle)?.1;
        let number = match attribute {
            // CU_LAUNCH_ATTRIBUTE_PRIORITY
            8 => stream.priority as u32,
            // Access policy window, synchronisation policy, memory domains: at their defaults.
            1 | 3 | 9 | 10 => 0,
            _ => return Err(Code::INVALID_VALUE.because(format!("no stream attribute {attribute}"))),
        };
        value.set([u64::from(number), 0, 0, 0, 0, 0, 0, 0])
    }

    ptsz fn cuStreamSetAttribute(handle: usize, attribute: i32, _value: In<[u64; 8]>) {
        stream::target(handle)?;
        // Hints for hardware that is not there.
        match attribute {
            1 | 3 | 8..=10 => Ok(()),
            _ => Err(Code::INVALID_VALUE.because(format!("no stream attribute {attribute}"))),
        }
    }
}

fn create(out: Out<usize>, flags: u32, priority: i32) -> Result<()> {
    let out = out.required()?;
    let context = context::current()?;
    if flags > 1 {
        return Err(Code::INVALID_VALUE.because(format!("{flags:#x} are no stream flags")));
    }
    let priority = priority.clamp(PRIORITIES.1, PRIORITIES.0);
    let stream = Stream::new(Arc::downgrade(&context), Kind::Created, flags & 1 != 0, priority);
    context.adopt(&stream);
    STREAMS.insert(stream.handle, stream.clone());
    out.set(stream.handle)
}

/// The streams whose work a wait for `stream` means: the legacy stream stands for all blocking ones.
fn waited_for(context: &context::Context, stream: &Arc<Stream>) -> Vec<Arc<Stream>> {
    match stream.kind {
        Kind::Legacy => context.streams().into_iter().filter(|s| !s.non_blocking).collect(),
        _ => vec![stream.clone()],
    }
}

fn word(address: u64, bytes: usize, value: u64) -> Result<WordOp> {
    if !address.is_multiple_of(bytes as u64) {
        return Err(Code::INVALID_VALUE.because(format!("{address:#x} is not aligned to {bytes} bytes")));
    }
    Ok(WordOp { place: place::of_device(address, bytes)?, bytes, value })
}

fn test(flags: u32) -> Result<Test> {
    // CU_STREAM_WAIT_VALUE_FLUSH is about writes of other devices over the bus.
    match flags & !(1 << 30) {
        0 => Ok(Test::AtLeast),
        1 => Ok(Test::Equal),
        2 => Ok(Test::And),
        3 => Ok(Test::Nor),
        _ => Err(Code::INVALID_VALUE.because("unknown flags")),
    }
}
