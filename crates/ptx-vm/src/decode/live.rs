//! How many registers an assembler would need, roughly: the most that are live at once.
use crate::syntax::ast::{Base, Function, Instr, Opcode, Operand, OperandKind, PairHalf, RegId, Type};

fn visit(o: &Operand, f: &mut impl FnMut(RegId)) {
    match &o.kind {
        OperandKind::Register(r) | OperandKind::NotPredicate(r) => f(*r),
        OperandKind::Memory { base: Base::Reg(r), .. } => f(*r),
        OperandKind::Vector(parts) => parts.iter().for_each(|p| visit(p, f)),
        OperandKind::Pair(p, q) => {
            for half in [p, q] {
                if let PairHalf::Reg(r) = half {
                    f(*r);
                }
            }
        }
        _ => {}
    }
}

fn mentions(i: &Instr, f: &mut impl FnMut(RegId)) {
    if let Some(g) = i.guard {
        f(g.reg);
    }
    i.operands.iter().for_each(|o| visit(o, f));
    if let Some(c) = &i.call {
        c.args.iter().chain(&c.returns).for_each(|o| visit(o, f));
    }
}

/// The peak of live 32-bit registers, each live from its first mention to its last, loops taken whole. Predicates
/// do not count, two more are kept for addresses and the stack.
pub(crate) fn live_registers(f: &Function) -> u32 {
    let Some(body) = &f.body else { return 0 };
    let mut ranges: Vec<Option<(usize, usize)>> = vec![None; f.registers.len()];
    for (at, i) in body.instrs.iter().enumerate() {
        mentions(i, &mut |r| {
            let range = ranges[r.0 as usize].get_or_insert((at, at));
            range.1 = at;
        });
    }
    // What is set before a loop and used in it lives until the loop's end.
    let back = |(at, i): (usize, &Instr)| match (i.op, i.operands.first().map(|o| &o.kind)) {
        (Opcode::Bra, Some(OperandKind::Label(to))) if (*to as usize) <= at => Some((*to as usize, at)),
        _ => None,
    };
    let loops: Vec<(usize, usize)> = body.instrs.iter().enumerate().filter_map(back).collect();
    let mut change = vec![0i64; body.instrs.len() + 2];
    for (range, r) in ranges.iter().zip(&f.registers) {
        let Some((from, mut to)) = *range else { continue };
        if r.ty == Type::Pred {
            continue;
        }
        for &(start, end) in &loops {
            if from < start && to >= start && to < end {
                to = end;
            }
        }
        let words = i64::from(r.ty.bits().div_ceil(32));
        change[from] += words;
        change[to + 1] -= words;
    }
    let (mut live, mut peak) = (0, 0);
    for c in change {
        live += c;
        peak = peak.max(live);
    }
    (peak as u32 + 2).min(255)
}
