//! Instructions that watched registers pass through get a companion before them, which follows what holds nothing.
use super::function::{Decoded, Decoder};
use super::program::{Kind, PredSource, Spread, Undefined};
use crate::counters::Class;
use crate::flow::undefined::{Rule, reads, rule, writes};
use crate::syntax::ast::{Instr, Opcode, Operand, OperandKind, Operation, RegId};

impl Decoder<'_> {
    /// Emits the companion of an instruction, if it needs one.
    pub(super) fn watch(&mut self, i: &Instr) -> Decoded<()> {
        let place = |r: RegId| self.watched.place(r);
        let guard = i.guard.and_then(|g| place(g.reg));
        let read: Vec<u32> = reads(self.module, i).into_iter().filter_map(place).collect();
        let written: Vec<u32> = writes(self.module, i).into_iter().filter_map(place).collect();
        if guard.is_none() && read.is_empty() && written.is_empty() {
            return Ok(());
        }
        let spread = match rule(i) {
            Rule::Any => Spread::Any,
            // Parts that are not watched hold something.
            Rule::All if read.len() < reads(self.module, i).len() => Spread::Written,
            Rule::All => Spread::All,
            Rule::Select => {
                let [a, b, p] = [1, 2, 3].map(|at| self.watched_place(&i.operands[at]));
                Spread::Select { a, b, p, by: self.pred(&i.operands[3])? }
            }
            Rule::Logic => {
                let first = if matches!(i.op, Opcode::And | Opcode::Or) { 1 } else { 3 };
                let sources = &i.operands[first..];
                let decide = sources.iter().map(|o| Ok((self.watched_place(o), self.pred(o)?)));
                let decide = decide.collect::<Decoded<Vec<(Option<u32>, PredSource)>>>()?;
                Spread::Logic { or: i.op == Opcode::Or || i.mods.operation == Some(Operation::Or), decide }
            }
            Rule::Matrix => {
                let mut sums = Vec::new();
                crate::flow::operand(&i.operands[3], &mut |r| sums.extend(self.watched.place(r)));
                Spread::Matrix { sums }
            }
            Rule::Written => Spread::Written,
            Rule::Fault => Spread::Fault,
        };
        let own = self.guard(i);
        let undefined = Undefined { spread, own, guard, reads: read, writes: written };
        self.emit(Kind::Undefined(Box::new(undefined)), None, Class::Other);
        self.code.last_mut().expect("just pushed").class = None;
        Ok(())
    }

    fn watched_place(&self, o: &Operand) -> Option<u32> {
        match o.kind {
            OperandKind::Register(r) | OperandKind::NotPredicate(r) => self.watched.place(r),
            _ => None,
        }
    }

    /// Names of the registers that hold nothing when the function begins.
    pub(super) fn watched_names(&self) -> Vec<String> {
        let named = |r: &RegId| self.f.registers[r.0 as usize].name.clone();
        self.watched.registers[..self.watched.at_entry].iter().map(named).collect()
    }
}
