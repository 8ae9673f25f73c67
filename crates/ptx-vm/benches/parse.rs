//! How fast modules are read: bytes per second of parsing and checking, and of a whole load with decoding.
#![allow(missing_docs)] // criterion's macros
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_vm::Module;
use ptx_vm::check::compile;

/// What compilers write most: loads, integer and float arithmetic, predicates, branches, a matrix instruction.
const ROUND: &str = "
    .loc 1 12 7
    ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+16];
    mad.lo.s32 %r#, %r2, 64, %r3;
    setp.lt.s32 %p1, %r#, 1024;
    @!%p1 bra $L_#;
    fma.rn.f32 %f5, %f1, 0f3F800000, %f6;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4};
$L_#:
    cvt.u64.u32 %rd2, %r#;
    shl.b64 %rd3, %rd2, 2; // index times the size
    add.s64 %rd1, %rd1, %rd3;
    st.shared.f32 [tile+4], %f5;
";

/// One kernel of `rounds` rounds.
fn module(rounds: usize) -> String {
    let body: String = (0..rounds).map(|i| ROUND.replace('#', &(i + 10).to_string())).collect();
    let registers =
        format!(".reg .pred %p<2>; .reg .f32 %f<9>; .reg .b64 %rd<9>; .reg .b32 %r<{}>;", rounds + 10);
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 p) {{\n{registers}\n\
         .shared .align 16 .b8 tile[64];\nld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\n{body}ret;\n}}\n"
    )
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read a module");
    for rounds in [10, 2000] {
        let source = module(rounds);
        let name = format!("{} KB", source.len() / 1000);
        group.throughput(Throughput::Bytes(source.len() as u64));
        group.bench_function(format!("parse and check/{name}"), |b| {
            b.iter(|| compile("bench", &source).expect("the module is right"));
        });
        group.bench_function(format!("load/{name}"), |b| {
            b.iter(|| Module::compile("bench", &source).expect("the module is right"));
        });
    }
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
