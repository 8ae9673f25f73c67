//! An instruction's operands against the rows its spelling fits: kinds, types, widths, state spaces.
use super::form::{Count, Form, OperandClass, OperandType, Pattern};
use super::head::Head;
use crate::diagnostic::Reason;
use crate::syntax::ast::*;

/// Where the operands of one instruction are looked up.
pub(super) struct Context<'a> {
    pub module: &'a Module,
    pub function: &'a Function,
}

/// A finding about one operand.
#[derive(Debug)]
pub(super) struct Finding {
    pub span: Span,
    pub reason: Reason,
    pub message: String,
}

/// What is wrong, and how far the operands were right: of several rows, the one that came furthest is reported.
struct Mismatch {
    position: usize,
    finding: Finding,
}

/// Whether a register may stand where the ISA wants `ty` (section 9.4, table of operand types).
pub(super) fn register_fits(reg: Type, ty: Type, relaxed: bool) -> bool {
    if reg == Type::Pred || ty == Type::Pred {
        return reg == ty;
    }
    let width = if relaxed { reg.bits() >= ty.bits() } else { reg.bits() == ty.bits() };
    match ty.class() {
        Class::Bits => width,
        Class::Signed | Class::Unsigned => width && (reg.is_integer() || reg.class() == Class::Bits),
        _ => reg == ty || (width && reg.class() == Class::Bits),
    }
}

/// Whether a constant may stand where the ISA wants `ty`.
pub(super) fn constant_fits(value: Immediate, ty: Type) -> bool {
    match value {
        Immediate::Int { .. } => !ty.is_float() && ty != Type::B128,
        Immediate::F32(_) => matches!(ty, Type::F32 | Type::F64 | Type::B32),
        Immediate::F64(_) => matches!(ty, Type::F32 | Type::F64 | Type::B64),
    }
}

impl<'a> Context<'a> {
    /// Holds an instruction against its rows.
    pub fn check(&self, instr: &Instr, head: &Head) -> Result<(), Finding> {
        let mut worst: Option<Mismatch> = None;
        for form in &head.forms {
            match self.fits(instr, form) {
                Ok(()) => return self.particulars(instr),
                Err(mismatch) => {
                    if worst.as_ref().is_none_or(|w| mismatch.position > w.position) {
                        worst = Some(mismatch);
                    }
                }
            }
        }
        match worst {
            Some(mismatch) => Err(mismatch.finding),
            None => Ok(()),
        }
    }

    fn fits(&self, instr: &Instr, form: &Form) -> Result<(), Mismatch> {
        let fail = |position: usize, span, message| {
            Err(Mismatch { position, finding: Finding { span, reason: Reason::Invalid, message } })
        };
        for (i, pattern) in form.operands.iter().enumerate() {
            let Some(operand) = instr.operands.get(i) else {
                if pattern.optional {
                    break;
                }
                return fail(i, instr.span, format!("`{}` wants more operands", instr.op));
            };
            if let Err(what) = self.operand(instr, pattern, operand) {
                return fail(i, operand.span, format!("operand {} of `{}` {what}", i + 1, instr.op));
            }
        }
        match instr.operands.get(form.operands.len()) {
            Some(extra) => {
                fail(form.operands.len(), extra.span, format!("`{}` has too many operands", instr.op))
            }
            None => Ok(()),
        }
    }

    fn register(&self, reg: RegId) -> Type {
        self.function.registers[reg.0 as usize].ty
    }

    /// The type a pattern asks for on this instruction.
    fn wanted(&self, instr: &Instr, ty: OperandType) -> Type {
        let nth = |n: u8| instr.mods.types.get(n as usize).copied().unwrap_or(Type::B32);
        match ty {
            OperandType::Nth(n) => nth(n),
            OperandType::Fixed(ty) => ty,
            OperandType::Wide => match nth(0) {
                Type::U16 => Type::U32,
                Type::S16 => Type::S32,
                Type::U32 => Type::U64,
                _ => Type::S64,
            },
        }
    }

