//! The predefined read-only registers (ISA chapter 10).
use super::ast::{Target, Version};
use super::types::Type;
use crate::check::form::Since;
use crate::diagnostic::Reason;

/// One component of a three-dimensional register; `W` always reads 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// `.x`
    X,
    /// `.y`
    Y,
    /// `.z`
    Z,
    /// `.w`
    W,
}

/// A special register that compute kernels on `sm_89` and below can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpecialRegister {
    /// `%tid`: the thread in its block
    Tid(Axis),
    /// `%ntid`: threads in a block
    Ntid(Axis),
    /// `%ctaid`: the block in the grid
    Ctaid(Axis),
    /// `%nctaid`: blocks in the grid
    Nctaid(Axis),
    /// `%laneid`
    LaneId,
    /// `%warpid`
    WarpId,
    /// `%nwarpid`
    NWarpId,
    /// `%smid`
    SmId,
    /// `%nsmid`
    NSmId,
    /// `%gridid`: 32 or 64 bits by the type of the `mov`
    GridId,
    /// `%lanemask_eq`
    LanemaskEq,
    /// `%lanemask_le`
    LanemaskLe,
    /// `%lanemask_lt`
    LanemaskLt,
    /// `%lanemask_ge`
    LanemaskGe,
    /// `%lanemask_gt`
    LanemaskGt,
    /// `%clock`: the low 32 bits of the cycle counter
    Clock,
    /// `%clock_hi`
    ClockHi,
    /// `%clock64`
    Clock64,
    /// `%globaltimer`: nanoseconds
    GlobalTimer,
    /// `%globaltimer_lo`
    GlobalTimerLo,
    /// `%globaltimer_hi`
    GlobalTimerHi,
    /// `%pm0` to `%pm7`: performance counters
    Pm(u8),
    /// `%pm0_64` to `%pm7_64`
    Pm64(u8),
    /// `%envreg0` to `%envreg31`
    EnvReg(u8),
    /// `%total_smem_size`: bytes of shared memory of the block, static and dynamic, in allocation units
    TotalSmemSize,
    /// `%dynamic_smem_size`: bytes of dynamic shared memory as launched
    DynamicSmemSize,
    /// `%reserved_smem_offset_begin`
    ReservedSmemBegin,
    /// `%reserved_smem_offset_end`
    ReservedSmemEnd,
    /// `%reserved_smem_offset_cap`
    ReservedSmemCap,
    /// `%reserved_smem_offset_0`, `_1`
    ReservedSmem(u8),
    /// `%current_graph_exec`: 0 outside a graph launch
    CurrentGraphExec,
}

impl SpecialRegister {
    /// The register that `word` names, without `%`, with its component: `tid` and `Some("x")`.
    pub fn from_word(word: &str, component: Option<&str>) -> Option<SpecialRegister> {
        use SpecialRegister::*;
        let axis = match component {
            Some("x") => Some(Axis::X),
            Some("y") => Some(Axis::Y),
            Some("z") => Some(Axis::Z),
            Some("w") => Some(Axis::W),
            Some(_) => return None,
            None => None,
        };
        if let Some(axis) = axis {
            return match word {
                "tid" => Some(Tid(axis)),
                "ntid" => Some(Ntid(axis)),
                "ctaid" => Some(Ctaid(axis)),
                "nctaid" => Some(Nctaid(axis)),
                _ => None,
            };
        }
        Some(match word {
            "laneid" => LaneId,
            "warpid" => WarpId,
            "nwarpid" => NWarpId,
            "smid" => SmId,
            "nsmid" => NSmId,
            "gridid" => GridId,
            "lanemask_eq" => LanemaskEq,
            "lanemask_le" => LanemaskLe,
            "lanemask_lt" => LanemaskLt,
            "lanemask_ge" => LanemaskGe,
            "lanemask_gt" => LanemaskGt,
            "clock" => Clock,
            "clock_hi" => ClockHi,
            "clock64" => Clock64,
            "globaltimer" => GlobalTimer,
            "globaltimer_lo" => GlobalTimerLo,
            "globaltimer_hi" => GlobalTimerHi,
            "total_smem_size" => TotalSmemSize,
            "dynamic_smem_size" => DynamicSmemSize,
            "reserved_smem_offset_begin" => ReservedSmemBegin,
            "reserved_smem_offset_end" => ReservedSmemEnd,
            "reserved_smem_offset_cap" => ReservedSmemCap,
            "reserved_smem_offset_0" => ReservedSmem(0),
            "reserved_smem_offset_1" => ReservedSmem(1),
            "current_graph_exec" => CurrentGraphExec,
            _ => return numbered(word),
        })
    }

    /// The type that the register has.
    pub fn ty(self) -> Type {
        use SpecialRegister::*;
        match self {
            Clock64 | GlobalTimer | Pm64(_) | CurrentGraphExec => Type::U64,
            EnvReg(_) | ReservedSmemBegin | ReservedSmemEnd | ReservedSmemCap | ReservedSmem(_) => Type::B32,
            _ => Type::U32,
        }
    }
}

/// `pm3`, `pm3_64`, `envreg17`.
fn numbered(word: &str) -> Option<SpecialRegister> {
    let number = |text: &str, below: u8| {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u8>().ok().filter(|&n| plain && n < below)
    };
    if let Some(rest) = word.strip_prefix("envreg") {
        return number(rest, 32).map(SpecialRegister::EnvReg);
    }
    let rest = word.strip_prefix("pm")?;
    match rest.strip_suffix("_64") {
        Some(digits) => number(digits, 8).map(SpecialRegister::Pm64),
        None => number(rest, 8).map(SpecialRegister::Pm),
    }
}

/// Special registers of block clusters, which no target up to `sm_89` has.
const CLUSTER: &[&str] = &[
    "clusterid",
    "nclusterid",
    "cluster_ctaid",
    "cluster_nctaid",
    "cluster_ctarank",
    "cluster_nctarank",
    "is_explicit_cluster",
    "aggr_smem_size",
];

impl SpecialRegister {
    /// Whether the word names a register of clusters.
    pub(crate) fn needs_clusters(word: &str) -> bool {
        CLUSTER.contains(&word)
    }

    /// Since when the register exists.
    pub(crate) fn since(self) -> Since {
        use SpecialRegister::*;
        let (major, minor, sm) = match self {
            LanemaskEq | LanemaskLe | LanemaskLt | LanemaskGe | LanemaskGt | Clock64 | NWarpId | NSmId => {
                (2, 0, 20)
            }
            GlobalTimer | GlobalTimerLo | GlobalTimerHi => (3, 1, 30),
            EnvReg(_) => (2, 1, 10),
            Pm(0..=3) => (1, 3, 10),
            Pm(_) => (3, 0, 20),
            Pm64(_) => (4, 0, 50),
            TotalSmemSize | DynamicSmemSize => (4, 1, 20),
            ReservedSmemBegin | ReservedSmemEnd | ReservedSmemCap | ReservedSmem(_) => (7, 6, 80),
            CurrentGraphExec => (8, 0, 50),
            ClockHi => (5, 0, 20),
            _ => (1, 0, 10),
        };
        Since { version: (major, minor), sm }
    }

    /// Whether a module of this version and target may read the register; otherwise what it needs.
    pub(crate) fn available(self, version: Version, target: &Target) -> Result<(), (Reason, String)> {
        match self.since().lacking(version, target) {
            Some(what) => Err(what),
            None => Ok(()),
        }
    }
}
