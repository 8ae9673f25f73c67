//! A row of the instruction table: which words may follow a mnemonic, which operands it takes, since when.
//!
//! A row is written in a small notation close to the ISA's own syntax lines:
//!
//! ```text
//! "add ?rn|rz|rm|rp ?ftz ?sat .f32"      "d a b"
//! ```
//!
//! The head: the mnemonic, then one element per word. `.x|y` is a word that must be there, `?x|y` one that may be;
//! `word@7.4/80` needs `.version 7.4` and `sm_80`; `$int` stands for a list of types (see `LISTS`). Elements are
//! matched in any order, as `ptxas` does, except that types and repeated words keep theirs.
//!
//! The operands, each `kind{count}{:type}{~}{?}`:
//!
//! | kind | what may stand there |
//! |---|---|
//! | `d` | a register that is written; `d_` also `_`; `dq` also `register\|predicate` |
//! | `dp` | a predicate that is written, `_`, or a pair `p\|q` |
//! | `a` | a register or a constant |
//! | `r` | a register |
//! | `i` | an integer constant |
//! | `x` | any source of `mov`: register, constant, special register, address |
//! | `p` | a predicate that is read: register, negated register, or constant |
//! | `m` | an address in brackets |
//! | `n` | a register or an address without brackets (`cvta`) |
//! | `pack`, `unpack` | a vector whose elements together are as wide as the type |
//! | `label`, `table` | a branch target, a list of them |
//!
//! `count` asks for a vector of so many elements, `v` for as many as the `.v2`/`.v4` of the head says. The type is an
//! index of the head's types (0 unless given), `w` for twice the width of type 0, or a type. `~` lets a register be
//! wider than the type. `?` marks an operand that may be missing.
use crate::syntax::ast::{Modifiers, Opcode, Target, Type, Version};

/// The `.version` and `sm` from which something exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// smallest `.version`
    pub version: (u32, u32),
    /// smallest `sm_NN`
    pub sm: u32,
}

impl Since {
    /// From the beginning.
    pub const ALWAYS: Since = Since { version: (1, 0), sm: 10 };

    /// What is missing for a module of this version and target, as half a sentence.
    pub fn lacking(self, version: Version, target: &Target) -> Option<(crate::diagnostic::Reason, String)> {
        use crate::diagnostic::Reason;
        if (version.major, version.minor) < self.version {
            let (major, minor) = self.version;
            return Some((Reason::Version, format!("needs .version {major}.{minor} or newer")));
        }
        if target.sm < self.sm {
            return Some((Reason::Target, format!("needs .target sm_{} or newer", self.sm)));
        }
        None
    }
}

/// A constraint between modifiers that the row's notation cannot say: the message when it is broken.
pub type Rule = fn(&Modifiers) -> Result<(), &'static str>;

/// One row as written in the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// Mnemonic and words.
    pub head: &'static str,
    /// Operands.
    pub operands: &'static str,
    /// Since when.
    pub since: Since,
    /// Gone from this `sm` on (and `.version 6.4`, which every such target implies).
    pub until: Option<u32>,
    /// What else must hold.
    pub rule: Option<Rule>,
}

/// A row from the beginning of PTX.
pub(crate) const fn row(head: &'static str, operands: &'static str) -> Row {
    Row { head, operands, since: Since::ALWAYS, until: None, rule: None }
}

impl Row {
    /// The row exists since this `.version` and `sm`.
    pub(crate) const fn since(self, major: u32, minor: u32, sm: u32) -> Row {
        Row { since: Since { version: (major, minor), sm }, ..self }
    }

    /// The row is gone from this `sm` on.
    pub(crate) const fn until(self, sm: u32) -> Row {
        Row { until: Some(sm), ..self }
    }

    /// A constraint between the modifiers.
    pub(crate) const fn rule(self, rule: Rule) -> Row {
        Row { rule: Some(rule), ..self }
    }
}

