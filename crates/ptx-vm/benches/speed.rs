//! How fast kernels run: lane-operations per second of processor time on one thread, with checks off, on memory, on
//! everything; and how blocks scale over threads, in wall time (the groups `threads_*`).
//!
//! Throughput is in lane-operations (one instruction in one lane); for the matrix kernel in multiply-adds.
#![allow(missing_docs)] // criterion's macros
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ptx_vm::counters::Counters;
use ptx_vm::launch::{Checks, Launch, Options, launch};
use ptx_vm::memory::Memory;
use ptx_vm::module::{Loaded, Module};
use std::time::{Duration, Instant};

/// A kernel of `n` instructions `op` in a loop, four chains deep.
fn straight_line(op: &str) -> String {
    let body: String =
        (0..64).map(|i| format!("    {}\n", op.replace('#', &(i % 4 + 1).to_string()))).collect();
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u32 n)\n{{\n\
         .reg .pred %p; .reg .f32 %f<8>; .reg .b32 %r<4>; .reg .b64 %rd<4>;\n\
         ld.param.u64 %rd1, [out]; ld.param.u32 %r1, [n]; mov.u32 %r2, %tid.x; cvt.rn.f32.u32 %f1, %r2;\n\
         mov.f32 %f2, 0f3f000000; mov.f32 %f3, 0f3e000000; mov.f32 %f4, 0f3f800000; mov.f32 %f5, 0f3f7fffff;\n\
         LOOP:\n{body}    sub.u32 %r1, %r1, 1; setp.ne.u32 %p, %r1, 0; @%p bra LOOP;\n\
         mov.u32 %r3, %ctaid.x; mad.lo.u32 %r2, %r3, 256, %r2; mul.wide.u32 %rd2, %r2, 4; add.u64 %rd2, %rd1, %rd2; add.f32 %f1, %f1, %f2; add.f32 %f3, %f3, %f4;\n\
         add.f32 %f1, %f1, %f3; st.global.f32 [%rd2], %f1; ret;\n}}\n"
    )
}

const COPY: &str = ".version 7.8\n.target sm_80\n.address_size 64\n\
    .visible .entry k(.param .u64 to, .param .u64 from)\n{\n\
    .reg .f32 %f<5>; .reg .b32 %r<5>; .reg .b64 %rd<6>;\n\
    ld.param.u64 %rd1, [to]; ld.param.u64 %rd2, [from]; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x;\n\
    mov.u32 %r3, %tid.x; mad.lo.u32 %r4, %r1, %r2, %r3; mul.wide.u32 %rd3, %r4, 16; add.u64 %rd4, %rd1, %rd3;\n\
    add.u64 %rd5, %rd2, %rd3; ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd5];\n\
    st.global.v4.f32 [%rd4], {%f1, %f2, %f3, %f4}; ret;\n}\n";

struct Case {
    name: &'static str,
    source: String,
    entry: &'static str,
    launch: fn(&Memory) -> Launch,
    /// The unit of work in a launch's counters.
    work: fn(&Counters) -> u64,
}

fn params(values: &[u64], words: &[u32]) -> Vec<u8> {
    let mut out: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    out.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    out
}

fn filled(memory: &Memory, bytes: usize) -> u64 {
    let at = memory.alloc(bytes, 256).expect("room");
    memory.fill(at, &[0], bytes).expect("inside");
    at
}

fn lane_operations(c: &Counters) -> u64 {
    c.instructions.values().map(|e| e.lanes).sum()
}

