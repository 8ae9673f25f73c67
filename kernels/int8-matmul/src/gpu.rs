//! The products on the GPU: what their launches are told, and where the quantised rows lie between the two of the forward
//! pass.

use crate::{
    backward::{Int8LinearBackward, Int8LinearBackwardArgs},
    forward::{Int8Linear, Int8LinearArgs},
    ptx,
};
use kernel_abi::{DevicePtr, Float, In, Launch, LaunchError, Launcher, optional};

/// The rows of x, quantised: q, the records {scale, segments}, the masks of the outliers.
///
/// 1.125 bytes an element, whatever the number of outliers.
struct Rows {
    q: DevicePtr,
    records: DevicePtr,
    masks: DevicePtr,
    /// log2 of the mask's words that a bit of `segments` stands for.
    shift: u32,
    limit: f32,
}

/// The least shift that leaves at most 32 segments of a mask.
fn shift(words: usize) -> u32 {
    words.div_ceil(32).max(1).next_power_of_two().trailing_zeros()
}

/// All rows of `x` begin at a multiple of 16 bytes.
fn aligned<T>(at: DevicePtr, cols: usize) -> bool {
    at.0.is_multiple_of(16) && (cols * size_of::<T>()).is_multiple_of(16)
}

fn quantize<T: Float>(
    x: &In<'_, T>,
    (m, k): (usize, usize),
    threshold: f32,
    on: &mut dyn Launcher,
) -> Result<Rows, LaunchError> {
    let (q_bytes, record_bytes) =
        ((m * k.next_multiple_of(16)).next_multiple_of(16), (8 * m).next_multiple_of(16));
    let words = k.div_ceil(32);
    let q = on.workspace(q_bytes + record_bytes + 4 * m * words)?;
    let rows = Rows {
        q,
        records: q.offset(q_bytes),
        masks: q.offset(q_bytes + record_bytes),
        shift: shift(words),
        limit: if threshold > 0.0 { threshold } else { f32::INFINITY },
    };
    // The team that holds a row in its registers.
    let (warps, how) = match aligned::<T>(x.device(), k) {
        true => ([1, 4, 16].into_iter().find(|w| k <= 1024 * w).unwrap_or(16), "wide"),
        false => (4, "narrow"),
    };
    let launch = Launch::new(&ptx::ACTIVATIONS, format_args!("quantize_rows_{}_{warps}_{how}", T::NAME));
    let launch = match warps {
        1 => launch.grid(m.div_ceil(8), 1, 1).block(256),
        w => launch.grid(m, 1, 1).block(32 * w),
    };
    let launch = launch.arg(x.device()).arg(rows.q).arg(rows.records).arg(rows.masks);
    on.launch(launch.dim(m).dim(k).arg(rows.shift).arg(rows.limit))?;
    Ok(rows)
}

/// Blocks from which on a tile fills a GPU.
const ENOUGH_BLOCKS: usize = 96;

/// y = x W^T + bias + residual.
pub(crate) fn forward<T: Float>(
    kernel: &Int8Linear,
    args: &Int8LinearArgs<'_, T>,
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    let Int8Linear { m, n, k, threshold } = *kernel;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let rows = quantize(&args.x, (m, k), threshold, on)?;
    let (residual, y) = (optional(args.residual), args.y.device());
    let launch = match m {
        ..=32 => decode::<T>(m, n),
        _ => tiled::<T>(m, n),
    };
    let launch = launch.arg(rows.q).arg(rows.records).arg(rows.masks).arg(args.x.device());
    let launch = launch.arg(args.packed.device()).arg(args.scb.device());
    let launch = launch.arg(optional(args.bias)).arg(residual).arg(y).dim(m).dim(n).dim(k);
    let launch = launch.arg(rows.shift).arg(rows.limit);
    if m <= 32 {
        return on.launch(launch);
    }
    on.launch(launch.arg(u32::from(aligned::<T>(y, n) && aligned::<T>(residual, n))))
}

/// The kernel for few rows: more outputs a block where the grid is large enough anyway, so that x is read less often.
fn decode<T: Float>(m: usize, n: usize) -> Launch {
    let tokens = [8, 16, 32].into_iter().find(|t| m <= *t).expect("at most 32 rows");
    let outputs = if n >= 8192 || tokens == 32 { 32 } else { 16 };
    Launch::new(&ptx::DECODE, format_args!("int8_decode_{}_{outputs}_{tokens}", T::NAME))
        .grid(n.div_ceil(outputs), 1, 1)
        .block(256)
}

/// The largest tile that fills a GPU, or the smallest.
fn tiled<T: Float>(m: usize, n: usize) -> Launch {
    let blocks = |rows: usize, columns: usize| m.div_ceil(rows) * n.div_ceil(columns);
    let tiles = [(128, 128), (64, 128), (64, 64)];
    let (rows, columns) = tiles.into_iter().find(|t| blocks(t.0, t.1) >= ENOUGH_BLOCKS).unwrap_or(tiles[2]);
    Launch::new(&ptx::LINEAR, format_args!("int8_linear_{}_{rows}_{columns}", T::NAME))
        .grid(blocks(rows, columns), 1, 1)
        .block(128)
        .shared(49_152)
}

/// dx (+)= dy W.
pub(crate) fn backward<T: Float>(
    kernel: &Int8LinearBackward,
    args: &Int8LinearBackwardArgs<'_, T>,
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    let Int8LinearBackward { m, n, k, accumulate } = *kernel;
    if m == 0 || k == 0 {
        return Ok(());
    }
    let (dy, scb, dx) = (args.dy.device(), args.scb.device(), args.dx.device());
    let wide = aligned::<T>(dy, n) && scb.0.is_multiple_of(16);
    let how = if wide { "wide" } else { "narrow" };
    let vectors = k.is_multiple_of(4) && dx.0.is_multiple_of(4 * size_of::<T>() as u64);
    let blocks = |rows: usize| m.div_ceil(rows) * k.div_ceil(128);
    let rows = if wide && blocks(128) >= ENOUGH_BLOCKS { 128 } else { 64 };
    let launch = Launch::new(&ptx::BACKWARD, format_args!("int8_linear_backward_{}_{rows}_{how}", T::NAME))
        .grid(blocks(rows), 1, 1)
        .block(128);
    let launch = launch.arg(dy).arg(args.packed.device()).arg(scb).arg(dx).dim(m).dim(n).dim(k);
    on.launch(launch.arg(u32::from(accumulate)).arg(u32::from(vectors)))
}
