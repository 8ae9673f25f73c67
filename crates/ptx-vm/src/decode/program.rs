//! The decoded form: one flat array of instructions for a whole module.
use crate::counters::Class;
use crate::exec::lanes::{Args, RowOp};
use crate::exec::regs::Slot;
use crate::mma::Mma;
use crate::syntax::ast::{Operation, Scope, Semantics, Shuffle, SpecialRegister, Type, VoteMode};

/// No instruction, no predicate, no join.
pub(crate) const NONE: u32 = u32::MAX;

/// `@p` or `@!p`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    /// Predicate, [`NONE`] for no guard.
    pub pred: u32,
    /// All ones when negated.
    pub flip: u32,
}

/// One decoded instruction.
pub(crate) struct Inst {
    pub guard: Guard,
    pub kind: Kind,
    /// Line of the source.
    pub line: u32,
    /// `None` for what the decoder added.
    pub class: Option<Class>,
    /// Inside an innermost loop around a matrix instruction.
    pub mma_loop: bool,
    /// Bytes of the source text.
    pub text: (u32, u32),
}

/// A predicate as a source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PredSource {
    pub at: u32,
    pub flip: u32,
}

/// Where a memory operand points.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    /// The register (or constant) it starts from.
    pub base: Slot,
    /// Bytes added.
    pub offset: i64,
}

/// The memory an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// Decided by the address of each lane.
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

/// `ld`, `st`: `elems` elements of `bytes` bytes per lane.
pub(crate) struct Access {
    pub space: Where,
    pub address: Address,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub bytes: u32,
    /// Registers, one per element; `None` for a sink.
    pub regs: Vec<Option<Slot>>,
    /// Shift up and down by this many bits to extend by sign; 0 to extend by zeros.
    pub sign: u32,
    /// Bits a 32-bit row keeps: those of the register.
    pub keep: u32,
    /// Ordering: weak accesses take part in race detection.
    pub order: Order,
}

/// What an access means to other threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Order {
    /// Not weak: relaxed, volatile, acquire, release, atomic.
    pub strong: bool,
    /// Later accesses see what a releaser did before.
    pub acquire: bool,
    /// Earlier accesses are seen by an acquirer.
    pub release: bool,
}

impl Order {
    /// The order of `.sem.scope`.
    pub fn of(semantics: Option<Semantics>, _scope: Option<Scope>) -> Order {
        match semantics {
            None | Some(Semantics::Weak) => Order::default(),
            Some(Semantics::Relaxed | Semantics::Mmio | Semantics::Volatile) => {
                Order { strong: true, acquire: false, release: false }
            }
            Some(Semantics::Acquire) => Order { strong: true, acquire: true, release: false },
            Some(Semantics::Release) => Order { strong: true, acquire: false, release: true },
            Some(Semantics::AcqRel | Semantics::Sc) => Order { strong: true, acquire: true, release: true },
        }
    }
}

/// `atom`, `red`.
pub(crate) struct Atomic {
    pub space: Where,
    pub address: Address,
    pub op: Operation,
    pub ty: Type,
    /// Gets the old value.
    pub dst: Option<Slot>,
    /// Operands: value, or compare and value; vector forms have several values.
    pub values: Vec<Slot>,
    /// The result does not depend on the order of execution (integer, old value unused).
    pub commutes: bool,
    pub order: Order,
}

/// An operand of a barrier.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    /// Reduction of a predicate into a predicate or (popc) a register.
    Red {
        op: Operation,
        input: PredSource,
        dst: Slot,
    },
}

/// `bar`, `barrier`.
pub(crate) struct Barrier {
    pub kind: BarrierKind,
    pub id: Slot,
    /// Threads that take part; `None` is the whole block.
    pub count: Option<Slot>,
    pub aligned: bool,
}

/// `shfl`
pub(crate) struct Shfl {
    pub mode: Shuffle,
    pub dst: Option<u32>,
    pub pred: Option<u32>,
    pub value: u32,
    pub lane: u32,
    pub clamp: u32,
}

