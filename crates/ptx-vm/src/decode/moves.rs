//! `mov`: registers, predicates, special registers, and the packing and unpacking of vectors.
use super::function::{Decoded, Decoder, Place};
use super::program::{Guard, Kind};
use crate::counters::Class;
use crate::exec::lanes::{Args, RowOp, map1, map2, map4, whole};
use crate::exec::regs::{Regs, Slot};
use crate::syntax::ast::{Instr, Operand, OperandKind, Type};

impl Decoder<'_> {
    pub(super) fn mov(&mut self, i: &Instr) -> Decoded<()> {
        let ty = i.mods.types[0];
        let guard = self.guard(i);
        let (to, from) = (&i.operands[0], &i.operands[1]);
        if ty == Type::Pred {
            let a = self.pred(from)?;
            let Some(d) = self.pred_dst(to)? else { return Ok(()) };
            let op = whole(move |regs: &mut Regs, args: &Args, mask| {
                let bits = regs.preds[a.at as usize] ^ a.flip;
                regs.set_pred(args.d, mask, bits);
            });
            self.emit(Kind::Row(op, Args { d, s: [0; 4] }), guard, Class::Move);
            return Ok(());
        }
        match (&to.kind, &from.kind) {
            // `mov.v4.u32 {a, b, c, d}, %tid`
            (OperandKind::Vector(to), OperandKind::Vector(from)) => {
                for (to, from) in to.iter().zip(from) {
                    let s = [self.src(from, ty)?; 4];
                    let (d, pending) = self.dst(to, ty)?;
                    let op = if ty.bits() == 64 { map1(|a: u64| a) } else { map1(|a: u32| a) };
                    self.emit(Kind::Row(op, Args { d, s }), guard, Class::Move);
                    self.widen_dst(pending, ty.is_signed(), guard);
                }
                Ok(())
            }
            (OperandKind::Vector(parts), _) => self.unpack(ty, parts, from, guard),
            (_, OperandKind::Vector(parts)) => self.pack(ty, to, parts, guard),
            (OperandKind::Register(r), OperandKind::Special(s)) => {
                let slot = self.slot(*r)?;
                self.emit(Kind::Special(slot, *s), guard, Class::Move);
                Ok(())
            }
            _ if ty == Type::B128 => {
                let (to, from) = (self.quad(to)?, self.quad(from)?);
                for (to, from) in to.into_iter().zip(from) {
                    let args = Args { d: to.at, s: [from.at; 4] };
                    self.emit(Kind::Row(map1(|a: u64| a), args), guard, Class::Move);
                }
                Ok(())
            }
            _ => {
                let s = [self.src(from, ty)?; 4];
                let (d, pending) = self.dst(to, ty)?;
                let op = if ty.bits() == 64 { map1(|a: u64| a) } else { map1(|a: u32| a) };
                self.emit(Kind::Row(op, Args { d, s }), guard, Class::Move);
                self.widen_dst(pending, ty.is_signed(), guard);
                Ok(())
            }
        }
    }

    /// The two halves of a 128-bit register.
    pub(super) fn quad(&mut self, o: &Operand) -> Decoded<[Slot; 2]> {
        match o.kind {
            OperandKind::Register(r) => match self.places[r.0 as usize] {
                Place::Quad(at) => Ok([Slot { at, wide: true }, Slot { at: at + 2, wide: true }]),
                _ => self.refuse("a .b128 register is needed"),
            },
            _ => self.refuse("a .b128 register is needed"),
        }
    }

    fn part_type(total: u32, parts: usize) -> Type {
        match total / parts as u32 {
            8 => Type::B8,
            16 => Type::B16,
            32 => Type::B32,
            _ => Type::B64,
        }
    }

    /// `mov.b32 d, {a, b}`
    fn pack(&mut self, ty: Type, to: &Operand, parts: &[Operand], guard: Option<Guard>) -> Decoded<()> {
        let part = Self::part_type(ty.bits(), parts.len());
        let rows = parts.iter().map(|o| self.src(o, part)).collect::<Decoded<Vec<u32>>>()?;
        if ty == Type::B128 {
            let to = self.quad(to)?;
            let rows: Vec<u32> = if parts.len() == 2 {
                rows
            } else {
                rows.chunks(2).map(|c| self.join_words(c[0], c[1])).collect()
            };
            for (to, row) in to.into_iter().zip(rows) {
                let args = Args { d: to.at, s: [row; 4] };
                self.emit(Kind::Row(map1(|a: u64| a), args), guard, Class::Move);
            }
            return Ok(());
        }
        let (d, _) = self.dst(to, ty)?;
        let mut s = [0; 4];
        s[..rows.len()].copy_from_slice(&rows);
        let op: Box<dyn RowOp> = match (ty.bits(), rows.len()) {
            (16, _) => map2(|a: u32, b: u32| a & 0xff | (b & 0xff) << 8),
            (32, 2) => map2(|a: u32, b: u32| a & 0xffff | b << 16),
            (32, _) => {
                map4(|a: u32, b: u32, c: u32, d: u32| a & 0xff | (b & 0xff) << 8 | (c & 0xff) << 16 | d << 24)
            }
            (_, 2) => map2(|a: u32, b: u32| u64::from(a) | u64::from(b) << 32),
            (_, _) => map4(|a: u32, b: u32, c: u32, d: u32| {
                [a, b, c, d].iter().rev().fold(0u64, |v, x| v << 16 | u64::from(x & 0xffff))
            }),
        };
        self.emit(Kind::Row(op, Args { d, s }), guard, Class::Move);
        Ok(())
    }

    fn join_words(&mut self, low: u32, high: u32) -> u32 {
        let to = self.temp(true).at;
        let op = map2(|a: u32, b: u32| u64::from(a) | u64::from(b) << 32);
        self.help(op, Args { d: to, s: [low, high, 0, 0] });
        to
    }

    /// `mov.b32 {a, b}, s`
    fn unpack(&mut self, ty: Type, parts: &[Operand], from: &Operand, guard: Option<Guard>) -> Decoded<()> {
        let part = Self::part_type(ty.bits(), parts.len());
        // Parts are written one by one: the source must not be one of them.
        let sources: Vec<(u32, bool)> = if ty == Type::B128 {
            self.quad(from)?.iter().map(|s| (s.at, true)).collect()
        } else {
            vec![(self.src(from, ty)?, ty.bits() == 64)]
        };
        let mut first = true;
        let mut pending = Vec::new();
        for (at, o) in parts.iter().enumerate() {
            if o.kind == OperandKind::Sink {
                continue;
            }
            let bit = part.bits() * at as u32;
            let (row, wide) = sources[(bit / 64) as usize];
            let shift = bit % 64;
            let (dst, widen) = self.dst(o, part)?;
            let last = at + 1 == parts.len();
            // All but the last part go through scratch, for the case that a part is the source itself.
            let d = if last || widen.is_some() { dst } else { self.temp(part.bits() == 64).at };
            let mask = if part.bits() == 64 { !0 } else { (1u64 << part.bits()) - 1 };
            let op = match (wide, part.bits() == 64) {
                (true, true) => map1(|a: u64| a),
                (true, false) => map1(move |a: u64| (a >> shift & mask) as u32),
                (false, _) => map1(move |a: u32| a >> shift & mask as u32),
            };
            self.emit(Kind::Row(op, Args { d, s: [row; 4] }), guard, Class::Move);
            if !first {
                self.code.last_mut().expect("just pushed").class = None;
            }
            first = false;
            if d != dst {
                pending.push((d, dst));
            }
            self.widen_dst(widen, false, guard);
        }
        for (from, to) in pending {
            let op = if part.bits() == 64 { map1(|a: u64| a) } else { map1(|a: u32| a) };
            self.emit(Kind::Row(op, Args { d: to, s: [from; 4] }), guard, Class::Move);
            self.code.last_mut().expect("just pushed").class = None;
        }
        Ok(())
    }
}
