//! The integer tile: quantised rows times one packed panel, exact in 32 bits.
//!
//! |q| <= 127 on both sides, so a pair of products fits easily and a chain of 2^16 pairs fits 32 bits
//! (127 * 127 * 2 * 2^16 < 2^31): inputs up to 131,072 wide need no splitting.
//!
//! Ideas that make it fast:
//! - weights stay 8-bit in memory and are sign-extended once per panel row for all rows of the tile;
//! - `madd` on 16-bit pairs does 16 multiply-accumulates in one instruction without the saturation that the
//!   8-bit form `maddubs` has; on AVX-512 the same code runs on 32 lanes;
//! - activations are stored as 16-bit pairs, so that one 32-bit broadcast feeds a whole step.

use crate::pack::COLS;
use cpu::Isa;

/// Rows of the tile.
pub(crate) const ROWS: usize = 6;

pub(crate) type Tile = [[i32; COLS]; ROWS];

/// tile = x * panel for `rows` rows of `x`, each `pairs` pairs long (`stride` 16-bit elements apart).
pub(crate) fn tile(x: &[i16], stride: usize, rows: usize, pairs: usize, panel: &[i8], out: &mut Tile) {
    assert!((1..=ROWS).contains(&rows) && panel.len() >= pairs * 2 * COLS, "int8 tile: panel or rows");
    assert!(x.len() >= (rows - 1) * stride + 2 * pairs, "int8 tile: x is too short");
    #[cfg(target_arch = "x86_64")]
    match cpu::isa() {
        // SAFETY: the features were detected, and the asserts above bound every access.
        Isa::Avx512 => return unsafe { x86::avx512(x, stride, rows, pairs, panel, out) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { x86::avx2(x, stride, rows, pairs, panel, out) },
        Isa::Portable => {}
    }
    portable(x, stride, rows, pairs, panel, out);
}

fn portable(x: &[i16], stride: usize, rows: usize, pairs: usize, panel: &[i8], out: &mut Tile) {
    for (i, acc) in out.iter_mut().enumerate().take(rows) {
        acc.fill(0);
        let row = &x[i * stride..][..2 * pairs];
        for (pair, b) in row.chunks_exact(2).zip(panel.chunks_exact(2 * COLS)) {
            for (c, w) in acc.iter_mut().zip(b.chunks_exact(2)) {
                *c += i32::from(pair[0]) * i32::from(w[0]) + i32::from(pair[1]) * i32::from(w[1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{COLS, Tile};
    use std::arch::x86_64::*;

    macro_rules! kernels {
        ($name:ident, $tile:ident, $features:literal, $vecs:literal, $lanes:literal, $vec:ty, $zero:ident,
         $widen:expr, $store:expr, $set:ident, $madd:ident, $add:ident) => {
            /// # Safety
            /// The features must be present; `x` and `panel` must cover the tile.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(
                x: &[i16],
                stride: usize,
                rows: usize,
                pairs: usize,
                panel: &[i8],
                out: &mut Tile,
            ) {
                // SAFETY: the caller's contract.
                unsafe {
                    match rows {
                        1 => $tile::<1>(x, stride, pairs, panel, out),
                        2 => $tile::<2>(x, stride, pairs, panel, out),
                        3 => $tile::<3>(x, stride, pairs, panel, out),
                        4 => $tile::<4>(x, stride, pairs, panel, out),
                        5 => $tile::<5>(x, stride, pairs, panel, out),
                        _ => $tile::<6>(x, stride, pairs, panel, out),
                    }
                }
            }

            /// # Safety
            /// As above.
            #[target_feature(enable = $features)]
            unsafe fn $tile<const R: usize>(
                x: &[i16],
                stride: usize,
                pairs: usize,
                panel: &[i8],
                out: &mut Tile,
            ) {
                let mut acc: [[$vec; $vecs]; R] = [[$zero(); $vecs]; R];
                // SAFETY: the caller checked that R rows of 2 * pairs elements and pairs panel rows exist.
                unsafe {
                    let mut xs = x.as_ptr();
                    let mut b = panel.as_ptr();
                    for _ in 0..pairs {
                        let mut w = [$zero(); $vecs];
                        for v in 0..$vecs {
                            w[v] = $widen(b.add(v * 2 * $lanes));
                        }
                        for i in 0..R {
                            let pair = $set(xs.add(i * stride).cast::<i32>().read_unaligned());
                            for v in 0..$vecs {
                                acc[i][v] = $add(acc[i][v], $madd(pair, w[v]));
                            }
                        }
                        xs = xs.add(2);
                        b = b.add(2 * COLS);
                    }
                    for (row, acc) in out.iter_mut().zip(&acc) {
                        for v in 0..$vecs {
                            $store(row.as_mut_ptr().add(v * $lanes), acc[v]);
                        }
                    }
                }
            }
        };
    }

    kernels!(
        avx2,
        tile_avx2,
        "avx2,fma",
        2,
        8,
        __m256i,
        _mm256_setzero_si256,
        |p: *const i8| _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())),
        |p: *mut i32, v| _mm256_storeu_si256(p.cast(), v),
        _mm256_set1_epi32,
        _mm256_madd_epi16,
        _mm256_add_epi32
    );
    kernels!(
        avx512,
        tile_avx512,
        "avx512f,avx512bw,avx512vl,avx512dq,avx2",
        1,
        16,
        __m512i,
        _mm512_setzero_si512,
        |p: *const i8| _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast())),
        |p: *mut i32, v| _mm512_storeu_si512(p.cast(), v),
        _mm512_set1_epi32,
        _mm512_madd_epi16,
        _mm512_add_epi32
    );
}
