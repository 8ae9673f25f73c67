//! Calls: frames, arguments, recursion, and the functions the system provides.
use super::block::Common;
use super::context::{Context, Resolved, Run, Trouble};
use super::paths::{CallFrame, Path, State};
use super::printf;
use super::regs::{LANES, Regs, Row};
use super::tally::lanes_of;
use super::warp::{Running, Step, Warp};
use crate::decode::program::{Builtin, Call, CallTarget, Kind, NONE, Passed, function_address};
use crate::launch::Checks;
use crate::memory::LOCAL_WINDOW;
use crate::strict::FaultKind;

/// Frames a thread may have at once, whatever they hold.
const MAX_DEPTH: u32 = 10_000;

impl Warp {
    /// Fills a frame's constant rows and makes room for its local memory.
    pub(super) fn prepare_frame(&mut self, frame: u32, mask: u32, ctx: &Context) {
        let f = &mut self.frames[frame as usize];
        let info = &ctx.program.frames[f.function as usize];
        f.lanes |= mask;
        // Registers hold nothing in particular; under a seed they hold rubbish.
        let junk = if ctx.noise == 0 { 0 } else { 0xdead_0000 | ctx.noise as u32 & 0xffff };
        f.regs.rows.clear();
        f.regs.rows.resize(info.rows as usize, Row([junk; 32]));
        f.regs.preds.clear();
        f.regs.preds.resize(info.preds as usize, 0);
        f.regs.undefined.clear();
        f.regs.undefined.resize(info.undefined.len(), !0);
        f.regs.undefined.resize(info.watched as usize, 0);
        for (slot, value) in &ctx.constants[f.function as usize] {
            let bits = match value {
                Resolved::Bits(b) => *b,
                Resolved::Local(offset) => u64::from(f.local_base).wrapping_add_signed(*offset),
            };
            if slot.wide {
                f.regs.put(slot.at, !0, &[bits; 32]);
            } else {
                f.regs.put(slot.at, !0, &[bits as u32; 32]);
            }
        }
        let end = f.local_base + info.local_bytes;
        f.tops = [end; LANES];
        let (from, to) = (f.local_base as usize, end as usize);
        self.open_local(mask, from, to, ctx);
    }

    fn open_local(&mut self, mask: u32, from: usize, to: usize, ctx: &Context) {
        let junk = if ctx.noise == 0 { 0 } else { 0xa5 };
        lanes_of(mask).for_each(|l| self.local[l].open(from, to, junk, ctx.checks != Checks::Off));
    }

    /// `call`
    pub(super) fn call(
        &mut self,
        run: &mut Running,
        call: &Call,
        ctx: &Context,
        common: &mut Common,
    ) -> Run<Step> {
        match call.target {
            CallTarget::Builtin(b) => self.builtin(run, b, call, ctx, common),
            CallTarget::Direct(function) => self.enter(run, function, call, run.mask, ctx),
            CallTarget::Indirect(slot) => {
                let lane = run.mask.trailing_zeros() as usize;
                let address = run.regs.lane(slot, lane);
                let same = lanes_of(run.mask).filter(|&l| run.regs.lane(slot, l) == address);
                let group = same.fold(0, |m, l| m | 1 << l);
                let count = ctx.program.frames.len() as u32;
                let function = (0..count).find(|&f| function_address(f) == address);
                let fits = |f: &u32| {
                    let info = &ctx.program.frames[*f as usize];
                    let shape =
                        info.params.len() == call.args.len() && info.returns.len() == call.returns.len();
                    shape && !info.entry && info.start != NONE
                };
                let Some(function) = function.filter(fits) else {
                    let detail =
                        format!("an indirect call to {address:#x}, which is no function of this shape");
                    return Err(Trouble::new(FaultKind::BadTarget, lane as u32, detail));
                };
                if group != run.mask {
                    // The others make their call later, and all meet after it.
                    let join = self.join_at(run, run.pc);
                    let (pc, rest) = (run.pc - 1, run.mask & !group);
                    self.paths.push(Path { pc, mask: rest, frame: run.frame, join, state: State::Ready });
                    run.mask = group;
                    run.join = join;
                }
                self.enter(run, function, call, group, ctx)
            }
        }
    }

