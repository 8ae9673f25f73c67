//! Packed and narrow values: 8-bit floats, `cvt.pack`, comparisons of pairs. What is expected comes from lists of all
//! values of a format and from the ISA's words, not from the machine's own arithmetic.
mod kernel_harness;
mod op_harness;

use half::f16;
use kernel_harness::{Gpu, Random};
use op_harness::check;
use ptx_vm::launch::Options;

/// The finite magnitudes of an 8-bit float by their codes, smallest first (OCP 8-bit floating point, 2023, table 1).
fn magnitudes(format: &str) -> Vec<f64> {
    let (man, bias, codes) = if format == "e4m3x2" { (3, 7, 0x7f) } else { (2, 15, 0x7c) };
    let value = |code: i32| {
        let (exponent, mantissa) = (code >> man, f64::from(code & ((1 << man) - 1)) / f64::from(1 << man));
        if exponent == 0 {
            mantissa * 2f64.powi(1 - bias)
        } else {
            (1.0 + mantissa) * 2f64.powi(exponent - bias)
        }
    };
    (0..codes).map(value).collect()
}

/// To the nearest value, ties to even codes, no further than the largest; NaN is all ones below the sign.
fn narrow(v: f64, all: &[f64], relu: bool) -> u64 {
    if v.is_nan() {
        return 0x7f;
    }
    if relu && v.is_sign_negative() {
        return 0;
    }
    let magnitude = v.abs().min(all[all.len() - 1]);
    let nearer = |a: &usize, b: &usize| {
        let distance = |i: usize| (magnitude - all[i]).abs();
        distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1)))
    };
    let code =
        if v.is_infinite() { all.len() - 1 } else { (0..all.len()).min_by(nearer).expect("not empty") };
    code as u64 | u64::from(v.is_sign_negative()) << 7
}

#[test]
fn to_eight_bits() {
    for format in ["e4m3x2", "e5m2x2"] {
        let all = magnitudes(format);
        for relu in [false, true] {
            let words = if relu { ".relu" } else { "" };
            let single = |x: u64| f64::from(f32::from_bits(x as u32));
            check(&format!("cvt.rn.satfinite{words}.{format}.f32"), &[format, "f32", "f32"], |[a, b, ..]| {
                narrow(single(a), &all, relu) << 8 | narrow(single(b), &all, relu)
            });
            let half = |x: u64| f16::from_bits(x as u16).to_f64();
            check(&format!("cvt.rn.satfinite{words}.{format}.f16x2"), &[format, "f16x2"], |[a, ..]| {
                narrow(half(a >> 16), &all, relu) << 8 | narrow(half(a), &all, relu)
            });
        }
    }
}

/// Each of the values exactly, and each midpoint between neighbours, from f32.
#[test]
fn every_value_and_every_tie() {
    for format in ["e4m3x2", "e5m2x2"] {
        let all = magnitudes(format);
        let ties = all.windows(2).map(|w| (w[0] + w[1]) / 2.0);
        let rows: Vec<[u64; 4]> = all
            .iter()
            .copied()
            .chain(ties)
            .map(|v| (v as f32).to_bits())
            .map(|bits| [u64::from(bits), u64::from(bits | 1 << 31), 0, 0])
            .collect();
        let padded: Vec<[u64; 4]> = rows.iter().copied().cycle().take(256).collect();
        let got =
            op_harness::execute(&format!("cvt.rn.satfinite.{format}.f32"), &[format, "f32", "f32"], &padded);
        for (row, got) in padded.iter().zip(got) {
            let code = narrow(f64::from(f32::from_bits(row[0] as u32)), &all, false);
            assert_eq!(got, code << 8 | code | 0x80, "{format} of {}", f32::from_bits(row[0] as u32));
        }
    }
}

#[test]
fn from_eight_bits() {
    for format in ["e4m3x2", "e5m2x2"] {
        let all = magnitudes(format);
        let widen = |code: u64, relu: bool| {
            let (sign, at) = ((code & 0x80) << 8, (code & 0x7f) as usize);
            let bits = match all.get(at) {
                Some(v) => u64::from(f16::from_f64(*v).to_bits()) | sign,
                None if format == "e5m2x2" && at == 0x7c => 0x7c00 | sign,
                None => return 0x7fff,
            };
            if relu && sign != 0 { 0 } else { bits }
        };
        for relu in [false, true] {
            let words = if relu { ".relu" } else { "" };
            check(&format!("cvt.rn{words}.f16x2.{format}"), &["f16x2", format], |[a, ..]| {
                widen(a >> 8 & 0xff, relu) << 16 | widen(a & 0xff, relu)
            });
        }
    }
}

#[test]
fn pack() {
    for (to, low, high, bits) in [
        ("u16", 0, 65535, 16),
        ("s16", -32768, 32767, 16),
        ("u8", 0, 255, 8),
        ("s8", -128, 127, 8),
        ("u4", 0, 15, 4),
        ("s4", -8, 7, 4),
    ] {
        let one = |x: u64| (i64::from(x as i32).clamp(low, high) as u64) & ((1 << bits) - 1);
        let two = |a, b| one(a) << bits | one(b);
        if bits == 16 {
            check(&format!("cvt.pack.sat.{to}.s32"), &["b32", "s32", "s32"], |[a, b, ..]| two(a, b));
        } else {
            check(&format!("cvt.pack.sat.{to}.s32.b32"), &["b32", "s32", "s32", "b32"], |[a, b, c, _]| {
                (c << (2 * bits) | two(a, b)) & 0xffff_ffff
            });
        }
    }
}

