//! The integer tile: a few quantised rows times one packed panel, exact in 32 bits.
//!
//! |q| <= 127 on both sides, so a sum over 131,072 inputs fits 32 bits (127 * 127 * 2^17 < 2^31).
//!
//! Ideas that make it fast:
//! - one generic tile; an instruction set is only how to load weights, broadcast four inputs of a row and
//!   multiply-accumulate. All multiply bytes, unsigned times signed, and let the epilogue add what is constant
//!   along a row:
//!   - AVX2 and AVX-512 without VNNI take |x| and x's sign mask s: x w = |x| (w ^ s) + (|x| where x < 0).
//!     Pairs are at most 127 * 128 * 2 = 32,512, so the 16-bit step does not saturate; and the exclusive or
//!     runs beside the multipliers, where a sign-extension to 16 bits would compete with the additions;
//!   - VNNI takes x and w + 128 (its top bit flipped): x w = x (w + 128) - 128 x;
//!   - AMX alone multiplies signed bytes, 16 rows by 16 outputs by 64 inputs at once (amx.rs);
//! - weights stay 8-bit in memory and are asked for a few kilobytes ahead;
//! - the activations of a tile lie in the order in which the tile reads them.

use crate::pack::COLS;
use cpu::Isa;
use std::sync::OnceLock;

/// Bytes of a panel for four inputs.
pub(crate) const QUAD: usize = 4 * COLS;
/// Bytes between the weights in use and those asked for.
const AHEAD: usize = 4 * 1024;

/// One tile's operands for one block of inputs.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// Activations in the tile's [`Form`].
    pub(crate) x: *const u8,
    /// The panel's weights.
    pub(crate) w: *const i8,
    /// Bytes to the next panel's weights, when the tile takes more than one.
    pub(crate) next_panel: usize,
    /// Panels: 1, or [`Micro::panels`].
    pub(crate) panels: usize,
    /// Inputs over four.
    pub(crate) quads: usize,
    /// `[rows, panels, COLS]` sums.
    pub(crate) acc: *mut i32,
    /// Add to `acc` instead of overwriting it.
    pub(crate) resume: bool,
}

/// How a tile wants its activations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// For each four inputs, for each row, four signed bytes.
    Bytes,
    /// The same with their four magnitudes and four sign masks.
    Signs,
    /// For each 64 inputs, for each row, 64 signed bytes; zeros complete the last.
    Lines,
}

impl Form {
    /// Inputs that lie together; a row is completed to a multiple.
    pub(crate) fn group(self) -> usize {
        if self == Form::Lines { 64 } else { 4 }
    }

    /// Bytes of four activations of a row.
    pub(crate) fn unit(self) -> usize {
        if self == Form::Signs { 8 } else { 4 }
    }
}

/// The best tile of this machine.
#[derive(Clone, Copy)]
pub(crate) struct Micro {
    /// Rows of a tile.
    pub(crate) rows: usize,
    /// Panels that a tile can take at once: with two, each broadcast of activations is used twice.
    pub(crate) panels: usize,
    pub(crate) form: Form,
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

    /// What the epilogue adds to a row's sums, from the sum of the row and that of its negative elements.
    pub(crate) fn correction(&self, sum: i32, negative: i32) -> i32 {
        match self.form {
            Form::Bytes => -128 * sum,
            Form::Signs => -negative,
            Form::Lines => 0,
        }
    }
}

const PORTABLE: Micro = Micro { rows: 6, panels: 1, form: Form::Bytes, run: portable };

