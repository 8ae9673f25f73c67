//! The output head on the GPU: its product with a block of rows.

use crate::{ptx, tiles::RowTiles};
use kernel_abi::{DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out};
use matmul::{Bf16Linear, Bf16LinearArgs, Linear, LinearArgs, Packed};

/// Bytes of logits, or of their statistics, that exist at a time when nobody keeps them.
const WORKSPACE: usize = 64 << 20;

/// Up to this many rows the product is bound by reading the head once, and its thin variant does that best. Their logits
/// are then a few percent of the head's bytes.
pub(crate) const FEW_ROWS: usize = 16;

/// Rows with `bytes` each that fit the workspace: whole tiles of the product where some do.
pub(crate) fn rows_per_block(bytes: usize) -> usize {
    let rows = (WORKSPACE / bytes.max(1)).max(1);
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

/// The `[m, k]` rows at `x` as bf16 pairs in workspace.
fn round_rows(x: DevicePtr, (m, k): (usize, usize), on: &mut dyn Launcher) -> Result<DevicePtr, LaunchError> {
    let words = k.div_ceil(2);
    let to = on.workspace(4 * m * words)?;
    let wide = x.0.is_multiple_of(16) && k.is_multiple_of(4);
    let (name, count) = if wide { ("v4", m * k / 4) } else { ("v1", m * words) };
    if count > 0 {
        let launch = Launch::new(&ptx::ROUND_ROWS, format_args!("round_rows_{name}"))
            .grid(count.div_ceil(256), 1, 1)
            .block(256);
        on.launch(launch.arg(x).arg(to).dim(count).dim(k).dim(words))?;
    }
    Ok(to)
}

/// Both operands of a fused product as rows of 32-bit words.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub x: DevicePtr,
    pub head: DevicePtr,
    /// Words of a row.
    pub words: usize,
    /// The element type, as entries are named.
    pub element: &'static str,
}

impl Operands {
    /// The `[m, k]` rows at `x` and the head, both in the head's element type: for bf16 the rows are rounded first, once instead
    /// of by every column tile.
    pub fn new(
        head: Packed<'_>,
        (m, k): (usize, usize),
        x: DevicePtr,
        on: &mut dyn Launcher,
    ) -> Result<Operands, LaunchError> {
        let (x, words, at, len, element) = match head {
            Packed::F32(head) => (x, k, head.device(), head.len(), "f32"),
            Packed::Bf16(head) => {
                (round_rows(x, (m, k), on)?, k.div_ceil(2), head.device(), head.len(), "bf16")
            }
        };
        Operands { x, head: at, words, element }.indexed_by_32_bits(m * words, len)
    }

    /// Two operands of so many words, unless their words need more than 32 bits to be numbered: the kernels' registers.
    pub fn indexed_by_32_bits(self, x: usize, head: usize) -> Result<Operands, LaunchError> {
        if x.max(head) < 1 << 32 {
            return Ok(self);
        }
        let problem = format!("an operand has {} words, at most {} are possible", x.max(head), u32::MAX);
        Err(LaunchError { kernel: "log_prob".into(), problem })
    }

    /// From a row of x and one of the head on.
    pub fn skip(self, row: usize, column: usize) -> Operands {
        let bytes = 4 * self.words;
        Operands { x: self.x.offset(row * bytes), head: self.head.offset(column * bytes), ..self }
    }

    /// 1 when copies of 16 bytes may be used.
    pub fn wide(&self) -> u32 {
        u32::from((self.x.0 | self.head.0).is_multiple_of(16) && self.words.is_multiple_of(4))
    }
}

impl RowTiles {
    /// Statistics of x head^T without the logits in memory; `logits` (`[rows, vocab]`) may be null.
    pub(crate) fn multiply(
        &self,
        o: Operands,
        targets: DevicePtr,
        logits: DevicePtr,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let RowTiles { rows, vocab, inv_temperature, part, moment, hit } = *self;
        if rows == 0 || vocab == 0 {
            return Ok(());
        }
        let entropy = if moment == DevicePtr::NULL { "" } else { "_entropy" };
        let launch = Launch::new(&ptx::LOG_PROB, format_args!("log_prob_{}{entropy}", o.element))
            .grid(rows.div_ceil(128) * vocab.div_ceil(128), 1, 1)
            .block(256);
        let launch = launch.arg(o.x).arg(o.head).arg(targets).arg(part).arg(moment).arg(hit).arg(logits);
        on.launch(launch.dim(rows).dim(vocab).dim(o.words).arg(inv_temperature).arg(o.wide()))
    }
}
