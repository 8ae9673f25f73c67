//! y = x W^T + bias + residual with an int8 weight.
//!
//! Ideas that make it fast:
//! - a row is quantised in one visit: absmax, 8-bit values in tile order, outliers set aside;
//! - the integer sums never reach memory as a matrix: a block of inputs leaves them in a scratch of the
//!   first-level cache, and the epilogue of each tile dequantises, adds the outliers' f32 products, the bias
//!   and the residual, and writes y once;
//! - an outlier's weight column is four bytes apart in the panel: one load, shift and convert per 16 outputs.

use crate::{
    activations::{Activations, Row},
    gpu,
    micro::{Micro, Operands, QUAD, micro},
    pack::{COLS, expect_packed},
};
use kernel_abi::{
    ArgError, Cost, Half, In, Kernel, LaunchError, Launcher, Out, expect_len, narrow, typed, widen,
};
use std::{cell::RefCell, ops::Range};

/// y = x W^T + bias + residual; W int8 `[n, k]`.
#[derive(Debug, Clone, Copy)]
pub struct Int8Linear {
    /// Rows of x.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Elements of x with |x| >= threshold are multiplied in f32; 0 = none are.
    pub threshold: f32,
}

/// Arguments of [`Int8Linear`].
pub struct Int8LinearArgs<'a, T = f32> {
    /// `[m, k]`.
    pub x: In<'a, T>,
    /// W packed by [`crate::PackInt8`].
    pub packed: In<'a, i8>,
    /// `[n]` row absmax of W.
    pub scb: In<'a>,
    /// `[n]`.
    pub bias: Option<In<'a, T>>,
    /// `[m, n]`.
    pub residual: Option<In<'a, T>>,
    /// `[m, n]`.
    pub y: Out<'a, T>,
}

thread_local! {
    static SCRATCH: RefCell<Activations> = RefCell::default();
    static SUMS: RefCell<Vec<Sums>> = const { RefCell::new(Vec::new()) };
}

/// A row's sums over a panel: one cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([i32; COLS]);

/// Panels that a task takes at once, and what the epilogue needs to know about them.
struct Panels<'a> {
    /// The weights, panel after panel.
    weights: &'a [i8],
    /// Bytes of a panel.
    len: usize,
    /// How many: 1 or 2.
    count: usize,
    /// Their columns of y.
    cols: Range<usize>,
    /// scb / 127.
    scale: [[f32; COLS]; 2],
    bias: Option<[[f32; COLS]; 2]>,
}

impl<'a> Panels<'a> {
    fn new(weights: &'a [i8], len: usize, cols: Range<usize>, scb: &[f32], bias: Option<&[f32]>) -> Self {
        let count = cols.len().div_ceil(COLS);
        let widen = |from: &[f32]| -> [[f32; COLS]; 2] {
            std::array::from_fn(|p| {
                std::array::from_fn(|j| from.get(cols.start + p * COLS + j).copied().unwrap_or(0.0))
            })
        };
        let scale = widen(scb).map(|p| p.map(|s| s / 127.0));
        Panels { weights, len, count, bias: bias.map(widen), scale, cols }
    }
}

/// One row of panel `p`: dequantised sums, then the outliers by ascending column, bias, residual.
#[inline(always)]
fn finish(
    e: &Panels<'_>,
    p: usize,
    sums: &[i32; COLS],
    row: &Row,
    outliers: &[(u32, f32)],
    residual: Option<&[f32; COLS]>,
) -> [f32; COLS] {
    let (scale, panel) = (&e.scale[p], &e.weights[p * e.len..]);
    let mut v = [0.0f32; COLS];
    for j in 0..COLS {
        v[j] = sums[j].wrapping_add(row.correction) as f32 * (row.scale * scale[j]);
    }
    for (c, x) in outliers {
        let quad = panel[*c as usize / 4 * QUAD..][..QUAD].as_chunks::<4>().0;
        let up = 24 - 8 * (*c % 4);
        for j in 0..COLS {
            let q = (i32::from_le_bytes(quad[j].map(|b| b as u8)) << up) >> 24;
            v[j] = x.mul_add(q as f32 * scale[j], v[j]);
        }
    }
    if let Some(b) = &e.bias {
        for j in 0..COLS {
            v[j] += b[p][j];
        }
    }
    if let Some(r) = residual {
        for j in 0..COLS {
            v[j] += r[j];
        }
    }
    v
}

