//! `atom` and `red` of every operation and type, in every space: what is left and what was there, lane by lane, and
//! sums of many lanes on one place.
mod kernel_harness;

use half::f16;
use kernel_harness::{Arg::*, Gpu, Random, assemble, every_way};
use ptx_vm::launch::Options;

/// A type's bits, and the register that holds it.
fn register(ty: &str) -> (u32, &'static str) {
    match ty {
        "b16" | "f16" => (16, "%h"),
        "b64" | "u64" | "s64" | "f64" => (64, "%rd"),
        _ => (32, "%r"),
    }
}

/// What `op` of `old` and `x` leaves; `new` is what `cas` writes where `old` is `x`.
fn left(op: &str, ty: &str, old: u64, x: u64, new: u64, flush: bool) -> u64 {
    let bits = register(ty).0;
    let mask = if bits == 64 { !0 } else { (1 << bits) - 1 };
    let signed = |v: u64| i128::from((v << (64 - bits)) as i64 >> (64 - bits));
    let value = |v: u64| if ty.starts_with('s') { signed(v) } else { i128::from(v) };
    let single = |v: u64| if flush && v & 0x7f80_0000 == 0 { v & 0x8000_0000 } else { v };
    let half = |a: u64, b: u64| {
        let [a, b] = [a, b].map(|v| f16::from_bits(v as u16).to_f64());
        let sum = f16::from_f64(a + b);
        if sum.is_nan() { 0x7fff } else { u64::from(sum.to_bits()) }
    };
    let result = match (op, ty) {
        ("add", "f32") => {
            let [a, b] = [old, x].map(|v| f32::from_bits(single(v) as u32));
            if (a + b).is_nan() { 0x7fff_ffff } else { single((a + b).to_bits().into()) }
        }
        ("add", "f64") => (f64::from_bits(old) + f64::from_bits(x)).to_bits(),
        ("add.noftz", "f16") => half(old, x),
        ("add.noftz", _) => half(old & 0xffff, x & 0xffff) | half(old >> 16, x >> 16) << 16,
        ("add", _) => old.wrapping_add(x),
        ("min", _) => {
            if value(old) < value(x) {
                old
            } else {
                x
            }
        }
        ("max", _) => {
            if value(old) > value(x) {
                old
            } else {
                x
            }
        }
        ("inc", _) => {
            if old >= x {
                0
            } else {
                old + 1
            }
        }
        ("dec", _) => {
            if old == 0 || old > x {
                x
            } else {
                old - 1
            }
        }
        ("and", _) => old & x,
        ("or", _) => old | x,
        ("xor", _) => old ^ x,
        ("exch", _) => x,
        ("cas", _) => {
            if old == x {
                new
            } else {
                old
            }
        }
        _ => panic!("{op}.{ty}"),
    };
    result & mask
}

const CASES: &[(&str, &[&str])] = &[
    ("add", &["u32", "s32", "u64", "f32", "f64"]),
    ("add.noftz", &["f16", "f16x2"]),
    ("min", &["u32", "s32", "u64", "s64"]),
    ("max", &["u32", "s32", "u64", "s64"]),
    ("inc", &["u32"]),
    ("dec", &["u32"]),
    ("and", &["b32", "b64"]),
    ("or", &["b32", "b64"]),
    ("xor", &["b32", "b64"]),
    ("exch", &["b32", "b64"]),
    ("cas", &["b16", "b32", "b64"]),
];

/// Each lane has 64 bytes: the place, two operands, what was there.
fn kernel(instruction: &str, space: &str, ty: &str) -> String {
    let (bits, r) = register(ty);
    let old = if instruction.starts_with("atom") { format!("{r}4, ") } else { String::new() };
    let new = if instruction.contains(".cas") { format!(", {r}3") } else { String::new() };
    // A place in shared memory is filled before and copied back afterwards.
    let (to, before, after) = match space {
        ".shared" => (
            "%r9",
            format!("ld.global.b{bits} {r}1, [%rd9]; st.shared.b{bits} [%r9], {r}1;"),
            format!("ld.shared.b{bits} {r}1, [%r9]; st.global.b{bits} [%rd9], {r}1;"),
        ),
        _ => ("%rd9", String::new(), String::new()),
    };
    let keep = if old.is_empty() { String::new() } else { format!("st.global.b{bits} [%rd9+24], {r}4;") };
    format!(
        ".version 8.6\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .b16 %h<8>;\n.reg .b32 %r<12>;\n.reg .b64 %rd<12>;\n.shared .align 8 .b8 place[512];\n\
         ld.param.u64 %rd8, [p];\nmov.u32 %r8, %tid.x;\nmad.wide.u32 %rd9, %r8, 64, %rd8;\n\
         mov.u32 %r9, place;\nmad.lo.u32 %r9, %r8, 8, %r9;\n{before}\n\
         ld.global.b{bits} {r}2, [%rd9+8];\nld.global.b{bits} {r}3, [%rd9+16];\n\
         {instruction} {old}[{to}], {r}2{new};\n{keep}\n{after}\nret;\n}}\n"
    )
}

