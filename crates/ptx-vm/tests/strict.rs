//! Every strictness check: a kernel that trips it, and one that does not.
mod kernel_harness;

use kernel_harness::{Arg, Arg::*, Gpu};
use ptx_vm::launch::{Checks, DeviceModel, Options};
use ptx_vm::module::Module;
use ptx_vm::strict::{Fault, FaultKind, MemorySpace};

/// A kernel `k(.u64 p)` with registers to spare; `{tid}` is in `%r1`, `p` in `%rd1`, `p + 4 tid` in `%rd2`.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n{declarations}\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<20>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<12>;\n\
         .shared .align 16 .b8 buffer[1024];\n\
         ld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd3, %r1, 4;\nadd.u64 %rd2, %rd1, %rd3;\n\
         mov.u32 %r2, buffer;\nmad.lo.u32 %r3, %r1, 4, %r2;\n{body}\nret;\n}}\n"
    )
}

struct Case {
    source: String,
    grid: u32,
    block: u32,
    options: Options,
}

fn case(body: &str) -> Case {
    let options = Options { checks: Checks::All, instruction_budget: Some(2_000_000), ..Options::default() };
    Case { source: kernel("", body), grid: 1, block: 64, options }
}

impl Case {
    fn grid(self, grid: u32, block: u32) -> Case {
        Case { grid, block, ..self }
    }

    fn run_on(&self, gpu: &Gpu, argument: Arg) -> Result<(), Fault> {
        let (grid, block) = ([self.grid, 1, 1], [self.block, 1, 1]);
        gpu.try_run("k", grid, block, &[argument], &self.options).map(|_| ())
    }

    /// Runs on a buffer of 256 words that hold their index.
    fn run(&self) -> Result<(), Fault> {
        let gpu = Gpu::new("strict", &self.source);
        let words: Vec<u32> = (0..256).collect();
        self.run_on(&gpu, U64(gpu.upload(&words)))
    }

    /// Without a seed and with several: never a fault.
    fn passes(mut self) {
        for seed in [None, Some(1), Some(2), Some(3), Some(1000)] {
            self.options.seed = seed;
            if let Err(fault) = self.run() {
                panic!("seed {seed:?}: {fault}\n{}", self.source);
            }
        }
    }

    /// Without a seed and with several: always this fault, at a line with this text.
    fn trips(mut self, kind: FaultKind, text: &str) -> Fault {
        let mut last = None;
        for seed in [None, Some(1), Some(2), Some(3), Some(1000)] {
            self.options.seed = seed;
            match self.run() {
                Ok(()) => panic!("seed {seed:?}: no fault\n{}", self.source),
                Err(fault) => {
                    assert_eq!(fault.kind, kind, "seed {seed:?}: {fault}");
                    assert!(fault.text.contains(text), "seed {seed:?}: {fault}");
                    let line = self.source.lines().nth(fault.line as usize - 1).expect("the line exists");
                    assert!(line.contains(text), "line {} is {line}", fault.line);
                    last = Some(fault);
                }
            }
        }
        last.expect("five runs")
    }
}

#[test]
fn out_of_bounds() {
    let fault = case("ld.global.u32 %r4, [%rd2+900];").trips(FaultKind::OutOfBounds, "ld.global");
    assert!(fault.to_string().contains("after the end of the block of 1024 bytes"), "{fault}");
    assert!(matches!(fault.address, Some((MemorySpace::Global, _))));
    case("st.global.u32 [%rd2+-4], %r1;").trips(FaultKind::OutOfBounds, "st.global");
    case("atom.global.add.u32 %r4, [%rd2+1000], 1;").trips(FaultKind::OutOfBounds, "atom");
    case("ld.global.u32 %r4, [%rd2+768];").passes();
    case("st.shared.u32 [%r3+900], %r1;").trips(FaultKind::OutOfBounds, "st.shared");
    case("st.shared.u32 [%r3+768], %r1;").passes();
    let only_unchecked = Options { checks: Checks::Off, ..Options::default() };
    let mut c = case("st.global.u32 [%rd2+1000], %r1;");
    c.options = only_unchecked;
    assert_eq!(c.run().unwrap_err().kind, FaultKind::OutOfBounds, "bounds hold with checks off");
}

