//! Floating-point instructions, conversions and comparisons one at a time, against f64 and the sign of the exact error
//! of a candidate.
#![allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)] // comparisons that NaN decides are written out
mod kernel_harness;
mod op_harness;

use half::{bf16, f16};
use kernel_harness::Random;
use op_harness::{LANES, check, cut, execute, int};
use proptest::prelude::*;

/// The sign of `exact - candidate`, with `exact = high + low` in f64.
fn error(high: f64, low: f64, candidate: f64) -> f64 {
    let d = high - candidate;
    if d.is_nan() { 0.0 } else { d + low }
}

/// Moves the nearest f32 to where a rounding mode wants it.
fn directed(high: f64, low: f64, mode: &str) -> f32 {
    let near = high as f32;
    if !high.is_finite() {
        return near;
    }
    let e = if near.is_infinite() { -f64::from(near) } else { error(high, low, f64::from(near)) };
    let (up, down) = (near.next_up(), near.next_down());
    match mode {
        "rz" if e > 0.0 && (near < 0.0 || near == 0.0 && high < 0.0) => up,
        "rz" if e < 0.0 && near > 0.0 => down,
        "rm" if e < 0.0 => down,
        "rp" if e > 0.0 => up,
        _ => near,
    }
}

fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, if s.is_finite() { (a - (s - t)) + (b - t) } else { 0.0 })
}

fn canonical(v: f32) -> u64 {
    u64::from(if v.is_nan() { 0x7fff_ffff } else { v.to_bits() })
}

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn d(x: u64) -> f64 {
    f64::from(f(x))
}

#[test]
fn f32_arithmetic_in_every_mode() {
    for mode in ["rn", "rz", "rm", "rp"] {
        let zero = move |v: f32, plus: bool| if v == 0.0 && plus && mode == "rm" { -0.0 } else { v };
        check(&format!("add.{mode}.f32"), &["f32"; 3], |[a, b, ..]| {
            let (s, e) = two_sum(d(a), d(b));
            // An exact zero from different signs is -0 when rounding down.
            canonical(zero(directed(s, e, mode), s == 0.0 && (a ^ b) >> 31 & 1 == 1))
        });
        check(&format!("sub.{mode}.f32"), &["f32"; 3], |[a, b, ..]| {
            let (s, e) = two_sum(d(a), -d(b));
            canonical(zero(directed(s, e, mode), s == 0.0 && (a ^ b) >> 31 & 1 == 0))
        });
        check(&format!("mul.{mode}.f32"), &["f32"; 3], |[a, b, ..]| {
            canonical(directed(d(a) * d(b), 0.0, mode))
        });
        check(&format!("div.{mode}.f32"), &["f32"; 3], |[a, b, ..]| {
            let q = d(a) / d(b);
            // The residual's sign tells on which side of the f64 quotient the exact one lies.
            let rest = (-q).mul_add(d(b), d(a));
            let low = if q.is_finite() && rest != 0.0 { rest / d(b) } else { 0.0 };
            canonical(directed(q, low, mode))
        });
        check(&format!("sqrt.{mode}.f32"), &["f32"; 2], |[a, ..]| {
            let r = d(a).sqrt();
            let rest = (-r).mul_add(r, d(a));
            let low = if r.is_finite() && rest != 0.0 { rest / (2.0 * r) } else { 0.0 };
            canonical(directed(r, low, mode))
        });
    }
    check("fma.rn.f32", &["f32"; 4], |[a, b, c, _]| canonical(f(a).mul_add(f(b), f(c))));
    let flush = |x: u64| if x >> 23 & 255 == 0 { x & 1 << 31 } else { x };
    check("add.ftz.f32", &["f32"; 3], |[a, b, ..]| flush(canonical(f(flush(a)) + f(flush(b)))));
    check("mul.sat.f32", &["f32"; 3], |[a, b, ..]| {
        let r = f(a) * f(b);
        if r.is_nan() { 0 } else { u64::from(r.clamp(0.0, 1.0).to_bits() & if r <= 0.0 { 0 } else { !0 }) }
    });
    for (op, max) in [("min", false), ("max", true)] {
        check(&format!("{op}.f32"), &["f32"; 3], |[a, b, ..]| match (f(a).is_nan(), f(b).is_nan()) {
            (true, true) => 0x7fff_ffff,
            (true, false) => b,
            (false, true) => a,
            _ if (f(a).total_cmp(&f(b)) == std::cmp::Ordering::Greater) == max => a,
            _ => b,
        });
        check(&format!("{op}.NaN.f32"), &["f32"; 3], |[a, b, ..]| {
            if f(a).is_nan() || f(b).is_nan() {
                0x7fff_ffff
            } else if (f(a).total_cmp(&f(b)) == std::cmp::Ordering::Greater) == max {
                a
            } else {
                b
            }
        });
    }
}