fn arithmetic(memory: &Memory) -> Launch {
    let params = params(&[filled(memory, 1024 * 32)], &[25]);
    Launch { grid: [32, 1, 1], block: [256, 1, 1], params, ..Launch::default() }
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "fma",
            source: straight_line("fma.rn.f32 %f#, %f#, %f5, %f5;"),
            entry: "k",
            launch: arithmetic,
            work: lane_operations,
        },
        Case {
            name: "add_ftz",
            source: straight_line("add.ftz.f32 %f#, %f#, %f5;"),
            entry: "k",
            launch: arithmetic,
            work: lane_operations,
        },
        Case {
            name: "exp2",
            source: straight_line("ex2.approx.f32 %f#, %f5;"),
            entry: "k",
            launch: arithmetic,
            work: lane_operations,
        },
        Case {
            name: "copy",
            source: COPY.into(),
            entry: "k",
            launch: |memory| {
                let bytes = 16 * 256 * 512;
                let params = params(&[filled(memory, bytes), filled(memory, bytes)], &[]);
                Launch { grid: [512, 1, 1], block: [256, 1, 1], params, ..Launch::default() }
            },
            work: lane_operations,
        },
        Case {
            name: "shared_gemm",
            source: include_str!("../tests/kernels/tiled_gemm.ptx").into(),
            entry: "tiled_gemm",
            launch: |memory| {
                let m = |memory| filled(memory, 4 * 128 * 128);
                let params = params(&[m(memory), m(memory), m(memory)], &[128, 128]);
                Launch { grid: [8, 8, 1], block: [16, 16, 1], params, ..Launch::default() }
            },
            work: lane_operations,
        },
        Case {
            name: "mma_gemm",
            source: include_str!("../tests/kernels/tensor_gemm.ptx").into(),
            entry: "tensor_gemm",
            launch: |memory| {
                let half = |memory| filled(memory, 2 * 256 * 256);
                let params =
                    params(&[half(memory), half(memory), filled(memory, 4 * 256 * 256)], &[256, 256]);
                Launch { grid: [8, 4, 1], block: [128, 1, 1], params, ..Launch::default() }
            },
            work: |c| c.mma_macs,
        },
    ]
}

/// Time that this thread was on a processor so far: what other programs take does not count. Wall time where the
/// system does not say.
fn on_processor(start: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = stat.and_then(|text| text.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn speed(criterion: &mut Criterion) {
    let start = Instant::now();
    for case in cases() {
        let module = Module::compile(case.name, &case.source).expect("the kernel is right");
        let mut group = criterion.benchmark_group(case.name);
        for checks in [Checks::Off, Checks::Memory, Checks::All] {
            let memory = Memory::new(64 << 20).expect("address space");
            let loaded = Loaded::new(&module, &memory).expect("room");
            let grid = (case.launch)(&memory);
            let options = Options { checks, threads: 1, ..Options::default() };
            let go = || launch(&memory, &loaded, case.entry, &grid, &options).expect("runs");
            group.throughput(Throughput::Elements((case.work)(&go())));
            group.bench_function(BenchmarkId::from_parameter(format!("{checks:?}")), |b| {
                b.iter_custom(|rounds| {
                    let before = on_processor(start);
                    (0..rounds).for_each(|_| drop(std::hint::black_box(go())));
                    on_processor(start) - before
                });
            });
        }
        group.finish();
    }
}

/// The same launches on one thread and on two.
fn scaling(criterion: &mut Criterion) {
    for case in cases().into_iter().filter(|c| matches!(c.name, "fma" | "copy" | "shared_gemm" | "mma_gemm"))
    {
        let module = Module::compile(case.name, &case.source).expect("the kernel is right");
        let mut group = criterion.benchmark_group(format!("threads_{}", case.name));
        let memory = Memory::new(64 << 20).expect("address space");
        let loaded = Loaded::new(&module, &memory).expect("room");
        let grid = (case.launch)(&memory);
        for threads in [1, 2] {
            let options = Options { checks: Checks::Off, threads, ..Options::default() };
            let go = || launch(&memory, &loaded, case.entry, &grid, &options).expect("runs");
            group.throughput(Throughput::Elements((case.work)(&go())));
            group.bench_function(BenchmarkId::from_parameter(threads), |b| b.iter(go));
        }
        group.finish();
    }
}

criterion_group!(benches, speed, scaling);
criterion_main!(benches);