#[test]
fn the_fault_names_the_thread() {
    let mut c = case(
        "setp.ne.u32 %p1, %r1, 37;\n@%p1 ret;\nmov.u32 %r4, %ctaid.x;\nsetp.ne.u32 %p1, %r4, 2;\n@%p1 ret;\nst.global.u32 [%rd1+4096], %r1;",
    );
    c.grid = 4;
    let gpu = Gpu::new("strict", &c.source);
    let at = gpu.upload(&[0u32; 256]);
    let fault = c.run_on(&gpu, U64(at)).unwrap_err();
    assert_eq!((fault.block, fault.thread), ([2, 0, 0], [37, 0, 0]));
    assert_eq!(fault.address, Some((MemorySpace::Global, at + 4096)));
    assert_eq!((&*fault.kernel, &*fault.text), ("k", "st.global.u32 [%rd1+4096], %r1;"));
}

#[test]
fn misaligned() {
    case("ld.global.u32 %r4, [%rd2+2];").trips(FaultKind::Misaligned, "ld.global");
    case("ld.global.v2.u32 {%r4, %r5}, [%rd2];").trips(FaultKind::Misaligned, "ld.global.v2");
    case("st.shared.u32 [%r3+1], %r1;").trips(FaultKind::Misaligned, "st.shared");
    case("ld.global.u16 %h1, [%rd2+2];").passes();
}

#[test]
fn uninitialised() {
    let c = case("ld.global.u32 %r4, [%rd2];");
    let gpu = Gpu::new("strict", &c.source);
    assert_eq!(c.run_on(&gpu, U64(gpu.room::<u32>(64))).unwrap_err().kind, FaultKind::Uninitialised);
    // A kernel may write it first.
    let c = case("st.global.u32 [%rd2], %r1;\nld.global.u32 %r4, [%rd2];");
    let gpu = Gpu::new("strict", &c.source);
    c.run_on(&gpu, U64(gpu.room::<u32>(64))).unwrap();
    case("ld.shared.u32 %r4, [%r3];").trips(FaultKind::Uninitialised, "ld.shared");
    case("mov.u16 %h1, 5;\nst.shared.u16 [%r3], %h1;\nld.shared.u32 %r4, [%r3];")
        .trips(FaultKind::Uninitialised, "ld.shared");
    case("st.shared.u32 [%r3], %r1;\nld.shared.u32 %r4, [%r3];").passes();
}

