//! What real compilers make of ordinary kernels, run under all checks and compared with f64: CUDA C++ by NVRTC
//! (`compilers/kernels.cu`) and Triton (`compilers/kernels.py`), for sm_80 and sm_89.
#[path = "compilers/generate.rs"]
mod generate;
mod kernel_harness;
#[path = "compilers/reference.rs"]
mod reference;

use generate::Made;
use half::{bf16, f16};
use kernel_harness::{Arg, Arg::*, Gpu, Random};
use ptx_vm::launch::{Checks, Options};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Compiled once for all tests.
fn cuda(arch: u32) -> Option<&'static str> {
    static MADE: [OnceLock<Option<String>>; 2] = [const { OnceLock::new() }; 2];
    MADE[usize::from(arch > 80)].get_or_init(|| generate::cuda(arch)).as_deref()
}

fn triton(arch: u32) -> Option<&'static BTreeMap<String, Made>> {
    static MADE: [OnceLock<Option<BTreeMap<String, Made>>>; 2] = [const { OnceLock::new() }; 2];
    MADE[usize::from(arch > 80)].get_or_init(|| generate::triton(arch)).as_ref()
}

/// A kernel on a device of its own, run in one way.
struct Bench<'a> {
    gpu: Gpu,
    entry: &'a str,
    /// Triton's choice of threads and of shared memory.
    threads: u32,
    shared: u32,
    options: Options,
}

impl Bench<'_> {
    fn run(&self, grid: [u32; 3], block: [u32; 3], args: &[Arg]) {
        let run = self.gpu.try_run_shared(self.entry, grid, block, self.shared, args, &self.options);
        run.unwrap_or_else(|fault| panic!("{} {:?}: {fault}", self.entry, self.options));
    }

    /// With the threads that the compiler chose.
    fn run_triton(&self, grid: [u32; 3], args: &[Arg]) {
        self.run(grid, [self.threads, 1, 1], args);
    }

    fn halves(&self, at: u64, len: usize) -> Vec<f32> {
        self.gpu.download::<u16>(at, len).into_iter().map(|bits| f16::from_bits(bits).to_f32()).collect()
    }
}

/// All checks, by the plain schedule and by hostile ones; and no checks.
fn ways() -> Vec<Options> {
    let way =
        |checks, seed| Options { checks, seed, instruction_budget: Some(50_000_000), ..Options::default() };
    let all = [None, Some(1), Some(77), Some(4242)].map(|seed| way(Checks::All, seed));
    all.into_iter().chain([way(Checks::Off, None)]).collect()
}

fn on_cuda(entry: &str, test: impl Fn(&Bench, u32)) {
    for arch in [80, 89] {
        let Some(source) = cuda(arch) else { return };
        for options in ways() {
            let gpu = Gpu::with_poison("kernels.cu", source, options.seed);
            test(&Bench { gpu, entry, threads: 0, shared: 0, options }, arch);
        }
    }
}

fn on_triton(name: &str, entry: &str, archs: &[u32], test: impl Fn(&Bench)) {
    for &arch in archs {
        let Some(all) = triton(arch) else { return };
        let made = &all[name];
        for options in ways() {
            let gpu = Gpu::with_poison(name, &made.source, options.seed);
            test(&Bench { gpu, entry, threads: made.threads, shared: made.shared, options });
        }
    }
}

const BOTH: &[u32] = &[80, 89];

fn draw(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..len).map(|_| random.unit()).collect()
}

/// Numbers that f16, bf16, tf32, e4m3 and e5m2 all hold exactly.
fn coarse(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..len).map(|_| [0.0, 0.25, -0.5, 0.75, 1.0, -1.5, 2.0, -3.0][random.next() as usize % 8]).collect()
}

fn to_f16(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&v| f16::from_f32(v).to_bits()).collect()
}

/// The same numbers after a trip through f16.
fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&v| f16::from_f32(v).to_f32()).collect()
}

fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(error <= tolerance * (1.0 + w.abs()), "{what} at {i}: got {g}, want {w}");
    }
}

/// Sums in f32 against exact ones, each measured by the magnitudes of its terms.
fn assert_product(what: &str, got: &[f32], want: &[(f64, f64)]) {
    for (i, (&g, (w, size))) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= 1e-5 * (size + 1e-3), "{what} at {i}: got {g}, want {w}");
    }
}

