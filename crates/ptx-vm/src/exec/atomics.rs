//! `atom` and `red`, in global and in shared memory.
use super::access::{Direction, addresses, split_generic};
use super::block::Common;
use super::context::{Context, Run};
use super::regs::{LANES, Regs};
use super::shared::Touch;
use super::tally::{self, Tally, lanes_of};
use super::warp::Warp;
use crate::decode::program::{Atomic, Where};
use crate::launch::Checks;
use crate::memory::AtomicWidth;
use crate::syntax::ast::{Operation, Type};
use crate::value::float::{self, MinMax, min_max};
use crate::value::half::{self, Bf16, F16, Post, both};
use crate::value::soft::Format;

/// The new value of a location that holds `old`; `a` is the operand (the new value, for `cas`), `compare` is what
/// `cas` compares with. Sums in f32 flush subnormals in global memory alone (ISA 9.7.13.10).
fn apply(op: Operation, ty: Type, old: u64, a: u64, compare: u64, global: bool) -> u64 {
    let bits = ty.bits();
    let mask = if bits == 64 { !0 } else { (1u64 << bits) - 1 };
    let signed = |v: u64| (v << (64 - bits)) as i64 >> (64 - bits);
    let result = match (op, ty) {
        (Operation::Exch, _) => a,
        (Operation::Cas, _) => {
            if old == compare & mask {
                a
            } else {
                old
            }
        }
        (Operation::And, _) => old & a,
        (Operation::Or, _) => old | a,
        (Operation::Xor, _) => old ^ a,
        (Operation::Inc, _) => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        (Operation::Dec, _) => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
        (Operation::Add, Type::F32) if global => u64::from(float::add32::<true, false>(old as u32, a as u32)),
        (Operation::Add, Type::F32) => u64::from(float::add32::<false, false>(old as u32, a as u32)),
        (Operation::Add, Type::F64) => float::add64(old, a),
        (_, Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2) => {
            u64::from(on_half(op, ty, old as u32, a as u32))
        }
        (Operation::Add, _) => old.wrapping_add(a),
        (Operation::Min, _) if ty.is_signed() => signed(old).min(signed(a)) as u64,
        (Operation::Max, _) if ty.is_signed() => signed(old).max(signed(a)) as u64,
        (Operation::Min, _) => old.min(a),
        (Operation::Max, _) => old.max(a),
        _ => old,
    };
    result & mask
}

fn on_half(op: Operation, ty: Type, old: u32, a: u32) -> u32 {
    let post = Post::default();
    let one = |[x, y]: [u32; 2]| match (op, ty) {
        (Operation::Add, Type::F16 | Type::F16x2) => half::add::<F16>(x, y, post),
        (Operation::Add, _) => half::add::<Bf16>(x, y, post),
        _ => {
            let format = if matches!(ty, Type::F16 | Type::F16x2) { Format::F16 } else { Format::BF16 };
            let how = MinMax { max: op == Operation::Max, nan: false, xorsign_abs: false };
            min_max(x.into(), y.into(), format, how) as u32
        }
    };
    if matches!(ty, Type::F16x2 | Type::Bf16x2) {
        both([old, a], one)
    } else {
        one([old & 0xffff, a & 0xffff])
    }
}

impl Warp {
    /// Lanes are served in ascending order, or under a seed in a random one.
    pub(super) fn atomic(
        &mut self,
        regs: &mut Regs,
        a: &Atomic,
        mask: u32,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<()> {
        self.polls += 1;
        let mut addrs = addresses(regs, &a.address);
        let parts = if a.space == Where::Generic {
            split_generic(&mut addrs, mask)
        } else {
            [(a.space, mask), (Where::Global, 0), (Where::Global, 0), (Where::Global, 0)]
        };
        for (space, part) in parts {
            if part != 0 {
                self.atomic_on(space, regs, a, &addrs, part, common, ctx, tally)?;
            }
        }
        Ok(())
    }

    fn order(&mut self, mask: u32) -> Vec<usize> {
        let mut order: Vec<usize> = lanes_of(mask).collect();
        if let Some(rng) = &mut self.rng {
            for i in (1..order.len()).rev() {
                order.swap(i, rng.below(i as u64 + 1) as usize);
            }
        }
        order
    }

    fn atomic_on(
        &mut self,
        space: Where,
        regs: &mut Regs,
        a: &Atomic,
        addrs: &[u64; LANES],
        mask: u32,
        common: &mut Common,
        ctx: &Context,
        tally: &mut Tally,
    ) -> Run<()> {
        let bytes = a.ty.bytes() as u32;
        let width = match bytes {
            2 => AtomicWidth::W16,
            4 => AtomicWidth::W32,
            _ => AtomicWidth::W64,
        };
        let operands = |regs: &Regs, l: usize| {
            let first = regs.lane(a.values[0], l);
            match a.values.get(1) {
                Some(second) => (regs.lane(*second, l), first),
                None => (first, 0),
            }
        };
        match space {
            Where::Shared => {
                tally.counters.shared_atomics += u64::from(mask.count_ones());
                common.shared.check(addrs, mask, bytes, self.id, Touch::Strong, None, ctx.checks)?;
                for l in self.order(mask) {
                    let (value, compare) = operands(regs, l);
                    let old = common.shared.load(addrs[l], bytes);
                    common.shared.store(addrs[l], bytes, apply(a.op, a.ty, old, value, compare, false));
                    if let Some(d) = a.dst {
                        regs.set_lane(d, l, old);
                    }
                    if ctx.checks == Checks::All
                        && let Some(races) = &mut common.shared.races
                    {
                        races.flag(self.id, addrs[l]);
                    }
                }
            }
            Where::Local => {
                self.check_local(addrs, mask, bytes, Direction::Atomic)?;
                for l in lanes_of(mask) {
                    let (value, compare) = operands(regs, l);
                    let (at, n) = (addrs[l] as usize, bytes as usize);
                    let old = self.local[l].load(at, n);
                    self.local[l].store(at, n, apply(a.op, a.ty, old, value, compare, false));
                    if let Some(d) = a.dst {
                        regs.set_lane(d, l, old);
                    }
                }
            }
            _ => {
                tally::global(&mut tally.counters.global_atomics, addrs, mask, bytes);
                self.check_global(addrs, mask, bytes, Direction::Atomic, a.order, common, ctx)?;
                self.release(common, ctx);
                for l in self.order(mask) {
                    let (value, compare) = operands(regs, l);
                    let old =
                        ctx.view.update(addrs[l], width, |old| apply(a.op, a.ty, old, value, compare, true));
                    if let Some(d) = a.dst {
                        regs.set_lane(d, l, old);
                    }
                }
                if !a.commutes {
                    self.acquire(common, ctx);
                }
            }
        }
        Ok(())
    }

    /// What the warp did is published to other blocks.
    pub(super) fn release(&mut self, common: &mut Common, ctx: &Context) {
        if let Some(races) = ctx.races {
            races.release(&mut common.epochs[self.id as usize]);
        }
    }

    /// What other blocks published is seen.
    pub(super) fn acquire(&mut self, common: &mut Common, ctx: &Context) {
        if let Some(races) = ctx.races {
            races.acquire(&common.epochs[self.id as usize]);
        }
    }

    /// `membar`, `fence`
    pub(super) fn fence(&mut self, wide: bool, common: &mut Common, ctx: &Context) {
        if wide {
            self.release(common, ctx);
            self.acquire(common, ctx);
        }
    }
}
