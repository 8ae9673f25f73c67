//! Matrix instructions: `mma.sync` and `wmma.mma`.
//!
//! A fragment is spread over the lanes' registers; a map made at decode time says which element of the matrix each
//! (register, part, lane) holds. An instruction gathers A and B and C into small dense arrays, multiplies with rows
//! of eight accumulators in vector registers, and scatters D. The maps are PTX ISA 9.7.14.5 ("matrix fragments"):
//! with `g = lane / 4` and `t = lane % 4`, and `e` elements per register, register `r` part `i` is
//!
//! - A: row `g + 8 (r % 2)`, column `e t + i + 4 e (r / 2)`;
//! - B: row `e t + i + 4 e r`, column `g`;
//! - C and D, part number `j = e r + i`: row `g + 8 (j / 2)`, column `2 t + j % 2`.
//!
//! Products of 16-bit and 8-bit floats are exact in f32 and are added by fused multiply-adds in ascending depth: the error
//! against the exact sum is at most `k 2^-24` times the sum of magnitudes, which is no worse than the hardware's
//! (whose order is not specified). Under a seed the order of the depth is shuffled.

pub(crate) mod wmma;

use crate::exec::lanes::{Args, LaneOp, RowOp, boxed};
use crate::exec::regs::{LANES, Lane, Regs};
use crate::syntax::ast::{Modifiers, Operation, Shape, Type};
use crate::value::convert::{e4m3_to_f32, e5m2_to_f32};
use crate::value::float::{NAN32, fma64};
use crate::value::half::{Bf16, F16, Half};
use crate::value::soft::{self, Format, Round};

/// A decoded matrix instruction.
pub(crate) struct Mma {
    pub op: Box<dyn RowOp>,
    /// Shape and types, for the counters.
    pub name: String,
    /// Multiply-adds.
    pub macs: u64,
}

/// The types of D, A, B, C: written out, or implied by the f16 form of `wmma.mma`.
pub(crate) fn types(m: &Modifiers) -> [Type; 4] {
    match m.types[..] {
        [d, a, b, c] => [d, a, b, c],
        [d, c] => [d, Type::F16, Type::F16, c],
        [d, ab, c] => [d, ab, ab, c],
        _ => [Type::B32; 4],
    }
}

/// Registers of one operand and where their parts belong.
struct Fragment {
    rows: Vec<u32>,
    /// Parts of a register: 1 for 32 bits and more.
    parts: usize,
    /// Element of the dense array for part `p`, lane `l` at `p * 32 + l`; parts counted over all registers.
    map: Vec<u16>,
}

impl Fragment {
    fn new(rows: Vec<u32>, parts: usize, place: impl Fn(usize, usize) -> usize) -> Fragment {
        let all = rows.len() * parts;
        let map = (0..all).flat_map(|p| (0..LANES).map(move |l| (p, l))).map(|(p, l)| place(p, l) as u16);
        Fragment { map: map.collect(), rows, parts }
    }

    /// Fills a dense array from registers of type `T`, `widen(register, part)` giving an element.
    #[inline(always)]
    fn gather<T: Lane, E: Copy + Default>(&self, regs: &Regs, to: &mut [E], widen: impl Fn(T, usize) -> E) {
        for (r, &row) in self.rows.iter().enumerate() {
            let values = regs.get::<T>(row);
            for part in 0..self.parts {
                let mut wide = [E::default(); LANES];
                for l in 0..LANES {
                    wide[l] = widen(values[l], part);
                }
                let map = &self.map[(r * self.parts + part) * LANES..][..LANES];
                for l in 0..LANES {
                    to[map[l] as usize] = wide[l];
                }
            }
        }
    }

    /// Writes registers from a dense array.
    #[inline(always)]
    fn scatter<T: Lane, E: Copy + Default>(&self, regs: &mut Regs, from: &[E], narrow: impl Fn([E; 2]) -> T) {
        for (r, &row) in self.rows.iter().enumerate() {
            let mut out = [T::default(); LANES];
            let low = &self.map[r * self.parts * LANES..][..LANES];
            let high = &self.map[(r * self.parts + self.parts - 1) * LANES..][..LANES];
            for l in 0..LANES {
                out[l] = narrow([from[low[l] as usize], from[high[l] as usize]]);
            }
            regs.put(row, !0, &out);
        }
    }
}

/// Rows, columns, depth, and how many independent products.
#[derive(Clone, Copy)]
struct Size {
    m: usize,
    n: usize,
    k: usize,
    batch: usize,
}