/// Registers that nothing wrote may be copied and computed with, but decide nothing.
#[test]
fn registers_that_nothing_wrote() {
    let trips = |body: &str, text: &str, names: &str| {
        let fault = case(body).trips(FaultKind::Uninitialised, text);
        assert!(fault.detail.ends_with(names), "{fault}");
        fault
    };
    // A sum that was never set to zero.
    let sum = "mov.u32 %r4, 0;\nAGAIN:\nfma.rn.f32 %f1, 0f40000000, 0f40000000, %f1;\nadd.u32 %r4, %r4, 1;\n\
               setp.lt.u32 %p1, %r4, 4;\n@%p1 bra AGAIN;\nst.global.f32 [%rd2], %f1;";
    trips(sum, "st.global", "this thread: %f1");
    case(&format!("mov.f32 %f1, 0f00000000;\n{sum}")).passes();
    // An address, a branch, a guard, a value for another thread, an index.
    trips("add.u64 %rd4, %rd1, %rd5;\nld.global.u32 %r4, [%rd4];", "ld.global", "%rd5");
    trips("setp.eq.u32 %p1, %r4, 0;\n@%p1 bra OUT;\nst.global.u32 [%rd2], %r1;\nOUT:", "bra", "%r4");
    trips("@%p1 st.global.u32 [%rd2], %r1;", "st.global", "%p1");
    trips("atom.global.add.u32 %r5, [%rd2], %r4;", "atom", "%r4");
    trips("mov.u32 %r5, 1;\n@%p1 mov.u32 %r5, 2;\nst.shared.u32 [%r3], %r5;", "st.shared", "%p1");
    // Written on one way only: the thread that took the other is named.
    let some = "setp.ne.u32 %p1, %r1, 37;\n@%p1 mov.u32 %r4, 5;\nmul.lo.u32 %r5, %r4, 3;";
    assert_eq!(trips(&format!("{some}\nst.global.u32 [%rd2], %r5;"), "st.global", "%r4").thread, [37, 0, 0]);
    case(&format!("{some}\n@%p1 st.global.u32 [%rd2], %r5;")).passes();
    case(&format!("{some}\nselp.u32 %r5, %r5, 7, %p1;\nst.global.u32 [%rd2], %r5;")).passes();
    let selected = format!("{some}\nselp.u32 %r5, 7, %r5, %p1;\nst.global.u32 [%rd2], %r5;");
    case(&selected).trips(FaultKind::Uninitialised, "st.global");
    // What compilers do: half of a pair, a comparison that does not matter, zero by its own difference.
    case("mov.b32 %r4, {%h2, %h1};\nmov.u16 %h2, 7;\nmov.b32 {%h3, %h4}, %r4;\nst.global.b32 [%rd2], %r4;")
        .trips(FaultKind::Uninitialised, "st.global");
    case("mov.u16 %h2, 7;\nmov.b32 %r4, {%h2, %h1};\nst.global.b32 [%rd2], %r4;").passes();
    case("setp.gt.u32 %p1, %r1, 1000;\nsetp.eq.u32 %p2, %r4, 0;\nand.pred %p3, %p1, %p2;\n@%p3 st.global.u32 [%rd2], %r1;").passes();
    case("setp.gt.u32 %p1, %r1, 1000;\nsetp.eq.and.u32 %p3, %r4, 0, %p1;\n@%p3 st.global.u32 [%rd2], %r1;")
        .passes();
    case("xor.b32 %r4, %r4, %r4;\nst.global.u32 [%rd2], %r4;").passes();
    // The accumulator of a matrix product.
    let mma = "mov.b32 %r4, 0;\nmma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r4, %r4}, {%r4}, {%f1, %f2, %f3, %f4};\n\
               st.global.f32 [%rd2], %f3;";
    trips(mma, "st.global", "one of %f1, %f2, %f3, %f4");
    let zeros: String = (1..5).map(|i| format!("mov.f32 %f{i}, 0f00000000;\n")).collect();
    case(&format!("{zeros}{mma}")).passes();
    // Below the highest level nobody looks.
    let mut c = case(sum);
    c.options.checks = Checks::Memory;
    c.passes();
}

#[test]
fn use_after_free() {
    let c = case("ld.global.u32 %r4, [%rd2];");
    let gpu = Gpu::new("strict", &c.source);
    let at = gpu.upload(&[1u32; 64]);
    c.run_on(&gpu, U64(at)).unwrap();
    gpu.memory.free(at).unwrap();
    let fault = c.run_on(&gpu, U64(at)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::UseAfterFree, "{fault}");
}

/// Each thread writes its word and reads the one of a thread 32 further.
const NEIGHBOUR: &str = "st.shared.u32 [%r3], %r1;\nBAR\nxor.b32 %r4, %r1, 32;\nmad.lo.u32 %r5, %r4, 4, %r2;\nld.shared.u32 %r6, [%r5];";

