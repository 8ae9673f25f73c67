//! Independent threads and the adversary: what may wait for what, and what luck does not hide.
mod kernel_harness;

use kernel_harness::{Arg::*, Gpu};
use ptx_vm::launch::{Checks, Options};
use ptx_vm::strict::FaultKind;

fn kernel(body: &str) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .pred %p<8>;\n.reg .b32 %r<20>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<12>;\n.shared .align 16 .b8 buffer[1024];\n\
         ld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd3, %r1, 4;\nadd.u64 %rd2, %rd1, %rd3;\n\
         mov.u32 %r2, buffer;\nmad.lo.u32 %r3, %r1, 4, %r2;\n{body}\nret;\n}}\n"
    )
}

fn options(seed: Option<u64>) -> Options {
    Options { checks: Checks::Memory, seed, instruction_budget: Some(50_000_000), ..Options::default() }
}

/// Every lane takes the same lock in turn: the winner has left the loop and the others spin on what it holds.
#[test]
fn lanes_that_spin_on_each_other_make_progress() {
    for (after, name) in [(true, "critical section after the loop"), (false, "inside the loop")] {
        let critical = "ld.volatile.global.u32 %r5, [%rd1+4];\nadd.u32 %r5, %r5, 1;\nst.volatile.global.u32 [%rd1+4], %r5;\nmembar.gl;\natom.global.exch.b32 %r6, [%rd1], 0;\n";
        let body = if after {
            format!(
                "LOOP:\natom.global.cas.b32 %r4, [%rd1], 0, 1;\nsetp.ne.u32 %p1, %r4, 0;\n@%p1 bra LOOP;\n{critical}"
            )
        } else {
            format!(
                "mov.u32 %r7, 0;\nLOOP:\natom.global.cas.b32 %r4, [%rd1], 0, 1;\nsetp.ne.u32 %p1, %r4, 0;\n@%p1 bra AGAIN;\n{critical}mov.u32 %r7, 1;\nAGAIN:\nsetp.eq.u32 %p2, %r7, 0;\n@%p2 bra LOOP;"
            )
        };
        for seed in [None, Some(1), Some(2), Some(9)] {
            let gpu = Gpu::new(name, &kernel(&body));
            let at = gpu.upload(&[0u32, 0]);
            gpu.run("k", [2, 1, 1], [64, 1, 1], &[U64(at)], &options(seed));
            assert_eq!(gpu.download::<u32>(at, 2), [0, 128], "{name} {seed:?}");
        }
    }
}

/// Code that counts on lanes moving in lockstep works without an adversary and is found out by some seed.
#[test]
fn implicit_lockstep_is_found_out() {
    let body = |sync: &str| {
        kernel(&format!(
            "st.shared.u32 [%r3], %r1;\n{sync}\nxor.b32 %r4, %r1, 1;\nmad.lo.u32 %r5, %r4, 4, %r2;\nld.shared.u32 %r6, [%r5];\nst.global.u32 [%rd2], %r6;"
        ))
    };
    let run = |source: &str, seed| {
        let gpu = Gpu::new("lockstep", source);
        let at = gpu.upload(&[0u32; 32]);
        gpu.try_run("k", [1, 1, 1], [32, 1, 1], &[U64(at)], &options(seed))
            .map(|_| gpu.download::<u32>(at, 32))
    };
    let want: Vec<u32> = (0..32).map(|i| i ^ 1).collect();
    assert_eq!(run(&body(""), None).unwrap(), want);
    let caught = (0..64)
        .filter(|s| run(&body(""), Some(*s)).is_err_and(|f| f.kind == FaultKind::Uninitialised))
        .count();
    assert!(caught > 0, "no seed of 64 splits the warp between the store and the load");
    for seed in 0..64 {
        assert_eq!(run(&body("bar.warp.sync -1;"), Some(seed)).unwrap(), want);
    }
}

/// One warp runs ahead, blocks come in any order: the order in which tickets are taken depends on the seed only.
#[test]
fn a_seed_is_a_schedule() {
    let body = "mov.u32 %r4, %ctaid.x;\nmad.lo.u32 %r5, %r4, 64, %r1;\natom.global.add.u32 %r6, [%rd1], 1;\nmul.wide.u32 %rd4, %r5, 4;\nadd.u64 %rd4, %rd1, %rd4;\nst.global.u32 [%rd4+4], %r6;";
    let run = |seed, threads| {
        let gpu = Gpu::new("tickets", &kernel(body));
        let at = gpu.upload(&[0u32; 257]);
        gpu.run("k", [4, 1, 1], [64, 1, 1], &[U64(at)], &Options { threads, ..options(seed) });
        gpu.download::<u32>(at + 4, 256)
    };
    let plain = run(None, 1);
    assert_eq!(plain, (0..256).collect::<Vec<u32>>());
    assert_eq!(run(Some(3), 1), run(Some(3), 4));
    assert!(run(Some(3), 1)[192] < 64, "an odd seed starts with the last block");
    assert_ne!(run(Some(3), 1), run(Some(5), 1));
}

/// `.approx` results move under a seed, within a unit or two, and the same seed moves them the same way.
#[test]
fn approximations_move_under_a_seed() {
    let body = "cvt.rn.f32.u32 %f1, %r1;\nadd.f32 %f1, %f1, 0f3fa00000;\nrcp.approx.f32 %f2, %f1;\nst.global.f32 [%rd2], %f2;";
    let run = |seed| {
        let gpu = Gpu::new("approx", &kernel(body));
        let at = gpu.room::<u32>(64);
        gpu.run("k", [1, 1, 1], [64, 1, 1], &[U64(at)], &options(seed));
        gpu.download::<u32>(at, 64)
    };
    let plain = run(None);
    let moved = run(Some(4));
    assert_eq!(moved, run(Some(4)));
    assert!(plain.iter().zip(&moved).all(|(a, b)| a.abs_diff(*b) <= 1));
    assert!(plain != moved, "nothing moved");
}

/// Lanes that spin may meet at a join inside their loop without end; a lane that waits outside must go on all the same.
#[test]
fn a_join_inside_a_spin_loop_holds_nobody_back() {
    let body = "LOOP:\natom.global.cas.b32 %r4, [%rd1], 0, 1;\nsetp.eq.u32 %p1, %r4, 0;\n@%p1 bra GOT;\n\
                and.b32 %r5, %r1, 1;\nsetp.eq.u32 %p2, %r5, 0;\n@%p2 bra EVEN;\nadd.u32 %r6, %r6, 1;\nEVEN:\nbra LOOP;\n\
                GOT:\nld.volatile.global.u32 %r5, [%rd1+4];\nadd.u32 %r5, %r5, 1;\nst.volatile.global.u32 [%rd1+4], %r5;\nmembar.gl;\natom.global.exch.b32 %r6, [%rd1], 0;";
    for seed in [None, Some(1), Some(6)] {
        let gpu = Gpu::new("inner join", &kernel(body));
        let at = gpu.upload(&[0u32, 0]);
        gpu.run("k", [2, 1, 1], [64, 1, 1], &[U64(at)], &options(seed));
        assert_eq!(gpu.download::<u32>(at, 2), [0, 128], "{seed:?}");
    }
}
