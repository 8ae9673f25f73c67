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
    micro::{Micro, Operands, QUAD, micro},
    pack::{COLS, packed_len},
};
use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};
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
pub struct Int8LinearArgs<'a> {
    /// `[m, k]`.
    pub x: In<'a>,
    /// W packed by [`crate::PackInt8`].
    pub packed: In<'a, i8>,
    /// `[n]` row absmax of W.
    pub scb: In<'a>,
    /// `[n]`.
    pub bias: Option<In<'a>>,
    /// `[m, n]`.
    pub residual: Option<In<'a>>,
    /// `[m, n]`.
    pub y: Out<'a>,
}

thread_local! {
    static SCRATCH: RefCell<Activations> = RefCell::default();
    static SUMS: RefCell<Vec<[i32; COLS]>> = const { RefCell::new(Vec::new()) };
}

/// What the epilogue of a tile needs to know about its panel.
struct Epilogue<'a> {
    panel: &'a [i8],
    /// scb / 127.
    scale: [f32; COLS],
    bias: Option<[f32; COLS]>,
}

impl<'a> Epilogue<'a> {
    fn new(panel: &'a [i8], scb: &[f32], bias: Option<&[f32]>) -> Self {
        let widen = |from: &[f32]| std::array::from_fn(|j| from.get(j).copied().unwrap_or(0.0));
        Epilogue { panel, scale: widen(scb).map(|s: f32| s / 127.0), bias: bias.map(widen) }
    }
}

cpu::simd_fn! {
    /// One row of a tile: dequantised sums, then the outliers by ascending column, bias, residual.
    fn finish(
        e: &Epilogue<'_>, sums: &[i32; COLS], row: &Row, outliers: &[(u32, f32)], residual: Option<&[f32; COLS]>,
        y: &mut [f32; COLS],
    ) {
        let mut v = [0.0f32; COLS];
        for j in 0..COLS {
            v[j] = sums[j].wrapping_add(row.correction) as f32 * (row.scale * e.scale[j]);
        }
        for (c, x) in outliers {
            let quad = e.panel[*c as usize / 4 * QUAD..][..QUAD].as_chunks::<4>().0;
            let up = 24 - 8 * (*c % 4);
            for j in 0..COLS {
                let q = (i32::from_le_bytes(quad[j].map(|b| b as u8)) << up) >> 24;
                v[j] = x.mul_add(q as f32 * e.scale[j], v[j]);
            }
        }
        if let Some(b) = &e.bias {
            for j in 0..COLS {
                v[j] += b[j];
            }
        }
        if let Some(r) = residual {
            for j in 0..COLS {
                v[j] += r[j];
            }
        }
        *y = v;
    }
}

impl Epilogue<'_> {
    fn row(&self, sums: &[i32; COLS], row: (&Row, &[(u32, f32)]), residual: Option<&[f32]>, y: &mut [f32]) {
        if let Ok(y) = <&mut [f32; COLS]>::try_from(&mut *y) {
            let residual = residual.and_then(|r| <&[f32; COLS]>::try_from(r).ok());
            return finish(self, sums, row.0, row.1, residual, y);
        }
        let mut wide = [0.0f32; COLS];
        finish(self, sums, row.0, row.1, None, &mut wide);
        y.copy_from_slice(&wide[..y.len()]);
        if let Some(r) = residual {
            y.iter_mut().zip(r).for_each(|(y, r)| *y += *r);
        }
    }
}

/// Inputs over four whose weights, for one panel, stay in the first-level cache.
const BLOCK: usize = 256;

/// For each row of `rows` calls `done(row, sums)` with its sums over all inputs.
fn panel_sums(
    x: &Activations,
    rows: Range<usize>,
    k: usize,
    panel: &[i8],
    micro: &Micro,
    mut done: impl FnMut(usize, &[i32; COLS]),
) {
    let quads = k.div_ceil(4);
    assert!(panel.len() >= quads * QUAD, "int8 panel is too short");
    let mut sums = SUMS.take();
    sums.resize(sums.len().max(rows.len()), [0; COLS]);
    for q0 in (0..quads.max(1)).step_by(BLOCK) {
        let len = BLOCK.min(quads - q0);
        for first in rows.clone().step_by(x.height()) {
            let height = x.height().min(rows.end - first);
            let sums = &mut sums[first - rows.start..][..height];
            let o = Operands {
                x: x.tile(first, height, q0, k, micro),
                w: panel[q0 * QUAD..].as_ptr(),
                quads: len,
                acc: sums.as_mut_ptr().cast(),
                resume: q0 > 0,
            };
            // SAFETY: `tile` and the assert bound the operands; `sums` has `height` rows.
            unsafe { micro.run(height, &o) };
            if q0 + len == quads {
                (first..).zip(&*sums).for_each(|(i, sums)| done(i, sums));
            }
        }
    }
    SUMS.set(sums);
}

impl Kernel for Int8Linear {
    type Args<'a> = Int8LinearArgs<'a>;
    const NAME: &'static str = "int8_linear";

    fn check(&self, args: &Int8LinearArgs<'_>) -> Result<(), ArgError> {
        let Int8Linear { m, n, k, .. } = *self;
        if k > 1 << 17 {
            let problem = format!("{k} inputs; sums of more than 131072 could overflow 32 bits");
            return Err(ArgError { kernel: Self::NAME, arg: "x", problem });
        }
        expect_len(Self::NAME, "x", args.x.len(), m * k)?;
        expect_len(Self::NAME, "packed", args.packed.len(), packed_len(n, k))?;
        expect_len(Self::NAME, "scb", args.scb.len(), n)?;
        expect_len(Self::NAME, "bias", args.bias.map_or(n, |b| b.len()), n)?;
        expect_len(Self::NAME, "residual", args.residual.map_or(m * n, |r| r.len()), m * n)?;
        expect_len(Self::NAME, "y", args.y.len(), m * n)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.m as u64, self.n as u64, self.k as u64);
        Cost {
            bytes_read: 4 * m * k + n * k,
            bytes_written: 4 * m * n,
            flops: 3 * m * n,
            int8_ops: 2 * m * n * k,
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
            for p in panels {
                let cols = p * COLS..n.min((p + 1) * COLS);
                let panel = &packed[p * panel_len..][..panel_len];
                let e = Epilogue::new(panel, &scb[cols.clone()], bias.map(|b| &b[cols.clone()]));
                panel_sums(quantized, rows.clone(), k, panel, &micro, |i, sums| {
                    let at = i * n + cols.start;
                    // SAFETY: `for_blocks` hands each (row, panel) to one task.
                    let out = unsafe { y.slice(at, cols.len()) };
                    e.row(sums, quantized.row(i), residual.map(|r| &r[at..at + cols.len()]), out);
                });
            }
        });
        SCRATCH.set(x);
    }
}
