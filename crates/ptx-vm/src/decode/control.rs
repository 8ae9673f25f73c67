//! Control flow, barriers, warp-wide and matrix instructions.
use super::function::{Decoded, Decoder, EPILOGUE};
use super::program::{
    Barrier, BarrierKind, Builtin, Call, CallTarget, Exchange, Kind, NONE, Passed, Program, Shfl, Where,
};
use crate::counters::Class;
use crate::exec::regs::Slot;
use crate::mma::Mma;
use crate::syntax::ast::{self, Instr, Opcode, Operand, OperandKind, Scope, SymbolId, Type, VoteMode};

impl Decoder<'_> {
    /// Everything that does more than compute a register from registers.
    pub(super) fn effect(&mut self, i: &Instr) -> Decoded<()> {
        use Opcode::*;
        let guard = self.guard(i);
        let m = &i.mods;
        match i.op {
            Ld | Ldu => return self.load(i),
            St => return self.store(i),
            Atom | Red => return self.atomic(i),
            CpAsync => return self.copy_async(i),
            CpAsyncCommitGroup => self.emit(Kind::CommitGroup, guard, Class::AsyncCopy),
            CpAsyncWaitAll => self.emit(Kind::WaitGroup(NONE), guard, Class::AsyncCopy),
            CpAsyncWaitGroup => {
                let OperandKind::Immediate(v) = i.operands[0].kind else {
                    return self.refuse("the number of groups is not a constant");
                };
                self.emit(Kind::WaitGroup(v.bits(Type::U32) as u32), guard, Class::AsyncCopy);
            }
            CpAsyncMbarrierArrive
            | MbarrierInit
            | MbarrierInval
            | MbarrierArrive
            | MbarrierArriveDrop
            | MbarrierTestWait
            | MbarrierPendingCount => return self.mbarrier(i),
            Ldmatrix => return self.ldmatrix(i),
            WmmaLoad | WmmaStore => return self.fragment(i),
            Mma | WmmaMma => return self.mma(i),
            Movmatrix => {
                let (dst, src) = (self.src(&i.operands[0], Type::B32)?, self.src(&i.operands[1], Type::B32)?);
                let skip = self.skip_unless(i);
                self.emit(Kind::MoveMatrix { dst, src }, None, Class::Matrix);
                self.finish_skip(skip);
            }
            Bra => {
                let OperandKind::Label(target) = i.operands[0].kind else {
                    return self.refuse("the target of a branch is not a label");
                };
                let join = self.join.unwrap_or(NONE);
                self.emit(Kind::Branch { target, join }, guard, Class::Control);
            }
            BrxIdx => {
                let OperandKind::Labels(targets) = i.operands[1].kind.clone() else {
                    return self.refuse("brx.idx without a list of labels");
                };
                let index = self.any(&i.operands[0], Type::U32)?;
                let join = self.join.unwrap_or(NONE);
                let skip = self.skip_unless(i);
                self.emit(Kind::BranchIndex { index, targets, join }, None, Class::Control);
                self.finish_skip(skip);
            }
            Call => return self.call(i),
            Ret if !self.frame.entry => {
                self.emit(Kind::Branch { target: EPILOGUE, join: NONE }, guard, Class::Control);
            }
            Ret | Exit => self.emit(Kind::Exit, guard, Class::Control),
            BarrierSync | BarrierArrive | BarrierRed => return self.barrier(i),
            BarWarpSync => {
                let mask = self.src(&i.operands[0], Type::B32)?;
                let skip = self.skip_unless(i);
                self.emit(Kind::WarpSync { mask }, None, Class::Warp);
                self.finish_skip(skip);
            }
            Shfl | Vote | Match | Redux => return self.exchange(i),
            Activemask => {
                let (dst, _) = self.dst(&i.operands[0], Type::B32)?;
                self.emit(Kind::ActiveMask { dst }, guard, Class::Warp);
            }
            Membar | Fence => {
                let wide = matches!(m.scope, None | Some(Scope::Gpu | Scope::Sys | Scope::Cluster));
                self.emit(Kind::Fence { wide }, guard, Class::Fence);
            }
            Nanosleep => self.emit(Kind::Sleep, guard, Class::Other),
            StackSave | StackRestore | Alloca => return self.stack(i),
            Isspacep => {
                let Some(dst) = self.pred_dst(&i.operands[0])? else { return Ok(()) };
                let src = self.any(&i.operands[1], Type::U64)?;
                let space = match m.space.map(ast::Space::base) {
                    Some(ast::Space::Shared) => Where::Shared,
                    Some(ast::Space::Local) => Where::Local,
                    Some(ast::Space::Param) => Where::Param,
                    _ => Where::Global,
                };
                self.emit(Kind::IsSpace { dst, src, space }, guard, Class::Compare);
            }
            Trap => self.emit(Kind::Trap, guard, Class::Other),
            Brkpt => self.emit(Kind::Breakpoint, guard, Class::Other),
            Prefetch | Prefetchu | ApplyPriority | Discard | Pmevent => {
                self.emit(Kind::Nothing, guard, Class::Other);
            }
            other => {
                return self.refuse(format!("{other} with these operands is not executed by this machine"));
            }
        }
        Ok(())
    }

    fn stack(&mut self, i: &Instr) -> Decoded<()> {
        let guard = self.guard(i);
        let kind = match i.op {
            Opcode::StackSave => Kind::StackSave(self.any(&i.operands[0], Type::U64)?),
            Opcode::StackRestore => Kind::StackRestore(self.any(&i.operands[0], Type::U64)?),
            _ => {
                let align = match i.operands.get(2).map(|o| &o.kind) {
                    Some(OperandKind::Immediate(v)) => v.bits(Type::U32),
                    _ => 8,
                };
                let dst = self.any(&i.operands[0], Type::U64)?;
                Kind::Alloca { dst, bytes: self.any(&i.operands[1], Type::U64)?, align }
            }
        };
        self.emit(kind, guard, Class::Other);
        Ok(())
    }

    /// What is passed for one operand of a call.
    fn passed_operand(&mut self, o: &Operand, formal: Option<Passed>) -> Decoded<Passed> {
        Ok(match &o.kind {
            OperandKind::Register(r) => self.passed_reg(*r),
            OperandKind::Symbol { symbol: SymbolId::Local(v), offset: 0 }
                if self.f.variables[*v as usize].space.base() == ast::Space::Param =>
            {
                self.passed_bytes(*v)
            }
            OperandKind::Immediate(_) | OperandKind::Symbol { .. } => {
                let wide = match formal {
                    Some(Passed::Reg(slot)) => slot.wide,
                    _ => matches!(o.kind, OperandKind::Symbol { .. }),
                };
                Passed::Reg(self.any(o, if wide { Type::B64 } else { Type::B32 })?)
            }
            OperandKind::Sink => Passed::Bytes { offset: 0, len: 0 },
            _ => return self.refuse("an argument of a call is neither a register nor a parameter"),
        })
    }

    fn call(&mut self, i: &Instr) -> Decoded<()> {
        let Some(call) = i.call.as_deref() else { return self.refuse("a call without a target") };
        let target = match &call.target {
            ast::CallTarget::Direct(id) => {
                let f = &self.module.functions[id.0 as usize];
                match (&f.body, builtin(&f.name)) {
                    (Some(_), _) => {
                        self.frame.callees.push(id.0);
                        CallTarget::Direct(id.0)
                    }
                    (None, Some(b)) => CallTarget::Builtin(b),
                    (None, None) => {
                        return self
                            .refuse(format!("call of {}, which is declared but defined nowhere", f.name));
                    }
                }
            }
            ast::CallTarget::Indirect { reg, .. } => {
                self.frame.indirect = true;
                CallTarget::Indirect(self.slot(*reg)?)
            }
        };
        let formals: Vec<Passed> = match &target {
            CallTarget::Direct(id) => {
                let callee = &self.module.functions[*id as usize];
                // Only the width of register formals matters here.
                callee
                    .params
                    .iter()
                    .map(|p| match p {
                        ast::Formal::Reg(r) => {
                            let wide = callee.registers[r.0 as usize].ty.bits() == 64;
                            Passed::Reg(Slot { at: 0, wide })
                        }
                        ast::Formal::Param(_) => Passed::Bytes { offset: 0, len: 0 },
                    })
                    .collect()
            }
            _ => Vec::new(),
        };
        let mut args = Vec::new();
        for (at, o) in call.args.iter().enumerate() {
            args.push(self.passed_operand(o, formals.get(at).copied())?);
        }
        let returns =
            call.returns.iter().map(|o| self.passed_operand(o, None)).collect::<Decoded<Vec<_>>>()?;
        let skip = self.skip_unless(i);
        self.emit(Kind::Call(Box::new(Call { target, args, returns })), None, Class::Control);
        self.finish_skip(skip);
        Ok(())
    }

    fn barrier(&mut self, i: &Instr) -> Decoded<()> {
        let m = &i.mods;
        let (kind, rest) = match i.op {
            Opcode::BarrierRed => {
                let Some(op) = m.operation else { return self.refuse("barrier.red without an operation") };
                let input = self.pred(&i.operands[i.operands.len() - 1])?;
                let dst = match i.operands[0].kind {
                    OperandKind::Register(r) if m.operation == Some(ast::Operation::Popc) => self.slot(r)?,
                    _ => Slot { at: self.pred(&i.operands[0])?.at, wide: false },
                };
                (BarrierKind::Red { op, input, dst }, &i.operands[1..i.operands.len() - 1])
            }
            Opcode::BarrierArrive => (BarrierKind::Arrive, &i.operands[..]),
            _ => (BarrierKind::Sync, &i.operands[..]),
        };
        let id = self.any(&rest[0], Type::U32)?;
        let count = rest.get(1).map(|o| self.any(o, Type::U32)).transpose()?;
        let skip = self.skip_unless(i);
        let barrier = Barrier { kind, id, count, aligned: m.aligned };
        self.emit(Kind::Barrier(Box::new(barrier)), None, Class::Barrier);
        self.finish_skip(skip);
        Ok(())
    }

    fn exchange(&mut self, i: &Instr) -> Decoded<()> {
        let m = &i.mods;
        let o = &i.operands;
        // Without `.sync` (before sm_70) the executing lanes exchange among themselves.
        let (op, mask) = match i.op {
            Opcode::Shfl => {
                let Some(mode) = m.shuffle else { return self.refuse("shfl without a mode") };
                let (dst, pred) = self.data_and_pred(&o[0])?;
                let (value, lane) = (self.src(&o[1], Type::B32)?, self.src(&o[2], Type::B32)?);
                let clamp = self.src(&o[3], Type::B32)?;
                (Exchange::Shfl(Shfl { mode, dst, pred, value, lane, clamp }), o.get(4))
            }
            Opcode::Vote => {
                let Some(mode) = m.vote else { return self.refuse("vote without a mode") };
                let input = self.pred(&o[1])?;
                let dst = match (mode, &o[0].kind) {
                    (VoteMode::Ballot, OperandKind::Register(r)) => self.slot(*r)?,
                    (VoteMode::Ballot, _) => self.temp(false),
                    _ => Slot { at: self.pred(&o[0])?.at, wide: false },
                };
                (Exchange::Vote { mode, input, dst }, o.get(2))
            }
            Opcode::Match => {
                let (dst, pred) = self.data_and_pred(&o[0])?;
                let dst = Slot { at: dst.unwrap_or_else(|| self.temp(false).at), wide: false };
                let value = self.any(&o[1], m.types[0])?;
                (Exchange::Match { all: m.vote == Some(VoteMode::All), dst, pred, value }, o.get(2))
            }
            _ => {
                let Some(op) = m.operation else { return self.refuse("redux without an operation") };
                let signed = m.types[0].is_signed();
                let (dst, value) = (self.src(&o[0], Type::B32)?, self.src(&o[1], Type::B32)?);
                (Exchange::Redux { op, signed, dst, value }, o.get(2))
            }
        };
        let mask = mask.map(|o| self.src(o, Type::B32)).transpose()?;
        let skip = self.skip_unless(i);
        self.emit(Kind::Exchange { op: Box::new(op), mask }, None, Class::Warp);
        self.finish_skip(skip);
        Ok(())
    }

    /// `d|p`, `d`, `_|p`
    fn data_and_pred(&mut self, o: &Operand) -> Decoded<(Option<u32>, Option<u32>)> {
        use ast::PairHalf;
        Ok(match o.kind {
            OperandKind::Pair(d, p) => {
                let d = match d {
                    PairHalf::Reg(r) => Some(self.slot(r)?.at),
                    PairHalf::Sink => None,
                };
                let p = match p {
                    PairHalf::Reg(r) => match self.places[r.0 as usize] {
                        super::function::Place::Pred(at) => Some(at),
                        _ => return self.refuse("the second half of d|p is not a predicate"),
                    },
                    PairHalf::Sink => None,
                };
                (d, p)
            }
            OperandKind::Sink => (None, None),
            _ => (Some(self.dst(o, Type::B32)?.0), None),
        })
    }

    fn mma(&mut self, i: &Instr) -> Decoded<()> {
        let register = |ty: Type| if ty == Type::F64 { Type::F64 } else { Type::B32 };
        let types = crate::mma::types(&i.mods);
        let mut rows = Vec::new();
        for (o, ty) in i.operands.iter().zip(types) {
            rows.push(self.rows(o, register(ty))?);
        }
        let wmma = i.op == Opcode::WmmaMma;
        let Some(mma) = Mma::new(&i.mods, wmma, types, rows) else {
            return self.refuse(
                "this shape and these types of a matrix instruction are not executed by this machine",
            );
        };
        let skip = self.skip_unless(i);
        self.emit(Kind::Mma(Box::new(mma)), None, Class::Mma);
        self.finish_skip(skip);
        Ok(())
    }
}

