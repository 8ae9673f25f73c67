//! Matrix instructions of every shape against sums on the host: fragments are laid out here as the ISA's figures
//! show them, element by element.
mod kernel_harness;

use half::{bf16, f16};
use kernel_harness::{Arg::*, Gpu, Random};
use ptx_vm::launch::Options;

/// One instruction: registers of D, A, B, C, and how elements are packed.
struct Case {
    name: &'static str,
    m: usize,
    k: usize,
    /// Elements of A and B in a register.
    pack: usize,
    wide: bool,
    encode: fn(i32) -> u64,
    /// Bits of an element.
    bits: u32,
    /// What an element of C and D is as bits.
    out: fn(f64) -> u64,
}

fn registers(count: usize, prefix: &str) -> String {
    (0..count).map(|i| format!("%{prefix}{i}")).collect::<Vec<_>>().join(", ")
}

fn run(c: &Case) {
    let (m, n, k) = (c.m, 8, c.k);
    let per = 32 * c.pack;
    let (na, nb, nc) = (m * k / per, k * n / per, m * n / 32);
    let (kind, size) = if c.wide { ("b64", 8) } else { ("b32", 4) };
    let mut body = String::new();
    for (prefix, count, at) in [("a", na, 0), ("b", nb, 16), ("c", nc, 32)] {
        for i in 0..count {
            body += &format!("ld.global.{kind} %{prefix}{i}, [%rd2+{}];\n", size * (at + i));
        }
    }
    body += &format!(
        "{} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        c.name,
        registers(nc, "d"),
        registers(na, "a"),
        registers(nb, "b"),
        registers(nc, "c")
    );
    for i in 0..nc {
        body += &format!("st.global.{kind} [%rd2+{}], %d{i};\n", size * (48 + i));
    }
    let source = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n.reg .{kind} %a<8>, %b<8>, %c<8>, %d<8>;\n\
         .reg .b32 %r<4>;\n.reg .b64 %rd<4>;\nld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, {};\n\
         add.u64 %rd2, %rd1, %rd2;\n{body}ret;\n}}\n",
        64 * size
    );
    let mut random = Random(c.k as u64 + c.bits as u64);
    let (low, high) = match c.bits {
        1 => (0, 2),
        4 => (-8, 8),
        _ => (-60, 60),
    };
    let mut draw = |len: usize| {
        (0..len).map(|_| low + (random.next() % (high - low) as u64) as i32).collect::<Vec<i32>>()
    };
    let (a, b, acc) = (draw(m * k), draw(k * n), draw(m * n));
    // Lane l, register r, element e: figures of ISA 9.7.14.5.
    let mut image = vec![0u64; 32 * 64];
    for l in 0..32 {
        let (g, t, e) = (l / 4, l % 4, c.pack);
        for r in 0..na {
            for i in 0..e {
                let (row, col) = (g + 8 * (r % 2), e * t + i + 4 * e * (r / 2));
                image[l * 64 + r] |= (c.encode)(a[row * k + col]) << (i as u32 * c.bits);
            }
        }
        for r in 0..nb {
            for i in 0..e {
                let row = e * t + i + 4 * e * r;
                image[l * 64 + 16 + r] |= (c.encode)(b[row * n + g]) << (i as u32 * c.bits);
            }
        }
        for r in 0..nc {
            image[l * 64 + 32 + r] = (c.out)(f64::from(acc[(g + 8 * (r / 2)) * n + 2 * t + r % 2]));
        }
    }
    let gpu = Gpu::new(c.name, &source);
    let narrow: Vec<u32> = image.iter().map(|x| *x as u32).collect();
    let at = if c.wide { gpu.upload(&image) } else { gpu.upload(&narrow) };
    for seed in [None, Some(6)] {
        gpu.run("k", [1, 1, 1], [32, 1, 1], &[U64(at)], &Options { seed, ..Options::default() });
        let out: Vec<u64> = if c.wide {
            gpu.download(at, 32 * 64)
        } else {
            gpu.download::<u32>(at, 32 * 64).into_iter().map(u64::from).collect()
        };
        for l in 0..32 {
            for r in 0..nc {
                let (row, col) = (l / 4 + 8 * (r / 2), 2 * (l % 4) + r % 2);
                // Every sum here is a small integer: exact in any order and any of the formats.
                let product = |i: usize| match c.bits {
                    1 => (a[row * k + i] ^ b[i * n + col]) as f64,
                    _ => f64::from(a[row * k + i]) * f64::from(b[i * n + col]),
                };
                let sum: f64 = (0..k).map(product).sum::<f64>() + f64::from(acc[row * n + col]);
                assert_eq!(out[l * 64 + 48 + r], (c.out)(sum), "{} at ({row}, {col})", c.name);
            }
        }
    }
}

