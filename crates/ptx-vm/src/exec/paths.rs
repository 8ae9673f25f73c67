//! Divergence: how a warp's lanes part and meet.
//!
//! A branch whose lanes disagree makes a [`Join`] at its immediate post-dominator and splits the path in two. A
//! path that reaches its join is absorbed by it; when all expected lanes are there (or have exited), they go on as
//! one path. A loop whose lanes leave one by one needs one join, not one per iteration.
//!
//! A join is a convenience, not a promise: lanes that spin on a value which a lane parked at the join would write
//! must not wait forever (independent thread scheduling). So a join at which nobody has arrived for [`PATIENCE`] polls of
//! memory lets go of the parked lanes, and when lanes wait at a `.sync` instruction for parked ones it does so at once.
//! The polls are counted for each join by itself: lanes that spin may meet at joins inside their loop forever, which
//! is no progress for a lane that waits outside of it.
use super::block::Common;
use super::context::{Run, Trouble};
use super::regs::{LANES, Regs, Slot};
use super::tally::{Tally, lanes_of};
use super::warp::{Running, Step, Warp};
use crate::decode::program::NONE;
use crate::strict::FaultKind;

/// Polls of shared state after which a warp counts as spinning: a join where lanes are parked gives way then.
pub(super) const PATIENCE: u64 = 256;

/// What a path waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Ready,
    /// Other lanes at the same instruction.
    Sync,
    /// Other lanes at any `bar.warp.sync` with the same mask.
    WarpSync(u32),
    /// The end of a generation of a block barrier.
    Barrier { id: u32, generation: u64 },
}

/// Lanes at the same place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub pc: u32,
    pub mask: u32,
    pub frame: u32,
    pub join: u32,
    pub state: State,
}

/// A place where lanes meet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    pub pc: u32,
    pub frame: u32,
    /// Lanes that are to come and have not exited.
    pub expected: u32,
    pub arrived: u32,
    pub parent: u32,
    /// The warp's polls when lanes arrived last.
    pub since: u64,
}

/// A function call in progress.
pub(crate) struct CallFrame {
    /// Index of the function.
    pub function: u32,
    pub regs: Regs,
    /// Lanes that are in it.
    pub lanes: u32,
    pub parent: u32,
    /// The call instruction; execution goes on after it.
    pub call: u32,
    /// Where its local memory begins.
    pub local_base: u32,
    /// Where the next frame's begins, in each lane (moved by `alloca` and `stackrestore`).
    pub tops: [u32; LANES],
    pub depth: u32,
}

impl CallFrame {
    /// The highest top of the lanes of `mask`.
    pub fn top(&self, mask: u32) -> u32 {
        lanes_of(mask).map(|l| self.tops[l]).max().unwrap_or(self.local_base)
    }
}

impl Warp {
    pub(super) fn join_pc(&self, join: u32, frame: u32) -> u32 {
        match self.joins.get(join as usize) {
            Some(j) if j.frame == frame => j.pc,
            _ => NONE,
        }
    }

    /// Puts a path back that is to go on later. Under a seed it may come back as two.
    pub(super) fn suspend(&mut self, run: &Running) {
        let path = Path { pc: run.pc, mask: run.mask, frame: run.frame, join: run.join, state: State::Ready };
        match &mut self.rng {
            // To the front: the paths behind it have their turn first.
            None => self.paths.insert(0, path),
            Some(rng) => {
                let part = run.mask & rng.next() as u32;
                if rng.below(4) == 0 && part != 0 && part != run.mask {
                    self.paths.push(Path { mask: part, ..path });
                    self.paths.push(Path { mask: run.mask & !part, ..path });
                } else {
                    self.paths.push(path);
                }
            }
        }
        let polls = self.polls;
        self.release_joins(|j| polls - j.since > PATIENCE);
    }

    /// Parks the running path in a state.
    pub(super) fn park(&mut self, run: &Running, pc: u32, state: State) {
        self.paths.push(Path { pc, mask: run.mask, frame: run.frame, join: run.join, state });
    }

    /// The running path has reached its join. True when everybody has: it goes on for all of them.
    pub(super) fn arrive(&mut self, run: &mut Running) -> bool {
        let j = &mut self.joins[run.join as usize];
        j.arrived |= run.mask;
        j.since = self.polls;
        if j.arrived != j.expected {
            return false;
        }
        run.mask = j.arrived;
        let parent = j.parent;
        self.drop_join(run.join);
        run.join = parent;
        run.join_pc = self.join_pc(run.join, run.frame);
        true
    }

    fn drop_join(&mut self, join: u32) {
        self.joins[join as usize].expected = 0;
        self.joins[join as usize].arrived = 0;
        while self.joins.last().is_some_and(|j| j.expected == 0) {
            self.joins.pop();
        }
    }

    /// The join at `pc` for the lanes of the running path: the present one if it is there already.
    pub(super) fn join_at(&mut self, run: &Running, pc: u32) -> u32 {
        if pc == NONE || pc == run.join_pc {
            return run.join;
        }
        let join = Join {
            pc,
            frame: run.frame,
            expected: run.mask,
            arrived: 0,
            parent: run.join,
            since: self.polls,
        };
        self.joins.push(join);
        self.joins.len() as u32 - 1
    }

