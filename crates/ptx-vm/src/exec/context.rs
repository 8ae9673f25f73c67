//! What every block of a launch shares, and how trouble in a lane becomes a fault.
use std::sync::atomic::{AtomicU64, Ordering};

use super::regs::Slot;
use crate::decode::program::Program;
use crate::launch::{Checks, DeviceModel, Launch};
use crate::memory::View;
use crate::strict::global_race::GlobalRaces;
use crate::strict::{Fault, FaultKind, MemorySpace};

/// A constant row of a frame, resolved for this launch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resolved {
    /// The same bits in every frame.
    Bits(u64),
    /// Bytes from the frame's start in local memory.
    Local(i64),
}

/// One launch.
pub(crate) struct Context<'a> {
    pub program: &'a Program,
    pub module: &'a str,
    pub source: &'a str,
    pub kernel: &'a str,
    /// Index of the kernel's frame.
    pub entry: u32,
    pub view: View<'a>,
    pub launch: &'a Launch,
    pub device: &'a DeviceModel,
    pub checks: Checks,
    pub seed: Option<u64>,
    /// The seed for `.approx`, 0 without an adversary.
    pub noise: u64,
    /// Constant rows of every function.
    pub constants: Vec<Vec<(Slot, Resolved)>>,
    /// Static and dynamic bytes.
    pub shared_bytes: usize,
    pub threads: u32,
    pub races: Option<&'a GlobalRaces>,
    /// Warp instructions left to the launch.
    pub budget: &'a AtomicU64,
    /// Text that `vprintf` wrote, by block.
    pub printed: &'a std::sync::Mutex<Vec<(u64, String)>>,
}

impl Context<'_> {
    /// Takes up to `want` instructions out of the launch's budget; 0 when it is spent.
    pub fn take_budget(&self, want: u64) -> u64 {
        let update = |left: u64| Some(left - want.min(left));
        match self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update) {
            Ok(left) | Err(left) => want.min(left),
        }
    }

    /// Keeps what a thread printed.
    pub fn print(&self, block: u64, text: String) {
        self.printed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((block, text));
    }

    /// Gives back what was not used.
    pub fn return_budget(&self, unused: u64) {
        self.budget.fetch_add(unused, Ordering::Relaxed);
    }

    /// The three-dimensional index of a block.
    pub fn block_index(&self, block: u64) -> [u32; 3] {
        unflatten(block, self.launch.grid)
    }

    /// Completes a trouble to a fault.
    pub fn fault(&self, trouble: Trouble, pc: u32, block: u64, warp: u32) -> Fault {
        let inst = self.program.code.get(pc as usize);
        let thread = u64::from(warp * 32 + trouble.lane);
        let text = inst.and_then(|i| self.source.get(i.text.0 as usize..i.text.1 as usize));
        Fault {
            kind: trouble.kind,
            module: self.module.into(),
            kernel: self.kernel.into(),
            line: inst.map_or(0, |i| i.line),
            text: text.unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ").into(),
            block: self.block_index(block),
            thread: unflatten(thread, self.launch.block),
            address: trouble.address,
            detail: trouble.detail.into(),
        }
    }
}

/// Index `flat` in a box of these extents, x fastest.
pub(crate) fn unflatten(flat: u64, extent: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = extent.map(|e| u64::from(e.max(1)));
    [(flat % x) as u32, (flat / x % y) as u32, (flat / (x * y)) as u32]
}

/// What went wrong in which lane.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub kind: FaultKind,
    pub lane: u32,
    pub address: Option<(MemorySpace, u64)>,
    pub detail: String,
}

impl Trouble {
    /// Trouble at an address.
    #[cold]
    pub fn at(
        kind: FaultKind,
        lane: usize,
        space: MemorySpace,
        address: u64,
        detail: String,
    ) -> Box<Trouble> {
        Box::new(Trouble { kind, lane: lane as u32, address: Some((space, address)), detail })
    }

    /// Trouble without an address.
    #[cold]
    pub fn new(kind: FaultKind, lane: u32, detail: impl Into<String>) -> Box<Trouble> {
        Box::new(Trouble { kind, lane, address: None, detail: detail.into() })
    }
}

pub(crate) type Run<T> = Result<T, Box<Trouble>>;

/// A small generator for schedules: the same seed gives the same schedule.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c909)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}