type Test = (&'static str, fn(f32, f32) -> bool);

/// By the order of two numbers, `None` beside a NaN.
const TESTS: [Test; 14] = {
    use std::cmp::Ordering::{Equal, Greater, Less};
    [
        ("eq", |a, b| a.partial_cmp(&b) == Some(Equal)),
        ("ne", |a, b| matches!(a.partial_cmp(&b), Some(Less | Greater))),
        ("lt", |a, b| a.partial_cmp(&b) == Some(Less)),
        ("le", |a, b| matches!(a.partial_cmp(&b), Some(Less | Equal))),
        ("gt", |a, b| a.partial_cmp(&b) == Some(Greater)),
        ("ge", |a, b| matches!(a.partial_cmp(&b), Some(Greater | Equal))),
        ("equ", |a, b| matches!(a.partial_cmp(&b), Some(Equal) | None)),
        ("neu", |a, b| a.partial_cmp(&b) != Some(Equal)),
        ("ltu", |a, b| matches!(a.partial_cmp(&b), Some(Less) | None)),
        ("leu", |a, b| a.partial_cmp(&b) != Some(Greater)),
        ("gtu", |a, b| matches!(a.partial_cmp(&b), Some(Greater) | None)),
        ("geu", |a, b| a.partial_cmp(&b) != Some(Less)),
        ("num", |a, b| a.partial_cmp(&b).is_some()),
        ("nan", |a, b| a.partial_cmp(&b).is_none()),
    ]
};

/// A half of a pair; `.ftz` takes subnormals for zero.
fn half_of(x: u64, high: bool, ftz: bool) -> f32 {
    let bits = (if high { x >> 16 } else { x }) as u16;
    f16::from_bits(if ftz && bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }).to_f32()
}

#[test]
fn set_on_pairs() {
    let word = |yes: [bool; 2], one: u64| (u64::from(yes[0]) * one) | ((u64::from(yes[1]) * one) << 16);
    for (name, test) in TESTS {
        for ftz in [false, true] {
            let words = if ftz { ".ftz" } else { "" };
            let both =
                move |a, b| [false, true].map(|high| test(half_of(a, high, ftz), half_of(b, high, ftz)));
            for (to, one) in [("f16x2", 0x3c00), ("u32", 0xffff), ("s32", 0xffff)] {
                check(&format!("set.{name}{words}.{to}.f16x2"), &[to, "f16x2", "f16x2"], |[a, b, ..]| {
                    word(both(a, b), one)
                });
            }
            let types = ["u32", "f16x2", "f16x2", "pred"];
            check(&format!("set.{name}.xor{words}.u32.f16x2"), &types, |[a, b, p, _]| {
                word(both(a, b).map(|yes| yes ^ (p == 1)), 0xffff)
            });
            check(
                &format!("set.{name}.or{words}.f16x2.f16x2 $;"),
                &["f16x2", "f16x2", "f16x2", "pred"],
                |[a, b, p, _]| word(both(a, b).map(|yes| yes | (p == 1)), 0x3c00),
            );
        }
    }
}

/// `setp p|q` on pairs: `p` for the low halves, `q` for the high ones, each combined with the same predicate.
#[test]
fn setp_on_pairs() {
    let types = ["pred", "f16x2", "f16x2"];
    let with = ["pred", "f16x2", "f16x2", "pred"];
    for (name, test) in TESTS {
        let low = |a, b| test(half_of(a, false, false), half_of(b, false, false));
        let high = |a, b| test(half_of(a, true, false), half_of(b, true, false));
        check(&format!("setp.{name}.f16x2"), &types, |[a, b, ..]| low(a, b).into());
        check(&format!("setp.{name}.f16x2 %p7|$;"), &types, |[a, b, ..]| high(a, b).into());
        check(&format!("setp.{name}.and.f16x2 %p7|$;"), &with, |[a, b, p, _]| (high(a, b) && p == 1).into());
        // The predicate that is combined with is the first one written.
        let alias = format!("setp.{name}.and.f16x2 %p4|%p1, %r2, %r3, %p4;//$");
        check(&alias, &with, |[a, b, p, _]| (high(a, b) && p == 1).into());
    }
}

/// Eight rows of eight 16-bit values, two in each lane, turned about.
#[test]
fn movmatrix() {
    let source = ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n\
        .reg .b32 %r<4>;\n.reg .b64 %rd<4>;\nld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\n\
        mad.wide.u32 %rd2, %r1, 4, %rd1;\nld.global.b32 %r2, [%rd2];\n\
        movmatrix.sync.aligned.m8n8.trans.b16 %r3, %r2;\nst.global.b32 [%rd2], %r3;\nret;\n}\n";
    let mut random = Random(3);
    let matrix: Vec<u16> = (0..64).map(|_| random.next() as u16).collect();
    let gpu = Gpu::new("movmatrix", source);
    let at = gpu.upload(&matrix);
    gpu.run("k", [1, 1, 1], [32, 1, 1], &[kernel_harness::Arg::U64(at)], &Options::default());
    let want: Vec<u16> = (0..64).map(|i| matrix[i % 8 * 8 + i / 8]).collect();
    assert_eq!(gpu.download::<u16>(at, 64), want);
}
