//! Whole kernels as people write them, run every way the machine has and compared with the host.
mod kernel_harness;

use half::f16;
use kernel_harness::{Arg::*, Gpu, Random, assemble, every_way};
use ptx_vm::launch::{Checks, Options};

const VECTOR_ADD: &str = include_str!("kernels/vector_add.ptx");
const TILED_GEMM: &str = include_str!("kernels/tiled_gemm.ptx");
const SHUFFLE_REDUCE: &str = include_str!("kernels/shuffle_reduce.ptx");
const DIVERGENT_LOOPS: &str = include_str!("kernels/divergent_loops.ptx");
const NESTED_DIVERGENCE: &str = include_str!("kernels/nested_divergence.ptx");
const HISTOGRAM: &str = include_str!("kernels/histogram.ptx");
const SCAN: &str = include_str!("kernels/single_pass_scan.ptx");
const TENSOR_GEMM: &str = include_str!("kernels/tensor_gemm.ptx");
const RECURSION: &str = include_str!("kernels/recursion.ptx");

#[test]
fn the_assembler_accepts_every_kernel() {
    let all = [
        ("vector_add", VECTOR_ADD),
        ("tiled_gemm", TILED_GEMM),
        ("shuffle_reduce", SHUFFLE_REDUCE),
        ("divergent_loops", DIVERGENT_LOOPS),
        ("nested_divergence", NESTED_DIVERGENCE),
        ("histogram", HISTOGRAM),
        ("single_pass_scan", SCAN),
        ("tensor_gemm", TENSOR_GEMM),
        ("recursion", RECURSION),
    ];
    for (name, source) in all {
        assemble(name, source);
    }
}

#[test]
fn vector_add() {
    let n = 1000;
    for options in every_way() {
        let gpu = Gpu::with_poison("vector_add", VECTOR_ADD, options.seed);
        let mut random = Random(1);
        let a: Vec<f32> = (0..n).map(|_| random.unit()).collect();
        let b: Vec<f32> = (0..n).map(|_| random.unit()).collect();
        let (da, db, dc) = (gpu.upload(&a), gpu.upload(&b), gpu.room::<f32>(n));
        let args = [U64(da), U64(db), U64(dc), U32(n as u32)];
        let counters = gpu.run("vector_add", [8, 1, 1], [128, 1, 1], &args, &options);
        let c: Vec<f32> = gpu.download(dc, n);
        assert!((0..n).all(|i| c[i] == a[i] + b[i]));
        assert_eq!((counters.global_loads.bytes, counters.global_stores.bytes), (8000, 4000));
        if options.seed.is_none() {
            assert_eq!((counters.global_loads.sectors, counters.global_stores.sectors), (250, 125));
            assert_eq!(counters.global_loads.efficiency(), 1.0);
        }
    }
}

#[test]
fn tiled_gemm() {
    let (m, n, k) = (32, 48, 64);
    for options in every_way() {
        let gpu = Gpu::with_poison("tiled_gemm", TILED_GEMM, options.seed);
        let mut random = Random(2);
        let a: Vec<f32> = (0..m * k).map(|_| random.unit()).collect();
        let b: Vec<f32> = (0..k * n).map(|_| random.unit()).collect();
        let (da, db, dc) = (gpu.upload(&a), gpu.upload(&b), gpu.room::<f32>(m * n));
        let args = [U64(da), U64(db), U64(dc), U32(n as u32), U32(k as u32)];
        let grid = [n as u32 / 16, m as u32 / 16, 1];
        let counters = gpu.run("tiled_gemm", grid, [16, 16, 1], &args, &options);
        let c: Vec<f32> = gpu.download(dc, m * n);
        for (i, got) in c.iter().enumerate() {
            // The kernel adds in ascending depth with fused multiply-adds, which the host can repeat.
            let want = (0..k).fold(0f32, |s, x| a[i / n * k + x].mul_add(b[x * n + i % n], s));
            assert_eq!(*got, want);
        }
        if options.seed.is_none() {
            assert_eq!(counters.shared_loads.conflicts, 0);
            assert_eq!(counters.barriers, 6 * 8 * 4 * 2);
        }
    }
}

#[test]
fn shuffle_reduce() {
    for options in every_way() {
        let gpu = Gpu::with_poison("shuffle_reduce", SHUFFLE_REDUCE, options.seed);
        let input: Vec<f32> = (0..1024).map(|i| (i % 37) as f32).collect();
        let (di, dout) = (gpu.upload(&input), gpu.room::<f32>(4));
        gpu.run("shuffle_reduce", [4, 1, 1], [256, 1, 1], &[U64(di), U64(dout)], &options);
        let want: Vec<f32> = input.chunks(256).map(|c| c.iter().sum()).collect();
        assert_eq!(gpu.download::<f32>(dout, 4), want);
    }
}

