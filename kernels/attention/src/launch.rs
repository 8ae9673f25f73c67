//! What the launches share.

use crate::forward::Columns;
use kernel_abi::{DevicePtr, LaunchError, Launcher};

/// Query rows of a tile in `forward.ptx`.
pub(crate) const TILE: usize = 64;
/// Keys after which the state is merged into the total: `forward.ptx` and `decode.ptx` agree on it.
pub(crate) const SPAN: usize = 512;

/// head_dim rounded up to a size that the kernels are made for.
pub(crate) fn padded(kernel: &str, head_dim: usize, sizes: &[usize]) -> Result<usize, LaunchError> {
    sizes.iter().copied().find(|s| head_dim <= *s).ok_or_else(|| LaunchError {
        kernel: kernel.into(),
        problem: format!("head_dim {head_dim}: the PTX is made for at most {}", sizes[sizes.len() - 1]),
    })
}

/// The sizes of `head_dim` that the f32 tiles are made for, and those of the tensor-core kernels.
pub(crate) const F32_SIZES: &[usize] = &[32, 64, 96, 128];
/// See [`F32_SIZES`].
pub(crate) const MMA_SIZES: &[usize] = &[64, 80, 96, 128];

/// Bytes from row to row in shared memory, in the kernels for elements of `bytes`: 16 more than the elements.
pub(crate) fn stride(dp: usize, bytes: usize) -> usize {
    dp * bytes + 16
}

/// 1 when rows of `head_dim` elements of `bytes` at these addresses can be read 16 bytes at a time, else 0.
pub(crate) fn wide(head_dim: usize, bytes: usize, addresses: &[DevicePtr]) -> u32 {
    u32::from((head_dim * bytes).is_multiple_of(16) && addresses.iter().all(|a| a.0.is_multiple_of(16)))
}

/// Room for the running total of the tensor-core kernels: one tile per block; none where one span is all.
pub(crate) fn total(
    on: &mut dyn Launcher,
    blocks: usize,
    dp: usize,
    longest: usize,
) -> Result<DevicePtr, LaunchError> {
    if longest <= SPAN { Ok(DevicePtr::NULL) } else { on.workspace(4 * blocks * TILE * dp) }
}

/// The factor from a product of query and key to a power of two: log2 e / sqrt(head_dim).
pub(crate) fn scale2(c: Columns) -> f32 {
    c.scale() * std::f32::consts::LOG2_E
}
