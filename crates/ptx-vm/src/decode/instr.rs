//! One instruction of the tree to decoded ones: the dispatch, and everything that only computes.
use super::compare::{carry, compare_halves, comparison, set_true, slct};
use super::convert;
use super::float::{floating, testable};
use super::function::{Decoded, Decoder, Place};
use super::integer::integer;
use super::program::{Constant, Kind, PredSource};
use super::pure::Pure;
use crate::counters::Class;
use crate::exec::lanes::{Args, Combine, RowOp, combined, compare, map1, select, whole};
use crate::exec::regs::{LANES, Regs};
use crate::syntax::ast::{Instr, Opcode, Operand, OperandKind, Operation, PairHalf, Type};
use crate::value::float::test_property;

impl Decoder<'_> {
    /// Decodes one instruction.
    pub(super) fn instruction(&mut self, i: &Instr) -> Decoded<()> {
        use Opcode::*;
        if matches!(i.op, Add | Addc | Sub | Subc | Mad | Madc)
            && (i.mods.cc || matches!(i.op, Addc | Subc | Madc))
        {
            return self.carry(i);
        }
        if i.op == Lop3 && i.mods.operation.is_some() {
            return self.lop3_predicate(i);
        }
        if let Some(pure) = integer(i).or_else(|| floating(i)) {
            return self.pure(i, pure);
        }
        match i.op {
            And | Or | Xor | Not => self.pred_logic(i),
            Setp => self.setp(i),
            Set => self.set(i),
            Selp => self.selp(i),
            Slct => self.slct(i),
            Testp => self.testp(i),
            Mov => self.mov(i),
            Cvt => self.cvt(i),
            CvtPack => self.cvt_pack(i),
            Cvta => self.cvta(i),
            CreatePolicyFractional | CreatePolicyRange | CreatePolicyCvt => {
                // A cache policy is an opaque number that changes nothing here.
                let (d, _) = self.dst(&i.operands[0], Type::B64)?;
                let guard = self.guard(i);
                let s = [self.zero64(); 4];
                self.emit(Kind::Row(map1(|a: u64| a), Args { d, s }), guard, Class::Other);
                Ok(())
            }
            _ => self.effect(i),
        }
    }

    fn zero64(&mut self) -> u32 {
        self.constant(Constant::Bits(0), true).at
    }

    fn pure(&mut self, i: &Instr, pure: Pure) -> Decoded<()> {
        let mut s = [0; 4];
        for (at, ty) in pure.sources.iter().enumerate() {
            s[at] = self.src(&i.operands[at + 1], *ty)?;
        }
        let (d, pending) = self.dst(&i.operands[0], pure.dst)?;
        let guard = self.guard(i);
        self.emit(Kind::Row(pure.op, Args { d, s }), guard, pure.class);
        self.widen_dst(pending, pure.dst.is_signed(), guard);
        Ok(())
    }

    fn carry(&mut self, i: &Instr) -> Decoded<()> {
        let ty = i.mods.types[0];
        let Some(op) = carry(i.op, i.mods.part, i.mods.cc, ty) else {
            return self.refuse(format!("{} has no carry form for .{ty}", i.op));
        };
        let mut s = [0; 4];
        for (at, o) in i.operands[1..].iter().enumerate() {
            s[at] = self.src(o, ty)?;
        }
        if i.operands.len() == 3 {
            s[2] = s[1];
        }
        let (d, _) = self.dst(&i.operands[0], ty)?;
        let guard = self.guard(i);
        self.emit(Kind::Row(op, Args { d, s }), guard, Class::Integer);
        Ok(())
    }

    /// `and.pred` and its like: on whole masks at once.
    fn pred_logic(&mut self, i: &Instr) -> Decoded<()> {
        let op = i.op;
        let sources = i.operands[1..].iter().map(|o| self.pred(o)).collect::<Decoded<Vec<PredSource>>>()?;
        let (a, b) = (sources[0], *sources.last().unwrap_or(&sources[0]));
        let Some(d) = self.pred_dst(&i.operands[0])? else { return Ok(()) };
        let op = whole(move |regs: &mut Regs, args: &Args, mask| {
            let read = |p: PredSource| regs.preds[p.at as usize] ^ p.flip;
            let bits = match op {
                Opcode::And => read(a) & read(b),
                Opcode::Or => read(a) | read(b),
                Opcode::Xor => read(a) ^ read(b),
                _ => !read(a),
            };
            regs.set_pred(args.d, mask, bits);
        });
        let guard = self.guard(i);
        self.emit(Kind::Row(op, Args { d, s: [0; 4] }), guard, Class::Logic);
        Ok(())
    }

    /// The predicates that `p`, `p|q`, `_` as a destination name.
    pub(super) fn pair(&self, o: &Operand) -> Decoded<(Option<u32>, Option<u32>)> {
        let half = |h: PairHalf| match h {
            PairHalf::Sink => Ok(None),
            PairHalf::Reg(r) => match self.places[r.0 as usize] {
                Place::Pred(at) => Ok(Some(at)),
                _ => self.refuse("half of p|q is not a predicate"),
            },
        };
        match o.kind {
            OperandKind::Pair(p, q) => Ok((half(p)?, half(q)?)),
            _ => Ok((self.pred_dst(o)?, None)),
        }
    }

    fn combine(&self, i: &Instr, c: Option<&Operand>) -> Decoded<(Option<(Operation, bool)>, u32)> {
        match (i.mods.operation, c) {
            (Some(operation), Some(c)) => {
                let c = self.pred(c)?;
                Ok((Some((operation, c.flip != 0)), c.at))
            }
            _ => Ok((None, 0)),
        }
    }

    fn setp(&mut self, i: &Instr) -> Decoded<()> {
        let (m, ty) = (&i.mods, i.mods.types[0]);
        let Some(op) = m.compare else { return self.refuse("setp without a comparison") };
        let (p, q) = self.pair(&i.operands[0])?;
        let (with, c) = self.combine(i, i.operands.get(3))?;
        let s = [self.src(&i.operands[1], ty)?, self.src(&i.operands[2], ty)?, c, 0];
        let guard = self.guard(i);
        if matches!(ty, Type::F16x2 | Type::Bf16x2) {
            // Two comparisons, two predicates.
            let (bf, ftz) = (ty == Type::Bf16x2, m.ftz);
            let row = whole(move |regs: &mut Regs, args: &Args, mask| {
                // Both before either is written: the predicate that they are combined with may be one of them.
                let halves = compare_halves(regs, args, op, bf, ftz);
                let bits = halves.map(|bits| combined(with, regs, args.s[2], bits));
                for (to, bits) in [p, q].into_iter().zip(bits) {
                    if let Some(to) = to {
                        regs.set_pred(to, mask, bits);
                    }
                }
            });
            self.emit(Kind::Row(row, Args { d: 0, s }), guard, Class::Compare);
            return Ok(());
        }
        let how = Combine { with, second: q, first: p.is_some() };
        let row = comparison(op, ty, m.ftz, how);
        self.emit(Kind::Row(row, Args { d: p.unwrap_or(0), s }), guard, Class::Compare);
        Ok(())
    }

    /// `set`: a `setp` into a scratch predicate, then a choice between the values of true and false.
    fn set(&mut self, i: &Instr) -> Decoded<()> {
        let m = &i.mods;
        let (to, from) = (m.types[0], m.types[1]);
        let Some(op) = m.compare else { return self.refuse("set without a comparison") };
        let (with, c) = self.combine(i, i.operands.get(3))?;
        let s = [self.src(&i.operands[1], from)?, self.src(&i.operands[2], from)?, c, 0];
        let (d, pending) = self.dst(&i.operands[0], to)?;
        let guard = self.guard(i);
        if matches!(from, Type::F16x2 | Type::Bf16x2) {
            let (bf, ftz, yes) = (from == Type::Bf16x2, m.ftz, set_true(to) as u32);
            let row = whole(move |regs: &mut Regs, args: &Args, mask| {
                let mut out = [0; LANES];
                let halves = compare_halves(regs, args, op, bf, ftz);
                for (bits, one) in halves.into_iter().zip([yes & 0xffff, yes & 0xffff_0000]) {
                    let bits = combined(with, regs, args.s[2], bits);
                    for l in 0..LANES {
                        out[l] |= if bits >> l & 1 == 1 { one } else { 0 };
                    }
                }
                regs.put(args.d, mask, &out);
            });
            self.emit(Kind::Row(row, Args { d, s }), guard, Class::Compare);
            return Ok(());
        }
        let flag = self.frame.preds;
        self.frame.preds += 1;
        let how = Combine { with, second: None, first: true };
        self.emit(Kind::Row(comparison(op, from, m.ftz, how), Args { d: flag, s }), guard, Class::Compare);
        let yes = self.constant(Constant::Bits(set_true(to)), false).at;
        let no = self.constant(Constant::Bits(0), false).at;
        self.emit(Kind::Row(select::<u32>(false), Args { d, s: [yes, no, flag, 0] }), guard, Class::Compare);
        self.code.last_mut().expect("just pushed").class = None;
        self.widen_dst(pending, to.is_signed(), guard);
        Ok(())
    }

    fn selp(&mut self, i: &Instr) -> Decoded<()> {
        let ty = i.mods.types[0];
        let p = self.pred(&i.operands[3])?;
        let s = [self.src(&i.operands[1], ty)?, self.src(&i.operands[2], ty)?, p.at, 0];
        let (d, pending) = self.dst(&i.operands[0], ty)?;
        let op = if ty.bits() == 64 { select::<u64>(p.flip != 0) } else { select::<u32>(p.flip != 0) };
        let guard = self.guard(i);
        self.emit(Kind::Row(op, Args { d, s }), guard, Class::Compare);
        self.widen_dst(pending, ty.is_signed(), guard);
        Ok(())
    }

    fn slct(&mut self, i: &Instr) -> Decoded<()> {
        let (ty, by) = (i.mods.types[0], i.mods.types[1]);
        let op = slct(ty.bits() == 64, by == Type::F32, i.mods.ftz);
        self.pure(i, Pure { op, class: Class::Compare, dst: ty, sources: vec![ty, ty, by] })
    }

    fn testp(&mut self, i: &Instr) -> Decoded<()> {
        let ty = i.mods.types[0];
        let Some(property) = i.mods.property else { return self.refuse("testp without a property") };
        let f = testable(ty);
        let how = Combine { with: None, second: None, first: true };
        let a = self.src(&i.operands[1], ty)?;
        let Some(d) = self.pred_dst(&i.operands[0])? else { return Ok(()) };
        let op: Box<dyn RowOp> = if ty == Type::F64 {
            compare::<u64>(how, move |a, _| test_property(a, f, property))
        } else {
            compare::<u32>(how, move |a, _| test_property(a.into(), f, property))
        };
        let guard = self.guard(i);
        self.emit(Kind::Row(op, Args { d, s: [a; 4] }), guard, Class::Compare);
        Ok(())
    }

    /// `lop3.BoolOp d|p, a, b, c, table, q`: the predicate says whether the result is nonzero, combined with `q`.
    fn lop3_predicate(&mut self, i: &Instr) -> Decoded<()> {
        let ty = Type::B32;
        let (data, predicate) = match i.operands[0].kind {
            OperandKind::Pair(d, p) => {
                let d = match d {
                    PairHalf::Reg(r) => self.slot(r)?.at,
                    PairHalf::Sink => self.temp(false).at,
                };
                let p = match p {
                    PairHalf::Reg(r) => match self.places[r.0 as usize] {
                        Place::Pred(at) => Some(at),
                        _ => return self.refuse("the second half of d|p is not a predicate"),
                    },
                    PairHalf::Sink => None,
                };
                (d, p)
            }
            _ => return self.refuse("lop3 with a Boolean operation writes d|p"),
        };
        let mut plain = i.clone();
        plain.mods.operation = None;
        let Some(pure) = integer(&plain) else { return self.refuse("lop3 without a constant table") };
        let mut s = [0; 4];
        for at in 0..3 {
            s[at] = self.src(&i.operands[at + 1], ty)?;
        }
        let guard = self.guard(i);
        self.emit(Kind::Row(pure.op, Args { d: data, s }), guard, Class::Logic);
        let (with, c) = self.combine(i, i.operands.get(5))?;
        let zero = self.constant(Constant::Bits(0), false).at;
        let how = Combine { with, second: None, first: predicate.is_some() };
        let op = compare::<u32>(how, |a, b| a != b);
        let args = Args { d: predicate.unwrap_or(0), s: [data, zero, c, 0] };
        self.emit(Kind::Row(op, args), guard, Class::Logic);
        self.code.last_mut().expect("just pushed").class = None;
        Ok(())
    }

    fn cvt(&mut self, i: &Instr) -> Decoded<()> {
        let m = &i.mods;
        let (to, from) = (m.types[0], m.types[1]);
        let guard = self.guard(i);
        let class = Class::Convert;
        if let Some((op, one)) = convert::packed(to, from, m) {
            let mut s = [0; 4];
            let sources = if one { &i.operands[1..2] } else { &i.operands[1..3] };
            for (at, o) in sources.iter().enumerate() {
                s[at] = self.src(o, from)?;
            }
            let (d, pending) = self.dst(&i.operands[0], to)?;
            self.emit(Kind::Row(op, Args { d, s }), guard, class);
            self.widen_dst(pending, false, guard);
            return Ok(());
        }
        let src = self.any(&i.operands[1], from)?;
        let OperandKind::Register(r) = i.operands[0].kind else { return Ok(()) };
        let dst = self.slot(r)?;
        let bits = if dst.wide { 64 } else { self.f.registers[r.0 as usize].ty.bits() };
        let Some(op) = convert::single(to, from, m, src.wide, bits) else {
            return self.refuse(format!("cvt from .{from} to .{to} is not executed by this machine"));
        };
        self.emit(Kind::Row(op, Args { d: dst.at, s: [src.at; 4] }), guard, class);
        Ok(())
    }

    fn cvt_pack(&mut self, i: &Instr) -> Decoded<()> {
        let to = i.mods.types[0];
        let with_c = i.operands.len() > 3;
        let op = convert::pack(to, with_c);
        let sources = if with_c { vec![Type::B32; 3] } else { vec![Type::B32; 2] };
        self.pure(i, Pure { op, class: Class::Convert, dst: Type::B32, sources })
    }

    /// `cvta`: to a generic address, or (`.to`) from one.
    fn cvta(&mut self, i: &Instr) -> Decoded<()> {
        let Some(space) = i.mods.space else { return self.refuse("cvta without a state space") };
        let window = self.window(space);
        let to_space = i.mods.to;
        let ty = Type::U64;
        if i.mods.types[0].bits() != 64 {
            return self.refuse("cvta on 32-bit addresses (use .address_size 64)");
        }
        let op = if to_space {
            map1(move |a: u64| a.wrapping_sub(window))
        } else {
            map1(move |a: u64| a.wrapping_add(window))
        };
        self.pure(i, Pure { op, class: Class::Move, dst: ty, sources: vec![ty] })
    }
}
