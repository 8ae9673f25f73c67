//! An instruction that only computes: its closure and the types its operands are read and written as.
use crate::counters::Class;
use crate::exec::lanes::RowOp;
use crate::syntax::ast::Type;

/// What the tables in this directory answer.
pub(super) struct Pure {
    pub op: Box<dyn RowOp>,
    pub class: Class,
    /// The type the first operand is written as.
    pub dst: Type,
    /// The types the other operands are read as.
    pub sources: Vec<Type>,
}

pub(super) fn pure(op: Box<dyn RowOp>, class: Class, dst: Type, sources: Vec<Type>) -> Pure {
    Pure { op, class, dst, sources }
}
