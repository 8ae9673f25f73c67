//! What follows a mnemonic: `.rn.ftz.sat.f32` and the like, each word sorted into one typed field.
use super::types::{Space, Type, words};

words! {
    /// How a result is rounded: `rn` to `rp` for floating point, the `i` forms to an integer value.
    Rounding { Rn = "rn", Rz = "rz", Rm = "rm", Rp = "rp", Rna = "rna", Rni = "rni", Rzi = "rzi", Rmi = "rmi", Rpi = "rpi" }
}
words! {
    /// `.approx` and `.full`: fast forms with a documented error instead of a rounding mode.
    Precision { Approx = "approx", Full = "full" }
}
words! {
    /// Which part of a product (`mul`, `mad`, `mul24`), or of a word (`dp2a`), or of a result (`.wide`).
    Part { Lo = "lo", Hi = "hi", Wide = "wide" }
}
words! {
    /// A comparison (`set`, `setp`): ordered ones are false on NaN, the `u` forms true; `lo ls hi hs` are unsigned.
    Compare {
        Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge", Lo = "lo", Ls = "ls", Hi = "hi", Hs = "hs",
        Equ = "equ", Neu = "neu", Ltu = "ltu", Leu = "leu", Gtu = "gtu", Geu = "geu", Num = "num", Nan = "nan",
    }
}
words! {
    /// What a `set`/`setp` comparison is combined with, `lop3.BoolOp`, `barrier.red`, `mma.xor.popc`, `redux`,
    /// `atom` and `red`: the operation of a reduction.
    Operation {
        And = "and", Or = "or", Xor = "xor", Exch = "exch", Add = "add", Inc = "inc", Dec = "dec", Min = "min",
        Max = "max", Cas = "cas", Popc = "popc",
    }
}
words! {
    /// Memory ordering of an access or a fence (ISA section 8).
    Semantics {
        Weak = "weak", Relaxed = "relaxed", Acquire = "acquire", Release = "release", AcqRel = "acq_rel",
        Sc = "sc", Volatile = "volatile", Mmio = "mmio",
    }
}
words! {
    /// The threads among which an ordering holds. `membar.gl` has the scope [`Scope::Gpu`].
    Scope { Cta = "cta", Cluster = "cluster", Gpu = "gpu", Sys = "sys" }
}
words! {
    /// Cache operators of loads (`ca cg cs lu cv`) and stores (`wb cg cs wt`).
    CacheOp { Ca = "ca", Cg = "cg", Cs = "cs", Lu = "lu", Cv = "cv", Wb = "wb", Wt = "wt" }
}
words! {
    /// Eviction priority of a line in a cache.
    Evict {
        Normal = "evict_normal", Unchanged = "evict_unchanged", First = "evict_first", Last = "evict_last",
        NoAllocate = "no_allocate",
    }
}
words! {
    /// `shfl`: where the value comes from.
    Shuffle { Up = "up", Down = "down", Bfly = "bfly", Idx = "idx" }
}
words! {
    /// What happens to a shift amount (or a bit position) beyond the width.
    Bound { Clamp = "clamp", Wrap = "wrap" }
}
words! {
    /// The direction of a funnel shift.
    Direction { Left = "l", Right = "r" }
}
words! {
    /// The special modes of `prmt`.
    PermuteMode { F4e = "f4e", B4e = "b4e", Rc8 = "rc8", Ecl = "ecl", Ecr = "ecr", Rc16 = "rc16" }
}
words! {
    /// What a `vote` (all four) or a `match` (all, any) asks.
    VoteMode { All = "all", Any = "any", Uni = "uni", Ballot = "ballot" }
}
words! {
    /// The property that `testp` tests.
    FloatProperty {
        Finite = "finite", Infinite = "infinite", Number = "number", NotANumber = "notanumber", Normal = "normal",
        Subnormal = "subnormal",
    }
}
words! {
    /// A matrix's order in memory.
    MatrixLayout { Row = "row", Col = "col" }
}
words! {
    /// Which matrix a `wmma.load` or `wmma.store` moves.
    Fragment { A = "a", B = "b", C = "c", D = "d" }
}
words! {
    /// Rows, columns and depth of a matrix instruction.
    Shape {
        M16n16k16 = "m16n16k16", M8n32k16 = "m8n32k16", M32n8k16 = "m32n8k16", M16n16k8 = "m16n16k8",
        M8n8k128 = "m8n8k128", M8n8k32 = "m8n8k32", M8n8k16 = "m8n8k16", M8n8k4 = "m8n8k4", M16n8k4 = "m16n8k4",
        M16n8k8 = "m16n8k8", M16n8k16 = "m16n8k16", M16n8k32 = "m16n8k32", M16n8k64 = "m16n8k64",
        M16n8k128 = "m16n8k128", M16n8k256 = "m16n8k256", M8n8 = "m8n8",
    }
}

