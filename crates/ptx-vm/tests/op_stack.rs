//! `stacksave`, `stackrestore`, `alloca`, and `vprintf`.
mod kernel_harness;

use kernel_harness::{Arg::*, Gpu, assemble, every_way};
use ptx_vm::launch::{Checks, Options};
use ptx_vm::strict::{Fault, FaultKind};
use std::process::Command;

/// A kernel of 40 threads on `p`; `%rd2` is `p + 8 tid`, `%rd3` is 16 (tid + 1).
fn kernel(body: &str) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .pred %p<4>;\n.reg .b32 %r<12>;\n.reg .b64 %rd<20>;\n.local .align 8 .b8 fixed[8];\n\
         ld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\nmad.wide.u32 %rd2, %r1, 8, %rd1;\n\
         add.u32 %r2, %r1, 1;\nmul.wide.u32 %rd3, %r2, 16;\n{body}\nret;\n}}\n"
    )
}

fn run(body: &str, options: &Options) -> Result<Vec<u64>, Fault> {
    let source = kernel(body);
    assemble(body, &source);
    let gpu = Gpu::with_poison("stack", &source, options.seed);
    let at = gpu.upload(&[0u64; 40]);
    gpu.try_run("k", [1, 1, 1], [40, 1, 1], &[U64(at)], options)?;
    Ok(gpu.download(at, 40))
}

/// Two pieces of each thread's own size, their ends written and read back beside a fixed variable.
#[test]
fn alloca_gives_room() {
    let body = "st.local.u64 [fixed], %rd1;\nalloca.u64 %rd4, %rd3;\nalloca.u64 %rd5, %rd3, 32;\n\
        add.u64 %rd6, %rd4, %rd3;\nadd.u64 %rd7, %rd5, %rd3;\n\
        st.local.u64 [%rd4], %rd2;\nst.local.u64 [%rd6+-8], %rd3;\nst.local.u64 [%rd5], 1000;\nst.local.u64 [%rd7+-8], 7;\n\
        ld.local.u64 %rd8, [%rd4];\nld.local.u64 %rd9, [%rd6+-8];\nld.local.u64 %rd10, [%rd5];\nld.local.u64 %rd11, [%rd7+-8];\n\
        ld.local.u64 %rd12, [fixed];\nsub.u64 %rd8, %rd8, %rd12;\nadd.u64 %rd8, %rd8, %rd9;\nadd.u64 %rd8, %rd8, %rd10;\n\
        add.u64 %rd8, %rd8, %rd11;\nand.b64 %rd13, %rd5, 31;\nadd.u64 %rd8, %rd8, %rd13;\nst.global.u64 [%rd2], %rd8;";
    let want: Vec<u64> = (0..40).map(|t| 8 * t + 16 * (t + 1) + 1007).collect();
    for options in every_way() {
        assert_eq!(run(body, &options).unwrap_or_else(|f| panic!("{options:?}: {f}")), want);
    }
}

/// What was restored is given out again, 1000 times, and its old contents are nobody's.
#[test]
fn stackrestore_gives_back() {
    let body = "mov.u32 %r3, 0;\nAGAIN:\nstacksave.u64 %rd4;\nalloca.u64 %rd5, 4096;\nst.local.u64 [%rd5+4088], %rd2;\n\
        ld.local.u64 %rd6, [%rd5+4088];\nstackrestore.u64 %rd4;\nadd.u32 %r3, %r3, 1;\n\
        setp.lt.u32 %p1, %r3, 1000;\n@%p1 bra AGAIN;\nsub.u64 %rd6, %rd6, %rd1;\nst.global.u64 [%rd2], %rd6;";
    for options in every_way() {
        let want: Vec<u64> = (0..40).map(|t| 8 * t).collect();
        assert_eq!(run(body, &options).unwrap_or_else(|f| panic!("{options:?}: {f}")), want);
    }
    let all = Options { checks: Checks::All, ..Options::default() };
    let leak = body.replace("stackrestore.u64 %rd4;", "");
    assert_eq!(run(&leak, &all).unwrap_err().kind, FaultKind::StackOverflow);
    let stale = body
        .replace("st.local.u64 [%rd5+4088], %rd2;", "@%p1 bra SKIP;\nst.local.u64 [%rd5+4088], %rd2;\nSKIP:");
    let stale = format!("setp.ne.u32 %p1, 0, 0;\n{stale}");
    let fault = run(&stale, &all).unwrap_err();
    assert_eq!((fault.kind, fault.text.contains("ld.local")), (FaultKind::Uninitialised, true), "{fault}");
}

/// Every thread of two blocks prints; the text is in the order of blocks and threads.
const PRINT: &str = ".version 7.8\n.target sm_80\n.address_size 64\n\
    .extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);\n\
    .global .align 1 .b8 format[32] = {98,108,111,99,107,32,37,100,44,32,37,46,50,102,44,32,37,108,108,120,44,32,37,115,10,0};\n\
    .global .align 1 .b8 word[8] = {119,111,114,100,0};\n\
    .visible .entry k(.param .u64 p)\n{\n.reg .b32 %r<8>;\n.reg .b64 %rd<8>;\n.reg .f64 %d<4>;\n.local .align 8 .b8 args[32];\n\
    ld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\nst.local.u32 [args], %r2;\n\
    cvt.rn.f64.u32 %d1, %r1;\nmul.f64 %d1, %d1, 0d3fe0000000000000;\nst.local.f64 [args+8], %d1;\n\
    mov.u64 %rd2, 0xabcdef0123456789;\nst.local.u64 [args+16], %rd2;\nmov.u64 %rd3, word;\ncvta.global.u64 %rd3, %rd3;\n\
    st.local.u64 [args+24], %rd3;\nmov.u64 %rd4, format;\ncvta.global.u64 %rd4, %rd4;\nmov.u64 %rd5, args;\ncvta.local.u64 %rd5, %rd5;\n\
    {\n.param .b64 f;\n.param .b64 a;\n.param .b32 r;\nst.param.b64 [f], %rd4;\nst.param.b64 [a], %rd5;\n\
    call (r), vprintf, (f, a);\nld.param.b32 %r3, [r];\n}\n\
    mad.lo.u32 %r4, %r2, 3, %r1;\nmad.wide.u32 %rd6, %r4, 4, %rd1;\nst.global.u32 [%rd6], %r3;\nret;\n}\n";

#[test]
fn vprintf_prints_and_counts_its_arguments() {
    const ROLE: &str = "PTX_VM_TEST_PRINTS";
    if std::env::var_os(ROLE).is_some() {
        let gpu = Gpu::new("print", PRINT);
        let at = gpu.room::<u32>(6);
        gpu.run(
            "k",
            [2, 1, 1],
            [3, 1, 1],
            &[U64(at)],
            &Options { checks: Checks::All, ..Options::default() },
        );
        assert_eq!(gpu.download::<u32>(at, 6), [4; 6]);
        return;
    }
    assemble("print", PRINT);
    // In a process of its own, whose output can be seen.
    let mut child = Command::new(std::env::current_exe().expect("a test program has a path"));
    child.args(["vprintf_prints_and_counts_its_arguments", "--exact", "--nocapture"]).env(ROLE, "1");
    let output = child.output().expect("the test program starts again");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let want: String = ["0, 0.00", "0, 0.50", "0, 1.00", "1, 0.00", "1, 0.50", "1, 1.00"]
        .map(|start| format!("block {start}, abcdef0123456789, word\n"))
        .concat();
    assert!(said.contains(&want), "{said}");
}