#[test]
fn layer_norm_of_both() {
    let (rows, cols, eps) = (3, 516, 1e-5);
    let (x, gain, bias) = (draw(1, rows * cols), draw(2, cols), draw(3, cols));
    let [want, means, rstds] = reference::layer_norm(&x, &gain, &bias, eps);
    let put = |b: &Bench| [&x, &gain, &bias].map(|v| U64(b.gpu.upload(v)));
    on_cuda("layer_norm", |b, _| {
        let ([x, gain, bias], y) = (put(b), b.gpu.room::<f32>(rows * cols));
        let args = [x, gain, bias, U64(y), U32(cols as u32), F32(eps)];
        b.run([rows as u32, 1, 1], [128, 1, 1], &args);
        assert_close("y", &b.gpu.download(y, rows * cols), &want, 2e-6);
    });
    on_triton("layer_norm", "layer_norm", BOTH, |b| {
        let [x, gain, bias] = put(b);
        let (y, mean, rstd) =
            (b.gpu.room::<f32>(rows * cols), b.gpu.room::<f32>(rows), b.gpu.room::<f32>(rows));
        let args = [x, gain, bias, U64(y), U64(mean), U64(rstd), U32(cols as u32), F32(eps)];
        b.run_triton([rows as u32, 1, 1], &args);
        assert_close("y", &b.gpu.download(y, rows * cols), &want, 2e-6);
        assert_close("mean", &b.gpu.download(mean, rows), &means, 1e-6);
        assert_close("rstd", &b.gpu.download(rstd, rows), &rstds, 1e-6);
    });
}

/// Blocks that wait for each other: every row adds to one of two sums behind a spin lock.
#[test]
fn layer_norm_gradient_behind_locks() {
    let (rows, cols, groups) = (7, 200, 2);
    let (x, dy) = (draw(4, rows * cols), draw(5, rows * cols));
    let ones = vec![1.0; cols];
    let [normal, means, rstds] = reference::layer_norm(&x, &ones, &vec![0.0; cols], 1e-5);
    let want =
        |col: usize| (0..rows).map(|r| normal[r * cols + col] * f64::from(dy[r * cols + col])).sum::<f64>();
    let want: Vec<f64> = (0..cols).map(want).collect();
    let narrow = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    on_triton("layer_norm_gain", "layer_norm_gain", BOTH, |b| {
        let [x, dy, mean, rstd] = [&x, &dy, &narrow(&means), &narrow(&rstds)].map(|v| U64(b.gpu.upload(v)));
        let (dgain, [lock, count]) =
            (b.gpu.room::<f32>(groups * cols), [0, 1].map(|_| b.gpu.upload(&[0i32; 2])));
        let args = [x, dy, mean, rstd, U64(dgain), U64(lock), U64(count), U32(cols as u32)];
        b.run_triton([rows as u32, 1, 1], &args);
        let parts: Vec<f32> = b.gpu.download(dgain, groups * cols);
        let sums: Vec<f32> = (0..cols).map(|i| parts[i] + parts[cols + i]).collect();
        assert_close("dgain", &sums, &want, 1e-5);
    });
}

#[test]
fn softmax_of_both() {
    let (rows, cols) = (5, 203);
    let x = rounded(&draw(6, rows * cols).iter().map(|v| v * 8.0).collect::<Vec<_>>());
    let want = reference::softmax(&x, cols);
    let sizes = [U32(rows as u32), U32(cols as u32)];
    let check = |b: &Bench, run: &dyn Fn(&[Arg])| {
        let (from, to) = (b.gpu.upload(&to_f16(&x)), b.gpu.room::<u16>(rows * cols));
        run(&[U64(from), U64(to), sizes[0], sizes[1]]);
        let got = b.halves(to, rows * cols);
        // Rounded to 11 bits; below 2^-14 to multiples of 2^-24.
        let fine = |(g, w): (&f32, &f64)| (f64::from(*g) - w).abs() <= w / 2000.0 + 6e-8;
        assert!(got.iter().zip(&want).all(fine), "{:?}", b.options);
    };
    on_cuda("softmax", |b, _| check(b, &|args| b.run([2, 1, 1], [128, 1, 1], args)));
    on_triton("softmax", "softmax", BOTH, |b| check(b, &|args| b.run_triton([2, 1, 1], args)));
}

