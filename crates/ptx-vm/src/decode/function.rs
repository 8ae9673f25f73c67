//! Decoding one function: registers to rows, operands to rows, labels to places in the code.
use std::collections::HashMap;

use super::program::{
    Constant, Frame, Guard, Inst, Kind, NONE, Passed, PredSource, Program, function_address,
};
use crate::counters::Class;
use crate::exec::lanes::{Args, RowOp, map1};
use crate::exec::regs::Slot;
use crate::flow::{self, undefined::Watched};
use crate::layout::{self, Layout};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::syntax::ast::{
    Formal, Function, FunctionKind, Instr, Module, Operand, OperandKind, RegId, Space, SymbolId, Type,
    Variable,
};

/// An instruction that is legal PTX but not executed by this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsupported {
    pub line: u32,
    pub column: u32,
    pub what: String,
}

/// The predicate that is always false.
pub(super) const PRED_FALSE: u32 = 1;

/// Where a register lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Data(Slot),
    /// 128 bits: two 64-bit slots, low half first.
    Quad(u32),
    Pred(u32),
}

pub(super) struct Decoder<'a> {
    pub module: &'a Module,
    pub layout: &'a Layout,
    pub f: &'a Function,
    pub index: u32,
    pub code: &'a mut Vec<Inst>,
    pub frame: Frame,
    pub places: Vec<Place>,
    known: HashMap<(Constant, bool), Slot>,
    /// Offset of each variable of the function: in the parameter image or in the frame's local memory.
    pub offsets: Vec<u64>,
    /// Where the instruction being decoded comes from.
    pub current: (u32, (u32, u32), u32),
    /// Join of the instruction being decoded, as an index of the tree.
    pub join: Option<u32>,
    /// Registers that may hold nothing.
    pub watched: Watched,
}

pub(super) type Decoded<T> = Result<T, Unsupported>;

/// Decodes a whole module.
pub(crate) fn decode(module: &Module, layout: &Layout) -> Decoded<Program> {
    let mut program = Program::default();
    for index in 0..module.functions.len() {
        let frame = Decoder::new(module, layout, index as u32, &mut program.code).run()?;
        program.frames.push(frame);
    }
    super::control::mark_loops(&mut program);
    Ok(program)
}

