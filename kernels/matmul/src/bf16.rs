//! Products with a weight held in bf16: half the memory of f32, and twice the speed where the CPU multiplies bf16.
//!
//! Two inner elements share 32 bits, the first in the upper half; everything else is the f32 product's: the same
//! tiles, blocks and epilogues. Operands are rounded once, to nearest even; their products are exact in f32 and
//! are added in ascending order, so an element is again one fused chain that depends on its row and the weights
//! alone, with the same bits whether or not the machine has the instruction.

use crate::{
    bf16_ptx,
    blocks::for_blocks,
    panel::{Strided, Target, grow, product, tile_cols, tile_rows},
};
use kernel_abi::{ArgError, Cost, In, Kernel, LaunchError, Launcher, Out, expect_len};
use std::cell::RefCell;

/// x rounded to bf16, ties to even, in the upper half of an f32's bits; numbers below 2^-126 become zero.
#[inline(always)]
fn upper(x: f32) -> u32 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let kept = if magnitude > 0x7f80_0000 { bits | 0x0040_0000 } else { rounded };
    let kept = if magnitude < 0x0080_0000 { bits & 0x8000_0000 } else { kept };
    kept & 0xffff_0000
}

/// x rounded to bf16 as the products do it.
#[inline(always)]
pub fn round_bf16(x: f32) -> f32 {
    f32::from_bits(upper(x))
}

/// Two inner elements in one: the first in the upper half.
#[inline(always)]
pub fn pair(first: f32, second: f32) -> u32 {
    upper(first) | upper(second) >> 16
}

/// The two elements of a [`pair`].
#[inline(always)]
pub fn halves(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair & 0xffff_0000), f32::from_bits(pair << 16)]
}

cpu::simd_fn! {
    /// A row's elements times `scale` (none: 1) in pairs; an odd last one gets a zero.
    pub fn pairs(row: &[f32], scale: Option<&[f32]>, out: &mut [u32]) {
        let (whole, last) = row.as_chunks::<2>();
        match scale {
            None => out.iter_mut().zip(whole).for_each(|(o, x)| *o = pair(x[0], x[1])),
            Some(scale) => {
                for ((o, x), s) in out.iter_mut().zip(whole).zip(scale.as_chunks::<2>().0) {
                    *o = pair(x[0] * s[0], x[1] * s[1]);
                }
            }
        }
        if let [x] = last {
            out[whole.len()] = pair(x * scale.map_or(1.0, |s| s[2 * whole.len()]), 0.0);
        }
    }
}

/// Distance between rows of `n` elements in pairs: an odd number of cache lines, so that the rows of a tile do
/// not compete for the same cache sets.
pub fn row_pairs(n: usize) -> usize {
    16 * (n.div_ceil(32) | 1)
}

/// The rows of x `[m, n]` times `scale` in pairs.
fn row_by_row<'a>(x: &[f32], m: usize, n: usize, scale: Option<&[f32]>, to: &'a mut Vec<u32>) -> &'a [u32] {
    let row = row_pairs(n);
    if to.len() < m * row {
        to.resize(m * row, 0);
    }
    cpu::par_rows(&mut to[..m * row], row, 8, n, |first, rows| {
        for (i, out) in rows.chunks_exact_mut(row).enumerate() {
            pairs(&x[(first + i) * n..][..n], scale, out);
        }
    });
    &to[..m * row]
}

thread_local! {
    static PAIRS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static PANELS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Rows from which on a panel is worth making for one thread alone.
const ROWS_PER_THREAD: usize = 96;

/// dx (+)= (dy * scale) W for dy `[m, n]` and a weight `[n, k]` whose panels `pack` makes: called with the panel's
/// first column, it fills `[n / 2][tile columns]` pairs of W's rows.
///
/// A task makes one panel in its own scratch and runs all rows against it: no temporary is as large as W.
pub fn times_packed(
    dy: &[f32],
    scale: Option<&[f32]>,
    (m, n, k): (usize, usize, usize),
    pack: impl Fn(usize, &mut [u32]) + Sync,
    dx: &mut [f32],
    accumulate: bool,
) {
    let mut scratch = PAIRS.take();
    let d = row_by_row(dy, m, n, scale, &mut scratch);
    times_pairs(d, (m, n, k), pack, dx, accumulate);
    PAIRS.set(scratch);
}

/// A packed weight, as the forward product reads it.
#[derive(Debug, Clone, Copy)]
pub enum Packed<'a> {
    /// By [`crate::PackWeight`].
    F32(In<'a>),
    /// By [`PackBf16`].
    Bf16(In<'a, u32>),
}

impl<'a> From<In<'a>> for Packed<'a> {
    fn from(packed: In<'a>) -> Self {
        Packed::F32(packed)
    }
}

impl<'a> From<In<'a, u32>> for Packed<'a> {
    fn from(packed: In<'a, u32>) -> Self {
        Packed::Bf16(packed)
    }
}