#[test]
fn products_in_cuda() {
    let (m, n, k) = (45, 70, 51);
    let (a, b) = (draw(7, m * k), draw(8, k * n));
    let want = reference::matmul(&a, &b, n, k);
    for (entry, grid, block) in
        [("matmul_plain", [5, 6, 1], [16, 8, 1]), ("matmul_tiled", [3, 2, 1], [32, 8, 1])]
    {
        on_cuda(entry, |bench, _| {
            let (da, db, dc) = (bench.gpu.upload(&a), bench.gpu.upload(&b), bench.gpu.room::<f32>(m * n));
            let args = [U64(da), U64(db), U64(dc), U32(m as u32), U32(n as u32), U32(k as u32)];
            bench.run(grid, block, &args);
            assert_product(entry, &bench.gpu.download(dc, m * n), &want);
        });
    }
}

#[test]
fn tensor_cores_in_cuda() {
    let (m, n, k) = (64, 32, 96);
    let (a, b) = (rounded(&draw(9, m * k)), rounded(&draw(10, k * n)));
    let want = reference::matmul(&a, &b, n, k);
    on_cuda("matmul_wmma", |bench, _| {
        let (da, db) = (bench.gpu.upload(&to_f16(&a)), bench.gpu.upload(&to_f16(&b)));
        let dc = bench.gpu.room::<f32>(m * n);
        let args = [U64(da), U64(db), U64(dc), U32(m as u32), U32(n as u32), U32(k as u32)];
        bench.run([1, 2, 1], [128, 1, 1], &args);
        assert_product("matmul_wmma", &bench.gpu.download(dc, m * n), &want);
    });
}

/// One kernel in Triton, six types of elements.
#[test]
fn products_in_triton() {
    let (m, n, k) = (48, 80, 112);
    let (a, b) = (coarse(11, m * k), coarse(12, k * n));
    let want = reference::matmul(&a, &b, n, k);
    type Encode = fn(f32) -> Vec<u8>;
    let cases: [(&str, Encode, &[u32]); 6] = [
        ("matmul_f16", |v| f16::from_f32(v).to_le_bytes().into(), BOTH),
        ("matmul_bf16", |v| bf16::from_f32(v).to_le_bytes().into(), BOTH),
        ("matmul_tf32", |v| v.to_le_bytes().into(), BOTH),
        // Quarters, so that they are whole numbers.
        ("matmul_i8", |v| vec![(4.0 * v) as i8 as u8], BOTH),
        ("matmul_e4m3", |v| vec![e4m3(v)], &[89]),
        ("matmul_e5m2", |v| vec![f16::from_f32(v).to_le_bytes()[1]], BOTH),
    ];
    for (name, encode, archs) in cases {
        let bytes = |x: &[f32]| x.iter().flat_map(|&v| encode(v)).collect::<Vec<u8>>();
        on_triton(name, "matmul", archs, |bench| {
            let (da, db) = (bench.gpu.upload(&bytes(&a)), bench.gpu.upload(&bytes(&b)));
            let dc = bench.gpu.room::<f32>(m * n);
            let sizes = [m, n, k, k, n, n].map(|x| U32(x as u32));
            bench.run_triton([2 * 3, 1, 1], &[&[U64(da), U64(db), U64(dc)], &sizes[..]].concat());
            let got: Vec<f32> = if name == "matmul_i8" {
                bench.gpu.download::<i32>(dc, m * n).iter().map(|&sum| sum as f32 / 16.0).collect()
            } else {
                bench.gpu.download(dc, m * n)
            };
            assert_product(name, &got, &want);
        });
    }
}

/// The e4m3 of a number that it holds: sign, four bits of exponent with bias 7, three of mantissa.
fn e4m3(v: f32) -> u8 {
    let (sign, bits) = ((v.to_bits() >> 24 & 0x80) as u8, v.abs().to_bits());
    if bits == 0 { sign } else { sign | ((bits >> 20) - ((127 - 7) << 3)) as u8 }
}