impl<'a> Decoder<'a> {
    fn new(module: &'a Module, layout: &'a Layout, index: u32, code: &'a mut Vec<Inst>) -> Decoder<'a> {
        let f = &module.functions[index as usize];
        let entry = f.kind == FunctionKind::Entry;
        let mut frame = Frame { name: f.name.clone(), entry, preds: 2, start: NONE, ..Frame::default() };
        let place = |r: &crate::syntax::ast::Register| match r.ty.bits() {
            _ if r.ty == Type::Pred => {
                frame.preds += 1;
                Place::Pred(frame.preds - 1)
            }
            bits => {
                let at = frame.rows;
                frame.rows += match bits {
                    128 => 4,
                    64 => 2,
                    _ => 1,
                };
                if bits == 128 { Place::Quad(at) } else { Place::Data(Slot { at, wide: bits == 64 }) }
            }
        };
        let places = f.registers.iter().map(place).collect();
        // Behind a frame's local variables lie its `.param` ones, except for the image of a kernel's parameters.
        let places_in = &layout.functions[index as usize];
        let image = places_in.entry.map_or(0, |e| e.param_bytes / 16 * 16);
        let mut local_end = places_in.local_bytes;
        let offset = |(i, (v, place)): (usize, (&Variable, &layout::Place))| match v.space.base() {
            Space::Param if !(entry && f.params.contains(&Formal::Param(i as u32))) => {
                let at = places_in.local_bytes + place.offset - image;
                local_end = local_end.max(at + place.bytes);
                at
            }
            _ => place.offset,
        };
        let offsets = f.variables.iter().zip(&places_in.places).enumerate().map(offset).collect();
        frame.local_bytes = local_end.next_multiple_of(16) as u32;
        Decoder {
            module,
            layout,
            f,
            index,
            code,
            frame,
            places,
            known: HashMap::new(),
            offsets,
            current: (0, (0, 0), 0),
            join: None,
            watched: Watched::default(),
        }
    }

    fn run(mut self) -> Decoded<Frame> {
        let passed = |formals: &[Formal], d: &Decoder| formals.iter().map(|p| d.passed(p)).collect();
        if !self.frame.entry {
            self.frame.params = passed(&self.f.params, &self);
            self.frame.returns = passed(&self.f.returns, &self);
        }
        let Some(body) = &self.f.body else { return Ok(self.frame) };
        let flow = flow::flow(self.f);
        self.frame.registers = flow::registers(self.module, self.f, &flow);
        self.watched = flow::undefined::watched(self.module, self.f, &flow);
        self.frame.watched = self.watched.registers.len() as u32;
        self.frame.undefined = self.watched_names();
        self.frame.start = self.code.len() as u32;
        let mut starts = Vec::with_capacity(body.instrs.len() + 1);
        for (at, instr) in body.instrs.iter().enumerate() {
            starts.push(self.code.len() as u32);
            self.current = (instr.span.line, instr.text, instr.span.column);
            self.join = flow.join(at as u32);
            self.watch(instr)?;
            self.instruction(instr)?;
        }
        starts.push(self.code.len() as u32);
        self.frame.epilogue = self.code.len() as u32;
        let end = if self.frame.entry { Kind::Exit } else { Kind::Return };
        self.emit(end, None, Class::Control);
        self.frame.end = self.code.len() as u32;
        let (epilogue, entry) = (self.frame.epilogue, self.frame.entry);
        let resolve = |t: &mut u32| *t = if *t == EPILOGUE { epilogue } else { starts[*t as usize] };
        let resolve_join = |t: &mut u32| match *t {
            HERE => {}
            NONE => *t = if entry { NONE } else { epilogue },
            _ => *t = starts[*t as usize],
        };
        for at in self.frame.start..self.frame.end {
            match &mut self.code[at as usize].kind {
                Kind::Branch { target, join } if *join == HERE => {
                    *target += at;
                    *join = *target;
                }
                Kind::Branch { target, join } => {
                    resolve(target);
                    resolve_join(join);
                }
                Kind::BranchIndex { targets, join, .. } => {
                    targets.iter_mut().for_each(resolve);
                    resolve_join(join);
                }
                _ => {}
            }
        }
        Ok(self.frame)
    }

    fn passed(&self, formal: &Formal) -> Passed {
        match formal {
            Formal::Reg(r) => self.passed_reg(*r),
            Formal::Param(i) => self.passed_bytes(*i),
        }
    }

    pub fn passed_reg(&self, r: RegId) -> Passed {
        match self.places[r.0 as usize] {
            Place::Data(slot) => Passed::Reg(slot),
            Place::Quad(at) => Passed::Reg(Slot { at, wide: true }),
            Place::Pred(at) => Passed::Pred(at),
        }
    }

    pub fn passed_bytes(&self, variable: u32) -> Passed {
        let len = self.f.variables[variable as usize].bytes as u32;
        Passed::Bytes { offset: self.offsets[variable as usize] as u32, len }
    }

    /// An error at the current instruction.
    pub fn refuse<T>(&self, what: impl Into<String>) -> Decoded<T> {
        Err(Unsupported { line: self.current.0, column: self.current.2, what: what.into() })
    }

    /// Appends an instruction that counts.
    pub fn emit(&mut self, kind: Kind, guard: Option<Guard>, class: Class) {
        let guard = guard.unwrap_or(Guard { pred: NONE, flip: 0 });
        let (line, text, _) = self.current;
        self.code.push(Inst { guard, kind, line, class: Some(class), mma_loop: false, text });
    }

    /// Appends an instruction that the decoder made up.
    pub fn help(&mut self, op: Box<dyn RowOp>, args: Args) {
        self.emit(Kind::Row(op, args), None, Class::Other);
        self.code.last_mut().expect("just pushed").class = None;
    }

    pub fn guard(&self, i: &Instr) -> Option<Guard> {
        let g = i.guard?;
        match self.places[g.reg.0 as usize] {
            Place::Pred(pred) => Some(Guard { pred, flip: if g.negate { !0 } else { 0 } }),
            _ => None,
        }
    }

    /// For an instruction that may block or split a warp: a branch around it takes the place of its guard.
    /// `finish_skip` must follow.
    pub fn skip_unless(&mut self, i: &Instr) -> Option<usize> {
        let mut guard = self.guard(i)?;
        guard.flip = !guard.flip;
        self.emit(Kind::Branch { target: 0, join: HERE }, Some(guard), Class::Control);
        self.code.last_mut().expect("just pushed").class = None;
        Some(self.code.len() - 1)
    }

    pub fn finish_skip(&mut self, skip: Option<usize>) {
        if let Some(at) = skip {
            let distance = (self.code.len() - at) as u32;
            if let Kind::Branch { target, .. } = &mut self.code[at].kind {
                *target = distance;
            }
        }
    }

    /// A fresh scratch register.
    pub fn temp(&mut self, wide: bool) -> Slot {
        let at = self.frame.rows;
        self.frame.rows += if wide { 2 } else { 1 };
        Slot { at, wide }
    }

    pub fn constant(&mut self, value: Constant, wide: bool) -> Slot {
        if let Some(slot) = self.known.get(&(value, wide)) {
            return *slot;
        }
        let slot = self.temp(wide);
        self.known.insert((value, wide), slot);
        self.frame.constants.push((slot, value));
        slot
    }

    /// The slot of a data register operand as it is.
    pub fn slot(&self, r: RegId) -> Decoded<Slot> {
        match self.places[r.0 as usize] {
            Place::Data(slot) => Ok(slot),
            Place::Quad(at) => Ok(Slot { at, wide: true }),
            Place::Pred(_) => self.refuse("a predicate stands where a data register is needed"),
        }
    }

    /// A source operand as a register: of its own width for registers, of the type's width for the rest.
    pub fn any(&mut self, o: &Operand, ty: Type) -> Decoded<Slot> {
        let wide = ty.bits() == 64;
        Ok(match &o.kind {
            OperandKind::Register(r) => self.slot(*r)?,
            OperandKind::Immediate(v) => self.constant(Constant::Bits(v.bits(ty)), wide),
            OperandKind::Special(s) => {
                let wide = s.ty().bits() == 64;
                let slot = self.temp(wide);
                self.emit(Kind::Special(slot, *s), None, Class::Move);
                self.code.last_mut().expect("just pushed").class = None;
                slot
            }
            OperandKind::Symbol { symbol, offset } => {
                let value = self.symbol_value(*symbol, *offset)?;
                self.constant(value, wide)
            }
            other => return self.refuse(format!("operand {other:?} is not a value")),
        })
    }

    /// A source operand read as `ty`: its row.
    pub fn src(&mut self, o: &Operand, ty: Type) -> Decoded<u32> {
        let slot = self.any(o, ty)?;
        Ok(self.width(slot, ty.bits() == 64))
    }

    /// The row of `slot` cut or zero-extended to a width.
    pub fn width(&mut self, slot: Slot, wide: bool) -> u32 {
        if slot.wide == wide {
            return slot.at;
        }
        let to = self.temp(wide);
        let args = Args { d: to.at, s: [slot.at; 4] };
        let op = if wide { map1(|a: u32| u64::from(a)) } else { map1(|a: u64| a as u32) };
        self.help(op, args);
        to.at
    }

    /// A destination written as `ty`: its row, and what has to be done afterwards when the register is wider.
    pub fn dst(&mut self, o: &Operand, ty: Type) -> Decoded<(u32, Option<(u32, Slot)>)> {
        let wide = ty.bits() == 64;
        match o.kind {
            OperandKind::Sink => Ok((self.temp(wide).at, None)),
            OperandKind::Register(r) => {
                let slot = self.slot(r)?;
                if slot.wide == wide {
                    return Ok((slot.at, None));
                }
                let temp = self.temp(wide).at;
                Ok((temp, Some((temp, slot))))
            }
            _ => self.refuse("the destination is not a register"),
        }
    }

    /// Completes [`Decoder::dst`]: moves the result into the wider (or narrower) register.
    pub fn widen_dst(&mut self, pending: Option<(u32, Slot)>, signed: bool, guard: Option<Guard>) {
        let Some((from, to)) = pending else { return };
        let op = match (to.wide, signed) {
            (true, true) => map1(|a: u32| i64::from(a as i32) as u64),
            (true, false) => map1(|a: u32| u64::from(a)),
            (false, _) => map1(|a: u64| a as u32),
        };
        self.emit(Kind::Row(op, Args { d: to.at, s: [from; 4] }), guard, Class::Other);
        self.code.last_mut().expect("just pushed").class = None;
    }

    /// A predicate source.
    pub fn pred(&self, o: &Operand) -> Decoded<PredSource> {
        let at = |r: RegId| match self.places[r.0 as usize] {
            Place::Pred(at) => Ok(at),
            _ => self.refuse("a data register stands where a predicate is needed"),
        };
        match o.kind {
            OperandKind::Register(r) => Ok(PredSource { at: at(r)?, flip: 0 }),
            OperandKind::NotPredicate(r) => Ok(PredSource { at: at(r)?, flip: !0 }),
            OperandKind::Immediate(v) => {
                Ok(PredSource { at: PRED_FALSE, flip: if v.bits(Type::B32) != 0 { !0 } else { 0 } })
            }
            _ => self.refuse("the operand is not a predicate"),
        }
    }

    /// A predicate destination, `None` for a sink.
    pub fn pred_dst(&self, o: &Operand) -> Decoded<Option<u32>> {
        match o.kind {
            OperandKind::Sink => Ok(None),
            _ => Ok(Some(self.pred(o)?.at)),
        }
    }

    pub fn variable(&self, symbol: SymbolId) -> Option<&'a Variable> {
        match symbol {
            SymbolId::Module(i) => self.module.variables.get(i as usize),
            SymbolId::Local(i) => self.f.variables.get(i as usize),
            SymbolId::Function(_) => None,
        }
    }