#[test]
fn shared_race() {
    // Without the barrier one of the warps reads what nobody wrote yet, or what was written with no order.
    let racy = "st.shared.u32 [%r3], %r1;\nst.shared.u32 [%r2+512], %r1;";
    case(racy).trips(FaultKind::SharedRace, "st.shared");
    case(&NEIGHBOUR.replace("BAR", "bar.sync 0;")).passes();
    case(&NEIGHBOUR.replace("BAR", "barrier.sync 3, 64;")).passes();
    // Read, then written by the other warp before the next barrier.
    let late = NEIGHBOUR.replace("BAR", "bar.sync 0;") + "\nst.shared.u32 [%r3], %r6;";
    case(&late).trips(FaultKind::SharedRace, "shared");
    let fixed = NEIGHBOUR.replace("BAR", "bar.sync 0;") + "\nbar.sync 0;\nst.shared.u32 [%r3], %r6;";
    case(&fixed).passes();
    // Warps that store the same may do so at once; one that reads it has to wait all the same.
    let same = "mov.u32 %r4, 7;\nst.shared.u32 [%r2+512], %r4;";
    case(same).passes();
    case(&format!("{same}\nld.shared.u32 %r5, [%r2+512];")).trips(FaultKind::SharedRace, "shared");
    case(&format!("{same}\nbar.sync 0;\nld.shared.u32 %r5, [%r2+512];")).passes();
    // Neighbouring bytes of different warps are no race.
    case("add.u32 %r4, %r2, %r1;\ncvt.u16.u32 %h1, %r1;\nst.shared.u8 [%r4], %h1;\nbar.sync 0;\nld.shared.u8 %h2, [%r4];").passes();
    // Lanes of one warp are ordered by the warp's own synchronisation.
    case("st.shared.u32 [%r3], %r1;\nbar.warp.sync -1;\nxor.b32 %r4, %r1, 1;\nmad.lo.u32 %r5, %r4, 4, %r2;\nld.shared.u32 %r6, [%r5];").passes();
}

#[test]
fn shared_race_by_a_flag() {
    // Warp 0 writes and raises a flag with an atomic; warp 1 waits for it: no race.
    let body = "setp.lt.u32 %p1, %r1, 32;\nsetp.ne.u32 %p2, %r1, 0;\n@%p2 bra START;\nmov.u32 %r4, 0;\nst.shared.u32 [%r2+512], %r4;\nSTART:\nbar.sync 0;\n\
                @!%p1 bra WAIT;\nst.shared.u32 [%r3], %r1;\nbar.warp.sync -1;\n@%p2 ret;\nmembar.cta;\natom.shared.exch.b32 %r5, [%r2+512], 1;\nret;\n\
                WAIT:\natom.shared.or.b32 %r5, [%r2+512], 0;\nsetp.eq.u32 %p3, %r5, 0;\n@%p3 bra WAIT;\nld.shared.u32 %r6, [%r3+-128];";
    case(body).passes();
}

#[test]
fn global_race() {
    // Blocks write the same words.
    case("st.global.u32 [%rd2], %r1;").grid(2, 32).trips(FaultKind::GlobalRace, "st.global");
    // Warps of one block do.
    case("and.b32 %r4, %r1, 31;\nmul.wide.u32 %rd4, %r4, 4;\nadd.u64 %rd4, %rd1, %rd4;\nst.global.u32 [%rd4], %r1;")
        .trips(FaultKind::GlobalRace, "st.global");
    // One block reads what another writes.
    let body = "mov.u32 %r4, %ctaid.x;\nsetp.eq.u32 %p1, %r4, 0;\n@%p1 bra WRITE;\nld.global.u32 %r5, [%rd2];\nret;\nWRITE:\nst.global.u32 [%rd2], %r1;";
    case(body).grid(2, 32).trips(FaultKind::GlobalRace, "global");
    // Own words, atomics, and a barrier in between are fine.
    let own = "mov.u32 %r4, %ctaid.x;\nmad.lo.u32 %r4, %r4, 64, %r1;\nmul.wide.u32 %rd4, %r4, 4;\nadd.u64 %rd4, %rd1, %rd4;\nst.global.u32 [%rd4], %r1;\nld.global.u32 %r5, [%rd4];";
    case(own).grid(3, 64).passes();
    case("red.global.add.u32 [%rd1], 1;").grid(4, 64).passes();
    let barrier = "st.global.u32 [%rd2], %r1;\nbar.sync 0;\nxor.b32 %r4, %r1, 32;\nmul.wide.u32 %rd4, %r4, 4;\nadd.u64 %rd4, %rd1, %rd4;\nld.global.u32 %r5, [%rd4];";
    case(barrier).passes();
    // Halves of one word, written by different warps.
    let halves = "mul.wide.u32 %rd4, %r1, 2;\nadd.u64 %rd4, %rd1, %rd4;\nadd.u64 %rd4, %rd4, 2;\ncvt.u16.u32 %h1, %r1;\nst.global.u16 [%rd4], %h1;";
    case(halves).passes();
}

