//! Registers that nothing wrote, followed until one decides something: an address, a branch, a stored value.
use super::context::{Context, Run, Trouble};
use super::warp::{Running, Warp};
use crate::decode::program::{PredSource, Spread, Undefined};
use crate::strict::FaultKind;

impl Warp {
    /// What the instruction after this one does to the lanes in which registers hold nothing.
    pub(super) fn undefined(&mut self, run: &mut Running, u: &Undefined, ctx: &Context) -> Run<()> {
        let regs = &mut run.regs;
        let holes = |place: &u32| regs.undefined[*place as usize];
        let place = |place: &Option<u32>| place.as_ref().map_or(0, holes);
        let any = |places: &[u32]| places.iter().fold(0, |lanes, p| lanes | holes(p));
        let value = |p: &PredSource| regs.preds[p.at as usize] ^ p.flip;
        let mask = match u.own {
            Some(guard) => run.mask & (regs.preds[guard.pred as usize] ^ guard.flip),
            None => run.mask,
        };
        // Lanes of which nobody knows whether they take part.
        let doubtful = place(&u.guard) & run.mask;
        let lanes = match &u.spread {
            Spread::Any => any(&u.reads),
            Spread::All => u.reads.iter().fold(!0, |lanes, p| lanes & holes(p)),
            Spread::Select { a, b, p, by } => place(p) | place(a) & value(by) | place(b) & !value(by),
            Spread::Logic { or, decide } => {
                let decided = decide
                    .iter()
                    .fold(0, |lanes, (at, p)| lanes | !place(at) & if *or { value(p) } else { !value(p) });
                any(&u.reads) & !decided
            }
            Spread::Matrix { sums } => {
                let factors = u.reads.iter().filter(|&r| !sums.contains(r)).any(|r| holes(r) != 0);
                if factors { !0 } else { any(sums) }
            }
            Spread::Written => 0,
            Spread::Fault => {
                let bad = any(&u.reads) & mask | doubtful;
                if bad != 0 {
                    return Err(self.nothing_written(run, bad, ctx));
                }
                0
            }
        };
        for &to in &u.writes {
            let to = &mut regs.undefined[to as usize];
            *to = *to & !mask | lanes & mask | doubtful;
        }
        Ok(())
    }

    #[cold]
    fn nothing_written(&self, run: &Running, bad: u32, ctx: &Context) -> Box<Trouble> {
        let lane = bad.trailing_zeros();
        let function = self.frames[run.frame as usize].function;
        let names = ctx.program.frames[function as usize].undefined.iter().zip(&run.regs.undefined);
        let names: Vec<&str> =
            names.filter(|(_, lanes)| **lanes >> lane & 1 == 1).map(|(name, _)| name.as_str()).collect();
        let which = match &names[..] {
            [] => "a register".to_string(),
            [one] => one.to_string(),
            _ => format!("one of {}", names[..names.len().min(8)].join(", ")),
        };
        let detail = format!("what this depends on was never written by this thread: {which}");
        Trouble::new(FaultKind::Uninitialised, lane, detail)
    }
}
