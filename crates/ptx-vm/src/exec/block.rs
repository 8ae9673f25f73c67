//! A block: its warps, what they share, and who runs next.
use super::barrier::Barriers;
use super::context::{Context, Rng, Trouble};
use super::copies::Copies;
use super::local::Local;
use super::paths::{CallFrame, PATIENCE, Path, State};
use super::regs::{LANES, Regs};
use super::shared::Shared;
use super::tally::Tally;
use super::warp::{Stop, Warp};
use crate::decode::program::{BarrierKind, Kind, NONE};
use crate::strict::global_race::{Access, EpochState, GlobalRaces, Race};
use crate::strict::{Fault, FaultKind};

/// Instructions a warp executes before the next one has its turn.
const QUANTUM: u64 = 4096;

/// What the warps of a block share.
pub(crate) struct Common {
    /// Number of the block in the grid.
    pub block: u64,
    /// Lanes of each warp that have not exited.
    pub live: Vec<u32>,
    pub barriers: Barriers,
    pub shared: Shared,
    /// Asynchronous copies under way, by warp.
    pub copies: Vec<Copies>,
    /// Each warp's place in the global race detector.
    pub epochs: Vec<EpochState>,
    /// Instructions executed: the block's clock.
    pub time: u64,
    pub rng: Option<Rng>,
}

/// How far a block came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// Its quantum is over.
    Yield,
}

/// A block in execution.
pub(crate) struct Block {
    pub common: Common,
    warps: Vec<Warp>,
    /// The warp whose turn it is.
    turn: usize,
    /// The adversary lets this warp run as far as it can. With its polls when it began.
    ahead: Option<(usize, u64)>,
}

impl Common {
    /// Lanes have exited: barriers that wait for everybody may be complete.
    pub fn lanes_exited(&mut self) {
        for id in 0..self.barriers.len() {
            self.complete_barrier(id);
        }
    }

    /// Completes a barrier if everybody it waits for is there.
    pub fn complete_barrier(&mut self, id: u32) -> bool {
        let Some(members) = self.barriers.complete(id, &self.live) else { return false };
        if let Some(races) = &mut self.shared.races {
            races.barrier(members);
        }
        true
    }

    /// Passes an access to global memory to the race detector.
    pub fn touch_global(
        &mut self,
        races: &GlobalRaces,
        warp: u32,
        addr: u64,
        bytes: u64,
        access: Access,
    ) -> Option<Race> {
        let state = &mut self.epochs[warp as usize];
        let clocks = self.shared.races.as_ref();
        if let Some(clocks) = clocks
            && clocks.clock(warp) != state.clock
        {
            races.advance(state, clocks.clock(warp));
        }
        let knows = |other: u32, clock: u32| clocks.is_some_and(|c| c.knows(warp, other, clock));
        races.touch(addr, bytes, access, state, &knows)
    }
}

impl Block {
    /// A block that has not begun; `old` gives its allocations away.
    pub fn new(block: u64, ctx: &Context, old: Option<Block>) -> Block {
        let warps = ctx.threads.div_ceil(32) as usize;
        let mut shared = old.map(|b| b.common.shared).unwrap_or_default();
        let seed = ctx.seed.map(|s| s ^ block.wrapping_mul(0xd134_2543_de82_ef95));
        shared.reset(ctx.shared_bytes, warps, ctx.checks, seed);
        let live: Vec<u32> = (0..warps as u32)
            .map(|w| match ctx.threads - w * 32 {
                n @ 0..32 => (1 << n) - 1,
                _ => !0,
            })
            .collect();
        let mut rng = seed.map(Rng::new);
        let made: Vec<Warp> =
            live.iter().enumerate().map(|(w, &mask)| Warp::begin(w as u32, mask, ctx, &mut rng)).collect();
        let common = Common {
            block,
            barriers: Barriers::new(warps),
            shared,
            copies: live.iter().map(|_| Copies::default()).collect(),
            epochs: (0..warps as u32).map(|w| EpochState::new(block, w)).collect(),
            live,
            time: 0,
            rng,
        };
        Block { common, turn: made.len() - 1, warps: made, ahead: None }
    }

    /// Runs for about `fuel` warp instructions.
    pub fn run(&mut self, ctx: &Context, tally: &mut Tally, mut fuel: u64) -> Result<Progress, Fault> {
        let mut blocked = 0;
        while fuel > 0 {
            let count = self.warps.len();
            let at = self.choose(count);
            let quantum = self.quantum(at).min(fuel);
            let granted = ctx.take_budget(quantum);
            if granted == 0 {
                let detail = "the launch has used up its instruction budget: an endless loop?";
                let warp = &self.warps[at];
                let lane = warp.paths.first().map_or(0, |p| p.mask.trailing_zeros());
                return Err(ctx.fault(
                    *Trouble::new(FaultKind::Budget, lane, detail),
                    warp.at,
                    self.common.block,
                    warp.id,
                ));
            }
            let mut left = granted;
            let warp = &mut self.warps[at];
            let stop = warp.run(&mut self.common, ctx, tally, &mut left);
            let used = granted - left;
            ctx.return_budget(left);
            self.common.time += used;
            fuel -= used.min(fuel);
            match stop {
                Err(trouble) => return Err(ctx.fault(*trouble, warp.at, self.common.block, warp.id)),
                Ok(Stop::Done) => {
                    if self.warps.iter().all(|w| w.paths.is_empty()) {
                        tally.counters.blocks += 1;
                        tally.counters.warps += count as u64;
                        return Ok(Progress::Done);
                    }
                }
                Ok(Stop::Yield) => {}
                Ok(Stop::Blocked) => {}
            }
            // A whole round without one instruction: nobody can go on.
            blocked = if used == 0 { blocked + 1 } else { 0 };
            if blocked > 2 * count && !self.anybody_ready() {
                return Err(self.stuck(ctx));
            }
        }
        Ok(Progress::Yield)
    }