#[test]
fn global_handover_with_fence_and_atomic() {
    // The last block to arrive reads what the others wrote (the counter is word 255).
    let body = "mov.u32 %r4, %ctaid.x;\nmad.lo.u32 %r5, %r4, 32, %r1;\nmul.wide.u32 %rd4, %r5, 4;\nadd.u64 %rd4, %rd1, %rd4;\n\
                st.global.u32 [%rd4], %r5;\nmembar.gl;\nbar.sync 0;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra ASKED;\n\
                atom.global.add.u32 %r6, [%rd1+1020], 1;\nst.shared.u32 [%r2], %r6;\nASKED:\nbar.sync 0;\nld.shared.u32 %r6, [%r2];\n\
                setp.ne.u32 %p1, %r6, 258;\n@%p1 ret;\nmembar.gl;\nld.global.u32 %r7, [%rd2];\nld.global.u32 %r8, [%rd2+128];\nld.global.u32 %r9, [%rd2+256];";
    case(body).grid(4, 32).passes();
}

/// One 16-byte copy per thread of 32, a wait, and a look at it.
const COPY: &str = "mad.lo.u32 %r4, %r1, 16, %r2;\nmul.wide.u32 %rd4, %r1, 16;\nadd.u64 %rd4, %rd1, %rd4;\n\
                    cp.async.ca.shared.global [%r4], [%rd4], 16;\ncp.async.commit_group;\nWAIT\nld.shared.v4.u32 {%r5, %r6, %r7, %r8}, [%r4];";

#[test]
fn asynchronous_copies() {
    case(&COPY.replace("WAIT", "")).grid(1, 32).trips(FaultKind::AsyncRead, "ld.shared");
    case(&COPY.replace("WAIT", "cp.async.wait_group 1;"))
        .grid(1, 32)
        .trips(FaultKind::AsyncRead, "ld.shared");
    case(&COPY.replace("WAIT", "cp.async.wait_group 0;")).grid(1, 32).passes();
    case(&COPY.replace("WAIT", "cp.async.wait_all;")).grid(1, 32).passes();
    // The copy of another warp needs a barrier after the wait.
    let other = COPY.replace("[%r4];", "[%r9];");
    let other = other.replace("WAIT", "cp.async.wait_all;\nBAR\nxor.b32 %r9, %r1, 32;\nand.b32 %r9, %r9, 63;\nmad.lo.u32 %r9, %r9, 16, %r2;");
    case(&other.replace("BAR", "bar.sync 0;")).passes();
    let racy = case(&other.replace("BAR", ""));
    assert!(racy.run().is_err(), "another warp's copy was read without a barrier");
    // Overwriting the target of a copy under way.
    let body = COPY.replace("WAIT", "st.shared.u32 [%r4], %r1;\ncp.async.wait_all;");
    case(&body).grid(1, 32).trips(FaultKind::AsyncRead, "st.shared");
}

#[test]
fn with_checks_off_an_unwaited_copy_reads_old_data() {
    let body = "mov.u32 %r9, 77;\nst.shared.u32 [%r3], %r9;\ncp.async.ca.shared.global [%r3], [%rd2], 4;\nld.shared.u32 %r5, [%r3];\ncp.async.wait_all;\n\
                ld.shared.u32 %r6, [%r3];\nshl.b32 %r6, %r6, 16;\nor.b32 %r5, %r5, %r6;\nst.global.u32 [%rd2], %r5;";
    let mut c = case(body);
    c.options.checks = Checks::Off;
    let gpu = Gpu::new("strict", &c.source);
    let at = gpu.upload(&(0..64).collect::<Vec<u32>>());
    c.run_on(&gpu, U64(at)).unwrap();
    assert_eq!(gpu.download::<u32>(at, 64), (0..64).map(|i| 77 | i << 16).collect::<Vec<u32>>());
}

