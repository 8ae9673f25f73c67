//! The syntax tree: plain data, every name resolved, a place in the source on everything that can be wrong.
//!
//! **Architecture Invariant:** nothing in the tree refers to the source by name any more. Registers are dense
//! indices per function, variables and functions are indices into tables, labels are indices of instructions;
//! nested scopes `{ }` have been resolved by the parser.
pub use super::modifiers::*;
pub use super::opcode::Opcode;
pub use super::special::SpecialRegister;
pub use super::types::{Class, Space, Span, Type};
use crate::check::head::Head;
use crate::diagnostic::excerpt;

/// A register: index into [`Function::registers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);

/// A function or entry: index into [`Module::functions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub u32);

/// A variable with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SymbolId {
    /// Index into [`Module::variables`].
    Module(u32),
    /// Index into [`Function::variables`] of the function that mentions it.
    Local(u32),
    /// The address of a function or an entry.
    Function(FunctionId),
}

/// `.version` as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// before the dot
    pub major: u32,
    /// after the dot
    pub minor: u32,
}

/// `.target` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// 80 for `sm_80`
    pub sm: u32,
    /// The suffix of an architecture-specific target: `a` of `sm_90a`, `f` of `sm_100f`.
    pub suffix: Option<char>,
    /// `debug`, `texmode_independent`, ...
    pub options: Vec<String>,
}

/// A whole PTX file.
#[derive(Clone, Debug)]
pub struct Module {
    /// The name used in messages.
    pub name: String,
    /// `.version`
    pub version: Version,
    /// `.target`
    pub target: Target,
    /// 32 or 64
    pub address_size: u32,
    /// Variables at module scope.
    pub variables: Vec<Variable>,
    /// Functions and entries; a prototype and its definition share one place.
    pub functions: Vec<Function>,
    /// The whole text, for messages.
    pub source: String,
    /// Each distinct spelling of an instruction with its rows in the instruction table.
    pub heads: Vec<Head>,
}

/// How a name is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Linkage {
    /// not visible outside the module
    #[default]
    Internal,
    /// `.visible`
    Visible,
    /// `.extern`
    Extern,
    /// `.weak`
    Weak,
    /// `.common`
    Common,
}

/// `.ptr .space .align N` on an entry's parameter: what it points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointee {
    /// The space that is pointed at; `None` is generic.
    pub space: Option<Space>,
    /// Promised alignment in bytes.
    pub align: u32,
}

/// A variable with an address: `.global`, `.const`, `.shared`, `.local` or `.param`.
#[derive(Clone, Debug)]
pub struct Variable {
    /// The name as written (empty for `_`).
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Visibility.
    pub linkage: Linkage,
    /// The type of one element.
    pub ty: Type,
    /// `.v2`, `.v4`: 2, 4; otherwise 1.
    pub vector: u8,
    /// Array dimensions, outermost first; `None` is `[]`.
    pub dims: Vec<Option<u64>>,
    /// Alignment in bytes: as declared, or natural.
    pub align: u64,
    /// Size in bytes; 0 for an unsized `.extern` array.
    pub bytes: u64,
    /// `.ptr` of an entry's parameter.
    pub pointee: Option<Pointee>,
    /// `.managed`
    pub managed: bool,
    /// What it holds at the start; `None` is zeros (`.global`, `.const`) or nothing in particular.
    pub init: Option<Initializer>,
    /// Where it is declared.
    pub span: Span,
}

/// The values of an initialised variable; elements not mentioned are zero.
#[derive(Clone, Debug, Default)]
pub struct Initializer {
    /// Element index (row-major, vector lanes counted) and value, ascending.
    pub values: Vec<(u64, InitValue)>,
}

/// One element of an initialiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitValue {
    /// The bits of the element, already converted to its type.
    Bits(u64),
    /// An address, known once the module is placed.
    Address {
        /// Of what.
        symbol: SymbolId,
        /// Plus this many bytes.
        offset: i64,
        /// `generic(x)`: the generic address rather than the one inside the space.
        generic: bool,
        /// For `0xFF00(x)` masks: the address is shifted right by this many bits and cut to the element.
        shift: u32,
    },
}

/// Entry (`.entry`) or device function (`.func`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// `.entry`
    Entry,
    /// `.func`
    Func,
}