    /// Splits the running path: the lanes of `taken` go to `target`, the others go on; one side runs, the other waits
    /// its turn.
    pub(super) fn diverge(&mut self, run: &mut Running, taken: u32, target: u32, join: u32) {
        let rest = run.mask & !taken;
        let join = self.join_at(run, join);
        run.join = join;
        run.join_pc = self.join_pc(join, run.frame);
        // The side that stands at the join already is parked there; otherwise the jump runs first.
        let taken_side = Path { pc: target, mask: taken, frame: run.frame, join, state: State::Ready };
        let other_side = Path { pc: run.pc, mask: rest, ..taken_side };
        let (now, later) =
            if target == run.join_pc { (other_side, taken_side) } else { (taken_side, other_side) };
        if later.pc == run.join_pc {
            let j = &mut self.joins[join as usize];
            j.arrived |= later.mask;
            j.since = self.polls;
        } else {
            self.paths.push(later);
        }
        run.pc = now.pc;
        run.mask = now.mask;
    }

    /// `brx.idx`
    pub(super) fn branch_index(
        &mut self,
        run: &mut Running,
        index: Slot,
        targets: &[u32],
        join: u32,
        tally: &mut Tally,
    ) -> Run<Step> {
        let mut left = run.mask;
        let mut groups: Vec<(u32, u32)> = Vec::new();
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let at = run.regs.lane(index, lane) as u32;
            let Some(&target) = targets.get(at as usize) else {
                let detail = format!("brx.idx with index {at}, but the list has {} targets", targets.len());
                return Err(Trouble::new(FaultKind::BadTarget, lane as u32, detail));
            };
            let group =
                lanes_of(left).filter(|&l| run.regs.lane(index, l) as u32 == at).fold(0, |m, l| m | 1 << l);
            groups.push((target, group));
            left &= !group;
        }
        if groups.len() > 1 {
            tally.counters.divergent_branches += 1;
            let join = self.join_at(run, join);
            run.join = join;
            run.join_pc = self.join_pc(join, run.frame);
            for &(pc, mask) in &groups[1..] {
                self.paths.push(Path { pc, mask, frame: run.frame, join, state: State::Ready });
            }
        }
        (run.pc, run.mask) = groups[0];
        Ok(Step::Next)
    }

    /// The lanes of `mask` are no longer expected anywhere up from `join`; complete joins go on.
    pub(super) fn forget_lanes(&mut self, mask: u32) {
        for at in 0..self.joins.len() {
            let j = &mut self.joins[at];
            if j.expected & mask == 0 {
                continue;
            }
            j.expected &= !mask;
            if j.expected != 0 && j.arrived == j.expected {
                let path =
                    Path { pc: j.pc, mask: j.arrived, frame: j.frame, join: j.parent, state: State::Ready };
                j.expected = 0;
                j.arrived = 0;
                self.paths.push(path);
            }
        }
        while self.joins.last().is_some_and(|j| j.expected == 0) {
            self.joins.pop();
        }
    }

    /// Lets the lanes parked at the joins that `which` names go on without waiting. False when there are none.
    pub(super) fn release_joins(&mut self, which: impl Fn(&Join) -> bool) -> bool {
        let mut any = false;
        for at in 0..self.joins.len() {
            let j = &mut self.joins[at];
            if j.arrived != 0 && which(j) {
                let path =
                    Path { pc: j.pc, mask: j.arrived, frame: j.frame, join: j.parent, state: State::Ready };
                j.expected &= !j.arrived;
                j.arrived = 0;
                self.paths.push(path);
                any = true;
            }
        }
        any
    }

    /// Lanes end.
    pub(super) fn exit(&mut self, run: &mut Running, mask: u32, common: &mut Common) -> Step {
        self.live &= !mask;
        common.live[self.id as usize] = self.live;
        run.mask &= !mask;
        let mut frame = run.frame;
        while frame != NONE {
            let f = &mut self.frames[frame as usize];
            f.lanes &= !mask;
            frame = f.parent;
        }
        self.forget_lanes(mask);
        common.lanes_exited();
        self.recheck_syncs();
        if run.mask == 0 { Step::Parked } else { Step::Next }
    }

    /// Lanes have exited: who waited for them at a `.sync` looks again.
    fn recheck_syncs(&mut self) {
        for p in &mut self.paths {
            if matches!(p.state, State::Sync | State::WarpSync(_)) {
                // The instruction is executed once more and finds its lanes complete, or parks again.
                p.state = State::Ready;
            }
        }
    }

    /// Whether lanes of the running path cover `needed` at its instruction; if not, they wait for the others there.
    /// The lanes to execute it for.
    pub(super) fn rendezvous(&mut self, run: &mut Running, needed: u32) -> Option<u32> {
        let missing = |mask: u32| needed & !mask;
        if missing(run.mask) & self.live == 0 {
            return Some(run.mask);
        }
        let pc = run.pc - 1;
        let here = |p: &Path| p.state == State::Sync && p.pc == pc && p.frame == run.frame;
        let all = self.paths.iter().filter(|p| here(p)).fold(run.mask, |m, p| m | p.mask);
        if missing(all) & self.live != 0 {
            self.park(run, pc, State::Sync);
            return None;
        }
        let mut at = 0;
        while at < self.paths.len() {
            if !here(&self.paths[at]) {
                at += 1;
                continue;
            }
            if self.paths[at].join == run.join {
                run.mask |= self.paths.swap_remove(at).mask;
            } else {
                // Other lanes take part but go on by themselves.
                let p = &mut self.paths[at];
                p.state = State::Ready;
                p.pc += 1;
                at += 1;
            }
        }
        Some(all)
    }

    /// For instructions that the whole warp executes together. False when the path was parked.
    pub(super) fn whole_warp(&mut self, run: &mut Running) -> Run<bool> {
        match self.rendezvous(run, !0) {
            None => Ok(false),
            Some(m) if m == !0 => Ok(true),
            Some(m) => {
                let lane = m.trailing_zeros();
                let detail =
                    format!("a matrix instruction needs all 32 lanes of the warp, {:#010x} have exited", !m);
                Err(Trouble::new(FaultKind::MissingLanes, lane, detail))
            }
        }
    }
}