/// Elements of A, B and of C at most, over all shapes.
const MAX_AB: usize = 1024;
const MAX_C: usize = 256;

struct Operands {
    size: Size,
    types: [Type; 4],
    d: Fragment,
    a: Fragment,
    b: Fragment,
    c: Fragment,
}

impl Mma {
    /// `rows` are the registers of D, A, B, C.
    pub fn new(m: &Modifiers, wmma: bool, types: [Type; 4], rows: Vec<Vec<u32>>) -> Option<Mma> {
        let shape = m.shape?;
        let [d, a, b, c]: [Vec<u32>; 4] = rows.try_into().ok()?;
        let (mm, n, mut k) = shape.mnk();
        let [td, ta, tb, tc] = types;
        if ta == Type::B1 {
            k /= 32;
        }
        let quad = shape == Shape::M8n8k4 && ta == Type::F16 && !wmma;
        let size = Size { m: mm, n, k, batch: if quad { 4 } else { 1 } };
        let parts = |ty: Type| if ty == Type::B1 || ty.bits() >= 32 { 1 } else { 32 / ty.bits() as usize };
        let fragments = if wmma {
            wmma::fragments(size.m, size.n, size.k, [d, a, b, c], types.map(parts))
        } else if quad {
            quad_pairs(m, [d, a, b, c], types.map(parts))
        } else {
            [
                Fragment::new(d, parts(td), |p, l| accumulator(p, l, n)),
                Fragment::new(a, parts(ta), |p, l| {
                    let (e, g, t) = (parts(ta), l / 4, l % 4);
                    let (r, i) = (p / e, p % e);
                    (g + 8 * (r % 2)) * k + e * t + i + 4 * e * (r / 2)
                }),
                Fragment::new(b, parts(tb), |p, l| {
                    let (e, g, t) = (parts(tb), l / 4, l % 4);
                    let (r, i) = (p / e, p % e);
                    (e * t + i + 4 * e * r) * n + g
                }),
                Fragment::new(c, parts(tc), |p, l| accumulator(p, l, n)),
            ]
        };
        let [d, a, b, c] = fragments;
        let in_range = |f: &Fragment, len: usize| f.map.iter().all(|&x| (x as usize) < len);
        let ok = in_range(&a, mm * k * size.batch)
            && in_range(&b, k * n * size.batch)
            && in_range(&c, mm * n * size.batch)
            && in_range(&d, mm * n * size.batch);
        if !ok {
            return None;
        }
        let operands = Operands { size, types, d, a, b, c };
        let op: Box<dyn RowOp> = match ta {
            Type::F16 => boxed(HalfProduct(operands, std::marker::PhantomData::<F16>)),
            Type::Bf16 => boxed(HalfProduct(operands, std::marker::PhantomData::<Bf16>)),
            Type::E4m3 | Type::E5m2 => boxed(ByteProduct::new(operands)),
            Type::Tf32 | Type::F32 => boxed(TfProduct(operands)),
            Type::F64 => boxed(DoubleProduct(operands, crate::decode::round(m.rounding))),
            Type::B1 => boxed(BitProduct(operands, m.operation == Some(Operation::And))),
            Type::S8 | Type::U8 | Type::S4 | Type::U4 => boxed(IntProduct(operands, m.satfinite)),
            _ => return None,
        };
        let (_, _, depth) = shape.mnk();
        let macs = (mm * n * depth * size.batch) as u64;
        Some(Mma { op, name: format!("{shape}.{td}.{ta}.{tb}.{tc}"), macs })
    }
}

fn accumulator(p: usize, l: usize, n: usize) -> usize {
    (l / 4 + 8 * (p / 2)) * n + 2 * (l % 4) + p % 2
}

/// `mma.m8n8k4` on f16: four products at once, each by the lanes `4 q..4 q + 4` and 16 above.
fn quad_pairs(m: &Modifiers, rows: [Vec<u32>; 4], parts: [usize; 4]) -> [Fragment; 4] {
    use crate::syntax::ast::MatrixLayout::Col;
    let [d, a, b, c] = rows;
    let a_col = m.layouts[0] == Some(Col);
    let b_col = m.layouts[1] == Some(Col);
    let pair = |l: usize| (l % 16) / 4;
    let upper = |l: usize| 4 * usize::from(l >= 16);
    let wide = |e: usize| {
        move |p: usize, l: usize| {
            let (row, col) = if e == 2 {
                (l % 4 + upper(l), p)
            } else {
                ((l & 1) + (p & 2) + upper(l), (p & 4) + (l & 2) + (p & 1))
            };
            pair(l) * 64 + row * 8 + col
        }
    };
    let place_a = move |p: usize, l: usize| {
        let (row, col) = if a_col { (p + upper(l), l % 4) } else { (l % 4 + upper(l), p) };
        pair(l) * 32 + row * 4 + col
    };
    let place_b = move |p: usize, l: usize| {
        let (row, col) = if b_col { (p, l % 4 + upper(l)) } else { (l % 4, p + upper(l)) };
        pair(l) * 32 + row * 8 + col
    };
    [
        Fragment::new(d, parts[0], wide(parts[0])),
        Fragment::new(a, parts[1], place_a),
        Fragment::new(b, parts[2], place_b),
        Fragment::new(c, parts[3], wide(parts[3])),
    ]
}