/// Performance-tuning directives (ISA section 11.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `.maxntid`: upper bound of the block in x, y, z.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: the exact block in x, y, z.
    pub required_block: Option<[u32; 3]>,
    /// `.minnctapersm`
    pub min_blocks: Option<u32>,
    /// `.maxnreg`
    pub max_registers: Option<u32>,
    /// `.noreturn`
    pub no_return: bool,
    /// Strings of `.pragma`.
    pub pragmas: Vec<String>,
}

/// A register declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// As written, `%r12` for one of `%r<100>`; `%v.x` for a component of a vector register.
    pub name: String,
    /// The declared type.
    pub ty: Type,
}

/// A formal parameter or return value of a `.func`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formal {
    /// `.param`: bytes in the parameter space; index into [`Function::variables`].
    Param(u32),
    /// `.reg`: a register passed by value.
    Reg(RegId),
}

/// A function, an entry, or the prototype of one that is defined nowhere here.
#[derive(Clone, Debug)]
pub struct Function {
    /// The name.
    pub name: String,
    /// Entry or device function.
    pub kind: FunctionKind,
    /// Visibility.
    pub linkage: Linkage,
    /// Parameters in order. An entry's are all [`Formal::Param`].
    pub params: Vec<Formal>,
    /// Return values in order.
    pub returns: Vec<Formal>,
    /// Tuning directives.
    pub directives: Directives,
    /// The registers that the body mentions. Declared but unmentioned ones are not here.
    pub registers: Vec<Register>,
    /// Parameters, return values, and variables declared in the body.
    pub variables: Vec<Variable>,
    /// Prototypes of indirect calls (`.callprototype`).
    pub prototypes: Vec<Prototype>,
    /// Instructions in order; `None` for a prototype without a body.
    pub body: Option<Body>,
    /// Where it is declared.
    pub span: Span,
}

/// Straight code with labels.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The instructions.
    pub instrs: Vec<Instr>,
    /// Labels in the order of their places.
    pub labels: Vec<Label>,
}

/// A name for a place in the code.
#[derive(Clone, Debug)]
pub struct Label {
    /// The name.
    pub name: String,
    /// Index of the instruction that follows (the number of instructions when none does).
    pub at: u32,
}

/// The signature of an indirect call.
#[derive(Clone, Debug)]
pub struct Prototype {
    /// Its label.
    pub name: String,
    /// Return values.
    pub returns: Vec<Signature>,
    /// Parameters.
    pub params: Vec<Signature>,
    /// `.noreturn`
    pub no_return: bool,
    /// Where it is declared.
    pub span: Span,
}

/// One parameter or return value in a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// In a register (`.reg`) rather than in the parameter space.
    pub register: bool,
    /// The element type.
    pub ty: Type,
    /// Size in bytes (arrays whole).
    pub bytes: u64,
    /// Alignment in bytes.
    pub align: u64,
}

/// `@p` or `@!p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The predicate.
    pub reg: RegId,
    /// `!`
    pub negate: bool,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instr {
    /// Which threads execute it.
    pub guard: Option<Guard>,
    /// The operation.
    pub op: Opcode,
    /// Everything between the mnemonic and the operands.
    pub mods: Modifiers,
    /// Index into [`Module::heads`].
    pub head: u32,
    /// Operands in the order written, destinations first. Empty for `call`, see [`Instr::call`].
    pub operands: Vec<Operand>,
    /// The parts of a `call`.
    pub call: Option<Box<Call>>,
    /// Where it starts.
    pub span: Span,
    /// The bytes of the source it covers, guard to semicolon.
    pub text: (u32, u32),
}

/// The parts of `call (returns), target, (args), prototype`.
#[derive(Clone, Debug)]
pub struct Call {
    /// Where the results go: registers or `.param` variables, or [`OperandKind::Sink`].
    pub returns: Vec<Operand>,
    /// What is called.
    pub target: CallTarget,
    /// Registers, immediates or `.param` variables.
    pub args: Vec<Operand>,
}

/// What a `call` calls.
#[derive(Clone, Debug)]
pub enum CallTarget {
    /// A function by name.
    Direct(FunctionId),
    /// Through a register: one of `candidates` (from `.calltargets`), or any function that has the prototype.
    Indirect {
        /// Holds the function's address.
        reg: RegId,
        /// Index into [`Function::prototypes`], when one was named.
        prototype: Option<u32>,
        /// The possible callees, when `.calltargets` was named.
        candidates: Option<Vec<FunctionId>>,
    },
}