    /// One operand against one pattern; the message completes "operand 2 of `add` ...".
    fn operand(&self, instr: &Instr, pattern: &Pattern, operand: &Operand) -> Result<(), String> {
        let ty = self.wanted(instr, pattern.ty);
        let count = match pattern.count {
            Count::Scalar => return self.scalar(instr, pattern, ty, &operand.kind),
            Count::Vector if instr.mods.vector.is_none() => {
                return self.scalar(instr, pattern, ty, &operand.kind);
            }
            Count::Vector => instr.mods.vector.unwrap_or(1),
            Count::Fixed(n) => n,
        };
        let OperandKind::Vector(elements) = &operand.kind else {
            return Err(format!("must be a vector of {count} elements"));
        };
        if elements.len() != count as usize {
            return Err(format!("must have {count} elements, not {}", elements.len()));
        }
        // A load into a vector may drop elements, but not all of them.
        let sinks = pattern.class == OperandClass::Destination && pattern.relaxed;
        if sinks && elements.iter().all(|e| e.kind == OperandKind::Sink) {
            return Err("drops every element".into());
        }
        for element in elements {
            if !(sinks && element.kind == OperandKind::Sink) {
                self.scalar(instr, pattern, ty, &element.kind)?;
            }
        }
        Ok(())
    }

    fn scalar(&self, instr: &Instr, pattern: &Pattern, ty: Type, kind: &OperandKind) -> Result<(), String> {
        use OperandClass as C;
        use OperandKind as K;
        match (pattern.class, kind) {
            (
                C::Destination | C::DestinationOrSink | C::DestinationAndPredicate | C::Value | C::Register,
                K::Register(r),
            )
            | (C::MovSource | C::Name, K::Register(r)) => self.register_is(*r, ty, pattern.relaxed),
            (C::DestinationOrSink, K::Sink) => Ok(()),
            (C::DestinationAndPredicate, K::Pair(a, b)) => self.value_and_predicate(instr, *a, *b, ty),
            (C::PredicateDestination, K::Pair(a, b)) => {
                self.predicate_half(*a)?;
                self.predicate_half(*b)
            }
            (C::PredicateDestination, K::Register(r)) => self.register_is(*r, Type::Pred, false),
            (C::PredicateDestination, K::Sink) => Ok(()),
            (C::Value | C::MovSource, K::Immediate(value)) => match constant_fits(*value, ty) {
                true => Ok(()),
                false => Err(format!("is a constant that is no .{ty}")),
            },
            (C::Constant, K::Immediate(Immediate::Int { .. })) => Ok(()),
            (C::Predicate, K::Register(r) | K::NotPredicate(r)) => self.register_is(*r, Type::Pred, false),
            (C::MovSource, K::NotPredicate(r)) => self.register_is(*r, ty, false),
            (C::Predicate, K::Immediate(Immediate::Int { .. })) => Ok(()),
            (C::MovSource, K::Special(special)) => special_fits(*special, ty),
            (C::MovSource, K::Symbol { symbol, .. }) => self.address_of(*symbol, ty),
            (C::Name, K::Symbol { symbol, .. }) => self.in_space(*symbol, instr.mods.space),
            (C::Memory, K::Memory { base, offset: _ }) => self.memory(instr, *base),
            (C::Pack, K::Vector(elements)) => self.pack(elements, ty, false),
            (C::Unpack, K::Vector(elements)) => self.pack(elements, ty, true),
            (C::Label, K::Label(_)) | (C::Table, K::Labels(_)) => Ok(()),
            (class, kind) => Err(format!("must be {}, not {}", class_name(class), kind_name(kind))),
        }
    }

    fn register_is(&self, reg: RegId, ty: Type, relaxed: bool) -> Result<(), String> {
        let have = self.register(reg);
        if register_fits(have, ty, relaxed) {
            return Ok(());
        }
        let name = &self.function.registers[reg.0 as usize].name;
        let wider = if relaxed { " or wider" } else { "" };
        Err(format!("must be .{ty}{wider}, but `{name}` is .{have}"))
    }

    fn predicate_half(&self, half: PairHalf) -> Result<(), String> {
        match half {
            PairHalf::Reg(reg) => self.register_is(reg, Type::Pred, false),
            PairHalf::Sink => Ok(()),
        }
    }

    /// `d|p`: only `lop3` may drop its value.
    fn value_and_predicate(
        &self,
        instr: &Instr,
        value: PairHalf,
        predicate: PairHalf,
        ty: Type,
    ) -> Result<(), String> {
        match value {
            PairHalf::Reg(reg) => self.register_is(reg, ty, false)?,
            PairHalf::Sink if instr.op == Opcode::Lop3 => {}
            PairHalf::Sink => return Err("drops its value".into()),
        }
        self.predicate_half(predicate)
    }

    /// The address of a variable or function as the source of `mov`.
    fn address_of(&self, symbol: SymbolId, ty: Type) -> Result<(), String> {
        self.resolved(symbol)?;
        let narrow = match self.variable(symbol) {
            Some(v) => !matches!(v.space, Space::Global),
            None => false,
        };
        let integer = ty.is_integer() || ty.class() == Class::Bits;
        match ty.bits() {
            64 if integer => Ok(()),
            32 if integer && narrow => Ok(()),
            _ => Err(format!("is an address, which a .{ty} does not hold")),
        }
    }