impl Shape {
    /// Rows of A and D, columns of B and D, depth (columns of A); depth 0 for `m8n8` (`ldmatrix`, `movmatrix`).
    pub fn mnk(self) -> (usize, usize, usize) {
        use Shape::*;
        match self {
            M16n16k16 => (16, 16, 16),
            M8n32k16 => (8, 32, 16),
            M32n8k16 => (32, 8, 16),
            M16n16k8 => (16, 16, 8),
            M8n8k128 => (8, 8, 128),
            M8n8k32 => (8, 8, 32),
            M8n8k16 => (8, 8, 16),
            M8n8k4 => (8, 8, 4),
            M16n8k4 => (16, 8, 4),
            M16n8k8 => (16, 8, 8),
            M16n8k16 => (16, 8, 16),
            M16n8k32 => (16, 8, 32),
            M16n8k64 => (16, 8, 64),
            M16n8k128 => (16, 8, 128),
            M16n8k256 => (16, 8, 256),
            M8n8 => (8, 8, 0),
        }
    }
}

words! {
    /// A cache level (`prefetch`).
    Level { L1 = "L1", L2 = "L2" }
}
words! {
    /// What a proxy fence orders (`fence.proxy.alias`).
    Proxy { Alias = "alias" }
}

/// Up to four types in the order they are written: `cvt.d.a`, `mma.d.a.b.c`, `set.d.s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeList {
    items: [Type; 4],
    len: u8,
}

impl Default for TypeList {
    fn default() -> TypeList {
        TypeList { items: [Type::Pred; 4], len: 0 }
    }
}

impl TypeList {
    /// Appends a type; false when four are there already.
    pub fn push(&mut self, ty: Type) -> bool {
        let room = (self.len as usize) < self.items.len();
        if room {
            self.items[self.len as usize] = ty;
            self.len += 1;
        }
        room
    }
}

impl std::ops::Deref for TypeList {
    type Target = [Type];
    fn deref(&self) -> &[Type] {
        &self.items[..self.len as usize]
    }
}

