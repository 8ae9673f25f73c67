//! How many registers a function needs at once: live ranges over the control-flow graph.
//!
//! PTX has as many registers as a program likes; a GPU has 255 per thread. The largest number of values that are live
//! at one place is what a perfect allocator would need. It predicts occupancy; the assembler, which also reorders and
//! recomputes, has the last word.
use super::Flow;
use crate::check::form::OperandClass;
use crate::syntax::ast::*;

/// Above this many bits of live sets (blocks times registers), or after this many passes over the code, the ranges are
/// taken from first to last mention instead.
const EXACT_BITS: usize = 1 << 26;
const PASSES: usize = 64;

/// Registers of 32 bits that a value occupies; predicates have a file of their own.
fn weight(ty: Type) -> u32 {
    match ty {
        Type::Pred => 0,
        ty => ty.bits().div_ceil(32),
    }
}

/// Calls `read` and `write` for every register of an instruction.
fn mentions(module: &Module, instr: &Instr, read: &mut dyn FnMut(RegId), write: &mut dyn FnMut(RegId)) {
    if let Some(guard) = instr.guard {
        read(guard.reg);
    }
    operands(module, instr, read, write);
}

/// The same without the guard.
pub(super) fn operands(
    module: &Module,
    instr: &Instr,
    read: &mut dyn FnMut(RegId),
    write: &mut dyn FnMut(RegId),
) {
    if let Some(call) = &instr.call {
        if let CallTarget::Indirect { reg, .. } = call.target {
            read(reg);
        }
        call.args.iter().for_each(|o| operand(o, read));
        call.returns.iter().for_each(|o| operand(o, write));
        return;
    }
    use OperandClass::*;
    let written =
        module.heads[instr.head as usize].forms.first().and_then(|f| f.operands.first()).is_some_and(|p| {
            matches!(
                p.class,
                Destination | DestinationOrSink | DestinationAndPredicate | PredicateDestination | Unpack
            )
        });
    for (i, o) in instr.operands.iter().enumerate() {
        if i == 0 && written { operand(o, write) } else { operand(o, read) }
    }
}

/// Calls `each` for every register of an operand.
pub(crate) fn operand(operand: &Operand, each: &mut dyn FnMut(RegId)) {
    match &operand.kind {
        OperandKind::Register(reg) | OperandKind::NotPredicate(reg) => each(*reg),
        OperandKind::Memory { base: Base::Reg(reg), .. } => each(*reg),
        OperandKind::Pair(a, b) => {
            for half in [a, b] {
                if let PairHalf::Reg(reg) = half {
                    each(*reg);
                }
            }
        }
        OperandKind::Vector(elements) => elements.iter().for_each(|e| self::operand(e, each)),
        _ => {}
    }
}

/// Predicted registers per thread of one function, callees not counted.
pub fn registers(module: &Module, function: &Function, flow: &Flow) -> u32 {
    let Some(body) = &function.body else { return 0 };
    let most = live_sets(module, function, body, flow).map(|(most, _)| most);
    most.unwrap_or_else(|| intervals(module, function, body)).clamp(1, 255)
}

/// Registers that some way through the function reads before it writes them. None for enormous functions.
pub(super) fn live_at_entry(module: &Module, function: &Function, flow: &Flow) -> Vec<RegId> {
    let sets = function.body.as_ref().and_then(|body| live_sets(module, function, body, flow));
    let live = |(_, first): (u32, Set)| {
        (0..function.registers.len() as u32).map(RegId).filter(move |&r| first.has(r)).collect()
    };
    sets.map_or_else(Vec::new, live)
}

/// A set of registers.
#[derive(Clone)]
struct Set(Vec<u64>);

