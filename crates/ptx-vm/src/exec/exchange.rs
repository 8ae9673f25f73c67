//! Warp-wide instructions: `shfl`, `vote`, `match`, `redux`, `bar.warp.sync`.
use super::block::Common;
use super::context::{Context, Run, Trouble};
use super::paths::{Path, State};
use super::regs::{LANES, Regs};
use super::tally::lanes_of;
use super::warp::{Running, Step, Warp};
use crate::decode::program::{Exchange, Shfl};
use crate::launch::Checks;
use crate::strict::FaultKind;
use crate::syntax::ast::{Operation, Shuffle, VoteMode};

impl Warp {
    /// Who takes part: the lanes of each lane's member mask, checked.
    fn members(&self, regs: &Regs, row: u32, mask: u32) -> Run<u32> {
        let masks = regs.get::<u32>(row);
        let mut all = 0;
        for l in lanes_of(mask) {
            if masks[l] >> l & 1 == 0 {
                let detail =
                    format!("the lane executes an instruction whose membermask {:#010x} lacks it", masks[l]);
                return Err(Trouble::new(FaultKind::MissingLanes, l as u32, detail));
            }
            all |= masks[l];
        }
        Ok(all)
    }

    pub(super) fn warp_sync(&mut self, run: &mut Running, row: u32, _common: &mut Common) -> Run<Step> {
        let needed = self.members(&run.regs, row, run.mask)?;
        if needed & self.live & !run.mask == 0 {
            return Ok(Step::Next);
        }
        // Any bar.warp.sync with the same mask will do, wherever it is.
        let waiting = |p: &Path| p.state == State::WarpSync(needed);
        let all = self.paths.iter().filter(|p| waiting(p)).fold(run.mask, |m, p| m | p.mask);
        if needed & self.live & !all != 0 {
            self.park(run, run.pc - 1, State::WarpSync(needed));
            return Ok(Step::Parked);
        }
        let mut at = 0;
        while at < self.paths.len() {
            let p = &mut self.paths[at];
            if p.state != State::WarpSync(needed) {
                at += 1;
            } else if p.pc == run.pc - 1 && p.join == run.join && p.frame == run.frame {
                run.mask |= self.paths.swap_remove(at).mask;
            } else {
                p.state = State::Ready;
                p.pc += 1;
                at += 1;
            }
        }
        Ok(Step::Next)
    }

    pub(super) fn exchange(
        &mut self,
        run: &mut Running,
        op: &Exchange,
        row: Option<u32>,
        ctx: &Context,
    ) -> Run<Step> {
        let needed = match row {
            Some(row) => self.members(&run.regs, row, run.mask)?,
            None => run.mask,
        };
        let Some(mask) = self.rendezvous(run, needed) else { return Ok(Step::Parked) };
        let groups = match row {
            // Lanes that joined bring their own masks.
            Some(row) => {
                self.members(&run.regs, row, mask)?;
                *run.regs.get::<u32>(row)
            }
            None => [mask; LANES],
        };
        match op {
            Exchange::Shfl(s) => shuffle(&mut run.regs, s, mask, &groups, ctx.checks != Checks::Off)?,
            Exchange::Vote { mode, input, dst } => {
                let yes = (run.regs.preds[input.at as usize] ^ input.flip) & mask;
                let mut bits = 0;
                for l in lanes_of(mask) {
                    let (all, yes) = (groups[l] & mask, yes & groups[l]);
                    let holds = match mode {
                        VoteMode::All => yes == all,
                        VoteMode::Any => yes != 0,
                        VoteMode::Uni => yes == all || yes == 0,
                        VoteMode::Ballot => {
                            run.regs.set_lane(*dst, l, yes.into());
                            false
                        }
                    };
                    bits |= u32::from(holds) << l;
                }
                if *mode != VoteMode::Ballot {
                    run.regs.set_pred(dst.at, mask, bits);
                }
            }
            Exchange::Match { all, dst, pred, value } => {
                let values: [u64; LANES] = std::array::from_fn(|l| run.regs.lane(*value, l));
                let mut bits = 0;
                for l in lanes_of(mask) {
                    let group = groups[l] & mask;
                    let same =
                        lanes_of(group).filter(|&o| values[o] == values[l]).fold(0u32, |m, o| m | 1 << o);
                    let result = if *all && same != group { 0 } else { same };
                    run.regs.set_lane(*dst, l, result.into());
                    bits |= u32::from(same == group) << l;
                }
                if let Some(p) = pred {
                    run.regs.set_pred(*p, mask, bits);
                }
            }
            Exchange::Redux { op, signed, dst, value } => {
                let values = *run.regs.get::<u32>(*value);
                let mut out = [0; LANES];
                for l in lanes_of(mask) {
                    let group = lanes_of(groups[l] & mask).map(|o| values[o]);
                    out[l] = group.reduce(|a, b| reduce(*op, *signed, a, b)).unwrap_or(0);
                }
                run.regs.put(*dst, mask, &out);
            }
        }
        Ok(Step::Next)
    }
}