#[test]
fn missing_lanes() {
    // Half of the warp never comes to the shuffle.
    let body = "and.b32 %r4, %r1, 16;\nsetp.eq.u32 %p1, %r4, 0;\n@%p1 bra SKIP;\nshfl.sync.bfly.b32 %r5, %r1, 1, 31, -1;\nSKIP:\nbar.sync 0;";
    case(body).trips(FaultKind::MissingLanes, "shfl.sync");
    // The mask lacks the executing lane.
    case("shfl.sync.bfly.b32 %r5, %r1, 1, 31, 0xffff;").trips(FaultKind::MissingLanes, "shfl.sync");
    case("vote.sync.ballot.b32 %r5, %p1, 0x7fffffff;").trips(FaultKind::MissingLanes, "vote.sync");
    let right = body.replace(", -1;", ", 0xffff0000;");
    case(&right).passes();
    // Each half with its own mask, together and apart.
    let halves = "and.b32 %r4, %r1, 16;\nsetp.eq.u32 %p1, %r4, 0;\nselp.b32 %r5, 0xffff, 0xffff0000, %p1;\nredux.sync.add.s32 %r6, %r1, %r5;";
    case(halves).passes();
    // Lanes that have exited are not waited for.
    case("and.b32 %r4, %r1, 1;\nsetp.eq.u32 %p1, %r4, 0;\n@%p1 ret;\nredux.sync.add.s32 %r6, %r1, -1;")
        .passes();
}

#[test]
fn a_shuffle_reads_from_lanes_that_take_part() {
    // Lanes of the lower half read from the upper half, which has its own mask or is elsewhere.
    let halves = "and.b32 %r4, %r1, 16;\nsetp.eq.u32 %p1, %r4, 0;\nselp.b32 %r5, 0xffff, 0xffff0000, %p1;\nshfl.sync.bfly.b32 %r6, %r1, 16, 31, %r5;";
    case(halves).trips(FaultKind::MissingLanes, "shfl.sync.bfly");
    case(&halves.replace("%r1, 16, 31", "%r1, 8, 31")).passes();
    let first = "and.b32 %r4, %r1, 31;\nsetp.gt.u32 %p1, %r4, 9;\n@%p1 ret;\nshfl.sync.MODE.b32 %r6, %r1, 8, CLAMP, 0x3ff;\nTHEN";
    let first = |mode: &str, clamp: &str, then: &str| {
        case(&first.replace("MODE", mode).replace("CLAMP", clamp).replace("THEN", then))
    };
    first("bfly", "31", "").trips(FaultKind::MissingLanes, "shfl.sync.bfly");
    first("idx", "31", "").passes();
    // A reduction over the first lanes reads past them and drops what it gets, which is no value of anybody.
    let nothing = "setp.lt.u32 %p2, %r4, 2;\n@%p2 ret;\nsetp.ne.u32 %p3, %r6, 0x7fffdead;\n@%p3 trap;";
    first("down", "31", nothing).passes();
    // A source outside the clamp is no source.
    first("down", "9", "setp.lt.u32 %p2, %r4, 2;\n@%p2 ret;\nsetp.ne.u32 %p3, %r6, %r1;\n@%p3 trap;")
        .passes();
}

#[test]
fn local_memory() {
    let read =
        ".local .align 8 .b8 array[64];\nmov.u64 %rd5, array;\nST\nld.local.v2.u32 {%r5, %r6}, [%rd5+8];";
    let fault =
        case(&read.replace("ST", "st.local.u32 [%rd5+8], %r1;")).trips(FaultKind::Uninitialised, "ld.local");
    assert_eq!(fault.address.map(|(space, _)| space), Some(MemorySpace::Local));
    case(&read.replace("ST", "st.local.v2.u32 [%rd5+8], {%r1, %r1};")).passes();
    case(&read.replace("ST", "").replace("%rd5+8", "%rd5+64")).trips(FaultKind::OutOfBounds, "ld.local");
    case(&read.replace("ST", "").replace("%rd5+8", "%rd5+4")).trips(FaultKind::Misaligned, "ld.local");
    // What an earlier call left in the same place does not count.
    let declarations = ".func (.reg .b32 out) f(.reg .b32 write)\n{\n.reg .pred %p;\n.local .align 4 .b8 frame[4];\n\
                        setp.eq.u32 %p, write, 0;\n@%p bra READ;\nst.local.u32 [frame], write;\nREAD:\nld.local.u32 out, [frame];\nret;\n}\n";
    let with = |second: u32| Case {
        source: kernel(declarations, &format!("call (%r4), f, (1);\ncall (%r5), f, ({second});")),
        ..case("")
    };
    with(1).passes();
    with(0).trips(FaultKind::Uninitialised, "ld.local.u32 out, [frame]");
}

