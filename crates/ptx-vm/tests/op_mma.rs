//! Matrix instructions of every shape against sums on the host: fragments are laid out here as the ISA's figures
//! show them, element by element.
mod kernel_harness;

use half::{bf16, f16};
use kernel_harness::{Arg::*, Gpu, Random, assemble};
use ptx_vm::launch::Options;

/// One instruction, and how elements are packed.
struct Case {
    name: &'static str,
    m: usize,
    k: usize,
    /// Elements of A and B in a register, of C and D in a register.
    pack: usize,
    out_pack: usize,
    wide: bool,
    /// The bits of an element of A and of B.
    encode: [fn(i32) -> u64; 2],
    /// Bits of an element.
    bits: u32,
    /// Elements lie in `-limit..limit`, so that all formats hold them and all sums exactly.
    limit: i32,
    /// What an element of C and D is as bits.
    out: fn(f64) -> u64,
}

fn registers(count: usize, prefix: &str) -> String {
    (0..count).map(|i| format!("%{prefix}{i}")).collect::<Vec<_>>().join(", ")
}

/// Lane and element of a register's part to row and column, as the ISA's figures of 9.7.14.5 show A, B, and C and D.
fn place_a(l: usize, r: usize, i: usize, e: usize) -> (usize, usize) {
    (l / 4 + 8 * (r % 2), e * (l % 4) + i + 4 * e * (r / 2))
}

fn place_b(l: usize, r: usize, i: usize, e: usize) -> (usize, usize) {
    (e * (l % 4) + i + 4 * e * r, l / 4)
}

fn place_c(l: usize, j: usize) -> (usize, usize) {
    (l / 4 + 8 * (j / 2), 2 * (l % 4) + j % 2)
}

/// A kernel that loads a lane's registers from its 64 words (A from 0, B from 16, C from 32) and stores D at 48.
fn kernel(name: &str, kind: &str, counts: [usize; 3]) -> String {
    let size = if kind == "b64" { 8 } else { 4 };
    let [na, nb, nc] = counts;
    let mut body = String::new();
    for (prefix, count, at) in [("a", na, 0), ("b", nb, 16), ("c", nc, 32)] {
        for i in 0..count {
            body += &format!("ld.global.{kind} %{prefix}{i}, [%rd2+{}];\n", size * (at + i));
        }
    }
    body += &format!(
        "{name} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        registers(nc, "d"),
        registers(na, "a"),
        registers(nb, "b"),
        registers(nc, "c")
    );
    for i in 0..nc {
        body += &format!("st.global.{kind} [%rd2+{}], %d{i};\n", size * (48 + i));
    }
    format!(
        ".version 8.7\n.target sm_89\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n.reg .{kind} %a<8>, %b<8>, %c<8>, %d<8>;\n\
         .reg .b32 %r<4>;\n.reg .b64 %rd<4>;\nld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, {};\n\
         add.u64 %rd2, %rd1, %rd2;\n{body}ret;\n}}\n",
        64 * size
    )
}

/// Runs on a warp's image, plainly and under a seed; each image afterwards.
fn launch(source: &str, name: &str, wide: bool, image: &[u64]) -> Vec<Vec<u64>> {
    let run = |seed| {
        let gpu = Gpu::new(name, source);
        let narrow: Vec<u32> = image.iter().map(|x| *x as u32).collect();
        let at = if wide { gpu.upload(image) } else { gpu.upload(&narrow) };
        gpu.run("k", [1, 1, 1], [32, 1, 1], &[U64(at)], &Options { seed, ..Options::default() });
        match wide {
            true => gpu.download(at, image.len()),
            false => gpu.download::<u32>(at, image.len()).into_iter().map(u64::from).collect(),
        }
    };
    [None, Some(6)].map(run).into()
}

