//! Tables of tensors for launches over many of them, and the norm that such launches clip by.

use crate::{clip_scale, norm::PARTIALS};
use kernel_abi::{ArgError, DevicePtr, In, expect_len, optional};

/// Elements of a block: a tensor is cut into chunks of this size.
pub(crate) const CHUNK: usize = 4096;

/// Chunks of a tensor of `len` elements.
pub(crate) fn chunks(len: usize) -> usize {
    len.div_ceil(CHUNK)
}

/// One tensor, as `squared_norm_N` and `scale_N` take it.
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Row {
    x: u64,
    len: u64,
    /// Chunks of the tensors before.
    first: u32,
    nothing: u32,
}

impl Row {
    pub(crate) fn new(x: DevicePtr, len: usize, first: usize) -> Row {
        Row { x: x.0, len: len as u64, first: first as u32, nothing: 0 }
    }
}

/// Cuts a list of tensors into launches of at most `capacity`: calls `launch` with the rows that `row` made of each
/// argument, its length and its first chunk, and with the number of their chunks of `size` elements. Empty tensors are
/// left out.
pub(crate) fn launches<A, R, E>(
    tensors: impl Iterator<Item = (usize, A)>,
    capacity: usize,
    size: usize,
    row: impl Fn(A, usize, usize) -> R,
    mut launch: impl FnMut(&[R], usize) -> Result<(), E>,
) -> Result<(), E> {
    let (mut rows, mut first) = (Vec::with_capacity(capacity), 0);
    for (len, args) in tensors.filter(|(len, _)| *len > 0) {
        rows.push(row(args, len, first));
        first += len.div_ceil(size);
        if rows.len() == capacity {
            launch(&rows, first)?;
            rows.clear();
            first = 0;
        }
    }
    if rows.is_empty() { Ok(()) } else { launch(&rows, first) }
}

/// A global norm in device memory to clip by, without a round trip through the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clip {
    /// Factor on the gradients, before clipping.
    pub scale: f32,
    /// Greatest norm of the scaled gradients; 0 = any.
    pub max_norm: f32,
}

impl Clip {
    /// Checks the length of the partial sums.
    pub(crate) fn check(kernel: &'static str, norm: &Option<In<'_, f64>>) -> Result<(), ArgError> {
        norm.map_or(Ok(()), |norm| expect_len(kernel, "norm", norm.len(), PARTIALS))
    }

    /// The factor on the gradients; None when the norm is not finite.
    pub(crate) fn factor(self, norm: Option<In<'_, f64>>) -> Option<f32> {
        let Some(partials) = norm else { return Some(self.scale) };
        let norm = (sum(partials.host()).sqrt() * f64::from(self.scale)) as f32;
        let clip = if self.max_norm > 0.0 { clip_scale(norm, self.max_norm) } else { 1.0 };
        norm.is_finite().then_some(self.scale * clip)
    }

    /// The address of the partial sums, or null.
    pub(crate) fn device(norm: Option<In<'_, f64>>) -> DevicePtr {
        optional(norm)
    }
}

/// The sum of the partial sums, in the order of a block of 256 threads: a tree in each 32, then one after another.
fn sum(partials: &[f64]) -> f64 {
    let warp = |lanes: &[f64]| {
        let mut lanes: [f64; 32] = lanes.try_into().expect("32 lanes");
        for step in [16, 8, 4, 2, 1] {
            for i in 0..step {
                lanes[i] += lanes[i + step];
            }
        }
        lanes[0]
    };
    partials.chunks_exact(32).map(warp).reduce(|a, b| a + b).expect("256 partial sums")
}