    fn enter(
        &mut self,
        run: &mut Running,
        function: u32,
        call: &Call,
        mask: u32,
        ctx: &Context,
    ) -> Run<Step> {
        let info = &ctx.program.frames[function as usize];
        let lane = mask.trailing_zeros();
        let caller = &self.frames[run.frame as usize];
        let (depth, base) = (caller.depth + 1, caller.top(mask).next_multiple_of(16));
        // A frame costs what it declares, and something for the return address and saved registers.
        let stack = u64::from(base) + u64::from(info.local_bytes) + u64::from(depth) * 32;
        if stack > u64::from(ctx.device.stack_bytes) || depth > MAX_DEPTH {
            let detail = format!(
                "call of {} at depth {depth}: {stack} bytes of stack, the thread has {}",
                info.name, ctx.device.stack_bytes
            );
            return Err(Trouble::new(FaultKind::StackOverflow, lane, detail));
        }
        let new = CallFrame {
            function,
            regs: Regs::default(),
            lanes: mask,
            parent: run.frame,
            call: run.pc - 1,
            local_base: base,
            tops: [base; LANES],
            depth,
        };
        let frame = match self.free_frames.pop() {
            Some(old) => {
                let slot = &mut self.frames[old as usize];
                let regs = std::mem::take(&mut slot.regs);
                *slot = CallFrame { regs, ..new };
                old
            }
            None => {
                self.frames.push(new);
                self.frames.len() as u32 - 1
            }
        };
        self.prepare_frame(frame, mask, ctx);
        let mut regs = std::mem::take(&mut self.frames[frame as usize].regs);
        let caller_base = self.frames[run.frame as usize].local_base;
        for (from, to) in call.args.iter().zip(&info.params) {
            self.pass(&run.regs, *from, caller_base, &mut regs, *to, base, mask);
        }
        std::mem::swap(&mut run.regs, &mut regs);
        self.frames[run.frame as usize].regs = regs;
        run.frame = frame;
        run.pc = info.start;
        run.join_pc = self.join_pc(run.join, frame);
        Ok(Step::Next)
    }

    /// Copies an argument or a result from one frame to another.
    fn pass(
        &mut self,
        from_regs: &Regs,
        from: Passed,
        from_base: u32,
        to_regs: &mut Regs,
        to: Passed,
        to_base: u32,
        mask: u32,
    ) {
        match (from, to) {
            (Passed::Reg(a), Passed::Reg(b)) => {
                lanes_of(mask).for_each(|l| to_regs.set_lane(b, l, from_regs.lane(a, l)));
            }
            (Passed::Pred(a), Passed::Pred(b)) => to_regs.set_pred(b, mask, from_regs.preds[a as usize]),
            (Passed::Bytes { offset: a, len }, Passed::Bytes { offset: b, len: room }) => {
                let n = len.min(room) as usize;
                let (a, b) = ((from_base + a) as usize, (to_base + b) as usize);
                for l in lanes_of(mask) {
                    self.local[l].copy(a, b, n);
                }
            }
            (Passed::Bytes { offset, len }, Passed::Reg(b)) => {
                let (at, n) = ((from_base + offset) as usize, (len as usize).min(8));
                for l in lanes_of(mask) {
                    to_regs.set_lane(b, l, self.local[l].load(at, n));
                }
            }
            (Passed::Reg(a), Passed::Bytes { offset, len }) => {
                let (at, n) = ((to_base + offset) as usize, (len as usize).min(8));
                for l in lanes_of(mask) {
                    self.local[l].store(at, n, from_regs.lane(a, l));
                }
            }
            _ => {}
        }
    }

    /// Back to the caller.
    pub(super) fn ret(&mut self, run: &mut Running, ctx: &Context) -> Step {
        let frame = run.frame;
        let (parent, call_pc, base, function) = {
            let f = &self.frames[frame as usize];
            (f.parent, f.call, f.local_base, f.function)
        };
        let mut regs = std::mem::take(&mut self.frames[parent as usize].regs);
        if let Kind::Call(call) = &ctx.program.code[call_pc as usize].kind {
            let to_base = self.frames[parent as usize].local_base;
            let info = &ctx.program.frames[function as usize];
            for (from, to) in info.returns.iter().zip(&call.returns) {
                self.pass(&run.regs, *from, base, &mut regs, *to, to_base, run.mask);
            }
        }
        std::mem::swap(&mut run.regs, &mut regs);
        let f = &mut self.frames[frame as usize];
        f.regs = regs;
        f.lanes &= !run.mask;
        if f.lanes == 0 {
            self.free_frames.push(frame);
        }
        run.frame = parent;
        run.pc = call_pc + 1;
        run.join_pc = self.join_pc(run.join, parent);
        Step::Next
    }