fn run(c: &Case) {
    let (m, n, k) = (c.m, 8, c.k);
    let per = 32 * c.pack;
    let (na, nb, nc) = (m * k / per, k * n / per, m * n / 32 / c.out_pack);
    let source = kernel(c.name, if c.wide { "b64" } else { "b32" }, [na, nb, nc]);
    assemble(c.name, &source);
    let mut random = Random(c.k as u64 + c.bits as u64);
    let low = if c.bits == 1 { 0 } else { -c.limit };
    let span = (c.limit - low) as u64;
    let mut draw = |len: usize| (0..len).map(|_| low + (random.next() % span) as i32).collect::<Vec<i32>>();
    let (a, b, acc) = (draw(m * k), draw(k * n), draw(m * n));
    let mut image = vec![0u64; 32 * 64];
    let shift = |i: usize| i as u32 * c.bits;
    for l in 0..32 {
        for (r, i) in (0..na).flat_map(|r| (0..c.pack).map(move |i| (r, i))) {
            let (row, col) = place_a(l, r, i, c.pack);
            image[l * 64 + r] |= (c.encode[0])(a[row * k + col]) << shift(i);
        }
        for (r, i) in (0..nb).flat_map(|r| (0..c.pack).map(move |i| (r, i))) {
            let (row, col) = place_b(l, r, i, c.pack);
            image[l * 64 + 16 + r] |= (c.encode[1])(b[row * n + col]) << shift(i);
        }
        for j in 0..nc * c.out_pack {
            let (row, col) = place_c(l, j);
            let bits = (c.out)(f64::from(acc[row * n + col])) << (j % c.out_pack * 16);
            image[l * 64 + 32 + j / c.out_pack] |= bits;
        }
    }
    for out in launch(&source, c.name, c.wide, &image) {
        for (l, r) in (0..32).flat_map(|l| (0..nc).map(move |r| (l, r))) {
            // Every sum here is a small integer: exact in any order and any of the formats.
            let element = |j: usize| {
                let (row, col) = place_c(l, j);
                let product = |i: usize| match c.bits {
                    1 => (a[row * k + i] ^ b[i * n + col]) as f64,
                    _ => f64::from(a[row * k + i]) * f64::from(b[i * n + col]),
                };
                (c.out)((0..k).map(product).sum::<f64>() + f64::from(acc[row * n + col]))
            };
            let want = (0..c.out_pack).fold(0, |bits, i| bits | element(r * c.out_pack + i) << (16 * i));
            assert_eq!(out[l * 64 + 48 + r], want, "{} in lane {l}, register {r}", c.name);
        }
    }
}

/// A small whole number as a float of 8 bits: sign, `8 - 1 - man` bits of exponent with that bias, `man` of mantissa.
fn byte_float(x: i32, man: u32) -> u64 {
    let bias = (1 << (6 - man)) - 1;
    let magnitude = x.unsigned_abs();
    let Some(top) = magnitude.checked_ilog2() else { return 0 };
    let mantissa = (magnitude << man >> top) & ((1 << man) - 1);
    u64::from(x < 0) << 7 | u64::from((top + bias) << man | mantissa)
}

