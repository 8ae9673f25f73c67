//! One instruction in a kernel of its own, on rows of operands, against what it should give.
#![allow(dead_code)]
use crate::kernel_harness::{Arg::*, Gpu, Random};
use ptx_vm::launch::Options;

pub const LANES: usize = 512;

fn prefix(ty: &str) -> &str {
    match ty {
        "pred" => "%p",
        "e4m3x2" | "e5m2x2" => "%h",
        _ if ty.contains("x2") => "%r",
        _ => match &ty[1..] {
            "16" | "f16" => "%h",
            "64" => "%rd",
            _ => "%r",
        },
    }
}

pub fn bytes(ty: &str) -> usize {
    match prefix(ty) {
        "%h" => 2,
        "%rd" => 8,
        _ => 4,
    }
}

/// The bits of `op` on every row of operands. `types[0]` is the result's type.
pub fn execute(op: &str, types: &[&str], rows: &[[u64; 4]]) -> Vec<u64> {
    let mut body = String::new();
    let mut operands = vec![format!("{}1", prefix(types[0]))];
    for (i, ty) in types[1..].iter().enumerate() {
        let register = format!("{}{}", prefix(ty), i + 2);
        if *ty == "pred" {
            body += &format!("ld.global.b32 %r19, [%rd10+{}]; setp.ne.b32 {register}, %r19, 0;\n", 8 * i);
        } else {
            body += &format!("ld.global.b{} {register}, [%rd10+{}];\n", 8 * bytes(ty), 8 * i);
        }
        operands.push(register);
    }
    let store = match types[0] {
        "pred" => "selp.b32 %r18, 1, 0, %p1; st.global.b32 [%rd11], %r18;".to_string(),
        ty => format!("st.global.b{} [%rd11], {}1;", 8 * bytes(ty), prefix(ty)),
    };
    // `$` stands for the operands; without it they follow the instruction.
    let instruction = if op.contains('$') {
        op.replace('$', &operands.join(", "))
    } else {
        format!("{op} {};", operands.join(", "))
    };
    let source = format!(
        ".version 8.6\n.target sm_89\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<20>;\n.reg .b64 %rd<16>;\n\
         ld.param.u64 %rd12, [a];\nld.param.u64 %rd13, [b];\nmov.u32 %r17, %ctaid.x;\nmov.u32 %r16, %tid.x;\n\
         mad.lo.u32 %r17, %r17, 64, %r16;\nmul.wide.u32 %rd10, %r17, 32;\nadd.u64 %rd10, %rd10, %rd12;\n\
         mul.wide.u32 %rd11, %r17, 8;\nadd.u64 %rd11, %rd11, %rd13;\n{body}{instruction}\n{store}\nret;\n}}\n"
    );
    let gpu = Gpu::new(op, &source);
    let (a, b) = (gpu.upload(rows), gpu.upload(&vec![0u64; rows.len()]));
    gpu.run("k", [rows.len() as u32 / 64, 1, 1], [64, 1, 1], &[U64(a), U64(b)], &Options::default());
    gpu.download(b, rows.len())
}

/// Edge values of every width and random bits, the first operands paired in all ways.
pub fn rows(seed: u64) -> Vec<[u64; 4]> {
    let f32s = [
        0.0f32,
        -0.0,
        1.0,
        -1.5,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-45,
        -3e-39,
        f32::INFINITY,
        f32::NAN,
        0.49999997,
        8388609.5,
    ];
    let mut edges: Vec<u64> = f32s.iter().map(|f| u64::from(f.to_bits())).collect();
    edges.extend([
        0xff80_0000,
        0xffc1_2345,
        31,
        32,
        33,
        63,
        64,
        255,
        0x7fff,
        0x8000,
        0x7c00,
        0xfc01,
        0x7f80,
        0x0001_0001,
    ]);
    edges.extend([0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX, i64::MAX as u64]);
    edges.extend([1.0f64, -2.5, f64::MAX, 5e-324, f64::NAN, f64::NEG_INFINITY, 1e300].map(f64::to_bits));
    let mut random = Random(seed);
    (0..LANES)
        .map(|i| {
            let mut pick = |which: u64| match which % 3 {
                0 => edges[random.next() as usize % edges.len()],
                1 => random.next(),
                // A float near one: sums and products that round.
                _ => {
                    u64::from((1.0 + random.unit() * 3.0).to_bits())
                        | (random.next() << 32 >> 4 | 0x3fe << 52) & !0 << 32
                }
            };
            [pick(i as u64), pick(i as u64 / 3), pick(i as u64 / 9), pick(1)]
        })
        .collect()
}

/// `want` sees each operand cut to its type.
pub fn check(op: &str, types: &[&str], want: impl Fn([u64; 4]) -> u64) {
    let rows = rows(op.len() as u64 * 31 + types.len() as u64);
    let got = execute(op, types, &rows);
    for (row, got) in rows.iter().zip(got) {
        let mut cut = *row;
        for (x, ty) in cut.iter_mut().zip(&types[1..]) {
            *x &= if bytes(ty) == 8 { !0 } else { (1 << (8 * bytes(ty))) - 1 };
            if *ty == "pred" {
                *x = u64::from(*x != 0);
            }
        }
        let expected = want(cut);
        assert!(got == expected, "{op} of {cut:#x?}: got {got:#x}, expected {expected:#x}");
    }
}

/// The value of an integer operand.
pub fn int(x: u64, ty: &str) -> i128 {
    let bits = 8 * bytes(ty) as u32;
    if ty.starts_with('s') { i128::from((x << (64 - bits)) as i64 >> (64 - bits)) } else { i128::from(x) }
}

pub fn cut(x: i128, ty: &str) -> u64 {
    x as u64 & if bytes(ty) == 8 { !0 } else { (1 << (8 * bytes(ty))) - 1 }
}