#[test]
fn causal_attention_of_both() {
    let (len, d, heads) = (77, 64, 2);
    let scale = 0.125;
    let parts: Vec<[Vec<f32>; 3]> = (0..heads)
        .map(|h| {
            [0, 1, 2]
                .map(|i| rounded(&draw(20 + 3 * h + i, len * d).iter().map(|v| 3.0 * v).collect::<Vec<_>>()))
        })
        .collect();
    let want: Vec<_> = parts.iter().map(|[q, k, v]| reference::attention(q, k, v, d, scale)).collect();
    on_cuda("attention", |b, _| {
        let [q, k, v] = parts[0].each_ref().map(|x| U64(b.gpu.upload(x)));
        let o = b.gpu.room::<f32>(len * d);
        b.run([2, 1, 1], [64, 1, 1], &[q, k, v, U64(o), U32(len as u32), F32(scale)]);
        assert_close("o", &b.gpu.download(o, len * d), &want[0][0], 1e-5);
    });
    on_triton("attention", "attention", BOTH, |b| {
        let side = |i: usize| parts.iter().flat_map(|p| to_f16(&p[i])).collect::<Vec<u16>>();
        let [q, k, v] = [0, 1, 2].map(|i| U64(b.gpu.upload(&side(i))));
        let (o, lse) = (b.gpu.room::<u16>(heads as usize * len * d), b.gpu.room::<f32>(heads as usize * len));
        b.run_triton([3, heads as u32, 1], &[q, k, v, U64(o), U64(lse), U32(len as u32), F32(scale)]);
        let (o, lse) =
            (b.halves(o, heads as usize * len * d), b.gpu.download::<f32>(lse, heads as usize * len));
        for (h, [out, logs]) in want.iter().enumerate() {
            // Weights and results are rounded to f16.
            assert_close("o", &o[h * len * d..][..len * d], out, 2e-3);
            assert_close("lse", &lse[h * len..][..len], logs, 1e-5);
        }
    });
}

/// Recursion, function pointers, a switch, local arrays.
#[test]
fn the_rest_of_cuda() {
    #[repr(C)]
    #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
    struct Node {
        weight: f64,
        left: i16,
        right: i16,
        pad: u32,
    }
    let node = |i: i16| Node {
        weight: f64::from(i) + 0.125,
        left: if 2 * i + 1 < 7 { 2 * i + 1 } else { -1 },
        right: if 2 * i + 2 < 7 { 2 * i + 2 } else { -1 },
        pad: 0,
    };
    let tree: Vec<Node> = (0..7).map(node).collect();
    fn walk(tree: &[Node], at: i16) -> f64 {
        let Ok(at) = usize::try_from(at) else { return 0.0 };
        tree[at].weight + walk(tree, tree[at].left) + walk(tree, tree[at].right)
    }
    let digits: Vec<i32> = (0..23).map(|i| i * i % 17).collect();
    let want = |t: usize| {
        let mut count = [0i32; 10];
        for i in 0..digits.len() {
            count[digits[(t + i) % digits.len()] as usize % 10] += i as i32 + 1;
        }
        let c = count[t % 10] as f32;
        let (f, w) = (if t.is_multiple_of(2) { 2.0 * c } else { c * c }, walk(&tree, (t % 7) as i16));
        let t = t as u32;
        match t % 5 {
            0 => f + w as f32,
            1 => f - w as f32,
            2 => f + w.sqrt() as f32,
            3 => f + (t.count_ones() + t.leading_zeros() + t.reverse_bits() % 1000) as f32,
            _ => f + ((w * 1e6) as i64 % 1_000_003) as f32,
        }
    };
    on_cuda("language", |b, _| {
        let (tree, digits_at, out) = (b.gpu.upload(&tree), b.gpu.upload(&digits), b.gpu.room::<f32>(96));
        b.run([1, 1, 1], [96, 1, 1], &[U64(tree), U64(digits_at), U64(out), U32(digits.len() as u32)]);
        assert_eq!(b.gpu.download::<f32>(out, 96), (0..96).map(want).collect::<Vec<f32>>());
    });
}

/// Registers that nothing wrote are in this code, and none of them decides anything.
#[test]
fn what_cuda_leaves_unset() {
    let x = coarse(15, 20);
    let want = |t: usize| {
        let mut y = 2.0 * x[t % 8];
        (1..t).for_each(|i| y += x[(i - 1) % 8] * 0.5);
        if !t.is_multiple_of(3) {
            let at = (1..t % 3).fold(0, |best, i| if x[i] > x[best] { i } else { best });
            y += x[at] + at as f32;
        }
        if t < x.len() {
            y += x[t] * 2.0 + 1.0;
        }
        if t % 2 == 1 { y + f32::from(f16::from_f32(y).to_bits()) } else { y }
    };
    on_cuda("unset", |b, _| {
        let (from, to) = (b.gpu.upload(&x), b.gpu.room::<f32>(64));
        b.run([1, 1, 1], [64, 1, 1], &[U64(from), U64(to), U32(x.len() as u32)]);
        assert_eq!(b.gpu.download::<f32>(to, 64), (0..64).map(want).collect::<Vec<f32>>());
    });
}