#[test]
fn every_shape() {
    let half: fn(i32) -> u64 = |x| u64::from(f16::from_f32(x as f32).to_bits());
    let brain: fn(i32) -> u64 = |x| u64::from(bf16::from_f32(x as f32).to_bits());
    let single: fn(i32) -> u64 = |x| u64::from((x as f32).to_bits());
    let byte: fn(i32) -> u64 = |x| u64::from(x as u8);
    let nibble: fn(i32) -> u64 = |x| (x & 15) as u64;
    let e4m3: fn(i32) -> u64 = |x| byte_float(x, 3);
    let e5m2: fn(i32) -> u64 = |x| byte_float(x, 2);
    let float: fn(f64) -> u64 = |x| u64::from((x as f32).to_bits());
    let half_out: fn(f64) -> u64 = |x| u64::from(f16::from_f64(x).to_bits());
    let int: fn(f64) -> u64 = |x| u64::from(x as i32 as u32);
    let case = |name, m, k, bits, encode, out| Case {
        name,
        m,
        k,
        pack: 32 / bits as usize,
        out_pack: 1,
        wide: false,
        encode: [encode; 2],
        bits,
        limit: [60, 8, 2][usize::from(bits == 4) + 2 * usize::from(bits == 1)],
        out,
    };
    let mixed = |name, k, encode: [fn(i32) -> u64; 2]| Case {
        limit: 8,
        encode,
        ..case(name, 16, k, 8, encode[0], float)
    };
    let in_halves = |c: Case| Case { out_pack: 2, limit: 6, out: half_out, ..c };
    let cases = [
        case("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", 16, 8, 16, half, float),
        case("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 16, 16, 16, half, float),
        in_halves(case("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16", 16, 8, 16, half, float)),
        in_halves(case("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", 16, 16, 16, half, float)),
        case("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 16, 8, 16, brain, float),
        case("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, 16, brain, float),
        case("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", 16, 4, 32, single, float),
        case("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 16, 8, 32, single, float),
        mixed("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32", 32, [e4m3, e4m3]),
        mixed("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32", 32, [e4m3, e5m2]),
        mixed("mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32", 32, [e5m2, e4m3]),
        mixed("mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32", 32, [e5m2, e5m2]),
        mixed("mma.sync.aligned.m16n8k16.row.col.f32.e4m3.e5m2.f32", 16, [e4m3, e5m2]),
        in_halves(mixed("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16", 32, [e4m3, e4m3])),
        in_halves(mixed("mma.sync.aligned.m16n8k16.row.col.f16.e5m2.e4m3.f16", 16, [e5m2, e4m3])),
        case("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32", 8, 16, 8, byte, int),
        case("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32", 16, 16, 8, byte, int),
        case("mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32", 16, 32, 8, byte, int),
        case("mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32", 8, 32, 4, nibble, int),
        case("mma.sync.aligned.m16n8k32.row.col.s32.s4.s4.s32", 16, 32, 4, nibble, int),
        case("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32", 16, 64, 4, nibble, int),
        case("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc", 8, 128, 1, nibble, int),
        case("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.xor.popc", 16, 128, 1, nibble, int),
        case("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc", 16, 256, 1, nibble, int),
        Case {
            pack: 1,
            wide: true,
            encode: [|x| f64::from(x).to_bits(); 2],
            limit: 60,
            ..case("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64", 8, 4, 64, half, f64::to_bits)
        },
    ];
    cases.iter().for_each(run);
}

/// `m8n8k4` on f16: four products at once, of the lanes `4 q..4 q + 4` and of those 16 above (ISA 9.7.14.5.1).
#[test]
fn four_small_products() {
    for (la, lb, wide_d, wide_c) in [
        ("row", "col", true, true),
        ("col", "row", true, true),
        ("row", "row", false, false),
        ("col", "col", true, false),
    ] {
        let word = |wide| if wide { "f32" } else { "f16" };
        let name = format!("mma.sync.aligned.m8n8k4.{la}.{lb}.{}.f16.f16.{}", word(wide_d), word(wide_c));
        let (nc, nd) = (if wide_c { 8 } else { 4 }, if wide_d { 8 } else { 4 });
        let source = kernel(&name, "b32", [2, 2, 8])
            .replace(&registers(8, "d"), &registers(nd, "d"))
            .replace(&registers(8, "c"), &registers(nc, "c"));
        assemble(&name, &source);
        let mut random = Random(70);
        let mut draw = |len: usize| (0..len).map(|_| (random.next() % 16) as i32 - 8).collect::<Vec<i32>>();
        let (a, b, c) = (draw(4 * 32), draw(4 * 32), draw(4 * 64));
        let half = |x: i32| u64::from(f16::from_f32(x as f32).to_bits());
        // Element of C and D `j` of a lane: one row a lane in f16, pairs of two rows in f32.
        let place = |l: usize, j: usize, wide: bool| {
            let upper = l / 16 * 4;
            if wide { ((l & 1) + (j & 2) + upper, (j & 4) + (l & 2) + (j & 1)) } else { (l % 4 + upper, j) }
        };
        let mut image = vec![0u64; 32 * 64];
        for l in 0..32 {
            let (quad, line) = (l % 16 / 4, l % 4 + l / 16 * 4);
            for i in 0..4 {
                // Rows of A (columns of B) by lane, or columns of A (rows of B) by lane.
                let (ra, ca) = if la == "row" { (line, i) } else { (i + l / 16 * 4, l % 4) };
                let (rb, cb) = if lb == "col" { (i, line) } else { (l % 4, i + l / 16 * 4) };
                image[l * 64 + i / 2] |= half(a[quad * 32 + ra * 4 + ca]) << (16 * (i % 2));
                image[l * 64 + 16 + i / 2] |= half(b[quad * 32 + rb * 8 + cb]) << (16 * (i % 2));
            }
            for j in 0..8 {
                let (row, col) = place(l, j, wide_c);
                let v = c[quad * 64 + row * 8 + col];
                match wide_c {
                    true => image[l * 64 + 32 + j] = u64::from((v as f32).to_bits()),
                    false => image[l * 64 + 32 + j / 2] |= half(v) << (16 * (j % 2)),
                }
            }
        }
        for out in launch(&source, &name, false, &image) {
            for (l, j) in (0..32).flat_map(|l| (0..8).map(move |j| (l, j))) {
                let (quad, (row, col)) = (l % 16 / 4, place(l, j, wide_d));
                let product = |i: usize| a[quad * 32 + row * 4 + i] * b[quad * 32 + i * 8 + col];
                let want = (0..4).map(product).sum::<i32>() + c[quad * 64 + row * 8 + col];
                let got = match wide_d {
                    true => f32::from_bits(out[l * 64 + 48 + j] as u32),
                    false => f16::from_bits((out[l * 64 + 48 + j / 2] >> (16 * (j % 2))) as u16).to_f32(),
                };
                assert_eq!(got, want as f32, "{name} in lane {l}, element {j}");
            }
        }
    }
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
