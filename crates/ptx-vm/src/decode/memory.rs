//! Instructions that touch memory.
use super::function::{Decoded, Decoder};
use super::program::{
    Access, Address, Atomic, Constant, CopyAsync, FragmentAccess, Kind, MatrixAccess, Mbarrier, MbarrierOp,
    Order, Where,
};
use crate::counters::Class;
use crate::exec::regs::Slot;
use crate::mma::wmma::FragmentMap;
use crate::syntax::ast::{Base, Instr, Opcode, Operand, OperandKind, Operation, Space, SymbolId, Type};

impl Decoder<'_> {
    /// The memory that a space and an operand name.
    pub(super) fn place(&self, space: Option<Space>, o: &Operand) -> Where {
        let base = match &o.kind {
            OperandKind::Memory { base, .. } => Some(*base),
            _ => None,
        };
        match space.map(Space::base) {
            None | Some(Space::Reg | Space::Special) => match base {
                // A generic access to a named variable goes to the variable's own space.
                Some(Base::Symbol(s)) => match self.variable(s).map(|v| v.space.base()) {
                    Some(Space::Shared) => Where::Shared,
                    Some(Space::Local) => Where::Local,
                    Some(Space::Param) if self.is_entry_param(s) => Where::Param,
                    Some(Space::Param) => Where::Local,
                    _ => Where::Global,
                },
                _ => Where::Generic,
            },
            Some(Space::Shared) => Where::Shared,
            Some(Space::Local) => Where::Local,
            Some(Space::Param) => match base {
                Some(Base::Symbol(s)) if self.is_entry_param(s) => Where::Param,
                Some(Base::Symbol(_)) => Where::Local,
                _ if self.frame.entry && space != Some(Space::ParamFunc) => Where::Param,
                _ if space == Some(Space::ParamEntry) => Where::Param,
                _ => Where::Local,
            },
            Some(_) => Where::Global,
        }
    }

    pub(super) fn address(&mut self, o: &Operand) -> Decoded<Address> {
        let OperandKind::Memory { base, offset } = o.kind else {
            return self.refuse("the operand is not an address");
        };
        Ok(match base {
            Base::Reg(r) => Address { base: self.slot(r)?, offset },
            Base::Symbol(s) => {
                let value = self.symbol_value(s, 0)?;
                Address { base: self.constant(value, true), offset }
            }
            Base::Absolute => Address { base: self.constant(Constant::Bits(0), true), offset },
        })
    }

    /// The registers of a scalar or vector operand, for elements of `ty`.
    fn elements(&mut self, o: &Operand, ty: Type) -> Decoded<Vec<Option<Slot>>> {
        match &o.kind {
            OperandKind::Vector(parts) => {
                let mut all = Vec::new();
                for part in parts.clone() {
                    all.extend(self.elements(&part, ty)?);
                }
                Ok(all)
            }
            _ if ty == Type::B128 => Ok(self.quad(o)?.map(Some).to_vec()),
            OperandKind::Sink => Ok(vec![None]),
            _ => Ok(vec![Some(self.any(o, ty)?)]),
        }
    }

    /// The bits that the destination registers have, of 32.
    fn keep(&self, o: &Operand) -> u32 {
        let bits = |r: &crate::syntax::ast::RegId| self.f.registers[r.0 as usize].ty.bits();
        let narrow = match &o.kind {
            OperandKind::Register(r) => bits(r),
            OperandKind::Vector(parts) => parts.iter().map(|p| self.keep(p).count_ones()).min().unwrap_or(32),
            _ => 32,
        };
        if narrow >= 32 { !0 } else { (1 << narrow) - 1 }
    }

    pub(super) fn load(&mut self, i: &Instr) -> Decoded<()> {
        let m = &i.mods;
        let ty = m.types[0];
        let space = self.place(m.space, &i.operands[1]);
        let regs = self.elements(&i.operands[0], ty)?;
        let bytes = (ty.bytes() as u32).min(8);
        let sign = if ty.is_signed() { 64 - 8 * bytes } else { 0 };
        let keep = self.keep(&i.operands[0]);
        let guard = self.guard(i);
        if let (Where::Param, OperandKind::Memory { base: Base::Symbol(SymbolId::Local(v)), offset }) =
            (space, &i.operands[1].kind)
        {
            let offset = (self.offsets[*v as usize] as i64 + offset) as u32;
            self.emit(Kind::Param { offset, bytes, sign, keep, regs }, guard, Class::Param);
            return Ok(());
        }
        let address = self.address(&i.operands[1])?;
        let order = Order::of(m.semantics, m.scope);
        self.frame.communicates |= order.strong && space != Where::Shared;
        let access = Access { space, address, bytes, regs, sign, keep, order };
        let class = match space {
            Where::Shared => Class::SharedLoad,
            Where::Local => Class::Local,
            Where::Param => Class::Param,
            _ => Class::GlobalLoad,
        };
        self.emit(Kind::Load(Box::new(access)), guard, class);
        Ok(())
    }

    pub(super) fn store(&mut self, i: &Instr) -> Decoded<()> {
        let m = &i.mods;
        let ty = m.types[0];
        let space = self.place(m.space, &i.operands[0]);
        let regs = self.elements(&i.operands[1], ty)?;
        let address = self.address(&i.operands[0])?;
        let bytes = (ty.bytes() as u32).min(8);
        let order = Order::of(m.semantics, m.scope);
        let access = Access { space, address, bytes, regs, sign: 0, keep: !0, order };
        let class = match space {
            Where::Shared => Class::SharedStore,
            Where::Local => Class::Local,
            Where::Param => Class::Param,
            _ => Class::GlobalStore,
        };
        let guard = self.guard(i);
        self.emit(Kind::Store(Box::new(access)), guard, class);
        Ok(())
    }

    /// `atom`, `red`, vector forms included.
    pub(super) fn atomic(&mut self, i: &Instr) -> Decoded<()> {
        let m = &i.mods;
        let Some(op) = m.operation else { return self.refuse("an atomic without an operation") };
        let ty = m.types[0];
        if ty == Type::B128 {
            return self.refuse("128-bit atomics need sm_90, which this machine does not play");
        }
        let returns = i.op == Opcode::Atom;
        let (dst_operand, rest) =
            if returns { (Some(&i.operands[0]), &i.operands[1..]) } else { (None, &i.operands[..]) };
        if m.vector.is_some() {
            return self.refuse("vector atomics need sm_90, which this machine does not play");
        }
        let space = self.place(m.space, &rest[0]);
        let address = self.address(&rest[0])?;
        let operands = if op == Operation::Cas { 2 } else { 1 };
        let mut values = Vec::new();
        for o in &rest[1..=operands] {
            values.push(self.any(o, ty)?);
        }
        let dst = match dst_operand.map(|o| &o.kind) {
            Some(OperandKind::Register(r)) => Some(*r),
            _ => None,
        };
        let used = dst.is_some_and(|r| self.is_read(r));
        let dst = dst.map(|r| self.slot(r)).transpose()?;
        let integer = !ty.is_float();
        let commutes = integer
            && !used
            && !matches!(op, Operation::Exch | Operation::Cas | Operation::Inc | Operation::Dec);
        self.frame.communicates |= space != Where::Shared && !commutes;
        let mut order = Order::of(m.semantics, m.scope);
        order.strong = true;
        let atomic = Atomic { space, address, op, ty, dst, values, commutes, order };
        let guard = self.guard(i);
        self.emit(Kind::Atomic(Box::new(atomic)), guard, Class::Atomic);
        Ok(())
    }

    /// Whether any instruction of the function reads a register.
    fn is_read(&self, r: crate::syntax::ast::RegId) -> bool {
        fn mentions(o: &Operand, r: crate::syntax::ast::RegId) -> bool {
            match &o.kind {
                OperandKind::Register(x) | OperandKind::NotPredicate(x) => *x == r,
                OperandKind::Memory { base: Base::Reg(x), .. } => *x == r,
                OperandKind::Vector(parts) => parts.iter().any(|p| mentions(p, r)),
                OperandKind::Pair(..) => true,
                _ => false,
            }
        }
        let reads = |i: &Instr| {
            // Stores and the like have no destination; elsewhere the first operand is one unless it is an address.
            let first_is_read = matches!(i.op, Opcode::St | Opcode::Red | Opcode::CpAsync)
                || matches!(i.operands.first().map(|o| &o.kind), Some(OperandKind::Memory { .. }))
                || i.operands.len() == 1;
            let skip = usize::from(!first_is_read);
            i.guard.is_some_and(|g| g.reg == r)
                || i.operands.iter().skip(skip).any(|o| mentions(o, r))
                || i.call.as_ref().is_some_and(|c| {
                    let indirect =
                        matches!(c.target, crate::syntax::ast::CallTarget::Indirect { reg, .. } if reg == r);
                    indirect || c.args.iter().any(|o| mentions(o, r))
                })
        };
        let returned = self.f.returns.contains(&crate::syntax::ast::Formal::Reg(r));
        returned || self.f.body.iter().flat_map(|b| &b.instrs).any(reads)
    }

    /// `cp.async`
    pub(super) fn copy_async(&mut self, i: &Instr) -> Decoded<()> {
        let dst = self.address(&i.operands[0])?;
        let src = self.address(&i.operands[1])?;
        let bytes = match i.operands[2].kind {
            OperandKind::Immediate(v) => v.bits(Type::U32) as u32,
            _ => return self.refuse("the size of cp.async is not a constant"),
        };
        let (mut src_bytes, mut ignore) = (None, None);
        let last = i.operands.len() - usize::from(i.mods.cache_hint);
        for o in &i.operands[3..last.max(3)] {
            let predicate = match &o.kind {
                OperandKind::Register(r) => self.f.registers[r.0 as usize].ty == Type::Pred,
                OperandKind::NotPredicate(_) => true,
                _ => false,
            };
            if predicate {
                ignore = Some(self.pred(o)?);
            } else {
                src_bytes = Some(self.any(o, Type::U32)?);
            }
        }
        let copy = CopyAsync { dst, src, bytes, src_bytes, ignore };
        let guard = self.guard(i);
        self.emit(Kind::CopyAsync(Box::new(copy)), guard, Class::AsyncCopy);
        Ok(())
    }

    /// `mbarrier.*` and `cp.async.mbarrier.arrive`.
    pub(super) fn mbarrier(&mut self, i: &Instr) -> Decoded<()> {
        use Opcode::*;
        let m = &i.mods;
        let guard = self.guard(i);
        if i.op == MbarrierPendingCount {
            // The count is in the state's low bits, see `exec::mbarrier`.
            let s = [self.src(&i.operands[1], Type::B64)?; 4];
            let (d, _) = self.dst(&i.operands[0], Type::U32)?;
            let op = crate::exec::lanes::map1(crate::exec::mbarrier::pending_count);
            self.emit(Kind::Row(op, crate::exec::lanes::Args { d, s }), guard, Class::Barrier);
            return Ok(());
        }
        let is_address = |o: &Operand| matches!(o.kind, OperandKind::Memory { .. });
        let Some(at) = i.operands.iter().position(is_address) else {
            return self.refuse("an mbarrier instruction without an address");
        };
        let space = match m.space {
            None => Where::Generic,
            Some(_) => Where::Shared,
        };
        let address = self.address(&i.operands[at])?;
        let extra = i.operands.get(at + 1);
        let op = match i.op {
            MbarrierInit => MbarrierOp::Init { count: self.any(&i.operands[at + 1], Type::U32)? },
            MbarrierInval => MbarrierOp::Inval,
            MbarrierArrive | MbarrierArriveDrop => {
                let state = match (at, &i.operands[0].kind) {
                    (1, OperandKind::Register(r)) => Some(self.slot(*r)?),
                    _ => None,
                };
                let count = extra.map(|o| self.any(o, Type::U32)).transpose()?;
                MbarrierOp::Arrive {
                    state,
                    count,
                    drop: i.op == MbarrierArriveDrop,
                    no_complete: m.no_complete,
                }
            }
            MbarrierTestWait => {
                let Some(dst) = self.pred_dst(&i.operands[0])? else {
                    return self.refuse("mbarrier.test_wait without a destination");
                };
                let ty = if m.parity { Type::U32 } else { Type::B64 };
                MbarrierOp::TestWait { dst, state: self.any(&i.operands[2], ty)?, parity: m.parity }
            }
            _ => MbarrierOp::CopyArrive { noinc: m.noinc },
        };
        self.emit(Kind::Mbarrier(Box::new(Mbarrier { space, address, op })), guard, Class::Barrier);
        Ok(())
    }

    /// Rows of a vector operand of 32-bit registers.
    pub(super) fn rows(&mut self, o: &Operand, ty: Type) -> Decoded<Vec<u32>> {
        match &o.kind {
            OperandKind::Vector(parts) => parts.clone().iter().map(|p| self.matrix_row(p, ty)).collect(),
            _ => Ok(vec![self.matrix_row(o, ty)?]),
        }
    }

    fn matrix_row(&mut self, o: &Operand, ty: Type) -> Decoded<u32> {
        if o.kind == OperandKind::Sink {
            return Ok(self.temp(ty.bits() == 64).at);
        }
        self.src(o, ty)
    }

    pub(super) fn ldmatrix(&mut self, i: &Instr) -> Decoded<()> {
        let regs = self.rows(&i.operands[0], Type::B32)?;
        let address = self.address(&i.operands[1])?;
        let space = if i.mods.space.is_some() { Where::Shared } else { Where::Generic };
        let access = MatrixAccess { space, address, count: regs.len() as u32, trans: i.mods.trans, regs };
        let skip = self.skip_unless(i);
        self.emit(Kind::LoadMatrix(Box::new(access)), None, Class::Matrix);
        self.finish_skip(skip);
        Ok(())
    }

    /// `wmma.load`, `wmma.store`
    pub(super) fn fragment(&mut self, i: &Instr) -> Decoded<()> {
        let m = &i.mods;
        let store = i.op == Opcode::WmmaStore;
        let (memory, vector) = if store { (0, 1) } else { (1, 0) };
        let ty = m.types[0];
        let (Some(shape), Some(fragment), Some(order)) = (m.shape, m.fragment, m.layouts[0]) else {
            return self.refuse("a wmma access without a shape, a fragment or a layout");
        };
        let register = if ty == Type::F64 { Type::F64 } else { Type::B32 };
        let rows = self.rows(&i.operands[vector], register)?;
        let Some(layout) = FragmentMap::new(shape, fragment, ty, order, rows.len()) else {
            return self.refuse(format!("wmma on .{ty} with {} registers", rows.len()));
        };
        let regs = rows.into_iter().map(|at| Slot { at, wide: ty == Type::F64 }).collect();
        let space = self.place(m.space, &i.operands[memory]);
        let address = self.address(&i.operands[memory])?;
        let stride = i.operands.get(2).map(|o| self.any(o, Type::U32)).transpose()?;
        let access = FragmentAccess { space, address, stride, layout, regs, store };
        let skip = self.skip_unless(i);
        self.emit(Kind::Fragment(Box::new(access)), None, Class::Matrix);
        self.finish_skip(skip);
        Ok(())
    }
}
