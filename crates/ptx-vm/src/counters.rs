//! What a launch did, counted: the same numbers whatever the number of threads.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The class an instruction is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// f32 arithmetic
    F32,
    /// f64 arithmetic
    F64,
    /// f16 and bf16 arithmetic, packed or not
    Half,
    /// `.approx` functions: ex2, lg2, sin, cos, rcp, rsqrt, sqrt, tanh
    Special,
    /// integer arithmetic
    Integer,
    /// logic, shifts, bit fields, permutes
    Logic,
    /// comparison and selection
    Compare,
    /// `cvt`
    Convert,
    /// `mov`, `cvta`, special registers
    Move,
    /// loads from global memory (and generic ones)
    GlobalLoad,
    /// stores to global memory (and generic ones)
    GlobalStore,
    /// loads from shared memory
    SharedLoad,
    /// stores to shared memory
    SharedStore,
    /// local memory
    Local,
    /// parameters
    Param,
    /// `atom`, `red`
    Atomic,
    /// `cp.async` and its groups
    AsyncCopy,
    /// `ldmatrix`, `movmatrix`, `wmma.load`, `wmma.store`
    Matrix,
    /// `mma`, `wmma.mma`
    Mma,
    /// `shfl`, `vote`, `match`, `redux`, `activemask`, `bar.warp.sync`
    Warp,
    /// `bar`, `barrier`, `mbarrier`
    Barrier,
    /// `membar`, `fence`
    Fence,
    /// `bra`, `brx`, `call`, `ret`, `exit`
    Control,
    /// everything else
    Other,
}

/// Instructions of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// Issued by warps.
    pub warps: u64,
    /// Executed by lanes.
    pub lanes: u64,
}

/// Accesses to global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalTraffic {
    /// Warp instructions that touched memory.
    pub requests: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// 32-byte sectors touched, per request.
    pub sectors: u64,
    /// Sectors the same distinct bytes would need if they were packed.
    pub ideal_sectors: u64,
}

impl GlobalTraffic {
    /// Ideal over actual sectors, 1.0 when nothing was accessed.
    pub fn efficiency(&self) -> f64 {
        if self.sectors == 0 { 1.0 } else { self.ideal_sectors as f64 / self.sectors as f64 }
    }

    fn add(&mut self, other: &GlobalTraffic) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        self.ideal_sectors += other.ideal_sectors;
    }
}

/// Accesses to shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTraffic {
    /// Warp instructions that touched memory.
    pub requests: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// Passes over the 32 banks.
    pub wavefronts: u64,
    /// Passes beyond the fewest an access of this width needs.
    pub conflicts: u64,
}

impl SharedTraffic {
    fn add(&mut self, other: &SharedTraffic) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.wavefronts += other.wavefronts;
        self.conflicts += other.conflicts;
    }
}

/// Everything counted in one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Blocks run.
    pub blocks: u64,
    /// Warps run.
    pub warps: u64,
    /// Instructions by class.
    pub instructions: BTreeMap<Class, Executed>,
    /// Reads of global memory (asynchronous copies too).
    pub global_loads: GlobalTraffic,
    /// Writes to global memory.
    pub global_stores: GlobalTraffic,
    /// Atomics on global memory.
    pub global_atomics: GlobalTraffic,
    /// Reads of shared memory.
    pub shared_loads: SharedTraffic,
    /// Writes to shared memory (asynchronous copies too).
    pub shared_stores: SharedTraffic,
    /// Atomics on shared memory, executed by lanes.
    pub shared_atomics: u64,
    /// Bytes of local memory touched by lanes.
    pub local_bytes: u64,
    /// Matrix instructions by shape and types.
    pub mma: BTreeMap<String, u64>,
    /// Multiply-adds done by matrix instructions.
    pub mma_macs: u64,
    /// Block barriers: warps that passed one.
    pub barriers: u64,
    /// Branches at which a warp split.
    pub divergent_branches: u64,
    /// Instructions that warps issued in the innermost loops that contain a matrix instruction.
    pub mma_loop_instructions: u64,
    /// Of these, matrix instructions.
    pub mma_loop_mma: u64,
}

impl Counters {
    /// Warp instructions in all.
    pub fn total_instructions(&self) -> u64 {
        self.instructions.values().map(|e| e.warps).sum()
    }

    /// The share of matrix instructions in the loops around them, 0 when there are none.
    pub fn mma_share(&self) -> f64 {
        if self.mma_loop_instructions == 0 {
            return 0.0;
        }
        self.mma_loop_mma as f64 / self.mma_loop_instructions as f64
    }

    /// Adds the counts of other blocks or of another launch.
    pub fn add(&mut self, other: &Counters) {
        self.blocks += other.blocks;
        self.warps += other.warps;
        for (class, executed) in &other.instructions {
            let mine = self.instructions.entry(*class).or_default();
            mine.warps += executed.warps;
            mine.lanes += executed.lanes;
        }
        self.global_loads.add(&other.global_loads);
        self.global_stores.add(&other.global_stores);
        self.global_atomics.add(&other.global_atomics);
        self.shared_loads.add(&other.shared_loads);
        self.shared_stores.add(&other.shared_stores);
        self.shared_atomics += other.shared_atomics;
        self.local_bytes += other.local_bytes;
        for (shape, count) in &other.mma {
            *self.mma.entry(shape.clone()).or_default() += count;
        }
        self.mma_macs += other.mma_macs;
        self.barriers += other.barriers;
        self.divergent_branches += other.divergent_branches;
        self.mma_loop_instructions += other.mma_loop_instructions;
        self.mma_loop_mma += other.mma_loop_mma;
    }
}