fn reduce(op: Operation, signed: bool, a: u32, b: u32) -> u32 {
    match op {
        Operation::Add => a.wrapping_add(b),
        Operation::And => a & b,
        Operation::Or => a | b,
        Operation::Xor => a ^ b,
        Operation::Min if signed => (a as i32).min(b as i32) as u32,
        Operation::Min => a.min(b),
        _ if signed => (a as i32).max(b as i32) as u32,
        _ => a.max(b),
    }
}

/// What a lane receives from one that takes no part, when the launch is checked: a NaN, and no small number.
const NOTHING: u32 = 0x7fff_dead;

/// PTX ISA 9.7.9.6: the segment mask and the clamp lie in one operand.
///
/// A source that takes no part gives an undefined value. When `checked`, `.idx` and `.bfly`, whose lane names its
/// source, fault. `.up` and `.down` deliver [`NOTHING`]: a reduction over the first lanes of a warp reads past its
/// last lane by design and drops the result, so only what is made of the value can be wrong.
fn shuffle(regs: &mut Regs, s: &Shfl, mask: u32, groups: &[u32; LANES], checked: bool) -> Run<()> {
    let values = *regs.get::<u32>(s.value);
    let (lanes, clamps) = (*regs.get::<u32>(s.lane), *regs.get::<u32>(s.clamp));
    let (mut out, mut inside) = (values, 0u32);
    for l in 0..LANES as u32 {
        let (b, c) = (lanes[l as usize] & 31, clamps[l as usize]);
        let (clamp, segment) = (c & 31, c >> 8 & 31);
        let max = l & segment | clamp & !segment;
        let min = l & segment;
        let (from, fine) = match s.mode {
            Shuffle::Up => (l.wrapping_sub(b), l as i32 - b as i32 >= max as i32),
            Shuffle::Down => (l + b, l + b <= max),
            Shuffle::Bfly => (l ^ b, l ^ b <= max),
            Shuffle::Idx => (min | b & !segment, (min | b & !segment) <= max),
        };
        if fine {
            let (lane, from) = (l as usize, from & 31);
            inside |= 1 << l;
            if checked && mask >> l & 1 == 1 && (mask & groups[lane]) >> from & 1 == 0 {
                if matches!(s.mode, Shuffle::Up | Shuffle::Down) {
                    out[lane] = NOTHING;
                    continue;
                }
                let detail = format!("the lane reads from lane {from}, which takes no part in the shuffle");
                return Err(Trouble::new(FaultKind::MissingLanes, l, detail));
            }
            out[lane] = values[from as usize];
        }
    }
    if let Some(d) = s.dst {
        regs.put(d, mask, &out);
    }
    if let Some(p) = s.pred {
        regs.set_pred(p, mask, inside);
    }
    Ok(())
}