impl<'a> From<&'a Vec<f32>> for Packed<'a> {
    fn from(packed: &'a Vec<f32>) -> Self {
        Packed::F32(packed.into())
    }
}

impl<'a> From<&'a Vec<u32>> for Packed<'a> {
    fn from(packed: &'a Vec<u32>) -> Self {
        Packed::Bf16(packed.into())
    }
}

impl Packed<'_> {
    /// Checks the length for an `[n, k]` weight.
    ///
    /// # Errors
    /// Names `arg` of `kernel`.
    pub fn expect(
        &self,
        kernel: &'static str,
        arg: &'static str,
        n: usize,
        k: usize,
    ) -> Result<(), ArgError> {
        match self {
            Packed::F32(p) => expect_len(kernel, arg, p.len(), crate::packed_len(n, k)),
            Packed::Bf16(p) => expect_len(kernel, arg, p.len(), bf16_packed_len(n, k)),
        }
    }

    /// Outputs `first..first + n` of a weight with `k` inputs; `first` is a multiple of the panel width.
    pub fn outputs(&self, first: usize, n: usize, k: usize) -> Self {
        // Panels in the CPU's form and rows in the GPU's take the same number of elements an output.
        fn part<T>(p: In<'_, T>, from: usize, len: usize) -> In<'_, T> {
            match p {
                In::Host(p) => In::Host(&p[from..][..len]),
                In::Device(..) => In::Device(p.skip(from).device(), len),
                In::Meta(_) => In::Meta(len),
            }
        }
        match self {
            Packed::F32(p) => Packed::F32(part(*p, first * k, crate::packed_len(n, k))),
            Packed::Bf16(p) => Packed::Bf16(part(*p, first * k.div_ceil(2), bf16_packed_len(n, k))),
        }
    }

    /// y = x W^T for x `[m, k]`.
    pub fn product(&self, m: usize, n: usize, k: usize, x: &[f32], y: &mut [f32]) {
        let (x, bias, residual, y) = (x.into(), None, None, y.into());
        match *self {
            Packed::F32(packed) => {
                crate::Linear { m, n, k }.cpu(crate::LinearArgs { x, packed, bias, residual, y });
            }
            Packed::Bf16(packed) => {
                Bf16Linear { m, n, k }.cpu(Bf16LinearArgs { x, packed, bias, residual, y })
            }
        }
    }
}

/// As [`times_packed`], from rows in pairs, [`row_pairs`] apart.
pub fn times_pairs(
    d: &[u32],
    (m, n, k): (usize, usize, usize),
    pack: impl Fn(usize, &mut [u32]) + Sync,
    dx: &mut [f32],
    accumulate: bool,
) {
    let (cols, units, row) = (tile_cols(), n.div_ceil(2), row_pairs(n));
    let target = Target::new(dx, k, k).accumulating(accumulate);
    // Each thread takes the rows that it took before, for the price of making every panel once more.
    let blocks = (m / ROWS_PER_THREAD).clamp(1, cpu::threads());
    let panels = k.div_ceil(cols);
    cpu::par_for(blocks * panels, (m / blocks + 1) * units * cols / 4, |task| {
        let (block, p) = (task / panels, task % panels);
        let rows = m * block / blocks..m * (block + 1) / blocks;
        let mut panel = PANELS.take();
        let slice = grow(&mut panel, units * cols);
        pack(p * cols, bytemuck::cast_slice_mut(slice));
        // SAFETY: panel p's columns of the block's rows belong to this task.
        unsafe { product(Strided::pairs(d, row), rows, units, slice, p, 1, &target) };
        PANELS.set(panel);
    });
}

