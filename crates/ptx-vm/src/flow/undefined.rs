//! Which registers may hold nothing: those that some way through the function reads before writing, and those computed
//! from them. All others are written before every read, which is known before anything runs; a compiler's code has
//! few or none to watch.
use super::{Flow, pressure};
use crate::syntax::ast::*;

/// What an instruction makes of operands that hold nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Its results hold nothing where any operand does.
    Any,
    /// Only where all do: parts are packed, and whoever unpacks them may want the others.
    All,
    /// `selp`: the operand that is chosen counts, and the predicate.
    Select,
    /// `and`, `or` on predicates, and comparisons combined with one: a predicate that decides alone is enough.
    Logic,
    /// A matrix product: the accumulator lane by lane, the factors in all lanes.
    Matrix,
    /// The results count as written: shuffles and votes, whose lanes mix, and calls.
    Written,
    /// An operand that holds nothing is a fault: addresses, values stored where other threads see them, branches.
    Fault,
}

/// The rule of an instruction.
pub(crate) fn rule(instr: &Instr) -> Rule {
    use Opcode::*;
    let same = |a: usize, b: usize| match (instr.operands.get(a), instr.operands.get(b)) {
        (Some(a), Some(b)) => matches!(a.kind, OperandKind::Register(_)) && a.kind == b.kind,
        _ => false,
    };
    match instr.op {
        Xor | Sub if same(1, 2) => Rule::Written,
        Mov if matches!(instr.operands.get(1).map(|o| &o.kind), Some(OperandKind::Vector(_))) => Rule::All,
        Prmt | Bfi => Rule::All,
        Selp => Rule::Select,
        And | Or if instr.mods.types.first() == Some(&Type::Pred) => Rule::Logic,
        Setp | Set if matches!(instr.mods.operation, Some(Operation::And | Operation::Or)) => Rule::Logic,
        Mma | WmmaMma => Rule::Matrix,
        Shfl | Vote | Match | Redux | Activemask | Movmatrix | Call => Rule::Written,
        Ld | Ldu | St | Atom | Red | CpAsync | Ldmatrix | WmmaLoad | WmmaStore => Rule::Fault,
        CpAsyncMbarrierArrive | MbarrierInit | MbarrierInval | MbarrierArrive | MbarrierArriveDrop => {
            Rule::Fault
        }
        MbarrierTestWait | BarrierSync | BarrierArrive | BarrierRed | BarWarpSync => Rule::Fault,
        Bra | BrxIdx | Ret | Exit | Trap | Alloca | StackRestore => Rule::Fault,
        _ => Rule::Any,
    }
}

/// The registers of an instruction's operands whose contents matter to its rule.
pub(crate) fn reads(module: &Module, instr: &Instr) -> Vec<RegId> {
    let mut reads = Vec::new();
    // What is stored in the thread's own memory, structures with gaps among it, may hold nothing; its address may not.
    let own = matches!(instr.mods.space.map(Space::base), Some(Space::Local | Space::Param));
    if instr.op == Opcode::St && own {
        instr.operands.first().into_iter().for_each(|o| pressure::operand(o, &mut |r| reads.push(r)));
    } else {
        pressure::operands(module, instr, &mut |r| reads.push(r), &mut |_| {});
    }
    reads
}

/// The registers that an instruction writes.
pub(crate) fn writes(module: &Module, instr: &Instr) -> Vec<RegId> {
    let mut writes = Vec::new();
    pressure::operands(module, instr, &mut |_| {}, &mut |r| writes.push(r));
    writes
}

/// The registers to watch in one function.
#[derive(Default)]
pub(crate) struct Watched {
    /// Their numbers, in the order of watching.
    pub registers: Vec<RegId>,
    /// The first so many hold nothing when the function begins.
    pub at_entry: usize,
    /// The place of each of the function's registers in the list.
    places: Vec<Option<u32>>,
}

impl Watched {
    /// The place of a register in the list.
    pub fn place(&self, reg: RegId) -> Option<u32> {
        self.places.get(reg.0 as usize).copied().flatten()
    }

    fn add(&mut self, reg: RegId) -> bool {
        let place = &mut self.places[reg.0 as usize];
        if place.is_some() {
            return false;
        }
        *place = Some(self.registers.len() as u32);
        self.registers.push(reg);
        true
    }
}

/// Finds the registers to watch.
pub(crate) fn watched(module: &Module, function: &Function, flow: &Flow) -> Watched {
    let mut watched = Watched { places: vec![None; function.registers.len()], ..Watched::default() };
    let Some(body) = &function.body else { return watched };
    for reg in pressure::live_at_entry(module, function, flow) {
        if !function.params.contains(&Formal::Reg(reg)) {
            watched.add(reg);
        }
    }
    watched.at_entry = watched.registers.len();
    let mut moved = watched.at_entry > 0;
    while moved {
        moved = false;
        for instr in &body.instrs {
            let guarded = instr.guard.is_some_and(|g| watched.place(g.reg).is_some());
            let passes_on = !matches!(rule(instr), Rule::Written | Rule::Fault);
            if guarded || passes_on && reads(module, instr).iter().any(|&r| watched.place(r).is_some()) {
                for reg in writes(module, instr) {
                    moved |= watched.add(reg);
                }
            }
        }
    }
    watched
}