/// One operand.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// What it is.
    pub kind: OperandKind,
    /// Where it starts.
    pub span: Span,
}

/// What an operand is.
#[derive(Clone, Debug, PartialEq)]
pub enum OperandKind {
    /// `%r1`
    Register(RegId),
    /// `!%p1`
    NotPredicate(RegId),
    /// `%p1|%p2` (`setp`, `shfl`, `match`); the second may be a [`OperandKind::Sink`].
    Pair(PairHalf, PairHalf),
    /// `%tid.x`, `%clock64`
    Special(SpecialRegister),
    /// `42`, `0f3F800000`
    Immediate(Immediate),
    /// The address of a variable or function, plus bytes (`mov`, call arguments).
    Symbol {
        /// Of what.
        symbol: SymbolId,
        /// Plus this many bytes.
        offset: i64,
    },
    /// `[base + offset]`
    Memory {
        /// What the address starts from.
        base: Base,
        /// Plus this many bytes.
        offset: i64,
    },
    /// `{a, b, c, d}`
    Vector(Vec<Operand>),
    /// The target of `bra`: index of an instruction in the body.
    Label(u32),
    /// The targets of `brx.idx`.
    Labels(Vec<u32>),
    /// `_`: the result is dropped.
    Sink,
}

/// Half of `p|q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairHalf {
    /// A register.
    Reg(RegId),
    /// `_`
    Sink,
}

/// The start of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// `[%rd1]`
    Reg(RegId),
    /// `[variable]`
    Symbol(SymbolId),
    /// `[0x100]`: the offset alone.
    Absolute,
}

/// A constant as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Immediate {
    /// An integer: 64 bits in two's complement; `unsigned` by a `U` suffix or because it needs the 64th bit.
    Int {
        /// the bits
        bits: u64,
        /// typed `.u64` rather than `.s64`
        unsigned: bool,
    },
    /// `0f3F800000`: the bits of an f32.
    F32(u32),
    /// `0d...` or a decimal: the bits of an f64.
    F64(u64),
}

impl Module {
    /// The text of an instruction, on one line.
    pub fn text_of(&self, instr: &Instr) -> String {
        excerpt(self.source.get(instr.text.0 as usize..instr.text.1 as usize).unwrap_or(""))
    }
}

impl Function {
    /// What a caller sees of a parameter or return value.
    pub fn signature(&self, formal: Formal) -> Signature {
        match formal {
            Formal::Param(i) => {
                let v = &self.variables[i as usize];
                Signature { register: false, ty: v.ty, bytes: v.bytes, align: v.align }
            }
            Formal::Reg(reg) => {
                let ty = self.registers[reg.0 as usize].ty;
                let bytes = ty.bytes() as u64;
                Signature { register: true, ty, bytes, align: bytes }
            }
        }
    }
}

impl Immediate {
    /// The bits of the constant as a value of `ty`: integers are cut to the width, floats are rounded to the
    /// nearest even. An integer constant for a floating type is the bits of that float.
    pub fn bits(self, ty: Type) -> u64 {
        let raw = match self {
            Immediate::Int { bits, .. } => bits,
            Immediate::F32(bits) => match ty {
                Type::F64 => f64::from(f32::from_bits(bits)).to_bits(),
                Type::F16 => u64::from(half::f16::from_f32(f32::from_bits(bits)).to_bits()),
                Type::Bf16 => u64::from(half::bf16::from_f32(f32::from_bits(bits)).to_bits()),
                _ => u64::from(bits),
            },
            Immediate::F64(bits) => match ty {
                Type::F32 | Type::Tf32 => u64::from((f64::from_bits(bits) as f32).to_bits()),
                Type::F16 => u64::from(half::f16::from_f64(f64::from_bits(bits)).to_bits()),
                Type::Bf16 => u64::from(half::bf16::from_f64(f64::from_bits(bits)).to_bits()),
                _ => bits,
            },
        };
        match ty.bits() {
            width if width >= 64 => raw,
            width => raw & ((1 << width) - 1),
        }
    }
}