    /// `stacksave`, `stackrestore`, `alloca`
    pub(super) fn stack(&mut self, run: &mut Running, kind: &Kind, mask: u32, ctx: &Context) -> Run<()> {
        let lane = mask.trailing_zeros();
        let frame = run.frame as usize;
        match kind {
            Kind::StackSave(dst) => {
                lanes_of(mask).for_each(|l| run.regs.set_lane(*dst, l, self.frames[frame].tops[l].into()));
            }
            Kind::StackRestore(src) => {
                let f = &mut self.frames[frame];
                let floor = f.local_base + ctx.program.frames[f.function as usize].local_bytes;
                for l in lanes_of(mask) {
                    let saved = run.regs.lane(*src, l) as u32;
                    f.tops[l] = saved.max(floor).min(f.tops[l]);
                }
            }
            Kind::Alloca { dst, bytes, align } => {
                let most = lanes_of(mask).map(|l| run.regs.lane(*bytes, l)).max().unwrap_or(0);
                let at = u64::from(self.frames[frame].top(mask)).next_multiple_of((*align).max(16));
                let end = at.saturating_add(most);
                if end > u64::from(ctx.device.stack_bytes) {
                    let detail =
                        format!("alloca of {most} bytes, the thread has {} of stack", ctx.device.stack_bytes);
                    return Err(Trouble::new(FaultKind::StackOverflow, lane, detail));
                }
                lanes_of(mask).for_each(|l| self.frames[frame].tops[l] = end as u32);
                self.open_local(mask, at as usize, end as usize, ctx);
                lanes_of(mask).for_each(|l| run.regs.set_lane(*dst, l, at));
            }
            _ => {}
        }
        Ok(())
    }

    /// The bytes of an argument in one lane.
    fn argument(&self, run: &Running, passed: Passed, lane: usize) -> u64 {
        match passed {
            Passed::Reg(slot) => run.regs.lane(slot, lane),
            Passed::Pred(at) => u64::from(run.regs.preds[at as usize] >> lane & 1),
            Passed::Bytes { offset, len } => {
                let at = (self.frames[run.frame as usize].local_base + offset) as usize;
                self.local[lane].load(at, (len as usize).min(8))
            }
        }
    }

    fn set_result(&mut self, run: &mut Running, to: Option<&Passed>, lane: usize, value: u64) {
        match to {
            Some(Passed::Reg(slot)) => run.regs.set_lane(*slot, lane, value),
            Some(Passed::Bytes { offset, len }) => {
                let at = (self.frames[run.frame as usize].local_base + offset) as usize;
                self.local[lane].store(at, (*len as usize).min(8), value);
            }
            _ => {}
        }
    }

    fn builtin(
        &mut self,
        run: &mut Running,
        which: Builtin,
        call: &Call,
        ctx: &Context,
        common: &mut Common,
    ) -> Run<Step> {
        let lane = run.mask.trailing_zeros() as usize;
        let argument = |w: &Warp, run: &Running, i: usize, l: usize| {
            call.args.get(i).map_or(0, |p| w.argument(run, *p, l))
        };
        match which {
            Builtin::AssertFail => {
                let text = |i: usize| self.string(ctx, argument(self, run, i, lane), lane);
                let line = argument(self, run, 2, lane) as u32;
                let detail = format!("assertion `{}` failed in {} ({}:{line})", text(0), text(3), text(1));
                return Err(Trouble::new(FaultKind::Assert, lane as u32, detail));
            }
            Builtin::Printf => {
                for l in lanes_of(run.mask) {
                    let [format, mut at] = [0, 1].map(|i| argument(self, run, i, l));
                    if format == 0 {
                        self.set_result(run, call.returns.first(), l, -1i64 as u64);
                        continue;
                    }
                    // Arguments lie at multiples of their size.
                    let mut next = |size: u64| {
                        let place = at.next_multiple_of(size);
                        at = place + size;
                        self.peek(ctx, place, size, l).unwrap_or(0)
                    };
                    let string = |address| self.string(ctx, address, l);
                    let (text, count) = printf::format(&string(format), &mut next, &string);
                    ctx.print(common.block, text);
                    self.set_result(run, call.returns.first(), l, count);
                }
            }
            // The heap is empty: allocation fails, as it may.
            Builtin::Malloc => {
                lanes_of(run.mask).for_each(|l| self.set_result(run, call.returns.first(), l, 0));
            }
            Builtin::Free => {}
        }
        Ok(Step::Next)
    }

    /// Bytes at a generic address, as far as they can be read.
    pub(super) fn peek(&self, ctx: &Context, address: u64, bytes: u64, lane: usize) -> Option<u64> {
        if address & !(crate::memory::WINDOW_BYTES - 1) == LOCAL_WINDOW {
            return self.local[lane].get((address - LOCAL_WINDOW) as usize, bytes as usize);
        }
        let mut hit = Default::default();
        let fine = address.is_multiple_of(bytes) && ctx.view.contains(&mut hit, address, bytes);
        fine.then(|| ctx.view.load(address, bytes as u32))
    }

    fn string(&self, ctx: &Context, address: u64, lane: usize) -> String {
        let bytes = (0..4096).map_while(|i| self.peek(ctx, address + i, 1, lane)).map(|b| b as u8);
        String::from_utf8_lossy(&bytes.take_while(|&b| b != 0).collect::<Vec<u8>>()).into_owned()
    }
}