/// Warp-wide instructions that exchange values.
pub(crate) enum Exchange {
    Shfl(Shfl),
    /// `vote`: a predicate in, a predicate or a ballot out.
    Vote {
        mode: VoteMode,
        input: PredSource,
        dst: Slot,
    },
    /// `match.any`, `match.all`
    Match {
        all: bool,
        dst: Slot,
        pred: Option<u32>,
        value: Slot,
    },
    /// `redux`
    Redux {
        op: Operation,
        signed: bool,
        dst: u32,
        value: u32,
    },
}

/// Matrix loads and stores through shared memory.
pub(crate) struct MatrixAccess {
    pub space: Where,
    pub address: Address,
    /// 8x8 matrices: 1, 2, 4.
    pub count: u32,
    pub trans: bool,
    pub regs: Vec<u32>,
}

/// `wmma.load`, `wmma.store`: each lane moves elements of a fragment at computed places.
pub(crate) struct FragmentAccess {
    pub space: Where,
    pub address: Address,
    /// Elements from one row (or column) to the next; `None` is the packed default.
    pub stride: Option<Slot>,
    pub layout: crate::mma::wmma::FragmentMap,
    pub regs: Vec<Slot>,
    pub store: bool,
}

/// `cp.async`
pub(crate) struct CopyAsync {
    pub dst: Address,
    pub src: Address,
    /// 4, 8 or 16.
    pub bytes: u32,
    /// Bytes really read; the rest is zero.
    pub src_bytes: Option<Slot>,
    /// Nothing is read at all where set.
    pub ignore: Option<PredSource>,
}

/// `mbarrier.*`
pub(crate) struct Mbarrier {
    pub space: Where,
    pub address: Address,
    pub op: MbarrierOp,
}

/// What is done to an mbarrier.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MbarrierOp {
    Init { count: Slot },
    Inval,
    Arrive { state: Option<Slot>, count: Option<Slot>, drop: bool, no_complete: bool },
    TestWait { dst: u32, state: Slot, parity: bool },
    CopyArrive { noinc: bool },
}

/// A function call.
pub(crate) struct Call {
    pub target: CallTarget,
    /// Argument registers or parameter-space bytes, in order.
    pub args: Vec<Passed>,
    pub returns: Vec<Passed>,
}

/// Where a call goes.
pub(crate) enum CallTarget {
    Direct(u32),
    /// The register holds [`function_address`] of a function.
    Indirect(Slot),
    Builtin(Builtin),
}

/// Functions the system provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// `__assertfail(message, file, line, function, charsize)`
    AssertFail,
    /// `vprintf(format, arguments)`
    Printf,
    /// `malloc(bytes)` returns null: the device heap is empty.
    Malloc,
    /// `free(pointer)` does nothing.
    Free,
}

/// One argument or result, on either side of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Passed {
    Reg(Slot),
    Pred(u32),
    /// Bytes of the frame's local memory.
    Bytes {
        offset: u32,
        len: u32,
    },
}

/// How what holds nothing spreads through one instruction; registers by their places in the function's watch list.
/// The reasons are with [`crate::flow::undefined::Rule`].
pub(crate) enum Spread {
    Any,
    All,
    Select {
        a: Option<u32>,
        b: Option<u32>,
        p: Option<u32>,
        by: PredSource,
    },
    Logic {
        or: bool,
        /// Predicates, any of which may decide alone.
        decide: Vec<(Option<u32>, PredSource)>,
    },
    Matrix {
        /// Registers of the accumulator.
        sums: Vec<u32>,
    },
    Written,
    Fault,
}

/// The companion of an instruction on watched registers.
pub(crate) struct Undefined {
    pub spread: Spread,
    /// The instruction's guard, and its place if it is watched.
    pub own: Option<Guard>,
    pub guard: Option<u32>,
    pub reads: Vec<u32>,
    pub writes: Vec<u32>,
}

