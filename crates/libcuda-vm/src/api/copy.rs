//! Copies.
use crate::{
    context,
    ffi::{In, Out, api},
    op::{CopyOp, Op},
    place::{self, Place},
    result::{Code, Failure, Result},
    submit,
};

/// One side of `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Side2d {
    x: usize,
    y: usize,
    kind: i32,
    host: usize,
    device: u64,
    array: usize,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2d {
    src: Side2d,
    dst: Side2d,
    width: usize,
    height: usize,
}

/// One side of `CUDA_MEMCPY3D`, and of `CUDA_MEMCPY3D_PEER`, where `context` is more than reserved.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Side3d {
    x: usize,
    y: usize,
    z: usize,
    lod: usize,
    kind: i32,
    host: usize,
    device: u64,
    array: usize,
    context: usize,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Copy3d {
    src: Side3d,
    dst: Side3d,
    width: usize,
    height: usize,
    depth: usize,
}

api! {
    ptds fn cuMemcpy(dst: u64, src: u64, bytes: usize) {
        now(linear(place::of_unified(src, bytes), place::of_unified(dst, bytes), bytes)?)
    }

    ptds fn cuMemcpyHtoD_v2(dst: u64, src: usize, bytes: usize) {
        now(linear(place::of_host(src, bytes), place::of_device(dst, bytes), bytes)?)
    }

    ptds fn cuMemcpyDtoH_v2(dst: usize, src: u64, bytes: usize) {
        now(linear(place::of_device(src, bytes), place::of_host(dst, bytes), bytes)?)
    }

    ptds fn cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) {
        now(linear(place::of_device(src, bytes), place::of_device(dst, bytes), bytes)?)
    }

    ptds fn cuMemcpyPeer(dst: u64, dst_context: usize, src: u64, src_context: usize, bytes: usize) {
        context::find(dst_context).and(context::find(src_context))?;
        now(linear(place::of_device(src, bytes), place::of_device(dst, bytes), bytes)?)
    }

    ptds fn cuMemcpy2D_v2(copy: In<Copy2d>) {
        now(rows(copy)?)
    }

    ptds fn cuMemcpy2DUnaligned_v2(copy: In<Copy2d>) {
        now(rows(copy)?)
    }

    ptds fn cuMemcpy3D_v2(copy: In<Copy3d>) {
        now(copy.get()?.op()?)
    }

    ptds fn cuMemcpy3DPeer(copy: In<Copy3d>) {
        now(copy.get()?.op()?)
    }

    ptsz fn cuMemcpyAsync(dst: u64, src: u64, bytes: usize, stream: usize) {
        later(stream, linear(place::of_unified(src, bytes), place::of_unified(dst, bytes), bytes)?)
    }

    ptsz fn cuMemcpyHtoDAsync_v2(dst: u64, src: usize, bytes: usize, stream: usize) {
        later(stream, linear(place::of_host(src, bytes), place::of_device(dst, bytes), bytes)?)
    }

    ptsz fn cuMemcpyDtoHAsync_v2(dst: usize, src: u64, bytes: usize, stream: usize) {
        later(stream, linear(place::of_device(src, bytes), place::of_host(dst, bytes), bytes)?)
    }

    ptsz fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: usize) {
        later(stream, linear(place::of_device(src, bytes), place::of_device(dst, bytes), bytes)?)
    }

    ptsz fn cuMemcpyPeerAsync(dst: u64, dst_context: usize, src: u64, src_context: usize, bytes: usize, stream: usize) {
        context::find(dst_context).and(context::find(src_context))?;
        later(stream, linear(place::of_device(src, bytes), place::of_device(dst, bytes), bytes)?)
    }

    ptsz fn cuMemcpy2DAsync_v2(copy: In<Copy2d>, stream: usize) {
        later(stream, rows(copy)?)
    }

    ptsz fn cuMemcpy3DAsync_v2(copy: In<Copy3d>, stream: usize) {
        later(stream, copy.get()?.op()?)
    }

    ptsz fn cuMemcpy3DPeerAsync(copy: In<Copy3d>, stream: usize) {
        later(stream, copy.get()?.op()?)
    }

    ptsz fn cuMemcpyBatchAsync(
        dsts: In<u64>, srcs: In<u64>, sizes: In<usize>, count: usize, _attributes: In<u8>, _indices: In<usize>,
        _attribute_count: usize, failed: Out<usize>, stream: usize,
    ) {
        batch(dsts, srcs, sizes, count, stream).map_err(|(i, failure)| {
            failed.put(i);
            failure
        })
    }

    ptsz fn cuMemcpyBatchAsync_v2(
        dsts: In<u64>, srcs: In<u64>, sizes: In<usize>, count: usize, _attributes: In<u8>, _indices: In<usize>,
        _attribute_count: usize, stream: usize,
    ) {
        batch(dsts, srcs, sizes, count, stream).map_err(|(_, failure)| failure)
    }

    ptsz fn cuMemcpyWithAttributesAsync(dst: u64, src: u64, bytes: usize, _attributes: In<u8>, stream: usize) {
        later(stream, linear(place::of_unified(src, bytes), place::of_unified(dst, bytes), bytes)?)
    }
}