#[test]
fn every_shape() {
    let half = |x: i32| u64::from(f16::from_f32(x as f32).to_bits());
    let brain = |x: i32| u64::from(bf16::from_f32(x as f32).to_bits());
    let single = |x: i32| u64::from((x as f32).to_bits());
    let float = |x: f64| u64::from((x as f32).to_bits());
    let int = |x: f64| u64::from(x as i32 as u32);
    let byte = |x: i32| u64::from(x as u8);
    let nibble = |x: i32| (x & 15) as u64;
    let case =
        |name, m, k, pack, bits, encode, out| Case { name, m, k, pack, wide: false, encode, bits, out };
    let cases = [
        case(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32",
            16,
            8,
            2,
            16,
            half as fn(i32) -> u64,
            float as fn(f64) -> u64,
        ),
        case("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 16, 16, 2, 16, half, float),
        case("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 16, 8, 2, 16, brain, float),
        case("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, 2, 16, brain, float),
        case("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", 16, 4, 1, 32, single, float),
        case("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 16, 8, 1, 32, single, float),
        case("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32", 8, 16, 4, 8, byte, int),
        case("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32", 16, 16, 4, 8, byte, int),
        case("mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32", 16, 32, 4, 8, byte, int),
        case("mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32", 8, 32, 8, 4, nibble, int),
        case("mma.sync.aligned.m16n8k32.row.col.s32.s4.s4.s32", 16, 32, 8, 4, nibble, int),
        case("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32", 16, 64, 8, 4, nibble, int),
        case("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc", 8, 128, 32, 1, nibble, int),
        case("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.xor.popc", 16, 128, 32, 1, nibble, int),
        case("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc", 16, 256, 32, 1, nibble, int),
        Case {
            name: "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64",
            m: 8,
            k: 4,
            pack: 1,
            wide: true,
            encode: |x| f64::from(x).to_bits(),
            bits: 64,
            out: f64::to_bits,
        },
    ];
    cases.iter().for_each(run);
}

/// `wmma`: load, multiply, store through memory, for the three f16 shapes and both orders of A and B.
#[test]
fn wmma_round_trip() {
    for (shape, m, n) in [("m16n16k16", 16, 16), ("m32n8k16", 32, 8), ("m8n32k16", 8, 32)] {
        for (la, lb) in [("row", "col"), ("col", "row"), ("row", "row")] {
            let k = 16;
            let (sa, sb) = (if la == "row" { k } else { m }, if lb == "row" { n } else { k });
            let source = format!(
                ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c)\n{{\n\
                 .reg .b32 %a<8>, %b<8>;\n.reg .f32 %c<8>;\n.reg .b64 %rd<4>;\n\
                 ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nld.param.u64 %rd3, [c];\n\
                 wmma.load.a.sync.aligned.{la}.{shape}.global.f16 {{{a}}}, [%rd1], {sa};\n\
                 wmma.load.b.sync.aligned.{lb}.{shape}.global.f16 {{{b}}}, [%rd2], {sb};\n\
                 wmma.load.c.sync.aligned.row.{shape}.global.f32 {{{c}}}, [%rd3], {n};\n\
                 wmma.mma.sync.aligned.{la}.{lb}.{shape}.f32.f32 {{{c}}}, {{{a}}}, {{{b}}}, {{{c}}};\n\
                 wmma.store.d.sync.aligned.row.{shape}.global.f32 [%rd3], {{{c}}}, {n};\nret;\n}}\n",
                a = registers(8, "a"),
                b = registers(8, "b"),
                c = registers(8, "c")
            );
            let mut random = Random(7);
            let mut draw =
                |len: usize| (0..len).map(|_| (random.next() % 32) as f32 - 16.0).collect::<Vec<f32>>();
            let (a, b, c) = (draw(m * k), draw(k * n), draw(m * n));
            let bits = |v: &[f32]| v.iter().map(|x| f16::from_f32(*x).to_bits()).collect::<Vec<u16>>();
            let gpu = Gpu::new("wmma", &source);
            let (da, db, dc) = (gpu.upload(&bits(&a)), gpu.upload(&bits(&b)), gpu.upload(&c));
            gpu.run("k", [1, 1, 1], [32, 1, 1], &[U64(da), U64(db), U64(dc)], &Options::default());
            let at_a = |i: usize, x: usize| if la == "row" { a[i * k + x] } else { a[x * m + i] };
            let at_b = |x: usize, j: usize| if lb == "row" { b[x * n + j] } else { b[j * k + x] };
            for (i, got) in gpu.download::<f32>(dc, m * n).into_iter().enumerate() {
                let want = (0..k).map(|x| at_a(i / n, x) * at_b(x, i % n)).sum::<f32>() + c[i];
                assert_eq!(got, want, "{shape} {la} {lb} at {i}");
            }
        }
    }
}