    fn anybody_ready(&self) -> bool {
        self.warps.iter().any(|w| {
            w.paths.iter().any(|p| match p.state {
                State::Ready => true,
                State::Barrier { id, generation } => self.common.barriers.passed(id, generation),
                _ => false,
            })
        })
    }

    fn choose(&mut self, count: usize) -> usize {
        if let Some(rng) = &mut self.common.rng {
            if let Some((w, polls)) = self.ahead
                && rng.below(64) != 0
            {
                // Once the warp that runs ahead is blocked, or spins on what another one has to write, everybody
                // has a turn: a lead that lasts does not find more, it only stands still.
                let warp = &self.warps[w];
                if warp.polls - polls < PATIENCE && warp.paths.iter().any(|p| p.state == State::Ready) {
                    return w;
                }
            }
            self.ahead = (rng.below(4) == 0).then(|| {
                let w = rng.below(count as u64) as usize;
                (w, self.warps[w].polls)
            });
            // A random start, then round: every warp is reached.
            self.turn =
                if rng.below(2) == 0 { rng.below(count as u64) as usize } else { (self.turn + 1) % count };
            return self.turn;
        }
        // The same warp goes on until it blocks or its quantum ends, then the next.
        self.turn = (self.turn + 1) % count;
        self.turn
    }

    fn quantum(&mut self, at: usize) -> u64 {
        match &mut self.common.rng {
            None => QUANTUM,
            Some(_) if self.ahead.is_some_and(|(w, _)| w == at) => QUANTUM,
            Some(rng) => 1 + rng.below(1 << rng.clone().below(9)),
        }
    }

    /// Why no warp can go on.
    fn stuck(&self, ctx: &Context) -> Fault {
        let mut best: Option<(u8, u32, &Warp, &Path)> = None;
        for w in &self.warps {
            for p in &w.paths {
                let (rank, pc) = match p.state {
                    State::Sync | State::WarpSync(_) => (0, p.pc),
                    _ => (1, p.pc - 1),
                };
                if best.is_none_or(|(r, ..)| rank < r) {
                    best = Some((rank, pc, w, p));
                }
            }
        }
        let Some((_, pc, warp, path)) = best else {
            let trouble = Trouble::new(FaultKind::DivergentBarrier, 0, "the block cannot go on");
            return ctx.fault(*trouble, 0, self.common.block, 0);
        };
        let absent = warp.live & !path.mask;
        let lane = path.mask.trailing_zeros();
        let trouble = match &ctx.program.code[pc as usize].kind {
            Kind::Barrier(b) if matches!(path.state, State::Sync) => {
                let what = if matches!(b.kind, BarrierKind::Arrive) { "arrives at" } else { "waits at" };
                let detail = format!(
                    "lanes {:#010x} of the warp {what} a barrier that its lanes {absent:#010x} do not reach",
                    path.mask
                );
                Trouble::new(FaultKind::DivergentBarrier, lane, detail)
            }
            Kind::Barrier(_) => {
                let waiting = self.warps.iter().filter(|w| !w.paths.is_empty()).count();
                let detail = format!(
                    "{waiting} warps of the block wait at barriers that the others never reach (counts, or \
                     different barrier numbers)"
                );
                Trouble::new(FaultKind::DivergentBarrier, lane, detail)
            }
            _ => {
                let detail = format!(
                    "lanes {:#010x} wait for lanes {absent:#010x} at a warp-wide instruction that these never reach",
                    path.mask
                );
                Trouble::new(FaultKind::MissingLanes, lane, detail)
            }
        };
        ctx.fault(*trouble, pc, self.common.block, warp.id)
    }
}

impl Warp {
    /// A warp at the entry of the kernel.
    fn begin(id: u32, mask: u32, ctx: &Context, rng: &mut Option<Rng>) -> Warp {
        let mut warp = Warp {
            id,
            live: mask,
            paths: Vec::new(),
            joins: Vec::new(),
            frames: Vec::new(),
            free_frames: Vec::new(),
            local: (0..32).map(|_| Local::default()).collect(),
            hits: Default::default(),
            polls: 0,
            at: 0,
            rng: rng.as_mut().map(|r| Rng::new(r.next())),
        };
        let frame = &ctx.program.frames[ctx.entry as usize];
        warp.frames.push(CallFrame {
            function: ctx.entry,
            regs: Regs::default(),
            lanes: 0,
            parent: NONE,
            call: NONE,
            local_base: 0,
            tops: [0; LANES],
            depth: 0,
        });
        warp.prepare_frame(0, mask, ctx);
        let path = Path { pc: frame.start, mask, frame: 0, join: NONE, state: State::Ready };
        warp.paths.push(path);
        warp
    }
}
