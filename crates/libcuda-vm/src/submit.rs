//! The way of an operation into a stream, or into the graph that the stream's capture fills.
use crate::{
    capture,
    context::Context,
    op::{CopyOp, Op},
    place::Place,
    result::Result,
    stream::{self, Kind, Stream},
};
use std::sync::Arc;

/// Submits an operation to the stream of a handle.
pub fn to(handle: usize, op: Op) -> Result<()> {
    let (context, stream) = stream::target(handle)?;
    to_stream(&context, &stream, op)
}

/// Submits an operation to a stream.
pub fn to_stream(context: &Arc<Context>, stream: &Arc<Stream>, op: Op) -> Result<()> {
    if let Some(member) = capture::of(stream)? {
        return capture::add(stream, &member, op);
    }
    if stream.kind == Kind::Legacy {
        capture::forbid_legacy(context)?;
    }
    let owner = context.clone();
    stream.submit(context, &[], false, Box::new(move || op.run(&owner)));
    Ok(())
}

/// Runs an operation in the implicit default stream and waits for it.
pub fn and_wait(op: Op) -> Result<()> {
    let (context, stream) = stream::target(0)?;
    capture::forbid()?;
    if stream.kind == Kind::Legacy {
        capture::forbid_legacy(&context)?;
    }
    wait_for(&context, &stream, op)
}

fn wait_for(context: &Arc<Context>, stream: &Arc<Stream>, op: Op) -> Result<()> {
    let owner = context.clone();
    stream.run(context, Box::new(move || op.run(&owner)))
}

/// Bytes of pageable memory up to which a copy from it is taken at once; a larger one is waited for instead.
const STAGED_MAX: usize = 16 << 20;

/// Submits a copy. Pageable host memory is the client's again when the call returns, as with the real driver: a source
/// is taken at once, a destination is waited for.
pub fn copy(handle: usize, copy: CopyOp) -> Result<()> {
    let (context, stream) = stream::target(handle)?;
    if capture::of(&stream)?.is_some() {
        return to_stream(&context, &stream, Op::Copy(copy));
    }
    let from_pageable = matches!(copy.src, Place::Host(_)) && copy.src.is_pageable();
    if copy.dst.is_pageable() || (from_pageable && copy.bytes() > STAGED_MAX) {
        if stream.kind == Kind::Legacy {
            capture::forbid_legacy(&context)?;
        }
        return wait_for(&context, &stream, Op::Copy(copy));
    }
    let copy = if from_pageable { copy.staged()? } else { copy };
    to_stream(&context, &stream, Op::Copy(copy))
}
