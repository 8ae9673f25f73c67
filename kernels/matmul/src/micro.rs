//! The register tile: a few rows of A times a packed panel of B, with the epilogue in its store.
//!
//! Ideas that make it fast:
//! - the tile (6 x 16 on AVX2, 12 x 32 on AVX-512) keeps 12 or 24 accumulators in registers, enough
//!   independent chains to hide the latency of the fused multiply-add on both ports; with one or two rows
//!   it takes several panels at once for the same reason, with few columns it drops half the panel;
//! - B is packed so that each step reads one contiguous row of the panel; A is broadcast;
//! - the panel is asked for a few kilobytes ahead, twice as far as the hardware looks on its own, so that few
//!   rows run at the speed of the memory that the weights lie in;
//! - scale, bias and residual are applied to the registers on their way to memory;
//! - a long inner dimension comes in blocks: the accumulators are put down and picked up unrounded, so the
//!   chain is the same as in one go;
//! - one tile serves f32 and bf16: a 32-bit element is one f32 or two bf16, and only the multiply-add differs.

use crate::bf16::halves;
use cpu::Isa;

/// What the 32 bits of an element of A and of a panel hold: one step of a tile's inner loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// One f32.
    F32,
    /// Two inner elements in bf16, the first in the upper half. Their products are exact in f32 and are added one
    /// after the other, each sum rounded to nearest even: a fused chain over the rounded operands. This is what
    /// `VDPBF16PS` does (Intel SDM volume 2, "VDPBF16PS": the upper pair first), save that the instruction
    /// flushes sums below 2^-126 to zero.
    Bf16Pair,
}

/// Bytes between the panel row in use and the one asked for; several panels at once need no asking.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 6 * 1024;

/// Rows of the largest tile of any instruction set.
pub(crate) const MAX_ROWS: usize = 12;
/// Columns that the widest tile writes: four panels of the widest instruction set.
pub(crate) const MAX_COLS: usize = 128;

/// Tile rows and columns for this machine.
pub(crate) fn shape() -> (usize, usize) {
    match cpu::isa() {
        Isa::Avx512 => (12, 32),
        Isa::Avx2 | Isa::Portable => (6, 16),
    }
}

/// Panels that a tile of `rows` rows takes at once.
pub(crate) fn panels_at_once(rows: usize) -> usize {
    match (cpu::isa(), rows) {
        (Isa::Portable, _) => 1,
        (_, 1) => 4,
        (_, 2) => 2,
        _ => 1,
    }
}

/// Operands of one tile.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// What A and the panel hold.
    pub(crate) element: Element,
    /// First element of A's first row.
    pub(crate) a: *const f32,
    /// Distance between rows of A.
    pub(crate) row: usize,
    /// Distance between inner elements of A.
    pub(crate) step: usize,
    /// The panel: inner element k of its columns lies at `k * tile columns`.
    pub(crate) b: *const f32,
    /// Distance to the next panel.
    pub(crate) next_panel: usize,
    /// Inner elements.
    pub(crate) k: usize,
    /// Accumulators to start from, rows `acc_row` apart; null: zeros.
    pub(crate) start: *const f32,
    /// Distance between rows of accumulators, at `start` and at [`Finish::Raw`].
    pub(crate) acc_row: usize,
}

/// What becomes of a tile's accumulators.
#[derive(Clone, Copy)]
pub(crate) enum Finish {
    /// Put down unrounded, rows `acc_row` apart.
    Raw(*mut f32),
    /// out = alpha * acc (+ bias) (+ add).
    Store(Store),
}

/// out = alpha * acc (+ bias) (+ add), for one tile.
#[derive(Clone, Copy)]
pub(crate) struct Store {
    pub(crate) alpha: f32,
    /// Null: none.
    pub(crate) bias: *const f32,
    /// Null: none. May be `out` itself.
    pub(crate) add: *const f32,
    pub(crate) out: *mut f32,
    /// Distance between rows of `add` and of `out`.
    pub(crate) row: usize,
}