    fn variable(&self, symbol: SymbolId) -> Option<&'a Variable> {
        match symbol {
            SymbolId::Module(i) => self.module.variables.get(i as usize),
            SymbolId::Local(i) => self.function.variables.get(i as usize),
            SymbolId::Function(_) => None,
        }
    }

    /// Whether the symbol has a place: an unsized `.extern` outside shared memory, or a function without a body, is
    /// expected from another module, and there is none.
    pub fn resolved(&self, symbol: SymbolId) -> Result<(), String> {
        if let SymbolId::Function(id) = symbol {
            let f = &self.module.functions[id.0 as usize];
            return match f.body.is_some() {
                true => Ok(()),
                false => Err(format!("names `{}`, which is declared but defined nowhere", f.name)),
            };
        }
        match self.variable(symbol) {
            Some(v) if v.linkage == Linkage::Extern && v.bytes == 0 && v.space != Space::Shared => {
                Err(format!("names `{}`, which is declared .extern but defined nowhere", v.name))
            }
            _ => Ok(()),
        }
    }

    fn in_space(&self, symbol: SymbolId, space: Option<Space>) -> Result<(), String> {
        self.resolved(symbol)?;
        match (self.variable(symbol), space) {
            (Some(v), Some(space)) if v.space == space.base() => Ok(()),
            (Some(v), Some(space)) => Err(format!("names `{}`, which is .{}, not .{space}", v.name, v.space)),
            (Some(v), None) if v.space == Space::Param => {
                Err(format!("names the parameter `{}`; write .param", v.name))
            }
            (Some(_), None) => Ok(()),
            (None, _) => Err("names a function, not a variable".into()),
        }
    }

    /// `[base + offset]` in the instruction's space.
    fn memory(&self, instr: &Instr, base: Base) -> Result<(), String> {
        // cp.async names two spaces: the first operand is in the first, the second in the second.
        let first = instr
            .operands
            .first()
            .is_some_and(|o| matches!(o.kind, OperandKind::Memory { base: b, .. } if b == base));
        let space = match instr.mods.source_space {
            Some(source) if !first => Some(source),
            _ => instr.mods.space,
        };
        let space = match (space, instr.op) {
            (None, Opcode::Ldmatrix) => Some(Space::Shared),
            (space, _) => space,
        };
        match base {
            Base::Symbol(symbol) => self.in_space(symbol, space),
            Base::Absolute if space == Some(Space::Local) => Ok(()),
            Base::Absolute => Err("is an absolute address, which only .local has".into()),
            Base::Reg(reg) => {
                let ty = self.register(reg);
                let integer = ty.is_integer() || ty.class() == Class::Bits;
                let small = !matches!(space, None | Some(Space::Global));
                match ty.bits() {
                    64 if integer => Ok(()),
                    32 if integer && small => Ok(()),
                    _ => {
                        let name = &self.function.registers[reg.0 as usize].name;
                        Err(format!("uses `{name}` (.{ty}) as an address; it must be a 64-bit integer"))
                    }
                }
            }
        }
    }

    /// The vector of `mov.b64 %rd, {%r1, %r2}` or `mov.b64 {%r1, %r2}, %rd`.
    fn pack(&self, elements: &[Operand], ty: Type, written: bool) -> Result<(), String> {
        let n = elements.len() as u32;
        if !matches!(n, 2 | 4) || ty.bits() / n < 8 || (ty == Type::B128 && n != 2) {
            return Err(format!("cannot be {n} elements of a .{ty}"));
        }
        let bits = ty.bits() / n;
        if elements.iter().all(|e| e.kind == OperandKind::Sink) {
            return Err("drops every element".into());
        }
        for element in elements {
            let fits = match &element.kind {
                OperandKind::Register(reg) => self.register(*reg).bits() == bits,
                OperandKind::Sink => written,
                OperandKind::Immediate(Immediate::Int { .. }) => !written,
                OperandKind::Immediate(Immediate::F32(_)) => !written && bits == 32,
                OperandKind::Immediate(Immediate::F64(_)) => !written && bits == 64,
                _ => false,
            };
            if !fits {
                return Err(format!("must hold {n} elements of {bits} bits"));
            }
        }
        Ok(())
    }

    /// Rules of single instructions about the values of constants.
    fn particulars(&self, instr: &Instr) -> Result<(), Finding> {
        let constant = |i: usize| match instr.operands.get(i).map(|o| &o.kind) {
            Some(OperandKind::Immediate(Immediate::Int { bits, .. })) => Some(*bits as i64),
            _ => None,
        };
        let fail = |i: usize, message: &str| {
            let span = instr.operands.get(i).map_or(instr.span, |o| o.span);
            Err(Finding { span, reason: Reason::Invalid, message: message.to_owned() })
        };
        match instr.op {
            Opcode::CpAsync => match (instr.mods.cache, constant(2)) {
                (Some(CacheOp::Cg), Some(16)) | (Some(CacheOp::Ca), Some(4 | 8 | 16)) => Ok(()),
                (Some(CacheOp::Cg), _) => fail(2, "cp.async.cg copies 16 bytes"),
                _ => fail(2, "cp.async.ca copies 4, 8 or 16 bytes"),
            },
            Opcode::BarrierSync | Opcode::BarrierArrive | Opcode::BarrierRed => {
                let red = usize::from(instr.op == Opcode::BarrierRed);
                let threads = if instr.operands.len() > 1 + 2 * red { constant(1 + red) } else { None };
                match threads {
                    Some(n) if n <= 0 || n % 32 != 0 => {
                        fail(1 + red, "the number of threads is a multiple of 32")
                    }
                    _ => Ok(()),
                }
            }
            Opcode::MbarrierTestWait
                if instr.mods.parity && constant(2).is_some_and(|p| !(0..=1).contains(&p)) =>
            {
                fail(2, "a parity is 0 or 1")
            }
            Opcode::Alloca if constant(2).is_some_and(|n| n <= 0 || n & (n - 1) != 0) => {
                fail(2, "an alignment is a power of two")
            }
            Opcode::CreatePolicyFractional => match instr.operands.get(1).map(|o| &o.kind) {
                Some(OperandKind::Immediate(value)) => {
                    let fraction = f32::from_bits(value.bits(Type::F32) as u32);
                    if fraction > 0.0 && fraction <= 1.0 {
                        Ok(())
                    } else {
                        fail(1, "a fraction is above 0 and at most 1")
                    }
                }
                _ => Ok(()),
            },
            Opcode::CpAsyncWaitGroup if constant(0).is_some_and(|n| n < 0) => {
                fail(0, "a number of groups is not negative")
            }
            Opcode::ApplyPriority | Opcode::Discard if constant(1) != Some(128) => {
                fail(1, "the size must be 128")
            }
            Opcode::Lop3
                if instr.mods.operation.is_some()
                    && !matches!(instr.operands[0].kind, OperandKind::Pair(..)) =>
            {
                fail(0, "lop3 with a Boolean operation writes `d|p`")
            }
            _ => Ok(()),
        }
    }
}