/// Names for lists of words.
const LISTS: &[(&str, &str)] = &[
    ("$int", "u16|u32|u64|s16|s32|s64"),
    ("$int8", "u8|u16|u32|u64|s8|s16|s32|s64"),
    ("$unsigned", "u16|u32|u64"),
    ("$signed", "s16|s32|s64"),
    ("$bits", "b16|b32|b64"),
    ("$plain", "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64"),
    ("$memory", "b8|b16|b32|b64|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64|b128@8.3/70"),
    ("$narrow", "b8|b16|b32|b64|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64"),
    ("$rnd", "rn|rz|rm|rp"),
    ("$rndi", "rni|rzi|rmi|rpi"),
    ("$ordered", "eq|ne|lt|le|gt|ge"),
    ("$unordered", "eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan"),
    ("$either", "eq|ne|lt|le|gt|ge|lo|ls|hi|hs"),
    ("$bool", "and|or|xor"),
    ("$scope", "cta|gpu|sys|cluster@7.8/90"),
    ("$shared", "shared|shared::cta@7.8/30"),
    (
        "$loadspace",
        "const|global|local|param|shared|shared::cta@7.8/30|param::entry@8.3/10|param::func@8.3/10",
    ),
    ("$storespace", "global|local|param|shared|shared::cta@7.8/30|param::func@8.3/10"),
    (
        "$evict",
        "L1::evict_normal@7.4/70|L1::evict_unchanged@7.4/70|L1::evict_first@7.4/70|L1::evict_last@7.4/70|L1::no_allocate@7.4/70",
    ),
    ("$fetch", "L2::64B@7.4/75|L2::128B@7.4/75|L2::256B@7.4/80"),
];

/// One place in the head of a form.
#[derive(Clone, Debug)]
pub struct Element {
    /// The words that may stand there, with the time each exists since.
    pub words: Vec<(&'static str, Since)>,
    /// Whether one of them must.
    pub required: bool,
}

/// What kind of thing an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandClass {
    /// `d`
    Destination,
    /// `d_`
    DestinationOrSink,
    /// `dq`
    DestinationAndPredicate,
    /// `dp`
    PredicateDestination,
    /// `a`
    Value,
    /// `r`
    Register,
    /// `i`
    Constant,
    /// `x`
    MovSource,
    /// `p`
    Predicate,
    /// `m`
    Memory,
    /// `n`
    Name,
    /// `pack`
    Pack,
    /// `unpack`
    Unpack,
    /// `label`
    Label,
    /// `table`
    Table,
}

/// How many elements an operand has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// no braces
    Scalar,
    /// so many in braces
    Fixed(u8),
    /// as `.v2`, `.v4` says
    Vector,
}

/// Which type an operand has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandType {
    /// The head's n-th type.
    Nth(u8),
    /// Twice as wide as the head's first.
    Wide,
    /// Always this one.
    Fixed(Type),
}

/// One operand of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What it is.
    pub class: OperandClass,
    /// How many.
    pub count: Count,
    /// Of which type.
    pub ty: OperandType,
    /// Whether a register may be wider than the type.
    pub relaxed: bool,
    /// Whether it may be missing.
    pub optional: bool,
}

/// A row in the form that instructions are held against.
pub struct Form {
    /// The operation.
    pub op: Opcode,
    /// Words after the mnemonic.
    pub elements: Vec<Element>,
    /// Operands.
    pub operands: Vec<Pattern>,
    /// The row it was made from.
    pub row: &'static Row,
}

impl Form {
    /// Reads a row's notation. The table is part of the program: a mistake in it stops the first test that runs.
    pub(super) fn new(row: &'static Row, op: Opcode) -> Form {
        let elements = row.head.split_whitespace().skip(1).map(element).collect();
        let operands = row.operands.split_whitespace().map(pattern).collect();
        Form { op, elements, operands, row }
    }

