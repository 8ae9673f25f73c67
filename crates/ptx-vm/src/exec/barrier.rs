//! `bar` and `barrier`: sixteen barriers per block, for all of its threads or for a given number.
use super::block::Common;
use super::context::{Context, Run, Trouble};
use super::paths::State;
use super::tally::{Tally, lanes_of};
use super::warp::{Running, Step, Warp};
use crate::decode::program::{Barrier, BarrierKind, Kind};
use crate::strict::FaultKind;
use crate::syntax::ast::Operation;

/// Results of reductions are kept for so many generations, for warps that are slow to pick them up.
const KEPT: u64 = 64;

/// One barrier.
#[derive(Clone)]
struct One {
    generation: u64,
    /// Lanes that have arrived, by warp.
    arrived: Vec<u32>,
    /// Threads it waits for; `None` is everybody.
    expected: Option<u32>,
    /// Threads that arrived with a true predicate, and threads that arrived with one at all.
    yes: u32,
    asked: u32,
    results: Vec<(u32, u32)>,
}

/// The barriers of a block.
#[derive(Clone)]
pub(crate) struct Barriers(Vec<One>);

impl Barriers {
    pub fn new(warps: usize) -> Barriers {
        let one = One {
            generation: 0,
            arrived: vec![0; warps],
            expected: None,
            yes: 0,
            asked: 0,
            results: Vec::new(),
        };
        Barriers(vec![one; 16])
    }

    pub fn len(&self) -> u32 {
        self.0.len() as u32
    }

    /// Whether a generation is over.
    pub fn passed(&self, id: u32, generation: u64) -> bool {
        self.0[id as usize].generation > generation
    }

    /// Ends the generation if it is complete: the warps that took part, a bit each.
    pub fn complete(&mut self, id: u32, live: &[u32]) -> Option<u64> {
        let b = &mut self.0[id as usize];
        if b.arrived.iter().all(|&a| a == 0) {
            return None;
        }
        let whole = |w: usize| live[w] & !b.arrived[w] == 0;
        let done = match b.expected {
            None => (0..live.len()).all(|w| live[w] == 0 || whole(w)),
            Some(n) => {
                // A warp whose lanes are all there counts whole, whatever its number of lanes.
                let count = |w: usize| match b.arrived[w] {
                    0 => 0,
                    _ if whole(w) => 32,
                    a => a.count_ones(),
                };
                (0..live.len()).map(count).sum::<u32>() >= n
            }
        };
        if !done {
            return None;
        }
        let members = (0..live.len()).filter(|&w| b.arrived[w] != 0).fold(0, |m, w| m | 1u64 << w);
        if b.asked > 0 {
            b.results.resize(KEPT as usize, (0, 0));
            b.results[(b.generation % KEPT) as usize] = (b.yes, b.asked);
        }
        b.generation += 1;
        b.arrived.fill(0);
        b.expected = None;
        b.yes = 0;
        b.asked = 0;
        Some(members)
    }

    fn result(&self, id: u32, generation: u64, op: Operation) -> u32 {
        let results = &self.0[id as usize].results;
        let (yes, asked) = results.get((generation % KEPT) as usize).copied().unwrap_or_default();
        match op {
            Operation::And => u32::from(yes == asked),
            Operation::Or => u32::from(yes > 0),
            _ => yes,
        }
    }
}

impl Warp {
    /// Arrives at a barrier, and waits unless the instruction only arrives.
    pub(super) fn barrier(
        &mut self,
        run: &mut Running,
        b: &Barrier,
        common: &mut Common,
        tally: &mut Tally,
    ) -> Run<Step> {
        let mut lanes = run.mask;
        if b.aligned {
            match self.rendezvous(run, !0) {
                None => return Ok(Step::Parked),
                Some(all) => lanes = all,
            }
        }
        let lane = lanes.trailing_zeros() as usize;
        let id = run.regs.lane(b.id, lane) as u32;
        let count = b.count.map(|c| run.regs.lane(c, lane) as u32);
        let bad = |detail: String| Err(Trouble::new(FaultKind::DivergentBarrier, lane as u32, detail));
        if id >= common.barriers.len() {
            return bad(format!("barrier {id} does not exist: there are 16"));
        }
        let one = &mut common.barriers.0[id as usize];
        if let Some(n) = count
            && (n == 0 || n % 32 != 0)
        {
            return bad(format!("a barrier for {n} threads: the number must be a positive multiple of 32"));
        }
        let fresh = one.arrived.iter().all(|&a| a == 0);
        if !fresh && one.expected != count {
            return bad(format!("barrier {id} is waited at with different numbers of threads"));
        }
        one.expected = count;
        if one.arrived[self.id as usize] & lanes != 0 {
            return bad(format!("the warp arrives at barrier {id} twice before it is complete"));
        }
        one.arrived[self.id as usize] |= lanes;
        if let BarrierKind::Red { input, .. } = b.kind {
            let yes = (run.regs.preds[input.at as usize] ^ input.flip) & lanes;
            one.yes += yes.count_ones();
            one.asked += lanes.count_ones();
        }
        let generation = one.generation;
        tally.counters.barriers += 1;
        common.complete_barrier(id);
        if matches!(b.kind, BarrierKind::Arrive) {
            return Ok(Step::Next);
        }
        let state = State::Barrier { id, generation };
        // Lanes that met this path here but go on by themselves wait as well.
        for p in &mut self.paths {
            if p.mask & lanes != 0 && p.pc == run.pc && p.frame == run.frame {
                p.state = state;
            }
        }
        self.park(run, run.pc, state);
        Ok(Step::Parked)
    }

    /// The barrier that the path waited at is over: reductions deliver.
    pub(super) fn leave_barrier(
        &mut self,
        run: &mut Running,
        common: &Common,
        ctx: &Context,
        id: u32,
        generation: u64,
    ) {
        let Kind::Barrier(b) = &ctx.program.code[run.pc as usize - 1].kind else { return };
        let BarrierKind::Red { op, dst, .. } = b.kind else { return };
        let value = common.barriers.result(id, generation, op);
        if op == Operation::Popc {
            lanes_of(run.mask).for_each(|l| run.regs.set_lane(dst, l, value.into()));
        } else {
            run.regs.set_pred(dst.at, run.mask, if value != 0 { !0 } else { 0 });
        }
    }
}