#[test]
fn instructions_of_later_targets_are_refused_by_name() {
    let source = kernel("", "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r2], {%r1};");
    let Err(error) = Module::compile("strict", &source) else { panic!("stmatrix was accepted for sm_80") };
    assert!(error.to_string().contains("stmatrix needs sm_90"), "{error}");
}

#[test]
fn divergent_barrier() {
    let body = "and.b32 %r4, %r1, 1;\nsetp.eq.u32 %p1, %r4, 0;\n@%p1 bra SKIP;\nbar.sync 0;\nSKIP:\nst.shared.u32 [%r3], %r1;";
    // The other lanes leave without it: they have exited, which the hardware takes for an arrival.
    case(body).passes();
    let two = "and.b32 %r4, %r1, 1;\nsetp.eq.u32 %p1, %r4, 0;\n@%p1 bra OTHER;\nbar.sync 0;\nbra END;\nOTHER:\nbar.sync 0;\nEND:\nbar.sync 1;";
    case(two).trips(FaultKind::DivergentBarrier, "bar.sync");
    // Whole warps may part ways, but then a barrier for everybody is not complete.
    let warps = "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra OTHER;\nbar.sync 2;\nbra END;\nOTHER:\nbar.sync 3;\nEND:\nbar.sync 1;";
    case(warps).trips(FaultKind::DivergentBarrier, "bar.sync");
    let counted = warps.replace("bar.sync 2;", "bar.sync 2, 32;").replace("bar.sync 3;", "bar.sync 3, 32;");
    case(&counted).passes();
    case("mov.u32 %r4, 48;\nbar.sync 1, %r4;").trips(FaultKind::DivergentBarrier, "bar.sync");
    case("bar.sync %r1;\n").trips(FaultKind::DivergentBarrier, "bar.sync");
}

#[test]
fn producer_and_consumer_warps() {
    let body = "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra CONSUMER;\nst.shared.u32 [%r3+-128], %r1;\nbar.arrive 1, 64;\nret;\nCONSUMER:\nbar.sync 1, 64;\nld.shared.u32 %r4, [%r3];";
    case(body).passes();
}

#[test]
fn stack_overflow() {
    let declarations = ".func (.reg .b32 out) down(.reg .b32 n)\n{\n.reg .pred %p;\n.reg .b32 %r<3>;\n.local .align 4 .b8 frame[64];\n\
                        setp.eq.u32 %p, n, 0;\n@%p bra END;\nsub.u32 %r1, n, 1;\ncall (%r2), down, (%r1);\nadd.u32 out, %r2, 1;\nret;\nEND:\nmov.u32 out, 0;\nret;\n}\n";
    let with = |depth: u32| {
        let source =
            kernel(declarations, &format!("call (%r4), down, ({depth});\nst.global.u32 [%rd2], %r4;"));
        Case { source, ..case("") }
    };
    with(100).passes();
    with(100_000).trips(FaultKind::StackOverflow, "call (%r2), down");
    let mut small = with(100);
    small.options.device = DeviceModel { stack_bytes: 1024, ..DeviceModel::default() };
    assert_eq!(small.run().unwrap_err().kind, FaultKind::StackOverflow);
}

#[test]
fn instruction_budget() {
    case("LOOP:\nadd.u32 %r4, %r4, 1;\nbra LOOP;").trips(FaultKind::Budget, "");
    // Waiting for a block that never sets the flag.
    case("LOOP:\nld.volatile.global.u32 %r4, [%rd1];\nsetp.eq.u32 %p1, %r4, 0;\n@%p1 bra LOOP;")
        .trips(FaultKind::Budget, "");
    case("mov.u32 %r4, 1000;\nLOOP:\nsub.u32 %r4, %r4, 1;\nsetp.ne.u32 %p1, %r4, 0;\n@%p1 bra LOOP;")
        .passes();
}

