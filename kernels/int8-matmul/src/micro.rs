//! The integer tile: a few quantised rows times one packed panel, exact in 32 bits.
//!
//! |q| <= 127 on both sides, so a sum over 131,072 inputs fits 32 bits (127 * 127 * 2^17 < 2^31).
//!
//! Ideas that make it fast:
//! - one generic tile; an instruction set is only how to load weights, broadcast four inputs of a row and
//!   multiply-accumulate. AVX2 and AVX-512 widen the weights to 16 bits in registers and use `madd`, which has
//!   no saturation; VNNI multiplies bytes, with the weights made unsigned by flipping their top bit and the
//!   row's sum times 128 taken off again in the epilogue;
//! - weights stay 8-bit in memory and are asked for a few kilobytes ahead;
//! - the activations of a tile lie in the order in which the tile reads them.

use crate::pack::COLS;
use cpu::Isa;
use std::sync::OnceLock;

/// Bytes of a panel for four inputs.
pub(crate) const QUAD: usize = 4 * COLS;
/// 32-bit words that a row of unfinished accumulators takes at most.
pub(crate) const RAW: usize = 2 * COLS;
/// Rows of the largest tile.
pub(crate) const MAX_ROWS: usize = 12;
/// Bytes between the weights in use and those asked for.
const AHEAD: usize = 4 * 1024;

/// One tile's operands for one block of inputs.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// Activations: for each four inputs, for each row, four elements of [`Micro::element`] bytes.
    pub(crate) x: *const u8,
    /// The panel's weights.
    pub(crate) w: *const i8,
    /// Inputs over four.
    pub(crate) quads: usize,
    /// Unfinished accumulators, [`RAW`] words per row.
    pub(crate) raw: *mut i32,
    /// Start from `raw` instead of zero.
    pub(crate) resume: bool,
    /// `[rows, COLS]` sums; null: the accumulators go to `raw`.
    pub(crate) out: *mut i32,
}

/// The best tile of this machine.
#[derive(Clone, Copy)]
pub(crate) struct Micro {
    /// Rows of a tile.
    pub(crate) rows: usize,
    /// Bytes of an activation: 2 where weights are widened, 1 where bytes are multiplied.
    pub(crate) element: usize,
    /// What the instruction adds to each weight; the epilogue takes it off again.
    pub(crate) offset: i32,
    run: unsafe fn(usize, &Operands),
}

impl Micro {
    /// Runs the tile of `rows` rows.
    ///
    /// # Safety
    /// Every access that the operands describe must be in bounds and free of races.
    pub(crate) unsafe fn run(&self, rows: usize, o: &Operands) {
        debug_assert!((1..=self.rows).contains(&rows));
        // SAFETY: `run` was chosen by detected features; the rest is the caller's contract.
        unsafe { (self.run)(rows, o) }
    }
}

const PORTABLE: Micro = Micro { rows: 6, element: 1, offset: 128, run: portable };

/// All tiles that this machine can run, the best one last.
pub(crate) fn available() -> Vec<Micro> {
    let mut all = vec![PORTABLE];
    #[cfg(target_arch = "x86_64")]
    {
        let isa = cpu::isa();
        if isa >= Isa::Avx2 {
            all.push(Micro { rows: 6, element: 2, offset: 0, run: x86::avx2 });
        }
        if isa >= Isa::Avx512 {
            all.push(Micro { rows: 12, element: 2, offset: 0, run: x86::avx512 });
        }
        if isa >= Isa::Avx2 && is_x86_feature_detected!("avxvnni") {
            all.push(Micro { rows: 6, element: 1, offset: 128, run: x86::vnni256 });
        }
        if isa >= Isa::Avx512 && is_x86_feature_detected!("avx512vnni") {
            all.push(Micro { rows: 12, element: 1, offset: 128, run: x86::vnni512 });
        }
    }
    all
}

/// The best tile of this machine.
pub(crate) fn micro() -> Micro {
    static BEST: OnceLock<Micro> = OnceLock::new();
    *BEST.get_or_init(|| available().pop().unwrap_or(PORTABLE))
}