#[test]
fn divergent_loops() {
    let steps = |mut x: u32, limit: u32| {
        for count in 0..=limit {
            if x == 1 {
                return count;
            }
            x = if x.is_multiple_of(2) { x / 2 } else { 3 * x + 1 };
        }
        u32::MAX
    };
    let n = 300;
    for options in every_way() {
        let gpu = Gpu::with_poison("divergent_loops", DIVERGENT_LOOPS, options.seed);
        let input: Vec<u32> = (1..=n).collect();
        let (di, dout) = (gpu.upload(&input), gpu.room::<u32>(n as usize));
        let args = [U64(di), U64(dout), U32(n), U32(80)];
        let counters = gpu.run("divergent_loops", [5, 1, 1], [64, 1, 1], &args, &options);
        let want: Vec<u32> = input.iter().map(|&x| steps(x, 80)).collect();
        assert_eq!(gpu.download::<u32>(dout, n as usize), want);
        if options.seed.is_none() {
            // Lanes meet again at the store: one request per warp and path through the store.
            assert_eq!(counters.global_stores.requests, 10);
        }
    }
}

#[test]
fn nested_divergence() {
    let rounds = 9;
    let mut cells: Vec<u32> = (0..128).collect();
    for _ in 0..rounds {
        let old = cells.clone();
        for (i, x) in cells.iter_mut().enumerate() {
            let y = old[(i + 1) % 128];
            *x = match *x & 3 {
                0 if y < 64 && y.is_multiple_of(2) => *x ^ y,
                0 if y < 64 => x.wrapping_mul(5).wrapping_add(y),
                0 => x.wrapping_add(y),
                1 => y.wrapping_sub(*x),
                2 => *x + 7 * ((y & 7) + 1),
                _ => !*x,
            } & 1023;
        }
    }
    for options in every_way() {
        let gpu = Gpu::with_poison("nested_divergence", NESTED_DIVERGENCE, options.seed);
        let out = gpu.room::<u32>(128);
        gpu.run("nested_divergence", [1, 1, 1], [128, 1, 1], &[U64(out), U32(rounds)], &options);
        assert_eq!(gpu.download::<u32>(out, 128), cells, "{options:?}");
    }
}

#[test]
fn histogram() {
    let n = 5000;
    for options in every_way() {
        let gpu = Gpu::with_poison("histogram", HISTOGRAM, options.seed);
        let mut random = Random(3);
        let input: Vec<u32> = (0..n).map(|_| random.next() as u32).collect();
        let (di, bins) = (gpu.upload(&input), gpu.upload(&[0u32; 64]));
        let counters = gpu.run("histogram", [7, 1, 1], [96, 1, 1], &[U64(di), U64(bins), U32(n)], &options);
        let mut want = [0u32; 64];
        input.iter().for_each(|x| want[(x & 63) as usize] += 1);
        assert_eq!(gpu.download::<u32>(bins, 64), want);
        assert_eq!(counters.shared_atomics, u64::from(n));
    }
}

#[test]
fn single_pass_scan() {
    let blocks = 9;
    let n = blocks * 128;
    for options in every_way() {
        let gpu = Gpu::with_poison("single_pass_scan", SCAN, options.seed);
        let input: Vec<u32> = (0..n as u32).map(|i| i * 7 % 13).collect();
        let (di, dout) = (gpu.upload(&input), gpu.room::<u32>(n));
        let (descriptors, ticket) = (gpu.upload(&vec![0u64; blocks]), gpu.upload(&[0u32]));
        let args = [U64(di), U64(dout), U64(descriptors), U64(ticket)];
        gpu.run("single_pass_scan", [blocks as u32, 1, 1], [128, 1, 1], &args, &options);
        let mut sum = 0;
        let want: Vec<u32> = input
            .iter()
            .map(|x| {
                sum += x;
                sum
            })
            .collect();
        assert_eq!(gpu.download::<u32>(dout, n), want);
    }
}

