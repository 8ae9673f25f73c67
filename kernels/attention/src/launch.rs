//! What the launches share.

use crate::forward::Columns;
use kernel_abi::{DevicePtr, LaunchError};

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

/// 1 when rows of `head_dim` elements of `bytes` at these addresses can be read 16 bytes at a time, else 0.
pub(crate) fn wide(head_dim: usize, bytes: usize, addresses: &[DevicePtr]) -> u32 {
    u32::from(head_dim * bytes % 16 == 0 && addresses.iter().all(|a| a.0 % 16 == 0))
}

/// The factor from a product of query and key to a power of two: log2 e / sqrt(head_dim).
pub(crate) fn scale2(c: Columns) -> f32 {
    c.scale() * std::f32::consts::LOG2_E
}