/// `acc += a * b` for row-major dense arrays; `order` maps a step to a depth.
#[inline(always)]
fn product<E: Copy + Default>(
    size: Size,
    a: &[E],
    b: &[E],
    acc: &mut [E],
    order: impl Fn(usize) -> usize,
    step: impl Fn(E, E, E) -> E,
) {
    const COLS: usize = 8;
    const ROWS: usize = 4;
    let Size { m, n, k, batch } = size;
    for z in 0..batch {
        let (a, b) = (&a[z * m * k..][..m * k], &b[z * k * n..][..k * n]);
        let acc = &mut acc[z * m * n..][..m * n];
        for i in (0..m).step_by(ROWS) {
            for j in (0..n).step_by(COLS) {
                let mut tile = [[E::default(); COLS]; ROWS];
                for r in 0..ROWS {
                    tile[r].copy_from_slice(&acc[(i + r) * n + j..][..COLS]);
                }
                for s in 0..k {
                    let kk = order(s);
                    let line: [E; COLS] = b[kk * n + j..][..COLS].try_into().expect("eight columns");
                    for r in 0..ROWS {
                        let x = a[(i + r) * k + kk];
                        for c in 0..COLS {
                            tile[r][c] = step(x, line[c], tile[r][c]);
                        }
                    }
                }
                for r in 0..ROWS {
                    acc[(i + r) * n + j..][..COLS].copy_from_slice(&tile[r]);
                }
            }
        }
    }
}

/// The order of the depth: ascending, or under a seed a rotation walked with an odd stride.
#[inline(always)]
fn shuffled(k: usize, noise: u64) -> impl Fn(usize) -> usize {
    let mask = k - 1;
    let (start, stride) = if noise == 0 { (0, 1) } else { (noise as usize, (noise >> 32) as usize | 1) };
    // Depths are powers of two, so that an odd stride reaches each of them once.
    move |s| s.wrapping_mul(stride).wrapping_add(start) & mask
}

#[inline(always)]
fn float_product(o: &Operands, regs: &mut Regs, a: &[f32], b: &[f32], noise: u64) {
    let mut c = [0f32; MAX_C];
    match o.types[3] {
        Type::F16 => o.c.gather(regs, &mut c, |v: u32, part| F16::widen(v >> (16 * part) & 0xffff)),
        _ => o.c.gather(regs, &mut c, |v: u32, _| f32::from_bits(v)),
    }
    product(o.size, a, b, &mut c, shuffled(o.size.k, noise), f32::mul_add);
    match o.types[0] {
        Type::F16 => o.d.scatter(regs, &c, |[low, high]| F16::narrow(low) | F16::narrow(high) << 16),
        _ => o.d.scatter(regs, &c, |[v, _]: [f32; 2]| if v.is_nan() { NAN32 } else { v.to_bits() }),
    }
}

struct HalfProduct<H>(Operands, std::marker::PhantomData<H>);
impl<H: Half + Send + Sync> LaneOp for HalfProduct<H> {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, _args: &Args, _mask: u32, noise: u64) {
        let (mut a, mut b) = ([0f32; MAX_AB / 2], [0f32; MAX_AB / 2]);
        let widen = |v: u32, part: usize| H::widen(v >> (16 * part) & 0xffff);
        self.0.a.gather(regs, &mut a, widen);
        self.0.b.gather(regs, &mut b, widen);
        float_product(&self.0, regs, &a, &b, noise);
    }
}