/// 32-bit elements of the packed form of an `[n, k]` weight in bf16.
pub fn bf16_packed_len(n: usize, k: usize) -> usize {
    n.next_multiple_of(tile_cols()) * k.div_ceil(2)
}

/// Packs an `[n, k]` row-major weight (out, in) for [`Bf16Linear`].
///
/// On the GPU the packed form is the row-major bf16 matrix, rows padded to an even number of elements with a zero, in the
/// first `n * ceil(k / 2)` words; the rest is left as it is. [`crate::UnpackBf16`] reads either device's form.
#[derive(Debug, Clone, Copy)]
pub struct PackBf16 {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Arguments of [`PackBf16`].
pub struct PackBf16Args<'a> {
    /// `[n, k]`.
    pub w: In<'a>,
    /// `[bf16_packed_len(n, k)]`.
    pub packed: Out<'a, u32>,
}

impl Kernel for PackBf16 {
    type Args<'a> = PackBf16Args<'a>;
    const NAME: &'static str = "pack_bf16";

    fn check(&self, args: &PackBf16Args<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "w", args.w.len(), self.n * self.k)?;
        expect_len(Self::NAME, "packed", args.packed.len(), bf16_packed_len(self.n, self.k))
    }

    fn cost(&self) -> Cost {
        let n = (self.n * self.k) as u64;
        Cost { bytes_read: 4 * n, bytes_written: 2 * n, ..Cost::default() }
    }

    fn cpu(&self, args: PackBf16Args<'_>) {
        let PackBf16 { n, k } = *self;
        let (w, cols, units) = (args.w.host(), tile_cols(), k.div_ceil(2));
        cpu::par_rows(args.packed.host(), cols * units, 1, 2 * k * cols, |p, panel| {
            panel.fill(0);
            for j in 0..cols.min(n - p * cols) {
                for (unit, x) in w[(p * cols + j) * k..][..k].chunks(2).enumerate() {
                    panel[unit * cols + j] = pair(x[0], x.get(1).copied().unwrap_or(0.0));
                }
            }
        });
    }

    fn ptx(&self, args: PackBf16Args<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        bf16_ptx::pack("pack_bf16", args.w.device(), args.packed.device(), (self.n, self.k), on)
    }
}

/// The row-major `[n, k]` form of a weight packed by the CPU twin.
pub fn unpack_bf16(packed: &[u32], n: usize, k: usize) -> Vec<f32> {
    let (cols, units) = (tile_cols(), k.div_ceil(2));
    let at = |j: usize, i: usize| halves(packed[(j / cols * units + i / 2) * cols + j % cols])[i % 2];
    (0..n).flat_map(|j| (0..k).map(move |i| at(j, i))).collect()
}

/// y = x W^T + bias + residual, W `[n, k]` in bf16, x rounded to bf16, sums in f32.
#[derive(Debug, Clone, Copy)]
pub struct Bf16Linear {
    /// Rows of x.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Arguments of [`Bf16Linear`].
pub struct Bf16LinearArgs<'a> {
    /// `[m, k]`.
    pub x: In<'a>,
    /// W packed by [`PackBf16`].
    pub packed: In<'a, u32>,
    /// `[n]`.
    pub bias: Option<In<'a>>,
    /// `[m, n]`.
    pub residual: Option<In<'a>>,
    /// `[m, n]`.
    pub y: Out<'a>,
}

impl Kernel for Bf16Linear {
    type Args<'a> = Bf16LinearArgs<'a>;
    const NAME: &'static str = "bf16_linear";

