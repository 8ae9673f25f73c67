//! A fault: what went wrong, and exactly where.
use std::fmt;

/// The memory an access was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemorySpace {
    /// `.global`, `.const` and generic addresses outside the windows.
    Global,
    /// `.shared` of the block.
    Shared,
    /// `.local` of the thread.
    Local,
    /// Parameters.
    Param,
}

impl fmt::Display for MemorySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemorySpace::Global => "global",
            MemorySpace::Shared => "shared",
            MemorySpace::Local => "local",
            MemorySpace::Param => "param",
        })
    }
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The launch itself is impossible: no such kernel, too many threads, wrong size of the parameters.
    BadLaunch,
    /// An access to memory that belongs to nobody.
    OutOfBounds,
    /// An access to a block after it was freed.
    UseAfterFree,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// A read of bytes that nobody wrote.
    Uninitialised,
    /// Two warps touch the same shared bytes between two barriers, one of them writing.
    SharedRace,
    /// Two warps or blocks touch the same global bytes without synchronisation, one of them writing.
    GlobalRace,
    /// A read of (or a write to) shared memory that an asynchronous copy has yet to fill.
    AsyncRead,
    /// A `.sync` instruction whose membermask names lanes that never come, or not the executing lane.
    MissingLanes,
    /// A barrier that some threads of a warp, or some warps, never reach.
    DivergentBarrier,
    /// Calls too deep for the thread's stack.
    StackOverflow,
    /// The launch executed more instructions than its budget: an infinite loop or a deadlock by spinning.
    Budget,
    /// A failed `assert`.
    Assert,
    /// `trap`.
    Trap,
    /// `brkpt`.
    Breakpoint,
    /// A call through an address that is no function of the right shape, or a `brx.idx` beyond its list.
    BadTarget,
    /// An mbarrier used before its `init`, or arrived at more often than it counts.
    BadMbarrier,
}

/// A failed launch.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// The module's name.
    pub module: Box<str>,
    /// The kernel launched.
    pub kernel: Box<str>,
    /// The line of the instruction in the module's source (0 when there is none).
    pub line: u32,
    /// The instruction as written.
    pub text: Box<str>,
    /// The block.
    pub block: [u32; 3],
    /// The thread in its block.
    pub thread: [u32; 3],
    /// The address, for memory faults: as an offset for shared, local and param memory.
    pub address: Option<(MemorySpace, u64)>,
    /// What makes it wrong, in a sentence.
    pub detail: Box<str>,
}

impl Fault {
    /// A launch that cannot start.
    pub(crate) fn bad_launch(kernel: &str, detail: String) -> Fault {
        Fault {
            kind: FaultKind::BadLaunch,
            module: "".into(),
            kernel: kernel.into(),
            line: 0,
            text: "".into(),
            block: [0; 3],
            thread: [0; 3],
            address: None,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == FaultKind::BadLaunch {
            return write!(f, "kernel {}: {}", self.kernel, self.detail);
        }
        let [bx, by, bz] = self.block;
        let [tx, ty, tz] = self.thread;
        write!(f, "{}:{}: kernel {}, block ({bx},{by},{bz}), ", self.module, self.line, self.kernel)?;
        write!(f, "thread ({tx},{ty},{tz})")?;
        if let Some((space, address)) = self.address {
            write!(f, ", {space} address {address:#x}")?;
        }
        write!(f, ": {}", self.detail)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, "\n    {}", self.text) }
    }
}