#[test]
fn trap_assert_and_bad_targets() {
    case("trap;").trips(FaultKind::Trap, "trap");
    case("brkpt;").trips(FaultKind::Breakpoint, "brkpt");
    case("ts: .branchtargets A, B;\nbrx.idx %r1, ts;\nA:\nret;\nB:").trips(FaultKind::BadTarget, "brx.idx");
    let declarations = ".extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);\n\
                        .global .align 1 .b8 what[6] = {120, 32, 62, 32, 49, 0};\n";
    let body = "mov.u64 %rd5, what;\ncvta.global.u64 %rd5, %rd5;\n{\n.param .b64 a;\n.param .b64 b;\n.param .b32 c;\n.param .b64 d;\n.param .b64 e;\n\
                st.param.b64 [a], %rd5;\nst.param.b64 [b], %rd5;\nst.param.b32 [c], 12;\nst.param.b64 [d], %rd5;\nst.param.b64 [e], 1;\n\
                call.uni __assertfail, (a, b, c, d, e);\n}";
    let fault = Case { source: kernel(declarations, body), ..case("") }
        .trips(FaultKind::Assert, "call.uni __assertfail");
    assert!(fault.detail.contains("`x > 1`") && fault.detail.contains(":12"), "{fault}");
}

#[test]
fn mbarriers() {
    // 64 threads copy, tell the barrier, and read each other's words after its phase.
    let body = "setp.ne.u32 %p1, %r1, 0;\n@%p1 bra READY;\nmbarrier.init.shared.b64 [%r2+512], 64;\nREADY:\nbar.sync 0;\n\
                cp.async.ca.shared.global [%r3], [%rd2], 4;\ncp.async.mbarrier.arrive.noinc.shared.b64 [%r2+512];\n\
                WAIT:\nmbarrier.test_wait.parity.shared.b64 %p2, [%r2+512], 0;\n@!%p2 bra WAIT;\n\
                xor.b32 %r4, %r1, 32;\nmad.lo.u32 %r5, %r4, 4, %r2;\nld.shared.u32 %r6, [%r5];\nsetp.ne.u32 %p3, %r6, %r4;\n@%p3 trap;";
    case(body).passes();
    let state = "setp.ne.u32 %p1, %r1, 0;\n@%p1 bra READY;\nmbarrier.init.shared.b64 [%r2+512], 64;\nREADY:\nbar.sync 0;\nst.shared.u32 [%r3], %r1;\n\
                 mbarrier.arrive.shared.b64 %rd5, [%r2+512];\nWAIT:\nmbarrier.test_wait.shared.b64 %p2, [%r2+512], %rd5;\n@!%p2 bra WAIT;\n\
                 xor.b32 %r4, %r1, 32;\nmad.lo.u32 %r5, %r4, 4, %r2;\nld.shared.u32 %r6, [%r5];\nsetp.ne.u32 %p3, %r6, %r4;\n@%p3 trap;";
    case(state).passes();
    let early = state.replace(
        "mbarrier.arrive.shared.b64 %rd5, [%r2+512];",
        "mbarrier.arrive.noComplete.shared.b64 %rd5, [%r2+512], 64;",
    );
    case(&early).trips(FaultKind::BadMbarrier, "mbarrier.arrive");
    let uninitialised =
        "mov.u64 %rd6, 0;\nst.shared.u64 [%r2+512], %rd6;\nmbarrier.arrive.shared.b64 %rd5, [%r2+512];";
    case(uninitialised).grid(1, 32).trips(FaultKind::BadMbarrier, "mbarrier.arrive");
}

#[test]
fn a_launch_that_cannot_be() {
    let gpu = Gpu::new("strict", &kernel("", ""));
    let at = U64(gpu.upload(&[0u32; 4]));
    let run = |grid, block| gpu.try_run("k", grid, block, &[at], &Options::default()).unwrap_err();
    for fault in [run([1, 1, 1], [1025, 1, 1]), run([0, 1, 1], [32, 1, 1]), run([1, 1, 1], [32, 0, 1])] {
        assert_eq!(fault.kind, FaultKind::BadLaunch);
    }
}
