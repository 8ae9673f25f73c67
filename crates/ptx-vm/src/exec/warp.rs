//! A warp: the loop that executes instructions.
use super::block::Common;
use super::context::{Context, Rng, Run, Trouble};
use super::local::Local;
use super::paths::{CallFrame, Join, Path, State};
use super::regs::Regs;
use super::tally::Tally;
use crate::decode::program::{Kind, NONE};
use crate::launch::Checks;
use crate::memory::Hit;
use crate::strict::FaultKind;

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Every lane has exited.
    Done,
    /// Its quantum is over.
    Yield,
    /// Every path waits for something.
    Blocked,
}

/// What became of a path.
pub(super) enum Outcome {
    /// It is parked, or over: another path may run.
    Parked,
    /// The quantum is over.
    Yield,
}

/// 32 lanes.
pub(crate) struct Warp {
    /// Number in the block.
    pub id: u32,
    /// Lanes that have not exited.
    pub live: u32,
    pub paths: Vec<Path>,
    pub joins: Vec<Join>,
    pub frames: Vec<CallFrame>,
    pub free_frames: Vec<u32>,
    /// Local memory of each lane.
    pub local: Vec<Local>,
    /// Blocks of memory hit last, by loads and by stores.
    pub hits: [Hit; 4],
    /// Accesses so far through which a lane may have been waiting for another one.
    pub polls: u64,
    /// Instruction executed last, for faults.
    pub at: u32,
    pub rng: Option<Rng>,
}

/// The registers of the running path, out of their frame while it runs.
pub(super) struct Running {
    pub pc: u32,
    pub mask: u32,
    pub frame: u32,
    pub join: u32,
    /// Where the join is, if it is in this frame.
    pub join_pc: u32,
    pub regs: Regs,
}

impl Warp {
    /// Runs until the quantum is over or no path can go on.
    pub fn run(
        &mut self,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
        fuel: &mut u64,
    ) -> Run<Stop> {
        loop {
            let Some(next) = self.pick(common) else {
                return Ok(if self.paths.is_empty() { Stop::Done } else { Stop::Blocked });
            };
            if let Outcome::Yield = self.run_path(next, common, ctx, tally, fuel)? {
                return Ok(Stop::Yield);
            }
        }
    }

    /// A path that can run, joins released where that is the only way on.
    fn pick(&mut self, common: &Common) -> Option<usize> {
        let ready = |p: &Path| match p.state {
            State::Ready => true,
            State::Barrier { id, generation } => common.barriers.passed(id, generation),
            State::Sync | State::WarpSync(_) => false,
        };
        let found = match &mut self.rng {
            None => self.paths.iter().rposition(ready),
            Some(rng) => {
                let all: Vec<usize> = (0..self.paths.len()).filter(|&i| ready(&self.paths[i])).collect();
                if all.is_empty() { None } else { Some(all[rng.below(all.len() as u64) as usize]) }
            }
        };
        if found.is_some() {
            return found;
        }
        // Lanes wait at a `.sync` for lanes that wait at a join: the join gives way.
        if self.release_joins(|_| true) { self.pick(common) } else { None }
    }

    fn run_path(
        &mut self,
        index: usize,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
        fuel: &mut u64,
    ) -> Run<Outcome> {
        let path = self.paths.swap_remove(index);
        let regs = std::mem::take(&mut self.frames[path.frame as usize].regs);
        let mut run =
            Running { pc: path.pc, mask: path.mask, frame: path.frame, join: path.join, join_pc: NONE, regs };
        run.join_pc = self.join_pc(run.join, run.frame);
        if let State::Barrier { id, generation } = path.state {
            self.leave_barrier(&mut run, common, ctx, id, generation);
        }
        let outcome = self.execute(&mut run, common, ctx, tally, fuel);
        // The registers go home.
        self.frames[run.frame as usize].regs = run.regs;
        outcome
    }

    /// The hot loop.
    fn execute(
        &mut self,
        run: &mut Running,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
        fuel: &mut u64,
    ) -> Run<Outcome> {
        let code = &ctx.program.code[..];
        loop {
            if run.pc == run.join_pc {
                if !self.arrive(run) {
                    return Ok(Outcome::Parked);
                }
                continue;
            }
            if *fuel == 0 {
                self.suspend(run);
                return Ok(Outcome::Yield);
            }
            *fuel -= 1;
            let pc = run.pc;
            let inst = &code[pc as usize];
            let guard = inst.guard;
            let mask = if guard.pred == NONE {
                run.mask
            } else {
                run.mask & (run.regs.preds[guard.pred as usize] ^ guard.flip)
            };
            tally.issue(pc, mask);
            run.pc = pc + 1;
            if let Kind::Row(op, args) = &inst.kind {
                if mask != 0 {
                    op.run(&mut run.regs, args, mask, ctx.noise);
                }
                continue;
            }
            self.at = pc;
            if let Kind::Branch { target, join } = inst.kind {
                if mask == run.mask {
                    run.pc = target;
                } else if mask != 0 {
                    tally.counters.divergent_branches += 1;
                    self.diverge(run, mask, target, join);
                }
                continue;
            }
            if mask == 0 {
                continue;
            }
            match self.effect(run, &inst.kind, mask, common, ctx, tally)? {
                Step::Next => {}
                Step::Parked => return Ok(Outcome::Parked),
                Step::Yield => {
                    self.suspend(run);
                    return Ok(Outcome::Yield);
                }
            }
        }
    }