cpu::simd_fn! {
    /// The epilogue of a tile of `height` rows from row `first` on: `sums` is `[height, panels, COLS]`.
    fn finish_tile(
        e: &Panels<'_>, sums: &[Sums], first: usize, height: usize, x: &Activations,
        residual: Option<&[f32]>, n: usize, y: cpu::Shared<'_>,
    ) {
        let width = e.cols.len();
        for (i, sums) in (first..first + height).zip(sums.chunks_exact(e.count)) {
            let (row, outliers) = x.row(i);
            let at = i * n + e.cols.start;
            // SAFETY: the task owns these rows and columns.
            let out = unsafe { y.slice(at, width) };
            let residual = residual.map(|r| &r[at..at + width]);
            let (whole, edge) = out.as_chunks_mut::<COLS>();
            let (whole_residual, edge_residual) = residual.unwrap_or(&[]).as_chunks::<COLS>();
            let panels = whole.len();
            for (p, out) in whole.iter_mut().enumerate() {
                *out = finish(e, p, &sums[p].0, row, outliers, whole_residual.get(p));
            }
            if !edge.is_empty() {
                let wide = finish(e, panels, &sums[panels].0, row, outliers, None);
                edge.copy_from_slice(&wide[..edge.len()]);
                edge.iter_mut().zip(edge_residual).for_each(|(y, r)| *y += *r);
            }
        }
    }
}

/// Inputs over four whose weights, for one panel, take a part of the second-level cache: there they stay while the
/// rows of a block pass by.
const BLOCK: usize = 1024;

/// For each tile of `rows` calls `done(first row, height, sums)` with its sums over all inputs, and before that,
/// while there is still something to compute, `soon(first row, height)`.
fn panel_sums(
    x: &Activations,
    rows: Range<usize>,
    k: usize,
    panels: &Panels<'_>,
    micro: &Micro,
    soon: impl Fn(usize, usize),
    mut done: impl FnMut(usize, usize, &[Sums]),
) {
    let (quads, count) = (k.div_ceil(4), panels.count);
    assert!(panels.weights.len() >= count * quads * QUAD, "int8 panel is too short");
    let block = BLOCK / count;
    let mut sums = SUMS.take();
    // With one block of inputs a tile's sums are done with at once: every tile takes the same few cache lines.
    let kept = if quads > block { rows.len() } else { x.height() };
    sums.resize(sums.len().max(kept * count), Sums([0; COLS]));
    for q0 in (0..quads.max(1)).step_by(block) {
        let len = block.min(quads - q0);
        for first in rows.clone().step_by(x.height()) {
            let height = x.height().min(rows.end - first);
            let at = if quads > block { first - rows.start } else { 0 };
            let sums = &mut sums[at * count..][..height * count];
            let o = Operands {
                x: x.tile(first, height, q0, k, micro),
                w: panels.weights[q0 * QUAD..].as_ptr(),
                next_panel: panels.len,
                panels: count,
                quads: len,
                acc: sums.as_mut_ptr().cast(),
                resume: q0 > 0,
            };
            if q0 + len == quads {
                soon(first, height);
            }
            // SAFETY: `tile` and the assert bound the operands; `sums` has `height` rows of `count` panels.
            unsafe { micro.run(height, &o) };
            if q0 + len == quads {
                done(first, height, sums);
            }
        }
    }
    SUMS.set(sums);
}

