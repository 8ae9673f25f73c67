//! Names: what each one stands for, in nested scopes.
use super::ast::{FunctionId, RegId, SymbolId, Type};
use std::collections::HashMap;

/// A hash map keyed by slices of the source (with the seeded hash: names come from anywhere).
pub(crate) type Names<'s, T> = HashMap<&'s str, T>;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entity {
    /// A register, or `vector` consecutive ones; numbered when first mentioned.
    Register { ty: Type, vector: u8, first: Option<RegId> },
    /// A variable.
    Variable(SymbolId),
    /// A function or an entry.
    Function(FunctionId),
    /// `.callprototype`, an index into the function's prototypes.
    Prototype(u32),
    /// `.calltargets`, an index into the parser's list.
    CallTargets(u32),
    /// `.branchtargets`, an index into the parser's list.
    BranchTargets(u32),
}

/// `.reg .b32 %r<100>`: one hundred names in one declaration.
#[derive(Debug)]
pub(crate) struct Range {
    pub count: u64,
    pub ty: Type,
    pub vector: u8,
    /// Those mentioned so far.
    pub mentioned: HashMap<u64, RegId>,
}

/// A place where a label is mentioned before its scope is known to hold it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mention {
    /// Operand `operand` of instruction `instr`.
    Operand { instr: u32, operand: u32 },
    /// Entry `index` of branch table `table`.
    Table { table: u32, index: u32 },
}

/// One `{ }`, or the whole module.
#[derive(Default, Debug)]
pub(crate) struct Scope<'s> {
    pub names: Names<'s, Entity>,
    pub ranges: Names<'s, Range>,
    /// Names that end in digits, by what precedes them: where a range could collide.
    pub numbered: Names<'s, Vec<u64>>,
    pub labels: Names<'s, u32>,
    /// Labels mentioned and not yet found.
    pub pending: Vec<(&'s str, super::ast::Span, Mention)>,
}

/// `%r12` as (`%r`, 12); `None` without trailing digits or when the number is too long for a range.
pub(crate) fn split_number(name: &str) -> Option<(&str, u64)> {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > 9 || digits == name.len() {
        return None;
    }
    let (prefix, number) = name.split_at(name.len() - digits);
    number.parse().ok().map(|n| (prefix, n))
}

impl<'s> Scope<'s> {
    /// Whether the scope declares the name itself, one by one or in a range.
    pub fn declares(&self, name: &str) -> bool {
        if self.names.contains_key(name) || self.labels.contains_key(name) {
            return true;
        }
        match split_number(name) {
            Some((prefix, n)) => self.ranges.get(prefix).is_some_and(|r| n < r.count),
            None => false,
        }
    }

    /// Whether a range `prefix<count>` would declare a name that is there already.
    pub fn collides(&self, prefix: &str, count: u64) -> Option<u64> {
        if self.ranges.contains_key(prefix) {
            return Some(0);
        }
        self.numbered.get(prefix)?.iter().copied().find(|&n| n < count)
    }

    /// Adds a name.
    pub fn insert(&mut self, name: &'s str, entity: Entity) {
        if let Some((prefix, n)) = split_number(name) {
            self.numbered.entry(prefix).or_default().push(n);
        }
        self.names.insert(name, entity);
    }
}
