//! y = x W^T + bias + residual with an int8 weight.
//!
//! Ideas that make it fast:
//! - one pass over a row finds its absmax and sets its outliers aside; a second writes 16-bit pairs;
//! - the integer sums never reach memory: the epilogue of each register tile dequantises, adds the
//!   outliers' f32 products, the bias and the residual, and writes y once.

use crate::{
    micro::{ROWS, Tile, tile},
    pack::{COLS, packed_len},
};
use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};
use std::cell::RefCell;

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

/// The rows of x, quantised.
#[derive(Default)]
struct Quantized {
    /// `[m, k rounded up to even]`.
    q: Vec<i16>,
    /// `[m]` absmax / 127.
    scale: Vec<f32>,
    /// Outliers (row, column, value), by row and column.
    outliers: Vec<(u32, u32, f32)>,
}

thread_local! {
    static SCRATCH: RefCell<Quantized> = RefCell::default();
}

cpu::simd_fn! {
    /// Largest |x| below the threshold, and whether any is at or above it.
    fn absmax(x: &[f32], threshold: f32) -> (f32, bool) {
        let mut acc = [0.0f32; 16];
        let mut out = [0u32; 16];
        let mut chunks = x.chunks_exact(16);
        for c in &mut chunks {
            for i in 0..16 {
                let a = c[i].abs();
                let far = a >= threshold;
                out[i] |= u32::from(far);
                let a = if far { 0.0 } else { a };
                acc[i] = if a > acc[i] { a } else { acc[i] };
            }
        }
        for v in chunks.remainder() {
            let far = v.abs() >= threshold;
            out[0] |= u32::from(far);
            acc[0] = if !far && v.abs() > acc[0] { v.abs() } else { acc[0] };
        }
        (acc.iter().fold(0.0, |m: f32, v| m.max(*v)), out.iter().any(|o| *o != 0))
    }
}

cpu::simd_fn! {
    /// q = round(x * inverse), ties to even, by adding and subtracting 1.5 * 2^23.
    fn quantize_row(x: &[f32], inverse: f32, q: &mut [i16]) {
        const MAGIC: f32 = 12_582_912.0;
        for (q, x) in q.iter_mut().zip(x) {
            *q = (x.mul_add(inverse, MAGIC).to_bits().wrapping_sub(MAGIC.to_bits())) as i16;
        }
    }
}

impl Quantized {
    fn fill(&mut self, x: &[f32], m: usize, k: usize, threshold: f32) {
        let stride = k.next_multiple_of(2);
        self.q.clear();
        self.q.resize(m * stride, 0);
        self.scale.clear();
        self.scale.resize(m, 0.0);
        self.outliers.clear();
        let limit = if threshold > 0.0 { threshold } else { f32::INFINITY };
        let any: std::sync::atomic::AtomicBool = false.into();
        let one = |i: usize, q: &mut [i16], scale: &mut f32| {
            let row = &x[i * k..(i + 1) * k];
            let (max, far) = absmax(row, limit);
            *scale = max / 127.0;
            quantize_row(row, if max > 0.0 { 127.0 / max } else { 0.0 }, q);
            if far {
                any.store(true, std::sync::atomic::Ordering::Relaxed);
                row.iter().zip(q).filter(|(v, _)| v.abs() >= limit).for_each(|(_, q)| *q = 0);
            }
        };
        const BLOCK: usize = 8;
        let scales = cpu::Shared::new(&mut self.scale);
        cpu::par_rows(&mut self.q, stride.max(1), BLOCK, 4 * k, |first, rows| {
            for (i, q) in rows.chunks_exact_mut(stride.max(1)).enumerate() {
                // SAFETY: row first + i < m belongs to this task alone.
                one(first + i, q, unsafe { &mut scales.slice(first + i, 1)[0] });
            }
        });
        if any.into_inner() {
            for (i, row) in x.chunks_exact(k).enumerate() {
                let far = row.iter().enumerate().filter(|(_, v)| v.abs() >= limit);
                self.outliers.extend(far.map(|(c, v)| (i as u32, c as u32, *v)));
            }
        }
    }
}

/// What the epilogue of a tile needs to know about its panel.
struct Epilogue<'a> {
    panel: &'a [i8],
    scb: &'a [f32],
    bias: Option<&'a [f32]>,
}

cpu::simd_fn! {
    fn dequantize(acc: &[i32; COLS], scale: f32, scb: &[f32; COLS], y: &mut [f32; COLS]) {
        for ((y, a), s) in y.iter_mut().zip(acc).zip(scb) {
            *y = *a as f32 * (scale * (s / 127.0));
        }
    }
}

impl Epilogue<'_> {
    fn row(
        &self,
        acc: &[i32; COLS],
        scale: f32,
        outliers: &[(u32, u32, f32)],
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) {
        let have = y.len();
        let mut scb = [0.0f32; COLS];
        scb[..have].copy_from_slice(self.scb);
        let mut wide = [0.0f32; COLS];
        dequantize(acc, scale, &scb, &mut wide);
        for (_, c, v) in outliers {
            let column = &self.panel[(*c as usize / 2) * 2 * COLS..][..2 * COLS];
            for j in 0..COLS {
                let w = f32::from(column[2 * j + *c as usize % 2]) * (scb[j] / 127.0);
                wide[j] = v.mul_add(w, wide[j]);
            }
        }
        y.copy_from_slice(&wide[..have]);
        if let Some(b) = self.bias {
            y.iter_mut().zip(b).for_each(|(y, b)| *y += *b);
        }
        if let Some(r) = residual {
            y.iter_mut().zip(r).for_each(|(y, r)| *y += *r);
        }
    }
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
        if m == 0 || n == 0 {
            return;
        }
        let (packed, scb) = (args.packed.host(), args.scb.host());
        let (bias, residual) = (args.bias.map(In::host), args.residual.map(In::host));
        let y = cpu::Shared::new(args.y.host());
        let mut x = SCRATCH.take();
        x.fill(args.x.host(), m, k, threshold);
        let quantized = &x;
        let stride = k.next_multiple_of(2);
        matmul::for_blocks(m, n, COLS, ROWS, k, |rows, panels| {
            for p in panels {
                let (first, have) = (p * COLS, COLS.min(n - p * COLS));
                let epilogue = Epilogue {
                    panel: &packed[p * COLS * stride..][..COLS * stride],
                    scb: &scb[first..first + have],
                    bias: bias.map(|b| &b[first..first + have]),
                };
                let mut acc: Tile = [[0; COLS]; ROWS];
                for i0 in rows.clone().step_by(ROWS) {
                    let count = ROWS.min(rows.end - i0);
                    tile(&quantized.q[i0 * stride..], stride, count, stride / 2, epilogue.panel, &mut acc);
                    for (i, acc) in (i0..i0 + count).zip(&acc) {
                        let outliers = of_row(&quantized.outliers, i);
                        let res = residual.map(|r| &r[i * n + first..][..have]);
                        // SAFETY: `for_blocks` hands each (row, panel) to one task; i < m, first + have <= n.
                        let out = unsafe { y.slice(i * n + first, have) };
                        epilogue.row(acc, quantized.scale[i], outliers, res, out);
                    }
                }
            }
        });
        SCRATCH.set(x);
    }
}

fn of_row(outliers: &[(u32, u32, f32)], row: usize) -> &[(u32, u32, f32)] {
    if outliers.is_empty() {
        return outliers;
    }
    let row = row as u32;
    let start = outliers.partition_point(|o| o.0 < row);
    let len = outliers[start..].partition_point(|o| o.0 == row);
    &outliers[start..start + len]
}