fn now(copy: CopyOp) -> Result<()> {
    context::current()?;
    match copy.bytes() {
        0 => Ok(()),
        _ => submit::and_wait(Op::Copy(copy)),
    }
}

fn later(stream: usize, copy: CopyOp) -> Result<()> {
    context::current()?;
    match copy.bytes() {
        0 => Ok(()),
        _ => submit::copy(stream, copy),
    }
}

/// A copy in one row. The context counts first, wrong pointers after it; a copy of nothing may have any pointers.
fn linear(src: Result<Place>, dst: Result<Place>, bytes: usize) -> Result<CopyOp> {
    context::current()?;
    match bytes {
        0 => Ok(CopyOp::linear(Place::Host(0), Place::Host(0), 0)),
        _ => Ok(CopyOp::linear(src?, dst?, bytes)),
    }
}

fn batch(
    dsts: In<u64>,
    srcs: In<u64>,
    sizes: In<usize>,
    count: usize,
    stream: usize,
) -> Result<(), (usize, Failure)> {
    // All are checked before the first is submitted.
    let one = |i: usize| {
        let (src, dst, bytes) = (srcs.at(i)?, dsts.at(i)?, sizes.at(i)?);
        linear(place::of_unified(src, bytes), place::of_unified(dst, bytes), bytes)
    };
    let copies = (0..count).map(|i| one(i).map_err(|f| (i, f))).collect::<Result<Vec<_>, _>>()?;
    copies.into_iter().enumerate().try_for_each(|(i, copy)| later(stream, copy).map_err(|f| (i, f)))
}

fn rows(copy: In<Copy2d>) -> Result<CopyOp> {
    let Copy2d { src, dst, width, height } = copy.get()?;
    let side = |s: Side2d| Side3d {
        x: s.x,
        y: s.y,
        kind: s.kind,
        host: s.host,
        device: s.device,
        array: s.array,
        pitch: s.pitch,
        height,
        ..Side3d::default()
    };
    Copy3d { src: side(src), dst: side(dst), width, height, depth: 1 }.op()
}

impl Copy3d {
    /// The copy, checked.
    pub fn op(self) -> Result<CopyOp> {
        context::current()?;
        let extent = [self.width, self.height, self.depth];
        if extent.contains(&0) {
            return Ok(CopyOp::linear(Place::Host(0), Place::Host(0), 0));
        }
        let ((src, src_pitch), (dst, dst_pitch)) = (self.src.place(extent)?, self.dst.place(extent)?);
        Ok(CopyOp { src, dst, extent, src_pitch, dst_pitch })
    }

    /// What [`Copy3d::op`] was made of, with the offsets folded into the addresses.
    pub fn of(op: &CopyOp) -> Copy3d {
        let [width, height, depth] = op.extent;
        let side = |place: &Place, pitch: [usize; 2]| {
            let (kind, host, device) = match *place {
                Place::Host(at) => (1, at, 0),
                Place::Device(at, _) => (2, 0, at),
                Place::Staged(..) => (1, 0, 0),
            };
            Side3d {
                kind,
                host,
                device,
                pitch: pitch[0],
                height: pitch[1] / pitch[0].max(1),
                ..Side3d::default()
            }
        };
        Copy3d { src: side(&op.src, op.src_pitch), dst: side(&op.dst, op.dst_pitch), width, height, depth }
    }
}

impl Side3d {
    /// Where the first row starts, and the pitches: bytes from row to row and from slice to slice.
    fn place(self, [width, height, depth]: [usize; 3]) -> Result<(Place, [usize; 2])> {
        let wrong = |why: &'static str| Code::INVALID_VALUE.because(why);
        // A single row needs no pitch.
        let pitch = if height == 1 && depth == 1 && self.pitch == 0 { self.x + width } else { self.pitch };
        let rows = if depth == 1 { self.height.max(height) } else { self.height };
        if pitch < self.x.saturating_add(width) || rows < height {
            return Err(wrong("a row or slice is larger than its pitch"));
        }
        let fits = || {
            let slice = pitch.checked_mul(rows)?;
            let first =
                self.z.checked_mul(slice)?.checked_add(self.y.checked_mul(pitch)?)?.checked_add(self.x)?;
            let last = (depth - 1).checked_mul(slice)?.checked_add((height - 1).checked_mul(pitch)?)?;
            Some((slice, first, last.checked_add(width)?))
        };
        let (slice, first, span) =
            fits().ok_or_else(|| wrong("the copy is larger than the address space"))?;
        let place = match self.kind {
            1 => place::of_host(self.host.wrapping_add(first), span),
            2 => place::of_device(self.device.wrapping_add(first as u64), span),
            4 => place::of_unified(self.device.wrapping_add(first as u64), span),
            3 => Err(Code::NOT_SUPPORTED.because("copies of arrays (textures)")),
            _ => Err(wrong("no such memory type")),
        }?;
        Ok((place, [pitch, slice]))
    }
}