    /// Whether the words fit, whatever version and target; the latest `Since` that one of them carries.
    pub(super) fn matches(&self, words: &[&str]) -> Option<Since> {
        let mut used = [false; 32];
        let mut since = self.row.since;
        let mut next_type = 0;
        for word in words {
            let is_type = Type::from_word(word).is_some();
            let from = if is_type { next_type } else { 0 };
            let place = self.elements.iter().enumerate().skip(from).find_map(|(i, element)| {
                let (_, s) = element.words.iter().find(|(w, _)| w == word && !used[i])?;
                Some((i, *s))
            });
            let (i, s) = place?;
            used[i] = true;
            if is_type {
                next_type = i + 1;
            }
            since.version = since.version.max(s.version);
            since.sm = since.sm.max(s.sm);
        }
        let complete = self.elements.iter().zip(used).all(|(element, used)| used || !element.required);
        complete.then_some(since)
    }

    /// Since when a combination of words exists; `None` when the row does not have it.
    pub fn since_of(&self, words: &[&str]) -> Option<Since> {
        self.matches(words)
    }

    /// The row as the ISA would write it: `add{.rn|.rz}{.ftz}.f32`.
    pub fn syntax(&self) -> String {
        let mut out = self.op.word().to_owned();
        for element in &self.elements {
            let words: Vec<&str> = element.words.iter().map(|(w, _)| *w).collect();
            let (open, close) = match (element.required, words.len()) {
                (false, _) => ("{", "}"),
                (true, 1) => ("", ""),
                (true, _) => ("(", ")"),
            };
            out.push_str(&format!("{open}.{}{close}", words.join("|.")));
        }
        out
    }
}

fn element(text: &'static str) -> Element {
    let (required, list) = match text.split_at(1) {
        (".", list) => (true, list),
        ("?", list) => (false, list),
        _ => panic!("instruction table: `{text}` must begin with . or ?"),
    };
    let mut words = Vec::new();
    for part in list.split('|') {
        match part.strip_prefix('$') {
            Some(_) => {
                let Some((_, expanded)) = LISTS.iter().find(|(name, _)| *name == part) else {
                    panic!("instruction table: there is no list `{part}`");
                };
                words.extend(expanded.split('|').map(word));
            }
            None => words.push(word(part)),
        }
    }
    Element { words, required }
}

/// `word` or `word@7.4/80`.
fn word(text: &'static str) -> (&'static str, Since) {
    let Some((word, since)) = text.split_once('@') else { return (text, Since::ALWAYS) };
    let parsed = since.split_once('/').and_then(|(version, sm)| {
        let (major, minor) = version.split_once('.')?;
        Some(Since { version: (major.parse().ok()?, minor.parse().ok()?), sm: sm.parse().ok()? })
    });
    match parsed {
        Some(since) => (word, since),
        None => panic!("instruction table: `{text}` wants version/sm after the @"),
    }
}

fn pattern(text: &'static str) -> Pattern {
    let optional = text.ends_with('?');
    let text = text.trim_end_matches('?');
    let relaxed = text.ends_with('~');
    let text = text.trim_end_matches('~');
    let (kind, ty) = text.split_once(':').unwrap_or((text, "0"));
    let ty = match ty {
        "0" | "1" | "2" | "3" => OperandType::Nth(ty.as_bytes()[0] - b'0'),
        "w" => OperandType::Wide,
        _ => match Type::from_word(ty) {
            Some(ty) => OperandType::Fixed(ty),
            None => panic!("instruction table: `{ty}` is no type"),
        },
    };
    let digits = kind.trim_end_matches(|c: char| c.is_ascii_digit());
    let (name, count) = match kind.strip_suffix('v') {
        Some(name) => (name, Count::Vector),
        None if digits.len() < kind.len() => {
            (digits, Count::Fixed(kind[digits.len()..].parse().unwrap_or(0)))
        }
        None => (kind, Count::Scalar),
    };
    use OperandClass::*;
    let class = match name {
        "d" => Destination,
        "d_" => DestinationOrSink,
        "dq" => DestinationAndPredicate,
        "dp" => PredicateDestination,
        "a" => Value,
        "r" => Register,
        "i" => Constant,
        "x" => MovSource,
        "p" => Predicate,
        "m" => Memory,
        "n" => Name,
        "pack" => Pack,
        "unpack" => Unpack,
        "label" => Label,
        "table" => Table,
        _ => panic!("instruction table: `{text}` is no operand"),
    };
    Pattern { class, count, ty, relaxed, optional }
}