/// Runs one tile of `rows` rows and `cols` columns: at most [`shape`]'s, or all columns of
/// [`panels_at_once`] panels. Whole vectors are read and written: with [`Finish::Store`] `cols` must be a
/// multiple of half a panel, with [`Finish::Raw`] it is rounded up to one.
///
/// # Safety
/// Every access that the operands and `finish` describe must be in bounds and free of races.
pub(crate) unsafe fn tile(rows: usize, cols: usize, o: &Operands, finish: Finish) {
    #[cfg(target_arch = "x86_64")]
    {
        use Element::{Bf16Pair, F32};
        let run = match (cpu::isa(), o.element) {
            (Isa::Avx512, F32) => Some((x86::avx512 as x86::Tile, 16)),
            (Isa::Avx512, Bf16Pair) if x86::has_bf16() => Some((x86::avx512_bf16 as x86::Tile, 16)),
            (Isa::Avx512, Bf16Pair) => Some((x86::avx512_halves as x86::Tile, 16)),
            (Isa::Avx2, F32) => Some((x86::avx2 as x86::Tile, 8)),
            (Isa::Avx2, Bf16Pair) => Some((x86::avx2_halves as x86::Tile, 8)),
            (Isa::Portable, _) => None,
        };
        if let Some((run, lanes)) = run {
            // SAFETY: the features were detected; the rest is the caller's contract.
            return unsafe { run(rows, cols.div_ceil(lanes), o, finish) };
        }
    }
    // SAFETY: the caller's contract.
    unsafe { portable(rows, cols.next_multiple_of(8), o, finish) }
}

/// # Safety
/// As [`tile`].
unsafe fn portable(rows: usize, cols: usize, o: &Operands, finish: Finish) {
    for i in 0..rows {
        let mut acc = [0.0f32; 16];
        // SAFETY: the caller's contract; `cols` is at most 16.
        unsafe {
            if !o.start.is_null() {
                (0..cols).for_each(|j| acc[j] = *o.start.add(i * o.acc_row + j));
            }
            for k in 0..o.k {
                let x = *o.a.add(i * o.row + k * o.step);
                let b = std::slice::from_raw_parts(o.b.add(16 * k), cols);
                match o.element {
                    Element::F32 => acc.iter_mut().zip(b).for_each(|(c, b)| *c = x.mul_add(*b, *c)),
                    Element::Bf16Pair => {
                        let x = halves(x.to_bits());
                        for (c, b) in acc.iter_mut().zip(b) {
                            let b = halves(b.to_bits());
                            *c = x[1].mul_add(b[1], x[0].mul_add(b[0], *c));
                        }
                    }
                }
            }
            match finish {
                Finish::Raw(to) => (0..cols).for_each(|j| *to.add(i * o.acc_row + j) = acc[j]),
                Finish::Store(s) => (0..cols).for_each(|j| store_one(&s, i, j, acc[j])),
            }
        }
    }
}