    /// Instructions that do more than compute registers.
    fn effect(
        &mut self,
        run: &mut Running,
        kind: &Kind,
        mask: u32,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<Step> {
        let lane = mask.trailing_zeros();
        match kind {
            Kind::Row(..) | Kind::Branch { .. } => {}
            Kind::Special(slot, which) => self.special(&mut run.regs, *slot, *which, mask, common, ctx),
            Kind::Param { offset, bytes, sign, keep, regs } => {
                super::access::load_param(&mut run.regs, *offset, *bytes, *sign, *keep, regs, mask, ctx);
            }
            Kind::Load(access) => {
                self.load_or_store::<false>(&mut run.regs, access, mask, common, ctx, tally)?
            }
            Kind::Store(access) => {
                self.load_or_store::<true>(&mut run.regs, access, mask, common, ctx, tally)?
            }
            Kind::Atomic(atomic) => self.atomic(&mut run.regs, atomic, mask, common, ctx, tally)?,
            Kind::BranchIndex { index, targets, join } => {
                return self.branch_index(run, *index, targets, *join, tally);
            }
            Kind::Call(call) => return self.call(run, call, ctx, common),
            Kind::Return => return Ok(self.ret(run, ctx)),
            Kind::Exit => return Ok(self.exit(run, mask, common)),
            Kind::Barrier(barrier) => return self.barrier(run, barrier, common, tally),
            Kind::WarpSync { mask: members } => return self.warp_sync(run, *members, common),
            Kind::Exchange { op, mask: members } => return self.exchange(run, op, *members, ctx),
            Kind::ActiveMask { dst } => run.regs.put(*dst, mask, &[run.mask; 32]),
            Kind::CopyAsync(copy) => self.copy_async(&mut run.regs, copy, mask, common, ctx, tally)?,
            Kind::CommitGroup => common.copies[self.id as usize].commit(mask),
            Kind::WaitGroup(pending) => self.wait_group(*pending, mask, common, ctx)?,
            Kind::Mbarrier(m) => return self.mbarrier(&mut run.regs, m, mask, common, ctx),
            Kind::Mma(mma) => {
                if !self.whole_warp(run)? {
                    return Ok(Step::Parked);
                }
                mma.op.run(&mut run.regs, &Default::default(), !0, ctx.noise);
            }
            Kind::LoadMatrix(access) => {
                if !self.whole_warp(run)? {
                    return Ok(Step::Parked);
                }
                self.load_matrix(&mut run.regs, access, common, ctx, tally)?;
            }
            Kind::MoveMatrix { dst, src } => {
                if !self.whole_warp(run)? {
                    return Ok(Step::Parked);
                }
                super::matrix::transpose(&mut run.regs, *dst, *src);
            }
            Kind::Fragment(access) => {
                if !self.whole_warp(run)? {
                    return Ok(Step::Parked);
                }
                self.fragment(&mut run.regs, access, common, ctx, tally)?;
            }
            Kind::Fence { wide } => self.fence(*wide, common, ctx),
            Kind::Sleep => {
                self.polls += 1;
                return Ok(Step::Yield);
            }
            Kind::StackSave(_) | Kind::StackRestore(_) | Kind::Alloca { .. } => {
                self.stack(run, kind, mask, ctx)?;
            }
            Kind::IsSpace { dst, src, space } => {
                let bits = super::special::is_space(&run.regs, *src, *space);
                run.regs.set_pred(*dst, mask, bits);
            }
            Kind::Trap => return Err(Trouble::new(FaultKind::Trap, lane, "the kernel executed trap")),
            Kind::Breakpoint => {
                return Err(Trouble::new(FaultKind::Breakpoint, lane, "the kernel executed brkpt"));
            }
            Kind::Undefined(u) if ctx.checks == Checks::All => self.undefined(run, u, ctx)?,
            Kind::Undefined(_) | Kind::Nothing => {}
        }
        Ok(Step::Next)
    }
}

/// How a path goes on after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// At `run.pc`.
    Next,
    /// Not at all: it is parked or over.
    Parked,
    /// Later: other paths and warps first.
    Yield,
}