/// Addresses of functions: a window of its own, 16 bytes apart.
pub(crate) fn function_address(index: u32) -> u64 {
    (4 << 56) + 16 * (u64::from(index) + 1)
}

/// What an instruction does.
pub(crate) enum Kind {
    /// Registers only.
    Row(Box<dyn RowOp>, Args),
    /// `mov d, %special`
    Special(Slot, SpecialRegister),
    /// `ld.param` of a kernel's parameter: offset, then as [`Access`].
    Param {
        offset: u32,
        bytes: u32,
        sign: u32,
        keep: u32,
        regs: Vec<Option<Slot>>,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    /// Target and the place where divergent lanes meet again.
    Branch {
        target: u32,
        join: u32,
    },
    BranchIndex {
        index: Slot,
        targets: Vec<u32>,
        join: u32,
    },
    Call(Box<Call>),
    /// Return from a function to its caller.
    Return,
    Exit,
    Barrier(Box<Barrier>),
    WarpSync {
        mask: u32,
    },
    Exchange {
        op: Box<Exchange>,
        mask: Option<u32>,
    },
    ActiveMask {
        dst: u32,
    },
    CopyAsync(Box<CopyAsync>),
    CommitGroup,
    /// Waits until at most so many groups are pending.
    WaitGroup(u32),
    Mbarrier(Box<Mbarrier>),
    Mma(Box<Mma>),
    LoadMatrix(Box<MatrixAccess>),
    MoveMatrix {
        dst: u32,
        src: u32,
    },
    Fragment(Box<FragmentAccess>),
    /// Order of this thread's accesses before and after, for `gpu` scope or wider.
    Fence {
        wide: bool,
    },
    Sleep,
    StackSave(Slot),
    StackRestore(Slot),
    Alloca {
        dst: Slot,
        bytes: Slot,
        align: u64,
    },
    /// Tests whether a generic address is in a window.
    IsSpace {
        dst: u32,
        src: Slot,
        space: Where,
    },
    Trap,
    Breakpoint,
    /// Follows registers that hold nothing through the next instruction; nothing below [`crate::Checks::All`].
    Undefined(Box<Undefined>),
    /// Hints: prefetch, discard, policies, pmevent.
    Nothing,
}

/// A row that holds the same in every lane, filled when a frame is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    /// Address of a module variable in global (or constant) memory.
    Global {
        variable: u32,
        offset: i64,
    },
    /// Bytes into the dynamic shared memory, which begins where the kernel's static one ends.
    DynamicShared {
        offset: i64,
    },
    /// Address of a `.global` or `.const` variable declared inside function `function`.
    GlobalLocal {
        function: u32,
        variable: u32,
        offset: i64,
    },
    /// Offset in the thread's local memory, from the frame's start.
    Local {
        offset: i64,
    },
}

/// A function's frame.
#[derive(Default)]
pub(crate) struct Frame {
    pub name: String,
    pub entry: bool,
    /// First instruction, or [`NONE`] when there is no body.
    pub start: u32,
    /// One past the last instruction.
    pub end: u32,
    /// Where divergent lanes meet before they return.
    pub epilogue: u32,
    pub rows: u32,
    pub preds: u32,
    pub constants: Vec<(Slot, Constant)>,
    /// Bytes of local memory: variables, parameters by value.
    pub local_bytes: u32,
    pub params: Vec<Passed>,
    pub returns: Vec<Passed>,
    /// 32-bit registers that are live at once at most: a prediction of what an assembler needs.
    pub registers: u32,
    /// Functions this one calls directly.
    pub callees: Vec<u32>,
    /// Registers that may hold nothing, and the names of the first of them, which do when the function begins.
    pub watched: u32,
    pub undefined: Vec<String>,
    /// Contains an indirect call.
    pub indirect: bool,
    /// Other blocks' writes can be noticed: strong accesses, atomics that do not commute.
    pub communicates: bool,
}

/// A module's code.
#[derive(Default)]
pub(crate) struct Program {
    pub code: Vec<Inst>,
    pub frames: Vec<Frame>,
}