/// All tiles that this machine can run, the best one last.
pub(crate) fn available() -> Vec<Micro> {
    let mut all = vec![PORTABLE];
    #[cfg(target_arch = "x86_64")]
    {
        let isa = cpu::isa();
        if isa >= Isa::Avx2 {
            all.push(Micro { rows: 5, panels: 1, form: Form::Signs, run: x86::avx2 });
        }
        if isa >= Isa::Avx512 {
            all.push(Micro { rows: 12, panels: 1, form: Form::Signs, run: x86::avx512 });
        }
        if isa >= Isa::Avx2 && is_x86_feature_detected!("avxvnni") {
            all.push(Micro { rows: 6, panels: 1, form: Form::Bytes, run: x86::vnni256 });
        }
        if isa >= Isa::Avx512 && is_x86_feature_detected!("avx512vnni") {
            all.push(Micro { rows: 12, panels: 2, form: Form::Bytes, run: x86::vnni512 });
        }
        if cpu::amx_int8() {
            all.push(Micro { rows: 32, panels: 2, form: Form::Lines, run: crate::amx::amx });
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
    /// Four activations in every lane, in the instruction's form.
    type X: Copy;
    /// Vectors that hold a panel's columns.
    const VECS: usize;
    /// Bytes of four activations of a row.
    const UNIT: usize;
    unsafe fn zero() -> Self::V;
    /// The next `QUAD / VECS` weights.
    unsafe fn weights(w: *const i8) -> Self::V;
    unsafe fn activations(x: *const u8) -> Self::X;
    unsafe fn mac(acc: Self::V, x: Self::X, w: Self::V) -> Self::V;
    unsafe fn load(raw: *const i32) -> Self::V;
    unsafe fn store(acc: Self::V, raw: *mut i32);
}

/// R rows times W panels.
///
/// # Safety
/// As [`Micro::run`], and the features of `L` must be present; P is `L::VECS`.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const P: usize, const W: usize>(o: &Operands) {
    const { assert!(P == L::VECS) };
    let words = COLS / P;
    // SAFETY: the caller's contract covers R rows, all columns of W panels and `quads` steps.
    unsafe {
        let at = |i: usize, p: usize, v: usize| o.acc.add((i * W + p) * COLS + v * words);
        let mut acc = [[[L::zero(); P]; W]; R];
        if o.resume {
            for i in 0..R {
                for p in 0..W {
                    for v in 0..P {
                        acc[i][p][v] = L::load(at(i, p, v));
                    }
                }
            }
        }
        let (mut x, mut w) = (o.x, o.w);
        for _ in 0..o.quads {
            let mut b = [[L::zero(); P]; W];
            for p in 0..W {
                let w = w.wrapping_add(p * o.next_panel);
                prefetch(w.wrapping_add(AHEAD));
                for v in 0..P {
                    b[p][v] = L::weights(w.add(v * (QUAD / P)));
                }
            }
            for i in 0..R {
                let a = L::activations(x.add(i * L::UNIT));
                for p in 0..W {
                    for v in 0..P {
                        acc[i][p][v] = L::mac(acc[i][p][v], a, b[p][v]);
                    }
                }
            }
            x = x.add(R * L::UNIT);
            w = w.wrapping_add(QUAD);
        }
        for i in 0..R {
            for p in 0..W {
                for v in 0..P {
                    L::store(acc[i][p][v], at(i, p, v));
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

/// One function per row count, so that the accumulators are registers.
macro_rules! tiles {
    ($(#[$attr:meta])* $vis:vis $name:ident, $lanes:ty, $vecs:literal, $panels:tt, [$($rows:literal)*]) => {
        /// # Safety
        /// As [`Micro::run`]; the instruction set must be present.
        $(#[$attr])*
        #[allow(unreachable_patterns)] // where a tile takes one panel only
        $vis unsafe fn $name(rows: usize, o: &Operands) {
            // SAFETY: the caller's contract.
            unsafe {
                match (rows, o.panels) {
                    $(($rows, 1) => tile::<$lanes, $rows, $vecs, 1>(o),)*
                    $(($rows, $panels) => tile::<$lanes, $rows, $vecs, $panels>(o),)*
                    (rows, panels) => unreachable!("no int8 tile of {rows} rows and {panels} panels"),
                }
            }
        }
    };
}

/// The VNNI scheme in plain code.
struct Plain;

impl Lanes for Plain {
    type V = [i32; COLS];
    type X = [i32; 4];
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
    unsafe fn activations(x: *const u8) -> [i32; 4] {
        // SAFETY: 4 readable bytes by the trait's contract.
        unsafe { x.cast::<[i8; 4]>().read() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn mac(mut acc: [i32; COLS], x: [i32; 4], w: [i32; COLS]) -> [i32; COLS] {
        for (c, w) in acc.iter_mut().zip(w) {
            let w = w.to_ne_bytes().map(|b| i32::from(b ^ 0x80));
            *c += (0..4).map(|t| x[t] * w[t]).sum::<i32>();
        }
        acc
    }
    #[inline(always)]
    unsafe fn load(raw: *const i32) -> [i32; COLS] {
        // SAFETY: by the trait's contract.
        unsafe { raw.cast::<[i32; COLS]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(acc: [i32; COLS], raw: *mut i32) {
        // SAFETY: by the trait's contract.
        unsafe { raw.cast::<[i32; COLS]>().write_unaligned(acc) }
    }
}

tiles!(portable, Plain, 1, 1, [1 2 3 4 5 6]);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, Operands, tile};
    use std::arch::x86_64::*;

    macro_rules! lanes {
        ($name:ident, $vec:ty, $x:ty, $vecs:literal, $unit:literal, $zero:ident, $load:ident, $store:ident,
         $weights:expr, $activations:expr, $mac:expr) => {
            struct $name;
            impl Lanes for $name {
                type V = $vec;
                type X = $x;
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
                unsafe fn activations(x: *const u8) -> $x {
                    // SAFETY: the trait's contract.
                    unsafe { $activations(x) }
                }
                #[inline(always)]
                unsafe fn mac(acc: $vec, x: $x, w: $vec) -> $vec {
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
            }
        };
    }

    /// Four bytes, unaligned.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    unsafe fn four(x: *const u8) -> i32 {
        // SAFETY: the caller's contract.
        unsafe { x.cast::<i32>().read_unaligned() }
    }

    lanes!(
        Bytes256,
        __m256i,
        (__m256i, __m256i),
        2,
        8,
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        |w: *const i8| _mm256_loadu_si256(w.cast()),
        |x: *const u8| (_mm256_set1_epi32(four(x)), _mm256_set1_epi32(four(x.add(4)))),
        |acc, (size, sign), w| {
            let pairs = _mm256_maddubs_epi16(size, _mm256_xor_si256(w, sign));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    );
    lanes!(
        Bytes512,
        __m512i,
        (__m512i, __m512i),
        1,
        8,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        |w: *const i8| _mm512_loadu_si512(w.cast()),
        |x: *const u8| (_mm512_set1_epi32(four(x)), _mm512_set1_epi32(four(x.add(4)))),
        |acc, (size, sign), w| {
            let pairs = _mm512_maddubs_epi16(size, _mm512_xor_si512(w, sign));
            _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    );
    lanes!(
        Vnni256,
        __m256i,
        __m256i,
        2,
        4,
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        |w: *const i8| _mm256_xor_si256(_mm256_loadu_si256(w.cast()), _mm256_set1_epi8(i8::MIN)),
        |x: *const u8| _mm256_set1_epi32(four(x)),
        |acc, x, w| _mm256_dpbusd_avx_epi32(acc, w, x)
    );
    lanes!(
        Vnni512,
        __m512i,
        __m512i,
        1,
        4,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        |w: *const i8| _mm512_xor_si512(_mm512_loadu_si512(w.cast()), _mm512_set1_epi8(i8::MIN)),
        |x: *const u8| _mm512_set1_epi32(four(x)),
        |acc, x, w| _mm512_dpbusd_epi32(acc, w, x)
    );

    tiles!(#[target_feature(enable = "avx2,fma")] pub(super) avx2, Bytes256, 2, 1, [1 2 3 4 5]);
    tiles!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2")] pub(super) avx512, Bytes512, 1, 1,
        [1 2 3 4 5 6 7 8 9 10 11 12]);
    tiles!(#[target_feature(enable = "avxvnni,avx2")] pub(super) vnni256, Vnni256, 2, 1, [1 2 3 4 5 6]);
    tiles!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2")] pub(super) vnni512,
        Vnni512, 1, 2, [1 2 3 4 5 6 7 8 9 10 11 12]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// q of `[rows, k]` in the form of a tile.
    fn activations(form: Form, rows: usize, k: usize, q: impl Fn(usize, usize) -> i32) -> Vec<u8> {
        let mut x = Vec::new();
        for group in (0..k).step_by(form.group()) {
            for i in 0..rows {
                let line: Vec<i8> =
                    (group..group + form.group()).map(|t| if t < k { q(i, t) as i8 } else { 0 }).collect();
                match form {
                    Form::Signs => {
                        x.extend(line.iter().map(|v| v.unsigned_abs()));
                        x.extend(line.iter().map(|v| (v >> 7) as u8));
                    }
                    Form::Bytes | Form::Lines => x.extend(line.iter().map(|v| *v as u8)),
                }
            }
        }
        x
    }

    #[test]
    fn every_tile_of_every_instruction_set_is_exact() {
        let (quads, split) = (301, 256);
        let panel = quads * QUAD;
        let w: Vec<i8> =
            (0..2 * panel).map(|i| ((i * 89 + 3) % 255) as u8 as i8).map(|w| w.max(-127)).collect();
        for micro in available() {
            for (rows, panels) in (1..=micro.rows).flat_map(|r| (1..=micro.panels).map(move |p| (r, p))) {
                let q = |i: usize, t: usize| ((i * 131 + t * 57 + 11) % 255) as i32 - 127;
                let x = activations(micro.form, rows, 4 * quads, q);
                let mut acc = vec![7i32; rows * panels * COLS];
                let first = Operands {
                    x: x.as_ptr(),
                    w: w.as_ptr(),
                    next_panel: panel,
                    panels,
                    quads: split,
                    acc: acc.as_mut_ptr(),
                    resume: false,
                };
                let (x, w_rest) =
                    (x[split * rows * micro.form.unit()..].as_ptr(), w[split * QUAD..].as_ptr());
                // SAFETY: x has `rows` rows of `quads` fours, each panel as many, acc `rows` rows of `panels`.
                unsafe {
                    micro.run(rows, &first);
                    micro.run(rows, &Operands { x, w: w_rest, quads: quads - split, resume: true, ..first });
                }
                for i in 0..rows {
                    let sum = (0..4 * quads).map(|t| q(i, t)).sum();
                    let correction = micro.correction(sum, (0..4 * quads).map(|t| q(i, t).min(0)).sum());
                    for j in 0..panels * COLS {
                        let at = j / COLS * panel + 4 * (j % COLS);
                        let weight = |t: usize| i32::from(w[at + t / 4 * QUAD + t % 4]);
                        let want: i32 = (0..4 * quads).map(|t| q(i, t) * weight(t)).sum();
                        assert_eq!(
                            acc[i * panels * COLS + j].wrapping_add(correction),
                            want,
                            "row {i} of {rows}, column {j}"
                        );
                    }
                }
            }
        }
    }
}