#[test]
fn tensor_gemm() {
    let (m, n, k) = (64, 64, 128);
    for options in every_way() {
        let gpu = Gpu::with_poison("tensor_gemm", TENSOR_GEMM, options.seed);
        let mut random = Random(5);
        let a: Vec<f16> = (0..m * k).map(|_| f16::from_f32(random.unit())).collect();
        let b: Vec<f16> = (0..k * n).map(|_| f16::from_f32(random.unit())).collect();
        let bits = |v: &[f16]| v.iter().map(|x| x.to_bits()).collect::<Vec<u16>>();
        let (da, db, dc) = (gpu.upload(&bits(&a)), gpu.upload(&bits(&b)), gpu.room::<f32>(m * n));
        let args = [U64(da), U64(db), U64(dc), U32(n as u32), U32(k as u32)];
        let grid = [n as u32 / 32, m as u32 / 64, 1];
        let counters = gpu.run("tensor_gemm", grid, [128, 1, 1], &args, &options);
        let c: Vec<f32> = gpu.download(dc, m * n);
        for (i, got) in c.iter().enumerate() {
            let terms = (0..k).map(|x| a[i / n * k + x].to_f64() * b[x * n + i % n].to_f64());
            let (sum, size) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
            // The bound of the mma documentation in `mma`: k 2^-24 times the sum of magnitudes.
            assert!((f64::from(*got) - sum).abs() <= k as f64 * 2f64.powi(-24) * size, "{i}: {got} {sum}");
        }
        if options.seed.is_none() {
            assert_eq!(counters.mma["m16n8k16.f32.f16.f16.f32"], 2 * 4 * 4 * 8);
            assert_eq!(counters.mma_macs, (m * n * k) as u64);
            // The padding serves ldmatrix; the copies' chunks of two rows overlap on four banks.
            assert_eq!(counters.shared_loads.conflicts, 0);
            assert_eq!(counters.shared_stores.conflicts, counters.shared_stores.requests * 4);
            assert!(counters.mma_share() > 0.15, "{}", counters.mma_share());
        }
    }
}

#[test]
fn recursion() {
    fn fibonacci(n: u32) -> u32 {
        if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) }
    }
    fn ackermann(m: u32, n: u32) -> u32 {
        match (m, n) {
            (0, n) => n + 1,
            (m, 0) => ackermann(m - 1, 1),
            (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
        }
    }
    let want: Vec<u32> =
        (0..64).map(|i| (fibonacci(i % 12) + ackermann(2, i % 4)) * if i % 2 == 0 { 2 } else { 3 }).collect();
    for options in every_way() {
        let gpu = Gpu::with_poison("recursion", RECURSION, options.seed);
        let out = gpu.room::<u32>(64);
        gpu.run("recursion", [1, 1, 1], [64, 1, 1], &[U64(out)], &options);
        assert_eq!(gpu.download::<u32>(out, 64), want, "{options:?}");
    }
}

/// The same counters and results whatever the number of threads.
#[test]
fn threads_change_nothing() {
    let run = |threads, seed| {
        let gpu = Gpu::with_poison("tensor_gemm", TENSOR_GEMM, seed);
        let halves = |s| {
            let mut r = Random(s);
            (0..128 * 128).map(|_| f16::from_f32(r.unit()).to_bits()).collect::<Vec<u16>>()
        };
        let (a, b, c) = (gpu.upload(&halves(1)), gpu.upload(&halves(2)), gpu.room::<f32>(128 * 128));
        let options = Options { checks: Checks::Memory, seed, threads, ..Options::default() };
        let args = [U64(a), U64(b), U64(c), U32(128), U32(128)];
        let counters = gpu.run("tensor_gemm", [4, 2, 1], [128, 1, 1], &args, &options);
        (counters, gpu.download::<u32>(c, 128 * 128))
    };
    for seed in [None, Some(3), Some(8)] {
        let one = run(1, seed);
        assert_eq!(one, run(2, seed));
        assert_eq!(one, run(5, seed));
    }
}

/// Results in registers, as many as there are: a quotient and a remainder.
#[test]
fn several_results() {
    let source = ".version 8.0\n.target sm_80\n.address_size 64\n
        .func (.reg .u32 q, .reg .u32 r) divide(.reg .u32 a, .reg .u32 b) {
            div.u32 q, a, b; rem.u32 r, a, b; ret; }
        .visible .entry k(.param .u64 out) {
            .reg .u32 %r<4>; .reg .u64 %rd<3>;
            ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; call (%r2, %r3), divide, (%r1, 7);
            mul.wide.u32 %rd2, %r1, 8; add.u64 %rd1, %rd1, %rd2; st.global.v2.u32 [%rd1], {%r2, %r3}; ret; }";
    assemble("several_results", source);
    let want: Vec<u32> = (0..32).flat_map(|i| [i / 7, i % 7]).collect();
    for options in every_way() {
        let gpu = Gpu::with_poison("several_results", source, options.seed);
        let out = gpu.room::<u32>(64);
        gpu.run("k", [1, 1, 1], [32, 1, 1], &[U64(out)], &options);
        assert_eq!(gpu.download::<u32>(out, 64), want, "{options:?}");
    }
}
