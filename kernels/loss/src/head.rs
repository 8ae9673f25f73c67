//! The output head on the GPU: logits of a block of rows.

use kernel_abi::{DevicePtr, In, Kernel, LaunchError, Launcher, Out};
use matmul::{Bf16Linear, Bf16LinearArgs, Linear, LinearArgs, Packed};

/// Bytes of logits that exist at a time when nobody keeps them.
const WORKSPACE: usize = 64 << 20;

/// Rows of `columns` floats that fit the workspace: whole tiles of the product where some do.
pub(crate) fn rows_per_block(columns: usize) -> usize {
    let rows = (WORKSPACE / (4 * columns.max(1))).max(1);
    if rows >= 128 { rows / 128 * 128 } else { rows }
}

/// y = x head^T on the device, x `[m, k]` at `x`, y `[m, n]` at `y`.
pub(crate) fn product(
    head: Packed<'_>,
    (m, n, k): (usize, usize, usize),
    x: DevicePtr,
    y: DevicePtr,
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    let (x, y, bias, residual) = (In::Device(x, m * k), Out::Device(y, m * n), None, None);
    match head {
        Packed::F32(packed) => Linear { m, n, k }.ptx(LinearArgs { x, packed, bias, residual, y }, on),
        Packed::Bf16(packed) => {
            Bf16Linear { m, n, k }.ptx(Bf16LinearArgs { x, packed, bias, residual, y }, on)
        }
    }
}
