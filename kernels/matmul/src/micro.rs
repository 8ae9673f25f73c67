//! The register tile: a few rows of A times a packed panel of B, with the epilogue in its store.
//!
//! Ideas that make it fast:
//! - the tile (6 x 16 on AVX2, 12 x 32 on AVX-512) keeps 12 or 24 accumulators in registers, enough
//!   independent chains to hide the latency of the fused multiply-add on both ports; with one or two rows
//!   it takes several panels at once for the same reason, with few columns it drops half the panel;
//! - B is packed so that each step reads one contiguous row of the panel; A is broadcast;
//! - scale, bias and residual are applied to the registers on their way to memory;
//! - a long inner dimension comes in blocks: the accumulators are put down and picked up unrounded, so the
//!   chain is the same as in one go.

use cpu::Isa;

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
    match cpu::isa() {
        // SAFETY: the features were detected; the rest is the caller's contract.
        Isa::Avx512 => return unsafe { x86::avx512(rows, cols.div_ceil(16), o, finish) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { x86::avx2(rows, cols.div_ceil(8), o, finish) },
        Isa::Portable => {}
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
                acc.iter_mut().zip(b).for_each(|(c, b)| *c = x.mul_add(*b, *c));
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
    use std::arch::x86_64::*;

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
    kernels!(avx512, tile_avx512, "avx512f,avx512bw,avx512vl,avx512dq", 16, __m512, _mm512_setzero_ps,
        _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, _mm512_mul_ps,
        [1 2 3 4 5 6 7 8 9 10 11 12]);
}