/// System functions that compilers call without defining them.
fn builtin(name: &str) -> Option<Builtin> {
    Some(match name {
        "__assertfail" => Builtin::AssertFail,
        "vprintf" => Builtin::Printf,
        "malloc" => Builtin::Malloc,
        "free" => Builtin::Free,
        _ => return None,
    })
}

/// Marks the instructions of innermost loops around matrix instructions: the smallest interval that a backward
/// branch spans.
pub(super) fn mark_loops(program: &mut Program) {
    let is_mma = |k: &Kind| matches!(k, Kind::Mma(_));
    for frame in &program.frames {
        if frame.start == NONE {
            continue;
        }
        let range = frame.start as usize..frame.end as usize;
        let mut loops: Vec<(usize, usize)> = range
            .clone()
            .filter_map(|at| match program.code[at].kind {
                Kind::Branch { target, .. } if (target as usize) <= at => Some((target as usize, at)),
                _ => None,
            })
            .collect();
        loops.sort_by_key(|(from, to)| to - from);
        let mut chosen: Vec<(usize, usize)> = Vec::new();
        for (from, to) in loops {
            let inside = |&(f, t): &(usize, usize)| from <= f && t <= to;
            if chosen.iter().any(inside) || !program.code[from..=to].iter().any(|i| is_mma(&i.kind)) {
                continue;
            }
            chosen.push((from, to));
        }
        for (from, to) in chosen {
            program.code[from..=to].iter_mut().for_each(|i| i.mma_loop = true);
        }
    }
}