#[test]
fn atomics_in_cuda() {
    let x: Vec<i32> = (0..150).map(|i| i * 37 % 101).collect();
    let sum: i32 = x.iter().sum();
    let mut ints = [0; 16];
    ints[..5].copy_from_slice(&[
        sum,
        -5,
        100,
        x.iter().fold(0, |all, v| all ^ v),
        x.iter().map(|v| v % 3).sum(),
    ]);
    x.iter().for_each(|v| ints[8 + *v as usize % 8] += 1);
    on_cuda("atomics", |b, _| {
        let (f, d, u) = (b.gpu.upload(&[0f32]), b.gpu.upload(&[0f64]), b.gpu.upload(&[0u64]));
        let mut first = [0i32; 16];
        first[1] = -5;
        let (i, h, bf) = (b.gpu.upload(&first), b.gpu.upload(&[0u32]), b.gpu.upload(&[0u32]));
        let args = [b.gpu.upload(&x), f, d, i, u, h, bf].map(U64);
        b.run([3, 1, 1], [64, 1, 1], &[&args[..], &[U32(x.len() as u32)]].concat());
        assert_eq!(b.gpu.download::<f32>(f, 1), [sum as f32]);
        assert_eq!(b.gpu.download::<f64>(d, 1), [f64::from(sum) * 0.5]);
        assert_eq!(b.gpu.download::<u64>(u, 1), [sum as u64 * 1_000_000_007]);
        assert_eq!(b.gpu.download::<i32>(i, 16), ints);
        let halves = [x.iter().map(|v| v % 4).sum::<i32>() as f32, x.len() as f32];
        assert_eq!(b.gpu.download::<u16>(h, 2), to_f16(&halves));
        let odd = x.iter().filter(|v| *v % 2 == 1).count();
        assert_eq!(b.gpu.download::<u16>(bf, 2), [bf16::from_f32(odd as f32).to_bits(), 0]);
    });
}

#[test]
fn bytes_in_cuda() {
    let x: Vec<f32> = coarse(13, 64).iter().map(|v| v * 16.0).collect();
    on_cuda("round_to_bytes", |b, arch| {
        if arch < 89 {
            return;
        }
        let (from, small, back) = (b.gpu.upload(&x), b.gpu.room::<u8>(64), b.gpu.room::<f32>(64));
        b.run([1, 1, 1], [64, 1, 1], &[U64(from), U64(small), U64(back)]);
        assert_eq!(b.gpu.download::<u8>(small, 64), x.iter().map(|&v| e4m3(v)).collect::<Vec<u8>>());
        assert_eq!(b.gpu.download::<f32>(back, 64), x.iter().map(|v| 2.0 * v).collect::<Vec<f32>>());
    });
}

#[test]
fn the_rest_of_triton() {
    let n = 256;
    let mut random = Random(14);
    let x: Vec<i32> = (0..n).map(|_| random.next() as i32).collect();
    let sums: Vec<i32> = x
        .iter()
        .scan(0i32, |sum, v| {
            *sum = sum.wrapping_add(*v);
            Some(*sum)
        })
        .collect();
    let mut sorted = x.clone();
    sorted.sort_unstable();
    let mut counts = [0; 16];
    x.iter().for_each(|v| counts[(v & 15) as usize] += 1);
    let kept: Vec<i32> =
        (0..n).map(|i| if reference::philox(99, i as u32) < 0.25 { x[n - 1 - i] } else { 0 }).collect();
    on_triton("language", "language", BOTH, |b| {
        let [s, o, k] = [(); 3].map(|()| b.gpu.room::<i32>(n));
        let c = b.gpu.upload(&[0i32; 16]);
        b.run_triton([1, 1, 1], &[U64(b.gpu.upload(&x)), U64(s), U64(o), U64(c), U64(k), U32(99)]);
        assert_eq!(b.gpu.download::<i32>(s, n), sums);
        assert_eq!(b.gpu.download::<i32>(o, n), sorted);
        assert_eq!(b.gpu.download::<i32>(c, 16), counts);
        assert_eq!(b.gpu.download::<i32>(k, n), kept);
    });
}