/// What differs between instruction sets. The methods are `unsafe` because the features must be present and
/// the pointers valid for the vector they name.
trait Lanes {
    type V: Copy;
    /// Vectors that hold a panel's columns.
    const VECS: usize;
    /// Bytes of four activations of a row.
    const UNIT: usize;
    unsafe fn zero() -> Self::V;
    /// The next `QUAD / VECS` weights.
    unsafe fn weights(w: *const i8) -> Self::V;
    /// Four activations in every lane.
    unsafe fn activations(x: *const u8) -> Self::V;
    unsafe fn mac(acc: Self::V, x: Self::V, w: Self::V) -> Self::V;
    unsafe fn load(raw: *const i32) -> Self::V;
    unsafe fn store(acc: Self::V, raw: *mut i32);
    /// Writes `COLS / VECS` finished sums.
    unsafe fn finish(acc: Self::V, out: *mut i32);
}

/// R rows times a panel, P vectors of columns at a time.
///
/// # Safety
/// As [`Micro::run`], and the features of `L` must be present.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const P: usize>(o: &Operands) {
    let words = RAW / L::VECS;
    for v0 in (0..L::VECS).step_by(P) {
        // SAFETY: the caller's contract covers R rows, all columns and `quads` steps.
        unsafe {
            let mut acc = [[L::zero(); P]; R];
            if o.resume {
                for i in 0..R {
                    for v in 0..P {
                        acc[i][v] = L::load(o.raw.add(i * RAW + (v0 + v) * words));
                    }
                }
            }
            let (mut x, mut w) = (o.x, o.w.add(v0 * (QUAD / L::VECS)));
            for _ in 0..o.quads {
                prefetch(w.wrapping_add(AHEAD));
                let mut b = [L::zero(); P];
                for v in 0..P {
                    b[v] = L::weights(w.add(v * (QUAD / L::VECS)));
                }
                for i in 0..R {
                    let a = L::activations(x.add(i * L::UNIT));
                    for v in 0..P {
                        acc[i][v] = L::mac(acc[i][v], a, b[v]);
                    }
                }
                x = x.add(R * L::UNIT);
                w = w.wrapping_add(QUAD);
            }
            for i in 0..R {
                for v in 0..P {
                    if o.out.is_null() {
                        L::store(acc[i][v], o.raw.add(i * RAW + (v0 + v) * words));
                    } else {
                        L::finish(acc[i][v], o.out.add(i * COLS + (v0 + v) * (COLS / L::VECS)));
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn prefetch(at: *const i8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// One function per row count, so that the accumulators are registers: `rows vectors-at-a-time`.
macro_rules! tiles {
    ($(#[$attr:meta])* $vis:vis $name:ident, $lanes:ty, [$($rows:literal $at_once:literal),*]) => {
        /// # Safety
        /// As [`Micro::run`]; the instruction set must be present.
        $(#[$attr])*
        $vis unsafe fn $name(rows: usize, o: &Operands) {
            // SAFETY: the caller's contract.
            unsafe {
                match rows {
                    $($rows => tile::<$lanes, $rows, $at_once>(o),)*
                    _ => unreachable!("no int8 tile of {rows} rows"),
                }
            }
        }
    };
}

/// The VNNI scheme in plain code.
struct Plain;

impl Lanes for Plain {
    type V = [i32; COLS];
    const VECS: usize = 1;
    const UNIT: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> [i32; COLS] {
        [0; COLS]
    }
    #[inline(always)]
    unsafe fn weights(w: *const i8) -> [i32; COLS] {
        // SAFETY: 64 readable bytes by the trait's contract.
        unsafe { w.cast::<[i32; COLS]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn activations(x: *const u8) -> [i32; COLS] {
        // SAFETY: 4 readable bytes by the trait's contract.
        [unsafe { x.cast::<i32>().read_unaligned() }; COLS]
    }
    #[inline(always)]
    unsafe fn mac(mut acc: [i32; COLS], x: [i32; COLS], w: [i32; COLS]) -> [i32; COLS] {
        let x = x[0].to_ne_bytes().map(|b| i32::from(b as i8));
        for (c, w) in acc.iter_mut().zip(w) {
            let w = w.to_ne_bytes().map(|b| i32::from(b ^ 0x80));
            *c += (0..4).map(|t| x[t] * w[t]).sum::<i32>();
        }
        acc
    }
    #[inline(always)]
    unsafe fn load(raw: *const i32) -> [i32; COLS] {
        // SAFETY: by the trait's contract.
        unsafe { raw.cast::<[i32; COLS]>().read() }
    }
    #[inline(always)]
    unsafe fn store(acc: [i32; COLS], raw: *mut i32) {
        // SAFETY: by the trait's contract.
        unsafe { raw.cast::<[i32; COLS]>().write(acc) }
    }
    #[inline(always)]
    unsafe fn finish(acc: [i32; COLS], out: *mut i32) {
        // SAFETY: by the trait's contract.
        unsafe { Self::store(acc, out) }
    }
}

tiles!(portable, Plain, [1 1, 2 1, 3 1, 4 1, 5 1, 6 1]);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{COLS, Lanes, Operands, tile};
    use std::arch::x86_64::*;

    macro_rules! lanes {
        ($name:ident, $vec:ty, $vecs:literal, $unit:literal, $zero:ident, $load:ident, $store:ident,
         $weights:expr, $activations:expr, $mac:expr, $finish:expr) => {
            struct $name;
            impl Lanes for $name {
                type V = $vec;
                const VECS: usize = $vecs;
                const UNIT: usize = $unit;
                #[inline(always)]
                unsafe fn zero() -> $vec {
                    // SAFETY: the trait's contract.
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn weights(w: *const i8) -> $vec {
                    // SAFETY: the trait's contract.
                    unsafe { $weights(w) }
                }
                #[inline(always)]
                unsafe fn activations(x: *const u8) -> $vec {
                    // SAFETY: the trait's contract.
                    unsafe { $activations(x) }
                }
                #[inline(always)]
                unsafe fn mac(acc: $vec, x: $vec, w: $vec) -> $vec {
                    // SAFETY: the trait's contract.
                    unsafe { $mac(acc, x, w) }
                }
                #[inline(always)]
                unsafe fn load(raw: *const i32) -> $vec {
                    // SAFETY: the trait's contract.
                    unsafe { $load(raw.cast()) }
                }
                #[inline(always)]
                unsafe fn store(acc: $vec, raw: *mut i32) {
                    // SAFETY: the trait's contract.
                    unsafe { $store(raw.cast(), acc) }
                }
                #[inline(always)]
                unsafe fn finish(acc: $vec, out: *mut i32) {
                    // SAFETY: the trait's contract.
                    unsafe { $finish(acc, out) }
                }
            }
        };
    }

    // A lane pair of `madd` holds one column: inputs 0 and 1 of the four in one, 2 and 3 in the other.
    lanes!(
        Madd256,
        __m256i,
        4,
        8,
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        |w: *const i8| _mm256_cvtepi8_epi16(_mm_loadu_si128(w.cast())),
        |x: *const u8| _mm256_set1_epi64x(x.cast::<i64>().read_unaligned()),
        |acc, x, w| _mm256_add_epi32(acc, _mm256_madd_epi16(x, w)),
        |acc, out: *mut i32| {
            let sums = _mm256_permute4x64_epi64::<0b1000>(_mm256_hadd_epi32(acc, acc));
            _mm_storeu_si128(out.cast(), _mm256_castsi256_si128(sums))
        }
    );
    lanes!(
        Madd512,
        __m512i,
        2,
        8,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        |w: *const i8| _mm512_cvtepi8_epi16(_mm256_loadu_si256(w.cast())),
        |x: *const u8| _mm512_set1_epi64(x.cast::<i64>().read_unaligned()),
        |acc, x, w| _mm512_add_epi32(acc, _mm512_madd_epi16(x, w)),
        |acc, out: *mut i32| {
            let (low, high) = (_mm512_castsi512_si256(acc), _mm512_extracti64x4_epi64::<1>(acc));
            let sums = _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_hadd_epi32(low, high));
            _mm256_storeu_si256(out.cast(), sums)
        }
    );
    lanes!(
        Vnni256,
        __m256i,
        2,
        4,
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        |w: *const i8| _mm256_xor_si256(_mm256_loadu_si256(w.cast()), _mm256_set1_epi8(i8::MIN)),
        |x: *const u8| _mm256_set1_epi32(x.cast::<i32>().read_unaligned()),
        |acc, x, w| _mm256_dpbusd_avx_epi32(acc, w, x),
        |acc, out: *mut i32| _mm256_storeu_si256(out.cast(), acc)
    );
    lanes!(
        Vnni512,
        __m512i,
        1,
        4,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        |w: *const i8| _mm512_xor_si512(_mm512_loadu_si512(w.cast()), _mm512_set1_epi8(i8::MIN)),
        |x: *const u8| _mm512_set1_epi32(x.cast::<i32>().read_unaligned()),
        |acc, x, w| _mm512_dpbusd_epi32(acc, w, x),
        |acc, out: *mut i32| _mm512_storeu_si512(out.cast(), acc)
    );

    const _: () = assert!(COLS == 16, "the finishing stores above write 16 columns");

    tiles!(#[target_feature(enable = "avx2,fma")] pub(super) avx2, Madd256, [1 4, 2 4, 3 4, 4 2, 5 2, 6 2]);
    tiles!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2")] pub(super) avx512, Madd512,
        [1 2, 2 2, 3 2, 4 2, 5 2, 6 2, 7 2, 8 2, 9 2, 10 2, 11 2, 12 2]);
    tiles!(#[target_feature(enable = "avxvnni,avx2")] pub(super) vnni256, Vnni256, [1 2, 2 2, 3 2, 4 2, 5 2, 6 2]);
    tiles!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2")] pub(super) vnni512,
        Vnni512, [1 1, 2 1, 3 1, 4 1, 5 1, 6 1, 7 1, 8 1, 9 1, 10 1, 11 1, 12 1]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_of_every_instruction_set_is_exact() {
        let (quads, split) = (300, 256);
        let w: Vec<i8> =
            (0..quads * QUAD).map(|i| ((i * 89 + 3) % 255) as u8 as i8).map(|w| w.max(-127)).collect();
        for micro in available() {
            for rows in 1..=micro.rows {
                let q = |i: usize, t: usize| ((i * 131 + t * 57 + 11) % 255) as i32 - 127;
                let mut x = Vec::new();
                for quad in 0..quads {
                    for i in 0..rows {
                        for t in 4 * quad..4 * quad + 4 {
                            x.extend_from_slice(&(q(i, t) as i16).to_le_bytes()[..micro.element]);
                        }
                    }
                }
                let (mut raw, mut out) = (vec![0i32; rows * RAW], vec![0i32; rows * COLS]);
                let first = Operands {
                    x: x.as_ptr(),
                    w: w.as_ptr(),
                    quads: split,
                    raw: raw.as_mut_ptr(),
                    resume: false,
                    out: std::ptr::null_mut(),
                };
                let (at, rest) = (x[split * rows * 4 * micro.element..].as_ptr(), quads - split);
                let out_ptr = out.as_mut_ptr();
                let w_rest = w[split * QUAD..].as_ptr();
                // SAFETY: x has `rows` rows of `quads` fours, w as many, raw and out `rows` rows.
                unsafe {
                    micro.run(rows, &first);
                    micro.run(
                        rows,
                        &Operands { x: at, w: w_rest, quads: rest, resume: true, out: out_ptr, ..first },
                    );
                }
                for i in 0..rows {
                    let correction = -micro.offset * (0..4 * quads).map(|t| q(i, t)).sum::<i32>();
                    for j in 0..COLS {
                        let weight = |t: usize| i32::from(w[t / 4 * QUAD + 4 * j + t % 4]);
                        let want: i32 = (0..4 * quads).map(|t| q(i, t) * weight(t)).sum();
                        assert_eq!(
                            out[i * COLS + j].wrapping_add(correction),
                            want,
                            "row {i} of {rows}, column {j}"
                        );
                    }
                }
            }
        }
    }
}