/// Whether a special register can be read as this type.
fn special_fits(special: SpecialRegister, ty: Type) -> Result<(), String> {
    let have = special.ty();
    let integer = ty.is_integer() || ty.class() == Class::Bits;
    let either = matches!(special, SpecialRegister::GridId);
    match integer && (ty.bits() == have.bits() || (either && ty.bits() == 64)) {
        true => Ok(()),
        false => Err(format!("is a special register of type .{have}, not .{ty}")),
    }
}

fn class_name(class: OperandClass) -> &'static str {
    match class {
        OperandClass::Destination | OperandClass::Register => "a register",
        OperandClass::DestinationOrSink => "a register or _",
        OperandClass::DestinationAndPredicate => "a register or register|predicate",
        OperandClass::PredicateDestination => "a predicate or a pair p|q",
        OperandClass::Value => "a register or a constant",
        OperandClass::Constant => "an integer constant",
        OperandClass::MovSource => "a register, constant, special register or address",
        OperandClass::Predicate => "a predicate",
        OperandClass::Memory => "an address in brackets",
        OperandClass::Name => "a register or a variable",
        OperandClass::Pack | OperandClass::Unpack => "a vector",
        OperandClass::Label => "a label",
        OperandClass::Table => "a .branchtargets label",
    }
}

fn kind_name(kind: &OperandKind) -> &'static str {
    match kind {
        OperandKind::Register(_) => "a register",
        OperandKind::NotPredicate(_) => "a negated predicate",
        OperandKind::Pair(..) => "a pair",
        OperandKind::Special(_) => "a special register (mov it to a register first)",
        OperandKind::Immediate(_) => "a constant of that kind",
        OperandKind::Symbol { .. } => "a name (mov its address to a register first)",
        OperandKind::Memory { .. } => "an address",
        OperandKind::Vector(_) => "a vector",
        OperandKind::Label(_) | OperandKind::Labels(_) => "a label",
        OperandKind::Sink => "_",
    }
}
