//! Every instruction of PTX for compute kernels up to `sm_89`, one variant per mnemonic.
use super::types::words;

words! {
    /// The operation of an instruction. What follows the mnemonic is in [`Modifiers`](super::ast::Modifiers).
    ///
    /// Spellings that name the same operation share a variant: `bar.sync`, `barrier.sync` and `barrier.cta.sync`
    /// are [`Opcode::BarrierSync`] (the first with `aligned` set).
    Opcode {
        // integer (9.7.1) and floating point (9.7.3 to 9.7.5)
        Add = "add", Sub = "sub", Mul = "mul", Mad = "mad", Mul24 = "mul24", Mad24 = "mad24", Sad = "sad",
        Div = "div", Rem = "rem", Abs = "abs", Neg = "neg", Min = "min", Max = "max", Popc = "popc", Clz = "clz",
        Bfind = "bfind", Fns = "fns", Brev = "brev", Bfe = "bfe", Bfi = "bfi", Bmsk = "bmsk", Szext = "szext",
        Dp4a = "dp4a", Dp2a = "dp2a",
        // extended precision (9.7.2): the form that reads the carry; `.cc` (writes it) is a modifier
        Addc = "addc", Subc = "subc", Madc = "madc",
        Testp = "testp", Copysign = "copysign", Fma = "fma", Rcp = "rcp", Sqrt = "sqrt", Rsqrt = "rsqrt",
        Sin = "sin", Cos = "cos", Lg2 = "lg2", Ex2 = "ex2", Tanh = "tanh",
        // comparison and selection (9.7.6)
        Set = "set", Setp = "setp", Selp = "selp", Slct = "slct",
        // logic and shift (9.7.8)
        And = "and", Or = "or", Xor = "xor", Not = "not", Cnot = "cnot", Lop3 = "lop3", Shf = "shf", Shl = "shl",
        Shr = "shr",
        // data movement and conversion (9.7.9)
        Mov = "mov", Shfl = "shfl", Prmt = "prmt", Ld = "ld", Ldu = "ldu", St = "st", Prefetch = "prefetch",
        Prefetchu = "prefetchu", ApplyPriority = "applypriority", Discard = "discard",
        CreatePolicyFractional = "createpolicy.fractional", CreatePolicyRange = "createpolicy.range",
        CreatePolicyCvt = "createpolicy.cvt", Isspacep = "isspacep", Cvta = "cvta", Cvt = "cvt",
        CvtPack = "cvt.pack", CpAsync = "cp.async", CpAsyncCommitGroup = "cp.async.commit_group",
        CpAsyncWaitGroup = "cp.async.wait_group", CpAsyncWaitAll = "cp.async.wait_all",
        CpAsyncMbarrierArrive = "cp.async.mbarrier.arrive",
        // control flow (9.7.12)
        Bra = "bra", BrxIdx = "brx.idx", Call = "call", Ret = "ret", Exit = "exit",
        // synchronisation and communication (9.7.13)
        BarrierSync = "barrier.sync", BarrierArrive = "barrier.arrive", BarrierRed = "barrier.red",
        BarWarpSync = "bar.warp.sync", Membar = "membar", Fence = "fence", Atom = "atom", Red = "red",
        Vote = "vote", Match = "match", Activemask = "activemask", Redux = "redux",
        MbarrierInit = "mbarrier.init", MbarrierInval = "mbarrier.inval", MbarrierArrive = "mbarrier.arrive",
        MbarrierArriveDrop = "mbarrier.arrive_drop", MbarrierTestWait = "mbarrier.test_wait",
        MbarrierPendingCount = "mbarrier.pending_count",
        // matrices (9.7.14)
        WmmaLoad = "wmma.load", WmmaStore = "wmma.store", WmmaMma = "wmma.mma", Mma = "mma",
        Ldmatrix = "ldmatrix", Movmatrix = "movmatrix",
        // stack (9.7.17) and the rest (9.7.19)
        StackSave = "stacksave", StackRestore = "stackrestore", Alloca = "alloca", Brkpt = "brkpt",
        Nanosleep = "nanosleep", Pmevent = "pmevent", Trap = "trap",
    }
}
