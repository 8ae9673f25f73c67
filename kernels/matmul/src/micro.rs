//! The register tile: rows of A times one packed panel of B.
//!
//! Ideas that make it fast:
//! - the tile (6 x 16 on AVX2, 12 x 32 on AVX-512) keeps 12 or 24 accumulators in registers, enough
//!   independent chains to hide the latency of the fused multiply-add on both ports;
//! - B is packed so that each step reads one contiguous row of the panel; A is broadcast from where it lies;
//! - the whole inner dimension runs in registers: no partial sums in memory, one rounding order.

use cpu::Isa;

/// Rows of the largest tile of any instruction set.
pub(crate) const MAX_ROWS: usize = 12;
/// Columns of the largest tile of any instruction set.
pub(crate) const MAX_COLS: usize = 32;

/// An accumulator tile, row-major with [`MAX_COLS`] columns.
pub(crate) type Tile = [[f32; MAX_COLS]; MAX_ROWS];

/// Tile rows and columns for this machine.
pub(crate) fn shape() -> (usize, usize) {
    match cpu::isa() {
        Isa::Avx512 => (12, 32),
        Isa::Avx2 | Isa::Portable => (6, 16),
    }
}

/// A strided view of A: element (i, k) lies at `i * row + k * step`.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distance between rows.
    pub row: usize,
    /// Distance between inner elements.
    pub step: usize,
}

/// tile = A[first..first + rows, 0..k] * panel. `panel` is `[k, columns]`.
pub(crate) fn tile(a: Strided<'_>, first: usize, rows: usize, k: usize, panel: &[f32], out: &mut Tile) {
    let (max_rows, cols) = shape();
    assert!(rows >= 1 && rows <= max_rows && panel.len() >= k * cols, "tile: panel or rows");
    assert!(k == 0 || a.data.len() > (first + rows - 1) * a.row + (k - 1) * a.step, "tile: A is too short");
    if k == 0 {
        return out.iter_mut().for_each(|r| r.fill(0.0));
    }
    #[cfg(target_arch = "x86_64")]
    match cpu::isa() {
        // SAFETY: the features were detected, and the asserts above bound every access.
        Isa::Avx512 => return unsafe { x86::avx512(a, first, rows, k, panel, out) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { x86::avx2(a, first, rows, k, panel, out) },
        Isa::Portable => {}
    }
    portable(a, first, rows, k, panel, out);
}

fn portable(a: Strided<'_>, first: usize, rows: usize, k: usize, panel: &[f32], out: &mut Tile) {
    for (i, acc) in out.iter_mut().enumerate().take(rows) {
        let acc: &mut [f32; 16] = (&mut acc[..16]).try_into().expect("16 columns");
        acc.fill(0.0);
        for (step, b) in panel.chunks_exact(16).take(k).enumerate() {
            let x = a.data[(first + i) * a.row + step * a.step];
            for (c, b) in acc.iter_mut().zip(b) {
                *c = x.mul_add(*b, *c);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Strided, Tile};
    use std::arch::x86_64::*;

    /// One function per row count, so that the accumulators are registers.
    macro_rules! kernels {
        ($name:ident, $tile:ident, $features:literal, $lanes:literal, $vec:ty,
         $zero:ident, $load:ident, $store:ident, $set:ident, $fma:ident, [$($rows:literal)*]) => {
            /// # Safety
            /// The features must be present; `a` and `panel` must cover the tile.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(
                a: Strided<'_>, first: usize, rows: usize, k: usize, panel: &[f32], out: &mut Tile,
            ) {
                match rows {
                    // SAFETY: the caller's contract.
                    $($rows => unsafe { $tile::<$rows>(a, first, k, panel, out) },)*
                    _ => unreachable!("more rows than the tile has"),
                }
            }

            /// # Safety
            /// As above.
            #[target_feature(enable = $features)]
            unsafe fn $tile<const R: usize>(
                a: Strided<'_>, first: usize, k: usize, panel: &[f32], out: &mut Tile,
            ) {
                let mut acc: [[$vec; 2]; R] = [[$zero(); 2]; R];
                // SAFETY: the caller checked that rows first..first+R and k steps lie inside A and panel.
                unsafe {
                    let mut x = a.data.as_ptr().add(first * a.row);
                    let mut b = panel.as_ptr();
                    for _ in 0..k {
                        let (b0, b1) = ($load(b), $load(b.add($lanes)));
                        for i in 0..R {
                            let v = $set(*x.add(i * a.row));
                            acc[i][0] = $fma(v, b0, acc[i][0]);
                            acc[i][1] = $fma(v, b1, acc[i][1]);
                        }
                        x = x.wrapping_add(a.step);
                        b = b.add(2 * $lanes);
                    }
                    for (row, acc) in out.iter_mut().zip(&acc) {
                        $store(row.as_mut_ptr(), acc[0]);
                        $store(row.as_mut_ptr().add($lanes), acc[1]);
                    }
                }
            }
        };
    }

    kernels!(avx2, tile_avx2, "avx2,fma", 8, __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps,
        _mm256_set1_ps, _mm256_fmadd_ps, [1 2 3 4 5 6]);
    kernels!(avx512, tile_avx512, "avx512f,avx512bw,avx512vl,avx512dq", 16, __m512, _mm512_setzero_ps,
        _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, [1 2 3 4 5 6 7 8 9 10 11 12]);
}