impl Set {
    fn new(registers: usize) -> Set {
        Set(vec![0; registers.div_ceil(64)])
    }
    /// Adds a register; true when it is new.
    fn insert(&mut self, reg: RegId) -> bool {
        let (word, bit) = (reg.0 as usize / 64, 1 << (reg.0 % 64));
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
    fn has(&self, reg: RegId) -> bool {
        self.0[reg.0 as usize / 64] >> (reg.0 % 64) & 1 == 1
    }
    fn remove(&mut self, reg: RegId) -> bool {
        let (word, bit) = (reg.0 as usize / 64, 1 << (reg.0 % 64));
        let had = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        had
    }
}

/// Backward data flow: live at a block's entry is what it reads before writing, and what lives at its exit and it does
/// not write. A guarded write keeps the old value alive. Gives the most registers live at once, and those live at the
/// function's entry; `None` when there are too many or it does not settle soon.
fn live_sets(module: &Module, function: &Function, body: &Body, flow: &Flow) -> Option<(u32, Set)> {
    let count = function.registers.len();
    if flow.blocks.len().saturating_mul(count) > EXACT_BITS {
        return None;
    }
    let mut live_in: Vec<Set> = flow.blocks.iter().map(|_| Set::new(count)).collect();
    for _ in 0..PASSES {
        let mut moved = false;
        let mut most = 0;
        for (b, block) in flow.blocks.iter().enumerate().rev() {
            let mut live = Set::new(count);
            for &s in &block.successors {
                live.0.iter_mut().zip(&live_in[s as usize].0).for_each(|(a, b)| *a |= b);
            }
            most = most.max(walk(module, function, body, block, &mut live));
            if live.0 != live_in[b].0 {
                live_in[b] = live;
                moved = true;
            }
        }
        if !moved {
            return Some((most, live_in.into_iter().next()?));
        }
    }
    None
}

/// Walks a block backwards from its live-out set to its live-in set; returns the most registers live at once.
fn walk(module: &Module, function: &Function, body: &Body, block: &super::Block, live: &mut Set) -> u32 {
    let weigh = |reg: RegId| weight(function.registers[reg.0 as usize].ty);
    let mut now: u32 = 0;
    for (word, &bits) in live.0.iter().enumerate() {
        let mut bits = bits;
        while bits != 0 {
            now += weigh(RegId((word * 64) as u32 + bits.trailing_zeros()));
            bits &= bits - 1;
        }
    }
    let mut most = now;
    for instr in body.instrs[block.start as usize..block.end as usize].iter().rev() {
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        mentions(module, instr, &mut |r| reads.push(r), &mut |r| writes.push(r));
        for &reg in &writes {
            now += if live.insert(reg) { weigh(reg) } else { 0 };
        }
        most = most.max(now);
        if instr.guard.is_none() {
            for &reg in &writes {
                now -= if live.remove(reg) { weigh(reg) } else { 0 };
            }
        }
        for &reg in &reads {
            now += if live.insert(reg) { weigh(reg) } else { 0 };
        }
        most = most.max(now);
    }
    most
}

/// The cheap bound for enormous functions: each register lives from its first to its last mention.
fn intervals(module: &Module, function: &Function, body: &Body) -> u32 {
    let mut range = vec![(u32::MAX, 0u32); function.registers.len()];
    for (at, instr) in body.instrs.iter().enumerate() {
        let mut seen = Vec::new();
        mentions(module, instr, &mut |r| seen.push(r), &mut |_| {});
        let mut written = Vec::new();
        mentions(module, instr, &mut |_| {}, &mut |r| written.push(r));
        for reg in seen.into_iter().chain(written) {
            let (first, last) = &mut range[reg.0 as usize];
            *first = (*first).min(at as u32);
            *last = at as u32;
        }
    }
    let mut change = vec![0i64; body.instrs.len() + 1];
    for (&(first, last), register) in range.iter().zip(&function.registers) {
        if first <= last {
            change[first as usize] += i64::from(weight(register.ty));
            change[last as usize + 1] -= i64::from(weight(register.ty));
        }
    }
    let mut now = 0i64;
    change
        .iter()
        .map(|c| {
            now += c;
            now
        })
        .max()
        .unwrap_or(0)
        .clamp(0, i64::from(u32::MAX)) as u32
}