/// Every modifier an instruction carries. Absent ones are `None` or `false`; which may be present on which
/// instruction is the business of the instruction table, so that after the check each field that is set has the
/// meaning the ISA gives it on that instruction.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Modifiers {
    /// Types in the order written.
    pub types: TypeList,
    /// `.rn`, `.rz`, ...
    pub rounding: Option<Rounding>,
    /// `.approx`, `.full`
    pub precision: Option<Precision>,
    /// `.ftz`: subnormal inputs and results become zero with their sign.
    pub ftz: bool,
    /// `.sat`: clamp to [0, 1] (float) or to the range of the type (integer).
    pub saturate: bool,
    /// `.satfinite`: on `cvt`, `mma`, `wmma.mma`
    pub satfinite: bool,
    /// `.relu`: negative results become 0, NaN becomes canonical NaN.
    pub relu: bool,
    /// `.NaN`: `min`/`max` propagate NaN.
    pub nan: bool,
    /// `.xorsign.abs`: the sign of the result is the product of the operands' signs.
    pub xorsign_abs: bool,
    /// `.xorsign`, which never stands without its `.abs`
    pub xorsign: bool,
    /// `.lo`, `.hi`, `.wide`
    pub part: Option<Part>,
    /// `.cc`: the carry flag is written.
    pub cc: bool,
    /// The comparison of `set`, `setp`.
    pub compare: Option<Compare>,
    /// The operation of a reduction, or the Boolean operation of `set`, `setp`, `lop3`.
    pub operation: Option<Operation>,
    /// `.popc` beside another operation (`mma.xor.popc`).
    pub popc: bool,
    /// The state space; `None` is generic.
    pub space: Option<Space>,
    /// A second state space: the source of `cp.async`.
    pub source_space: Option<Space>,
    /// `cvta.to`: from generic to the space.
    pub to: bool,
    /// `.weak`, `.relaxed`, `.volatile`, ...
    pub semantics: Option<Semantics>,
    /// `.cta`, `.gpu`, ...
    pub scope: Option<Scope>,
    /// `ld.global.nc`
    pub nc: bool,
    /// `.ca`, `.cg`, ...
    pub cache: Option<CacheOp>,
    /// `.L1::evict_last` and the like
    pub evict_l1: Option<Evict>,
    /// `.L2::evict_last` and the like; the primary priority of `createpolicy`
    pub evict_l2: Option<Evict>,
    /// The secondary priority of `createpolicy`.
    pub evict_l2_second: Option<Evict>,
    /// `.L2::cache_hint`: the last operand is a 64-bit cache policy.
    pub cache_hint: bool,
    /// `.L2::64B`, `.L2::128B`, `.L2::256B`: bytes to prefetch.
    pub prefetch_bytes: Option<u16>,
    /// `.L1`, `.L2` of `prefetch`
    pub level: Option<Level>,
    /// `.v2`, `.v4`; `None` is a scalar.
    pub vector: Option<u8>,
    /// The mode of `shfl`.
    pub shuffle: Option<Shuffle>,
    /// `.clamp`, `.wrap`
    pub bound: Option<Bound>,
    /// `.l`, `.r` of `shf`
    pub direction: Option<Direction>,
    /// The mode of `prmt`.
    pub permute: Option<PermuteMode>,
    /// `.shiftamt` of `bfind`
    pub shiftamt: bool,
    /// `.noftz` of `atom`, `red`
    pub noftz: bool,
    /// The mode of `vote` and `match`.
    pub vote: Option<VoteMode>,
    /// The property of `testp`.
    pub property: Option<FloatProperty>,
    /// `.sync`
    pub sync: bool,
    /// `.aligned` (also implied by the `bar.` spelling)
    pub aligned: bool,
    /// `.uni`: every thread of the warp takes the same way.
    pub uniform: bool,
    /// The shape of a matrix instruction.
    pub shape: Option<Shape>,
    /// Layouts in the order written (A then B, or the one of a load or store).
    pub layouts: [Option<MatrixLayout>; 2],
    /// `.a`, `.b`, `.c`, `.d` of `wmma.load` and `wmma.store`
    pub fragment: Option<Fragment>,
    /// `.trans`
    pub trans: bool,
    /// `.x1`, `.x2`, `.x4` of `ldmatrix`
    pub count: Option<u8>,
    /// `fence.proxy.alias`
    pub proxy: Option<Proxy>,
    /// `.noComplete` of `mbarrier.arrive`
    pub no_complete: bool,
    /// `.noinc` of `cp.async.mbarrier.arrive`
    pub noinc: bool,
    /// `pmevent.mask`
    pub mask: bool,
    /// `.parity` of `mbarrier.test_wait`
    pub parity: bool,
}