#[test]
fn f64_arithmetic() {
    let g = f64::from_bits;
    let same = |got: f64, operands: &[u64]| {
        let nan = operands.iter().find(|x| g(**x).is_nan()).map_or(0xfff8 << 48, |x| x | 1 << 51);
        if got.is_nan() { nan } else { got.to_bits() }
    };
    check("add.f64", &["f64"; 3], |[a, b, ..]| same(g(a) + g(b), &[a, b]));
    check("mul.f64", &["f64"; 3], |[a, b, ..]| same(g(a) * g(b), &[a, b]));
    check("fma.rn.f64", &["f64"; 4], |[a, b, c, _]| same(g(a).mul_add(g(b), g(c)), &[a, b, c]));
    check("div.rn.f64", &["f64"; 3], |[a, b, ..]| same(g(a) / g(b), &[a, b]));
    check("sqrt.rn.f64", &["f64"; 2], |[a, ..]| same(g(a).sqrt(), &[a]));
    check("add.rz.f64", &["f64"; 3], |[a, b, ..]| {
        let (s, e) = two_sum(g(a), g(b));
        let overflow = s.is_infinite() && g(a).is_finite() && g(b).is_finite();
        let r = match () {
            () if overflow => f64::MAX.copysign(s),
            () if s > 0.0 && e < 0.0 => s.next_down(),
            () if s < 0.0 && e > 0.0 => s.next_up(),
            () => s,
        };
        same(r, &[a, b])
    });
}

/// The nearest 16-bit float to `v`, starting from a guess that may be one off; ties to even.
fn nearest(v: f64, guess: u16, widen: &dyn Fn(u16) -> f64) -> u64 {
    if v.is_nan() {
        return 0x7fff;
    }
    let finite = |x: &u16| widen(*x).is_finite() && (*x ^ guess) & 0x8000 == 0;
    let near = [guess.wrapping_sub(1), guess, guess.wrapping_add(1)].into_iter().filter(finite);
    let best = near.min_by(|x, y| {
        let distance = |x: u16| (v - widen(x)).abs();
        distance(*x).total_cmp(&distance(*y)).then((x & 1).cmp(&(y & 1)))
    });
    u64::from(if widen(guess).is_infinite() { guess } else { best.unwrap_or(guess) })
}

#[test]
fn halves() {
    let h = |x: u64| f16::from_bits(x as u16).to_f64();
    let b = |x: u64| bf16::from_bits(x as u16).to_f64();
    let hbits = |v: f64| nearest(v, f16::from_f64(v).to_bits(), &|x| h(x.into()));
    let bbits = |v: f64| nearest(v, bf16::from_f64(v).to_bits(), &|x| b(x.into()));
    // Sums and products of halves are exact in f64; a fused sum is rounded to odd first.
    check("add.rn.f16", &["f16"; 3], |[x, y, ..]| hbits(h(x) + h(y)));
    check("sub.rn.f16", &["f16"; 3], |[x, y, ..]| hbits(h(x) - h(y)));
    check("mul.rn.f16", &["f16"; 3], |[x, y, ..]| hbits(h(x) * h(y)));
    check("fma.rn.bf16", &["bf16"; 4], |[x, y, z, _]| {
        // To odd in f64, then to the format.
        let (s, e) = two_sum(b(x) * b(y), b(z));
        let odd = if e != 0.0 && s.to_bits() & 1 == 0 {
            if (e > 0.0) == (s > 0.0) {
                f64::from_bits(s.to_bits() + 1)
            } else {
                f64::from_bits(s.to_bits() - 1)
            }
        } else {
            s
        };
        bbits(odd)
    });
    check("fma.rn.f16", &["f16"; 4], |[x, y, z, _]| {
        let (s, e) = two_sum(h(x) * h(y), h(z));
        let odd = if e != 0.0 && s.to_bits() & 1 == 0 {
            if (e > 0.0) == (s > 0.0) {
                f64::from_bits(s.to_bits() + 1)
            } else {
                f64::from_bits(s.to_bits() - 1)
            }
        } else {
            s
        };
        hbits(odd)
    });
    check("add.rn.f16x2", &["f16x2"; 3], |[x, y, ..]| {
        hbits(h(x & 0xffff) + h(y & 0xffff)) | hbits(h(x >> 16) + h(y >> 16)) << 16
    });
    check("fma.rn.relu.f16", &["f16"; 4], |[x, y, z, _]| {
        let (s, _) = two_sum(h(x) * h(y), h(z));
        let r = hbits(s);
        if r == 0x7fff {
            r
        } else if r & 0x8000 != 0 {
            0
        } else {
            hbits(s)
        }
    });
}

