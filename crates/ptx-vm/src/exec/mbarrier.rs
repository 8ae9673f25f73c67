//! `mbarrier`: 64-bit barrier objects in shared memory.
//!
//! The object's bits, which the ISA leaves open: pending arrivals in 0..20, arrivals of a phase in 20..40, a mark
//! that it was initialised in 56..62, the phase's parity in bit 63. A state, as `arrive` returns it, is the object
//! as it was before.
use super::access::{addresses, split_generic};
use super::block::Common;
use super::context::{Context, Run, Trouble};
use super::copies::{Arrival, land};
use super::regs::Regs;
use super::shared::Touch;
use super::tally::lanes_of;
use super::warp::{Step, Warp};
use crate::decode::program::{Mbarrier, MbarrierOp, Where};
use crate::launch::Checks;
use crate::strict::{FaultKind, MemorySpace};

const COUNT: u64 = (1 << 20) - 1;
const MARK: u64 = 0x2a << 56;
const PHASE: u64 = 1 << 63;
/// The most arrivals a phase can have.
const MOST: u64 = COUNT;

/// `mbarrier.pending_count`: the arrivals that a state still waited for.
pub(crate) fn pending_count(state: u64) -> u32 {
    (state & COUNT) as u32
}

/// `count` arrivals; the object afterwards, or what is wrong.
fn arrive(word: u64, count: u64, drop: bool) -> Result<u64, String> {
    if word & (0x3f << 56) != MARK {
        return Err("the mbarrier was not initialised".into());
    }
    let (pending, expected) = (word & COUNT, word >> 20 & COUNT);
    if count == 0 || count > pending {
        return Err(format!("{count} arrivals at an mbarrier that waits for {pending}"));
    }
    let expected = if drop { expected - count.min(expected) } else { expected };
    let (pending, phase) =
        if pending == count { (expected, word & PHASE ^ PHASE) } else { (pending - count, word & PHASE) };
    Ok(phase | MARK | expected << 20 | pending)
}

impl Warp {
    pub(super) fn mbarrier(
        &mut self,
        regs: &mut Regs,
        m: &Mbarrier,
        mask: u32,
        common: &mut Common,
        ctx: &Context,
    ) -> Run<Step> {
        let mut addrs = addresses(regs, &m.address);
        let mut inside = mask;
        if m.space == Where::Generic {
            inside = split_generic(&mut addrs, mask)[1].1;
        }
        if let Some(l) = lanes_of(mask & !inside).next() {
            let detail = "an mbarrier lies in shared memory".to_string();
            return Err(Trouble::at(FaultKind::BadMbarrier, l, MemorySpace::Global, addrs[l], detail));
        }
        // Whoever waits may see the copies land that the barrier was told about.
        if let MbarrierOp::TestWait { .. } = m.op {
            self.polls += 1;
            self.land_for(addrs[mask.trailing_zeros() as usize], common, ctx)?;
        }
        for l in lanes_of(mask) {
            let addr = addrs[l];
            let touch = if matches!(m.op, MbarrierOp::Init { .. }) { Touch::Write } else { Touch::Strong };
            common.shared.check_range(l, addr, 8, self.id, touch, None, ctx.checks)?;
            let word = common.shared.load(addr, 8);
            let bad =
                |detail: String| Trouble::at(FaultKind::BadMbarrier, l, MemorySpace::Shared, addr, detail);
            match m.op {
                MbarrierOp::Init { count } => {
                    let n = regs.lane(count, l) & u64::from(u32::MAX);
                    if n == 0 || n > MOST {
                        return Err(bad(format!("an mbarrier for {n} arrivals: 1 to {MOST} are possible")));
                    }
                    common.shared.store(addr, 8, MARK | n << 20 | n);
                }
                MbarrierOp::Inval => common.shared.store(addr, 8, 0),
                MbarrierOp::Arrive { state, count, drop, no_complete } => {
                    let n = count.map_or(1, |c| regs.lane(c, l) & u64::from(u32::MAX));
                    let new = arrive(word, n, drop).map_err(bad)?;
                    if no_complete && (new ^ word) & PHASE != 0 {
                        return Err(bad("arrive.noComplete completed the phase".into()));
                    }
                    common.shared.store(addr, 8, new);
                    if let Some(s) = state {
                        regs.set_lane(s, l, word);
                    }
                    self.hand_on(addr, common, ctx);
                }
                MbarrierOp::TestWait { dst, state, parity } => {
                    if word & (0x3f << 56) != MARK {
                        return Err(bad("the mbarrier was not initialised".into()));
                    }
                    let s = regs.lane(state, l);
                    let old = if parity { (s & 1) << 63 } else { s & PHASE };
                    let over = word & PHASE != old;
                    regs.set_pred(dst, 1 << l, if over { !0 } else { 0 });
                    if over {
                        self.hand_on(addr, common, ctx);
                    }
                }
                MbarrierOp::CopyArrive { noinc } => {
                    if !noinc {
                        // The phase waits for one arrival more, which is the one that the copies bring.
                        if word & (0x3f << 56) != MARK {
                            return Err(bad("the mbarrier was not initialised".into()));
                        }
                        common.shared.store(addr, 8, word + 1);
                    }
                    common.copies[self.id as usize].arrivals.push(Arrival { lane: l as u8, addr });
                }
            }
        }
        // Testing does not block; a loop around it must let the others run.
        Ok(if matches!(m.op, MbarrierOp::TestWait { .. }) { Step::Yield } else { Step::Next })
    }

    /// What the warp did before is known to who sees the phase end.
    fn hand_on(&self, addr: u64, common: &mut Common, ctx: &Context) {
        if ctx.checks == Checks::All
            && let Some(races) = &mut common.shared.races
        {
            races.flag(self.id, addr);
        }
    }

    /// Lands the copies of all warps whose arrival the mbarrier at `addr` expects.
    fn land_for(&mut self, addr: u64, common: &mut Common, ctx: &Context) -> Run<()> {
        for warp in 0..common.copies.len() as u32 {
            let arrivals = std::mem::take(&mut common.copies[warp as usize].arrivals);
            let (now, later): (Vec<Arrival>, Vec<Arrival>) =
                arrivals.into_iter().partition(|a| a.addr == addr);
            common.copies[warp as usize].arrivals = later;
            if now.is_empty() {
                continue;
            }
            let lanes = now.iter().fold(0u32, |m, a| m | 1 << a.lane);
            land(common, warp, ctx, |lane, _| lanes >> lane & 1 == 1)?;
            for a in now {
                let word = common.shared.load(addr, 8);
                let lane = a.lane as usize;
                let bad =
                    |detail| Trouble::at(FaultKind::BadMbarrier, lane, MemorySpace::Shared, addr, detail);
                common.shared.store(addr, 8, arrive(word, 1, false).map_err(bad)?);
                if ctx.checks == Checks::All
                    && let Some(races) = &mut common.shared.races
                {
                    races.flag(warp, addr);
                }
            }
        }
        Ok(())
    }
}