/// 8-bit floats: the value of each of the 256 encodings, of A and of B.
struct ByteProduct(Operands, [Box<[f32; 256]>; 2]);
impl ByteProduct {
    fn new(operands: Operands) -> ByteProduct {
        let values = [operands.types[1], operands.types[2]].map(|ty| {
            let value: fn(u8) -> f32 = if ty == Type::E4m3 { e4m3_to_f32 } else { e5m2_to_f32 };
            Box::new(std::array::from_fn(|bits| value(bits as u8)))
        });
        ByteProduct(operands, values)
    }
}
impl LaneOp for ByteProduct {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, _args: &Args, _mask: u32, noise: u64) {
        let (mut a, mut b) = ([0f32; MAX_AB / 2], [0f32; MAX_AB / 2]);
        let [va, vb] = &self.1;
        self.0.a.gather(regs, &mut a, |v: u32, part| va[(v >> (8 * part) & 0xff) as usize]);
        self.0.b.gather(regs, &mut b, |v: u32, part| vb[(v >> (8 * part) & 0xff) as usize]);
        float_product(&self.0, regs, &a, &b, noise);
    }
}

struct TfProduct(Operands);
impl LaneOp for TfProduct {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, _args: &Args, _mask: u32, noise: u64) {
        let (mut a, mut b) = ([0f32; MAX_AB / 4], [0f32; MAX_AB / 4]);
        // The low 13 bits of a tf32 register are ignored.
        let widen = |v: u32, _| f32::from_bits(v & !0x1fff);
        self.0.a.gather(regs, &mut a, widen);
        self.0.b.gather(regs, &mut b, widen);
        float_product(&self.0, regs, &a, &b, noise);
    }
}

struct DoubleProduct(Operands, Round);
impl LaneOp for DoubleProduct {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, _args: &Args, _mask: u32, noise: u64) {
        let o = &self.0;
        let (mut a, mut b, mut c) = ([0u64; MAX_AB / 4], [0u64; MAX_AB / 4], [0u64; MAX_C]);
        o.a.gather(regs, &mut a, |v: u64, _| v);
        o.b.gather(regs, &mut b, |v: u64, _| v);
        o.c.gather(regs, &mut c, |v: u64, _| v);
        let order = shuffled(o.size.k, noise);
        match self.1 {
            Round::Nearest => product(o.size, &a, &b, &mut c, order, fma64),
            mode => product(o.size, &a, &b, &mut c, order, |x, y, z| soft::fma(x, y, z, Format::F64, mode)),
        }
        o.d.scatter(regs, &c, |[v, _]| v);
    }
}

struct IntProduct(Operands, bool);
impl LaneOp for IntProduct {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, _args: &Args, _mask: u32, _noise: u64) {
        let o = &self.0;
        let (mut a, mut b, mut c) = ([0i32; MAX_AB], [0i32; MAX_AB], [0i32; MAX_C]);
        o.a.gather(regs, &mut a, element(o.types[1]));
        o.b.gather(regs, &mut b, element(o.types[2]));
        o.c.gather(regs, &mut c, |v: u32, _| v as i32);
        let mut sum = if self.1 { [0; MAX_C] } else { c };
        product(o.size, &a, &b, &mut sum, |s| s, |x: i32, y, z| z.wrapping_add(x.wrapping_mul(y)));
        if self.1 {
            // A sum of products alone never overflows; only adding the accumulator can.
            for (s, c) in sum.iter_mut().zip(c) {
                *s = s.saturating_add(c);
            }
        }
        o.d.scatter(regs, &sum, |[v, _]: [i32; 2]| v as u32);
    }
}

/// Part `part` of a register of packed integers.
#[inline(always)]
fn element(ty: Type) -> impl Fn(u32, usize) -> i32 {
    let (bits, signed) = (ty.bits(), ty.is_signed());
    move |v, part| {
        let top = v << (32 - bits * (part as u32 + 1));
        if signed { top as i32 >> (32 - bits) } else { (top >> (32 - bits)) as i32 }
    }
}

struct BitProduct(Operands, bool);
impl LaneOp for BitProduct {
    #[inline(always)]
    fn go(&self, regs: &mut Regs, _args: &Args, _mask: u32, _noise: u64) {
        let o = &self.0;
        let (mut a, mut b, mut c) = ([0u32; MAX_AB], [0u32; MAX_AB], [0u32; MAX_C]);
        o.a.gather(regs, &mut a, |v: u32, _| v);
        o.b.gather(regs, &mut b, |v: u32, _| v);
        o.c.gather(regs, &mut c, |v: u32, _| v);
        if self.1 {
            product(o.size, &a, &b, &mut c, |s| s, |x, y, z: u32| z.wrapping_add((x & y).count_ones()));
        } else {
            product(o.size, &a, &b, &mut c, |s| s, |x, y, z: u32| z.wrapping_add((x ^ y).count_ones()));
        }
        o.d.scatter(regs, &c, |[v, _]: [u32; 2]| v);
    }
}