/// The epilogue of one element.
///
/// # Safety
/// Element (i, j) of every operand of `s` must be in bounds.
#[inline(always)]
pub(crate) unsafe fn store_one(s: &Store, i: usize, j: usize, acc: f32) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut v = s.alpha * acc;
        if !s.bias.is_null() {
            v += *s.bias.add(j);
        }
        if !s.add.is_null() {
            v += *s.add.add(i * s.row + j);
        }
        *s.out.add(i * s.row + j) = v;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Finish, Operands};
    use std::{arch::x86_64::*, sync::OnceLock};

    /// A tile of some rows and vectors.
    pub(super) type Tile = unsafe fn(usize, usize, &Operands, Finish);

    /// Whether the machine multiplies bf16, and faster than half by half: Intel's cores issue the instruction at half
    /// the rate of a fused multiply-add, for the same number of products, and take several steps for each.
    pub(super) fn has_bf16() -> bool {
        static HAS: OnceLock<bool> = OnceLock::new();
        *HAS.get_or_init(|| is_x86_feature_detected!("avx512bf16") && !is_intel())
    }

    /// Leaf 0 spells "GenuineIntel" in ebx, edx, ecx.
    fn is_intel() -> bool {
        let leaf = __cpuid(0);
        [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    }

    /// acc + a b over pairs of bf16, by the instruction that is made for it.
    #[target_feature(enable = "avx512f,avx512bf16")]
    #[inline]
    fn bf16_512(a: __m512, b: __m512, acc: __m512) -> __m512 {
        // SAFETY: both types are 512 bits of plain data.
        let [a, b]: [__m512bh; 2] = unsafe { std::mem::transmute([a, b]) };
        _mm512_dpbf16_ps(acc, a, b)
    }

    /// As [`bf16_512`], half by half.
    #[target_feature(enable = "avx512f,avx512dq")]
    #[inline]
    fn halves_512(a: __m512, b: __m512, acc: __m512) -> __m512 {
        let mask = _mm512_castsi512_ps(_mm512_set1_epi32(-65536));
        let low = |v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(v)));
        let acc = _mm512_fmadd_ps(_mm512_and_ps(a, mask), _mm512_and_ps(b, mask), acc);
        _mm512_fmadd_ps(low(a), low(b), acc)
    }

    /// As [`bf16_512`], half by half.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn halves_256(a: __m256, b: __m256, acc: __m256) -> __m256 {
        let mask = _mm256_castsi256_ps(_mm256_set1_epi32(-65536));
        let low = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(v)));
        let acc = _mm256_fmadd_ps(_mm256_and_ps(a, mask), _mm256_and_ps(b, mask), acc);
        _mm256_fmadd_ps(low(a), low(b), acc)
    }

    /// One function per tile shape, so that the accumulators are registers.
    macro_rules! kernels {
        ($name:ident, $tile:ident, $features:literal, $lanes:literal, $vec:ty, $zero:ident, $load:ident,
         $store:ident, $set:ident, $fma:ident, $add:ident, $mul:ident, [$($rows:literal)*]) => {
            /// Tile of `rows` x `vecs` vectors.
            ///
            /// # Safety
            /// The features must be present; the rest as [`super::tile`].
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(rows: usize, vecs: usize, o: &Operands, finish: Finish) {
                // SAFETY: the caller's contract.
                unsafe {
                    match (rows, vecs) {
                        $(($rows, 1) => $tile::<$rows, 1>(o, finish),)*
                        $(($rows, 2) => $tile::<$rows, 2>(o, finish),)*
                        (1, 8) => $tile::<1, 8>(o, finish),
                        (2, 4) => $tile::<2, 4>(o, finish),
                        _ => unreachable!("no tile of {rows} rows and {vecs} vectors"),
                    }
                }
            }

            /// # Safety
            /// As above.
            #[target_feature(enable = $features)]
            unsafe fn $tile<const R: usize, const V: usize>(o: &Operands, finish: Finish) {
                let mut acc: [[$vec; V]; R] = [[$zero(); V]; R];
                // SAFETY: the caller checked every row, column and step that the operands describe.
                unsafe {
                    if !o.start.is_null() {
                        for i in 0..R {
                            for v in 0..V {
                                acc[i][v] = $load(o.start.add(i * o.acc_row + v * $lanes));
                            }
                        }
                    }
                    let (mut x, mut b, row) = (o.a, o.b, o.row);
                    for _ in 0..o.k {
                        if V <= 2 {
                            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_byte_add(super::AHEAD).cast());
                        }
                        let mut w = [$zero(); V];
                        for v in 0..V {
                            w[v] = $load(b.add(v / 2 * o.next_panel + v % 2 * $lanes));
                        }
                        for i in 0..R {
                            let a = $set(*x.add(i * row));
                            for v in 0..V {
                                acc[i][v] = $fma(a, w[v], acc[i][v]);
                            }
                        }
                        x = x.wrapping_add(o.step);
                        b = b.wrapping_add(2 * $lanes);
                    }
                    match finish {
                        Finish::Raw(to) => {
                            for i in 0..R {
                                for v in 0..V {
                                    $store(to.add(i * o.acc_row + v * $lanes), acc[i][v]);
                                }
                            }
                        }
                        Finish::Store(s) => {
                            if s.alpha != 1.0 {
                                let alpha = $set(s.alpha);
                                acc.iter_mut().flatten().for_each(|c| *c = $mul(alpha, *c));
                            }
                            if !s.bias.is_null() {
                                for v in 0..V {
                                    let bias = $load(s.bias.add(v * $lanes));
                                    for i in 0..R {
                                        acc[i][v] = $add(acc[i][v], bias);
                                    }
                                }
                            }
                            if !s.add.is_null() {
                                for i in 0..R {
                                    for v in 0..V {
                                        acc[i][v] = $add(acc[i][v], $load(s.add.add(i * s.row + v * $lanes)));
                                    }
                                }
                            }
                            for i in 0..R {
                                for v in 0..V {
                                    $store(s.out.add(i * s.row + v * $lanes), acc[i][v]);
                                }
                            }
                        }
                    }
                }
            }
        };
    }

    kernels!(avx2, tile_avx2, "avx2,fma", 8, __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps,
        _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, _mm256_mul_ps, [1 2 3 4 5 6]);
    kernels!(avx2_halves, tile_avx2_halves, "avx2,fma", 8, __m256, _mm256_setzero_ps, _mm256_loadu_ps,
        _mm256_storeu_ps, _mm256_set1_ps, halves_256, _mm256_add_ps, _mm256_mul_ps, [1 2 3 4 5 6]);
    kernels!(avx512, tile_avx512, "avx512f,avx512bw,avx512vl,avx512dq", 16, __m512, _mm512_setzero_ps,
        _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, _mm512_mul_ps,
        [1 2 3 4 5 6 7 8 9 10 11 12]);
    kernels!(avx512_halves, tile_avx512_halves, "avx512f,avx512bw,avx512vl,avx512dq", 16, __m512,
        _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, halves_512, _mm512_add_ps,
        _mm512_mul_ps, [1 2 3 4 5 6 7 8 9 10 11 12]);
    kernels!(avx512_bf16, tile_avx512_bf16, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16", 16, __m512,
        _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, bf16_512, _mm512_add_ps,
        _mm512_mul_ps, [1 2 3 4 5 6 7 8 9 10 11 12]);
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Every tile shape of the instruction set against scalar chains on the same panel.
    fn check(
        max_rows: usize,
        lanes: usize,
        element: Element,
        run: unsafe fn(usize, usize, &Operands, Finish),
    ) {
        let (k, cols) = (37, 2 * lanes);
        let value = |i: usize| {
            let at = |i: usize| ((i * 7919 + 13) % 1001) as f32 / 500.0 - 1.0;
            match element {
                Element::F32 => at(i),
                Element::Bf16Pair => f32::from_bits(crate::bf16::pair(at(i), at(i + 7))),
            }
        };
        let step = |a: f32, b: f32, c: f32| match element {
            Element::F32 => a.mul_add(b, c),
            Element::Bf16Pair => {
                let (a, b) = (halves(a.to_bits()), halves(b.to_bits()));
                a[1].mul_add(b[1], a[0].mul_add(b[0], c))
            }
        };
        let a: Vec<f32> = (0..max_rows * k).map(value).collect();
        let b: Vec<f32> = (0..4 * k * cols).map(|i| value(i + 5)).collect();
        let bias: Vec<f32> = (0..4 * cols).map(|i| i as f32 / 64.0).collect();
        let shapes = (1..=max_rows).flat_map(|r| [(r, 1), (r, 2)]).chain([(1, 8), (2, 4)]);
        for (rows, vecs) in shapes {
            let width = vecs * lanes;
            let (mut sums, mut out) = (vec![0.0f32; rows * width], vec![1.0f32; rows * width]);
            // The inner dimension in two blocks, as the driver does.
            let whole = Operands {
                element,
                a: a.as_ptr(),
                row: k,
                step: 1,
                b: b.as_ptr(),
                next_panel: k * cols,
                k: 20,
                start: std::ptr::null(),
                acc_row: width,
            };
            let to = out.as_mut_ptr();
            let store = Store { alpha: 0.5, bias: bias.as_ptr(), add: to, out: to, row: width };
            // SAFETY: rows <= max_rows of `a`, vecs / 2 panels of `b`, and outputs of rows * width elements.
            unsafe {
                run(rows, vecs, &whole, Finish::Raw(sums.as_mut_ptr()));
                let (a, b) = (a[20..].as_ptr(), b[20 * cols..].as_ptr());
                let rest = Operands { a, b, k: k - 20, start: sums.as_ptr(), ..whole };
                run(rows, vecs, &rest, Finish::Store(store));
            }
            for i in 0..rows {
                for j in 0..width {
                    let panel = &b[j / cols * k * cols + j % cols..];
                    let acc = (0..k).fold(0.0f32, |c, t| step(a[i * k + t], panel[t * cols], c));
                    assert_eq!(out[i * width + j], 0.5 * acc + bias[j] + 1.0, "{rows} rows, {vecs} vectors");
                }
            }
        }
    }

    #[test]
    fn every_tile_of_every_instruction_set_equals_scalar_chains() {
        use Element::{Bf16Pair, F32};
        if cpu::isa() >= Isa::Avx2 {
            check(6, 8, F32, x86::avx2);
            check(6, 8, Bf16Pair, x86::avx2_halves);
        }
        if cpu::isa() >= Isa::Avx512 {
            check(12, 16, F32, x86::avx512);
            check(12, 16, Bf16Pair, x86::avx512_halves);
            if x86::has_bf16() {
                check(12, 16, Bf16Pair, x86::avx512_bf16);
            }
        }
        for element in [F32, Bf16Pair] {
            check(6, 8, element, portable_panels);
        }
    }

    /// [`portable`], which takes at most one panel of 16 columns.
    ///
    /// # Safety
    /// As [`tile`].
    unsafe fn portable_panels(rows: usize, vecs: usize, o: &Operands, finish: Finish) {
        for v in (0..vecs).step_by(2) {
            let (at, take) = (8 * v, 8 * (vecs - v).min(2));
            // SAFETY: the caller's contract: `vecs` vectors of every operand.
            unsafe {
                let b = o.b.add(v / 2 * o.next_panel);
                let start = if o.start.is_null() { o.start } else { o.start.add(at) };
                let finish = match finish {
                    Finish::Raw(to) => Finish::Raw(to.add(at)),
                    Finish::Store(s) => Finish::Store(Store {
                        bias: s.bias.add(at),
                        add: s.add.add(at),
                        out: s.out.add(at),
                        ..s
                    }),
                };
                portable(rows, take, &Operands { b, start, ..*o }, finish);
            }
        }
    }
}