/// Edges of every type, and bits.
fn words(random: &mut Random) -> u64 {
    const EDGES: [u64; 12] = [
        0,
        1,
        !0,
        1 << 63,
        0x7fff_ffff,
        0x8000_0000,
        0x3f80_0000,
        // A subnormal in f32, in both halves of a pair, and in f64.
        0x0040_0000,
        0x0001_8001,
        0x000f_ffff_0000_0000,
        0x3ff0_0000_0000_0000,
        0x3c00_bc00,
    ];
    match random.next() % 3 {
        0 => random.next(),
        1 => random.next() % 4,
        _ => EDGES[random.next() as usize % EDGES.len()],
    }
}

/// A number that no arithmetic turns into NaN, whose bits are not what is tested here.
fn plain(ty: &str, bits: u64) -> u64 {
    match ty {
        "f64" if bits >> 52 & 0x7ff == 0x7ff => bits & !(1 << 62),
        _ => bits,
    }
}

#[test]
fn each_lane_on_its_own_place() {
    for (op, types) in CASES {
        for ty in *types {
            for (head, space) in
                ["atom", "red"].iter().flat_map(|h| ["", ".global", ".shared"].map(|s| (*h, s)))
            {
                if head == "red" && matches!(*op, "exch" | "cas") {
                    continue;
                }
                let (bits, _) = register(ty);
                let instruction = format!("{head}{space}.{op}.{ty}");
                let source = kernel(&instruction, space, ty);
                let mut random = Random(u64::from(bits) * 77 + op.len() as u64);
                let mut lanes: Vec<[u64; 8]> =
                    (0..64).map(|_| [0; 8].map(|_| plain(ty, words(&mut random)))).collect();
                // Comparisons that succeed.
                lanes.iter_mut().step_by(2).for_each(|lane| lane[1] = lane[0]);
                let gpu = Gpu::new(&instruction, &source);
                let at = gpu.upload(&lanes);
                gpu.run("k", [1, 1, 1], [64, 1, 1], &[U64(at)], &Options::default());
                let mask = if bits == 64 { !0 } else { (1 << bits) - 1 };
                for (before, after) in lanes.iter().zip(gpu.download::<[u64; 8]>(at, 64)) {
                    let [old, x, new] = [0, 1, 2].map(|i| before[i] & mask);
                    let want = left(op, ty, old, x, new, space != ".shared");
                    assert_eq!(after[0] & mask, want, "{instruction} of {old:#x}, {x:#x}, {new:#x}");
                    assert_eq!(after[0] & !mask, before[0] & !mask, "{instruction}: bytes beside");
                    if head == "atom" {
                        assert_eq!(after[3] & mask, old, "{instruction}: what was there");
                    }
                }
            }
        }
    }
}

#[test]
fn the_assembler_accepts_them() {
    for (op, types) in CASES {
        for ty in *types {
            assemble(op, &kernel(&format!("atom.shared.{op}.{ty}"), ".shared", ty));
        }
    }
}

/// All lanes of three blocks on one place: nothing is lost, and the old values are those of some order.
#[test]
fn many_lanes_on_one_place() {
    let source = ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u64 q)\n{\n\
        .reg .b16 %h<4>;\n.reg .b32 %r<12>;\n.reg .f32 %f<4>;\n.reg .b64 %rd<12>;\n.reg .f64 %d<4>;\n\
        ld.param.u64 %rd1, [p];\nld.param.u64 %rd2, [q];\n\
        mov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\nmad.lo.u32 %r3, %r2, 64, %r1;\nmad.wide.u32 %rd3, %r3, 4, %rd2;\n\
        atom.global.inc.u32 %r4, [%rd1], 0xffffffff;\nst.global.u32 [%rd3], %r4;\n\
        mov.f32 %f1, 0f3e800000;\nred.global.add.f32 [%rd1+4], %f1;\n\
        mov.f64 %d1, 0d3fb0000000000000;\nred.global.add.f64 [%rd1+8], %d1;\n\
        mov.b32 %r5, 0x3c003800;\nred.global.add.noftz.f16x2 [%rd1+16], %r5;\n\
        red.global.max.s32 [%rd1+20], %r3;\ncvt.u64.u32 %rd4, %r3;\nred.global.add.u64 [%rd1+24], %rd4;\n\
        xor.b32 %r6, %r3, 1;\nred.global.xor.b32 [%rd1+32], %r6;\n\
        AGAIN:\nld.relaxed.gpu.global.u32 %r7, [%rd1+36];\nadd.u32 %r8, %r7, 3;\n\
        atom.global.cas.b32 %r9, [%rd1+36], %r7, %r8;\n.reg .pred %p1;\nsetp.ne.u32 %p1, %r9, %r7;\n@%p1 bra AGAIN;\nret;\n}\n";
    for options in every_way() {
        let gpu = Gpu::new("sums", source);
        let (sums, order) = (gpu.upload(&[0u32; 10]), gpu.room::<u32>(192));
        gpu.run("k", [3, 1, 1], [64, 1, 1], &[U64(sums), U64(order)], &options);
        let mut order: Vec<u32> = gpu.download(order, 192);
        order.sort_unstable();
        assert_eq!(order, (0..192).collect::<Vec<u32>>());
        let got: Vec<u32> = gpu.download(sums, 10);
        let double = f64::from_bits(u64::from(got[3]) << 32 | u64::from(got[2]));
        assert_eq!((got[0], f32::from_bits(got[1]), double), (192, 48.0, 12.0));
        assert_eq!(got[4], 0x5a00_5600, "192 and 96 in f16");
        assert_eq!((got[5], got[6], got[7], got[8], got[9]), (191, 192 * 191 / 2, 0, 0, 576));
    }
}