    /// Whether a local symbol is a parameter of this entry.
    pub fn is_entry_param(&self, symbol: SymbolId) -> bool {
        let SymbolId::Local(i) = symbol else { return false };
        self.frame.entry && self.f.params.contains(&Formal::Param(i))
    }

    /// The address of a symbol inside its space.
    pub fn symbol_value(&self, symbol: SymbolId, offset: i64) -> Decoded<Constant> {
        let space = self.variable(symbol).map(|v| v.space.base());
        let shared = |place: &layout::Place| match place.bytes {
            0 => Constant::DynamicShared { offset },
            _ => Constant::Bits(place.offset.wrapping_add_signed(offset)),
        };
        Ok(match (symbol, space) {
            (SymbolId::Function(id), _) => Constant::Bits(function_address(id.0)),
            (SymbolId::Module(i), Some(Space::Shared)) => shared(&self.layout.places[i as usize]),
            (SymbolId::Local(i), Some(Space::Shared)) => {
                shared(&self.layout.functions[self.index as usize].places[i as usize])
            }
            (SymbolId::Module(variable), Some(Space::Global | Space::Const)) => {
                Constant::Global { variable, offset }
            }
            (SymbolId::Local(i), Some(Space::Param)) if self.is_entry_param(symbol) => {
                Constant::Bits(self.offsets[i as usize].wrapping_add_signed(offset))
            }
            (SymbolId::Local(i), Some(Space::Local | Space::Param)) => {
                Constant::Local { offset: self.offsets[i as usize] as i64 + offset }
            }
            (SymbolId::Local(variable), Some(Space::Global | Space::Const)) => {
                Constant::GlobalLocal { function: self.index, variable, offset }
            }
            _ => return self.refuse("this variable has no address"),
        })
    }

    /// What `cvta` adds to an address of `space` to make it generic.
    pub fn window(&self, space: Space) -> u64 {
        match space.base() {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param if self.frame.entry => PARAM_WINDOW,
            Space::Param => LOCAL_WINDOW,
            _ => 0,
        }
    }
}

/// A branch target: the function's epilogue.
pub(super) const EPILOGUE: u32 = NONE;
/// A join: the target itself, which is a distance from the branch.
pub(super) const HERE: u32 = NONE - 1;