    fn check(&self, args: &Bf16LinearArgs<'_>) -> Result<(), ArgError> {
        let Bf16Linear { m, n, k } = *self;
        expect_len(Self::NAME, "x", args.x.len(), m * k)?;
        expect_len(Self::NAME, "packed", args.packed.len(), bf16_packed_len(n, k))?;
        expect_len(Self::NAME, "bias", args.bias.map_or(n, |b| b.len()), n)?;
        expect_len(Self::NAME, "residual", args.residual.map_or(m * n, |r| r.len()), m * n)?;
        expect_len(Self::NAME, "y", args.y.len(), m * n)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.m as u64, self.n as u64, self.k as u64);
        Cost {
            bytes_read: 4 * m * k + 2 * n * k,
            bytes_written: 4 * m * n,
            half_flops: 2 * m * n * k,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: Bf16LinearArgs<'_>) {
        let Bf16Linear { m, n, k } = *self;
        let (packed, cols, units) = (args.packed.host(), tile_cols(), k.div_ceil(2));
        let packed: &[f32] = bytemuck::cast_slice(packed);
        let target =
            Target::new(args.y.host(), n, n).with(args.bias.map(In::host), args.residual.map(In::host));
        let mut scratch = PAIRS.take();
        let (x, row) = (row_by_row(args.x.host(), m, k, None, &mut scratch), row_pairs(k));
        for_blocks(m, n, cols, tile_rows(), units, |rows, panels| {
            let slice = &packed[panels.start * units * cols..panels.end * units * cols];
            // SAFETY: `for_blocks` hands each (row, panel) to one task.
            unsafe {
                product(Strided::pairs(x, row), rows, units, slice, panels.start, panels.len(), &target)
            };
        });
        PAIRS.set(scratch);
    }

    fn ptx(&self, args: Bf16LinearArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.submit(&args, on)
    }
}

/// dx (+)= dy W, W `[n, k]` in bf16, dy rounded to bf16, sums in f32.
#[derive(Debug, Clone, Copy)]
pub struct Bf16LinearBackward {
    /// Rows of dy.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Add to dx instead of overwriting it.
    pub accumulate: bool,
}

/// Arguments of [`Bf16LinearBackward`].
pub struct Bf16LinearBackwardArgs<'a> {
    /// `[m, n]`.
    pub dy: In<'a>,
    /// W packed by [`PackBf16`].
    pub packed: In<'a, u32>,
    /// `[m, k]`.
    pub dx: Out<'a>,
}

impl Kernel for Bf16LinearBackward {
    type Args<'a> = Bf16LinearBackwardArgs<'a>;
    const NAME: &'static str = "bf16_linear_backward";

    fn check(&self, args: &Bf16LinearBackwardArgs<'_>) -> Result<(), ArgError> {
        let Bf16LinearBackward { m, n, k, .. } = *self;
        expect_len(Self::NAME, "dy", args.dy.len(), m * n)?;
        expect_len(Self::NAME, "packed", args.packed.len(), bf16_packed_len(n, k))?;
        expect_len(Self::NAME, "dx", args.dx.len(), m * k)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.m as u64, self.n as u64, self.k as u64);
        Cost {
            bytes_read: 4 * m * n + 2 * n * k,
            bytes_written: 4 * m * k,
            half_flops: 2 * m * n * k,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: Bf16LinearBackwardArgs<'_>) {
        let Bf16LinearBackward { m, n, k, accumulate } = *self;
        let packed = args.packed.host();
        let pack = |first: usize, panel: &mut [u32]| bf16_columns(packed, n, k, first, panel);
        times_packed(args.dy.host(), None, (m, n, k), pack, args.dx.host(), accumulate);
    }

    fn ptx(&self, args: Bf16LinearBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.submit(&args, on)
    }
}

/// Columns `first..` of W as a panel over pairs of its rows, from the panels over pairs of its columns: the four
/// elements of two rows and two columns change places.
pub fn bf16_columns(packed: &[u32], n: usize, k: usize, first: usize, panel: &mut [u32]) {
    let (cols, units) = (tile_cols(), k.div_ceil(2));
    let have = cols.min(k - first).div_ceil(2);
    if 2 * have < cols {
        panel.fill(0);
    }
    for p in 0..n.div_ceil(cols) {
        let rows = &mut panel[p * cols / 2 * cols..];
        let rows_here = (cols / 2).min(rows.len() / cols);
        for unit in 0..have {
            let from = packed[(p * units + first / 2 + unit) * cols..][..cols].as_chunks::<2>().0;
            for (v, [a, b]) in from.iter().enumerate().take(rows_here) {
                rows[v * cols + 2 * unit] = a & 0xffff_0000 | b >> 16;
                rows[v * cols + 2 * unit + 1] = a << 16 | b & 0xffff;
            }
        }
    }
}