#[test]
fn conversions() {
    for (to, low, high) in [("s32", i32::MIN as f64, i32::MAX as f64), ("u32", 0.0, u32::MAX as f64)] {
        type Mode = (&'static str, fn(f64) -> f64);
        let modes: [Mode; 4] =
            [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
        for (mode, g) in modes {
            check(&format!("cvt.{mode}.{to}.f32"), &[to, "f32"], |[a, ..]| {
                if d(a).is_nan() { 0 } else { cut(g(d(a)).clamp(low, high) as i128, to) }
            });
        }
    }
    check("cvt.rzi.s64.f32", &["s64", "f32"], |[a, ..]| {
        if d(a).is_nan() { 1 << 63 } else { cut(d(a).trunc().clamp(-9.3e18, 9.3e18) as i64 as i128, "s64") }
    });
    check("cvt.rn.f32.s32", &["f32", "s32"], |[a, ..]| u64::from((a as i32 as f32).to_bits()));
    check("cvt.rn.f32.u64", &["f32", "u64"], |[a, ..]| u64::from((a as f32).to_bits()));
    for mode in ["rz", "rm", "rp"] {
        check(&format!("cvt.{mode}.f32.s32"), &["f32", "s32"], |[a, ..]| {
            canonical(directed(f64::from(a as i32), 0.0, mode))
        });
    }
    check("cvt.rn.f16.f32", &["f16", "f32"], |[a, ..]| {
        u64::from(if f(a).is_nan() { 0x7fff } else { f16::from_f32(f(a)).to_bits() })
    });
    check("cvt.rn.bf16.f32", &["bf16", "f32"], |[a, ..]| {
        u64::from(if f(a).is_nan() { 0x7fff } else { bf16::from_f32(f(a)).to_bits() })
    });
    check("cvt.f32.f16", &["f32", "f16"], |[a, ..]| canonical(f16::from_bits(a as u16).to_f32()));
    check("cvt.rn.f16x2.f32", &["f16x2", "f32", "f32"], |[a, b, ..]| {
        let one = |x: u64| u64::from(if f(x).is_nan() { 0x7fff } else { f16::from_f32(f(x)).to_bits() });
        one(a) << 16 | one(b)
    });
    check("cvt.rna.tf32.f32", &["b32", "f32"], |[a, ..]| {
        if f(a).is_nan() {
            0x7fff_ffff
        } else if f(a).is_infinite() {
            a
        } else {
            (a + 0x1000) & 0xffff_e000
        }
    });
    check("cvt.rni.f32.f32", &["f32", "f32"], |[a, ..]| canonical(f(a).round_ties_even()));
    check("cvt.sat.f32.f32", &["f32", "f32"], |[a, ..]| {
        if f(a) > 0.0 { u64::from(f(a).min(1.0).to_bits()) } else { 0 }
    });
    check("cvt.sat.s16.s32", &["s16", "s32"], |[a, ..]| cut(int(a, "s32").clamp(-32768, 32767), "s16"));
    check("cvt.s64.s32", &["s64", "s32"], |[a, ..]| cut(int(a, "s32"), "s64"));
    check("cvt.s32.s8", &["s32", "s32"], |[a, ..]| cut(i128::from(a as i8), "s32"));
    check("cvt.u64.u16", &["u64", "u16"], |[a, ..]| a);
    check("cvt.rn.f32.f64", &["f32", "f64"], |[a, ..]| canonical(f64::from_bits(a) as f32));
}

#[test]
fn comparisons() {
    type Test = (&'static str, fn(f32, f32) -> bool);
    let all: [Test; 14] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a < b || a > b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("equ", |a, b| !(a < b || a > b)),
        ("neu", |a, b| a != b),
        ("ltu", |a, b| !(a >= b)),
        ("leu", |a, b| !(a > b)),
        ("gtu", |a, b| !(a <= b)),
        ("geu", |a, b| !(a < b)),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (name, test) in all {
        check(&format!("setp.{name}.f32"), &["pred", "f32", "f32"], |[a, b, ..]| u64::from(test(f(a), f(b))));
        check(&format!("set.{name}.u32.f32"), &["u32", "f32", "f32"], |[a, b, ..]| {
            if test(f(a), f(b)) { 0xffff_ffff } else { 0 }
        });
    }
    check("setp.lt.and.s32", &["pred", "s32", "s32", "pred"], |[a, b, p, _]| {
        u64::from((a as i32) < b as i32) & p
    });
    check("setp.lo.u64", &["pred", "u64", "u64"], |[a, b, ..]| u64::from(a < b));
    check("selp.b64", &["b64", "b64", "b64", "pred"], |[a, b, p, _]| if p == 1 { a } else { b });
    check("slct.u32.f32", &["u32", "u32", "u32", "f32"], |[a, b, c, _]| if f(c) >= 0.0 { a } else { b });
}

#[test]
fn approximations_stay_within_the_documented_error() {
    type Case = (&'static str, fn(f64) -> f64, f64, f64);
    let cases: [Case; 8] = [
        ("rcp.approx.f32", |x| 1.0 / x, 1.2e-7, 0.0),
        ("sqrt.approx.f32", f64::sqrt, 1.2e-7, 0.0),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), 1.28e-7, 0.0),
        ("ex2.approx.f32", f64::exp2, 2.39e-7, 0.0),
        ("lg2.approx.f32", f64::log2, 2.39e-7, 2.39e-7),
        ("sin.approx.f32", f64::sin, 0.0, 5.1e-7),
        ("cos.approx.f32", f64::cos, 0.0, 5.1e-7),
        ("tanh.approx.f32", f64::tanh, 4.9e-4, 0.0),
    ];
    let mut random = Random(9);
    let rows: Vec<[u64; 4]> =
        (0..LANES).map(|_| [u64::from((random.unit() * 3.0).abs().max(1e-3).to_bits()), 0, 0, 0]).collect();
    for (op, exact, relative, absolute) in cases {
        for (row, got) in rows.iter().zip(execute(op, &["f32", "f32"], &rows)) {
            let want = exact(d(row[0]));
            let bound = relative * want.abs() + absolute;
            assert!((d(got) - want).abs() <= bound, "{op} of {}: {} instead of {want}", f(row[0]), f(got));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Random bits, NaN and subnormals among them: the fast twins agree with exact arithmetic.
    #[test]
    fn fast_and_exact_arithmetic_agree(seed in any::<u64>()) {
        use ptx_vm::value::{Format, Round, float, half as pair, soft};
        let mut random = Random(seed);
        for _ in 0..2000 {
            let [a, b, c] = [random.next(), random.next(), random.next()];
            let [x, y, z] = [a as u32, b as u32, c as u32];
            let n = Round::Nearest;
            prop_assert_eq!(u64::from(float::add32::<false, false>(x, y)), soft::add(x.into(), y.into(), Format::F32, n));
            prop_assert_eq!(u64::from(float::mul32::<false, false>(x, y)), soft::mul(x.into(), y.into(), Format::F32, n));
            prop_assert_eq!(u64::from(float::fma32::<false, false>(x, y, z)), soft::fma(x.into(), y.into(), z.into(), Format::F32, n));
            prop_assert_eq!(u64::from(float::div32::<false>(x, y)), soft::div(x.into(), y.into(), Format::F32, n));
            prop_assert_eq!(u64::from(float::sqrt32::<false>(x)), soft::sqrt(x.into(), Format::F32, n));
            if !f64::from_bits(a).is_nan() && !f64::from_bits(b).is_nan() && !f64::from_bits(c).is_nan() {
                prop_assert_eq!(float::add64(a, b), soft::add(a, b, Format::F64, n));
                prop_assert_eq!(float::fma64(a, b, c), soft::fma(a, b, c, Format::F64, n));
                prop_assert_eq!(float::div64(a, b), soft::div(a, b, Format::F64, n));
                prop_assert_eq!(float::sqrt64(a), soft::sqrt(a, Format::F64, n));
            }
            let [p, q, r] = [x & 0xffff, y & 0xffff, z & 0xffff];
            let post = pair::Post::default();
            prop_assert_eq!(u64::from(pair::fma::<pair::F16>(p, q, r, post)), soft::fma(p.into(), q.into(), r.into(), Format::F16, n));
            prop_assert_eq!(u64::from(pair::fma::<pair::Bf16>(p, q, r, post)), soft::fma(p.into(), q.into(), r.into(), Format::BF16, n));
            prop_assert_eq!(u64::from(pair::mul::<pair::Bf16>(p, q, post)), soft::mul(p.into(), q.into(), Format::BF16, n));
            prop_assert_eq!(u64::from(pair::add::<pair::Bf16>(p, q, post)), soft::add(p.into(), q.into(), Format::BF16, n));
        }
    }
}