impl Int8Linear {
    fn check_args<T>(&self, args: &Int8LinearArgs<'_, T>) -> Result<(), ArgError> {
        let Int8Linear { m, n, k, .. } = *self;
        if k > 1 << 17 {
            let problem = format!("{k} inputs; sums of more than 131072 could overflow 32 bits");
            return Err(ArgError { kernel: Self::NAME, arg: "x", problem });
        }
        expect_len(Self::NAME, "x", args.x.len(), m * k)?;
        expect_packed(Self::NAME, &args.packed, (n, k))?;
        expect_len(Self::NAME, "scb", args.scb.len(), n)?;
        expect_len(Self::NAME, "bias", args.bias.map_or(n, |b| b.len()), n)?;
        expect_len(Self::NAME, "residual", args.residual.map_or(m * n, |r| r.len()), m * n)?;
        expect_len(Self::NAME, "y", args.y.len(), m * n)
    }
}

impl Kernel for Int8Linear {
    type Args<'a> = Int8LinearArgs<'a>;
    const NAME: &'static str = "int8_linear";

    fn check(&self, args: &Int8LinearArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.m as u64, self.n as u64, self.k as u64);
        Cost {
            bytes_read: 4 * m * k + n * k,
            bytes_written: 4 * m * n,
            flops: 3 * m * n,
            int8_ops: 2 * m * n * k,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: Int8LinearArgs<'_>) {
        let Int8Linear { m, n, k, threshold } = *self;
        let (packed, scb, micro) = (args.packed.host(), args.scb.host(), micro());
        let (bias, residual) = (args.bias.map(In::host), args.residual.map(In::host));
        let y = cpu::Shared::new(args.y.host());
        let mut x = SCRATCH.take();
        x.fill(args.x.host(), m, k, threshold, &micro);
        let quantized = &x;
        let panel_len = COLS * k.next_multiple_of(4);
        matmul::for_blocks(m, n, COLS, quantized.height(), k, |rows, panels| {
            for p in panels.clone().step_by(micro.panels) {
                let count = micro.panels.min(panels.end - p);
                let weights = &packed[p * panel_len..][..count * panel_len];
                let e = Panels::new(weights, panel_len, p * COLS..n.min((p + count) * COLS), scb, bias);
                // `for_blocks` hands each (row, panel) to one task.
                let soon = |first: usize, height: usize| {
                    for i in first..first + height {
                        (0..count).for_each(|p| y.prefetch(i * n + e.cols.start + p * COLS));
                    }
                };
                panel_sums(quantized, rows.clone(), k, &e, &micro, soon, |first, height, sums| {
                    finish_tile(&e, sums, first, height, quantized, residual, n, y);
                });
            }
        });
        SCRATCH.set(x);
    }

    fn ptx(&self, args: Int8LinearArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        gpu::forward(self, &args, on)
    }
}

typed!(
    /// [`Int8Linear`] over 16-bit activations, bias, residual and result.
    Int8LinearOf,
    Int8Linear
);

impl<T: Half> Kernel for Int8LinearOf<T> {
    type Args<'a> = Int8LinearArgs<'a, T>;
    const NAME: &'static str = Int8Linear::NAME;

    fn check(&self, args: &Int8LinearArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        let Int8Linear { m, n, k, .. } = self.kernel;
        let (m, n, k) = (m as u64, n as u64, k as u64);
        Cost { bytes_read: 2 * m * k + n * k, bytes_written: 2 * m * n, ..self.kernel.cost() }
    }

    fn cpu(&self, args: Int8LinearArgs<'_, T>) {
        let wide = |x: In<'_, T>| widen(x.host());
        let (x, bias, residual) = (wide(args.x), args.bias.map(wide), args.residual.map(wide));
        let mut y = vec![0.0; args.y.len()];
        self.kernel.cpu(Int8LinearArgs {
            x: (&x).into(),
            packed: args.packed,
            scb: args.scb,
            bias: bias.as_ref().map(Into::into),
            residual: residual.as_ref().map(Into::into),
            y: (&mut y).into(),
        });
        narrow(&y, args.y.host());
    }

    fn ptx(&self, args: Int8LinearArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        gpu::forward(&self.kernel, &args, on)
    }
}
