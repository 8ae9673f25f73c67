//! From the spelling of an instruction (`add.rn.ftz.f32`) to its operation, modifiers and rows of the table.
use super::form::{Form, Row, Since};
use super::rows;
use super::words;
use crate::diagnostic::Reason;
use crate::syntax::ast::{Modifiers, Opcode, Target, Version};
use std::collections::HashMap;
use std::sync::LazyLock;

/// What one spelling means: decided once, shared by every instruction spelled so.
#[derive(Clone)]
pub struct Head {
    /// The operation.
    pub op: Opcode,
    /// Its modifiers.
    pub mods: Modifiers,
    /// The rows that the words fit; the operands pick one.
    pub forms: Vec<&'static Form>,
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head").field("op", &self.op).field("mods", &self.mods).finish_non_exhaustive()
    }
}

/// Mnemonics that are written in another way than the operation's own word, with the words they stand for.
const ALIASES: &[(&str, Opcode, &[&str])] = &[
    ("bar.sync", Opcode::BarrierSync, &["aligned"]),
    ("bar.cta.sync", Opcode::BarrierSync, &["aligned"]),
    ("barrier.cta.sync", Opcode::BarrierSync, &[]),
    ("bar.arrive", Opcode::BarrierArrive, &["aligned"]),
    ("bar.cta.arrive", Opcode::BarrierArrive, &["aligned"]),
    ("barrier.cta.arrive", Opcode::BarrierArrive, &[]),
    ("bar.red", Opcode::BarrierRed, &["aligned"]),
    ("bar.cta.red", Opcode::BarrierRed, &["aligned"]),
    ("barrier.cta.red", Opcode::BarrierRed, &[]),
];

/// Instructions that exist and that this VM refuses, by the first words of their spelling.
const REFUSED: &[(&str, &str)] = &[
    ("tex", "textures are not supported"),
    ("tld4", "textures are not supported"),
    ("txq", "textures are not supported"),
    ("istypep", "textures are not supported"),
    ("suld", "surfaces are not supported"),
    ("sust", "surfaces are not supported"),
    ("sured", "surfaces are not supported"),
    ("suq", "surfaces are not supported"),
    ("vadd", "video instructions are not supported"),
    ("vsub", "video instructions are not supported"),
    ("vabsdiff", "video instructions are not supported"),
    ("vmin", "video instructions are not supported"),
    ("vmax", "video instructions are not supported"),
    ("vshl", "video instructions are not supported"),
    ("vshr", "video instructions are not supported"),
    ("vmad", "video instructions are not supported"),
    ("vset", "video instructions are not supported"),
    ("vadd2", "video instructions are not supported"),
    ("vsub2", "video instructions are not supported"),
    ("vavrg2", "video instructions are not supported"),
    ("vabsdiff2", "video instructions are not supported"),
    ("vmin2", "video instructions are not supported"),
    ("vmax2", "video instructions are not supported"),
    ("vset2", "video instructions are not supported"),
    ("vadd4", "video instructions are not supported"),
    ("vsub4", "video instructions are not supported"),
    ("vavrg4", "video instructions are not supported"),
    ("vabsdiff4", "video instructions are not supported"),
    ("vmin4", "video instructions are not supported"),
    ("vmax4", "video instructions are not supported"),
    ("vset4", "video instructions are not supported"),
    ("mma.sp", "sparse matrices are not supported; expand A to its zeros and use mma.sync"),
    ("mma.sp::ordered_metadata", "sparse matrices are not supported; expand A to its zeros and use mma.sync"),
    ("cp.async.bulk", "bulk copies need sm_90"),
    ("cp.reduce.async.bulk", "bulk copies need sm_90"),
    ("st.async", "asynchronous stores need sm_90"),
    ("red.async", "asynchronous reductions need sm_90"),
    ("st.bulk", "bulk stores need sm_100"),
    ("multimem", "multimem needs sm_90"),
    ("mapa", "clusters need sm_90"),
    ("getctarank", "clusters need sm_90"),
    ("barrier.cluster", "clusters need sm_90"),
    ("fence.proxy.async", "the asynchronous proxy needs sm_90"),
    ("fence.proxy.tensormap", "tensor maps need sm_90"),
    ("fence.mbarrier_init", "clusters need sm_90"),
    ("tensormap", "tensor maps need sm_90"),
    ("mbarrier.expect_tx", "transaction counts need sm_90"),
    ("mbarrier.complete_tx", "transaction counts need sm_90"),
    ("mbarrier.try_wait", "mbarrier.try_wait needs sm_90; use mbarrier.test_wait in a loop"),
    ("elect", "elect.sync needs sm_90"),
    ("griddepcontrol", "griddepcontrol needs sm_90"),
    ("setmaxnreg", "setmaxnreg needs sm_90a"),
    ("wgmma", "wgmma needs sm_90a"),
    ("stmatrix", "stmatrix needs sm_90"),
    ("tcgen05", "tcgen05 needs sm_100a"),
    ("clusterlaunchcontrol", "cluster launch control needs sm_100"),
];

/// The table, by mnemonic.
pub(super) struct Table {
    mnemonics: HashMap<&'static str, (Opcode, &'static [&'static str])>,
    forms: Vec<Vec<Form>>,
}

pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut mnemonics = HashMap::new();
    for &op in Opcode::ALL {
        mnemonics.insert(op.word(), (op, &[] as &[&str]));
    }
    for &(word, op, implied) in ALIASES {
        mnemonics.insert(word, (op, implied));
    }
    let mut forms: Vec<Vec<Form>> = Opcode::ALL.iter().map(|_| Vec::new()).collect();
    for row in rows::ALL.iter().copied().flatten() {
        let word = row.head.split_whitespace().next().unwrap_or("");
        let Some(op) = Opcode::from_word(word) else { panic!("instruction table: `{word}` is no mnemonic") };
        forms[op as usize].push(Form::new(row, op));
    }
    Table { mnemonics, forms }
});

/// Every row of the instruction table, compiled.
pub fn forms() -> impl Iterator<Item = &'static Form> {
    TABLE.forms.iter().flatten()
}

/// Every row as written.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    rows::ALL.iter().copied().flatten()
}

/// The operation that the longest run of leading words names, how many words that is, and the words it implies.
fn mnemonic(words: &[&str]) -> Option<(Opcode, usize, &'static [&'static str])> {
    (1..=words.len().min(4)).rev().find_map(|n| {
        let (op, implied) = match n {
            1 => TABLE.mnemonics.get(words[0])?,
            _ => TABLE.mnemonics.get(words[..n].join(".").as_str())?,
        };
        Some((*op, n, *implied))
    })
}

/// Why the VM refuses an instruction that exists, if it is one of those.
fn refused(words: &[&str]) -> Option<(&'static str, &'static str)> {
    REFUSED
        .iter()
        .copied()
        .filter(|(name, _)| {
            let mut rest = words.iter();
            name.split('.').all(|part| rest.next() == Some(&part))
        })
        .max_by_key(|(name, _)| name.len())
}

/// Looks a spelling up. `words` is the mnemonic and everything after it, split at the dots.
///
/// # Errors
/// The reason and a message for an unknown or refused instruction, a word that does not belong, a combination that
/// no row has, or one that is newer than the module's `.version` or `.target`.
pub fn resolve(words: &[&str], version: Version, target: &Target) -> Result<Head, (Reason, String)> {
    if let Some((name, why)) = refused(words) {
        return Err((Reason::Unsupported, format!("`{name}` is refused: {why}")));
    }
    let Some((op, taken, implied)) = mnemonic(words) else {
        return Err((Reason::Syntax, format!("`{}` is no instruction", words[0])));
    };
    let rest: Vec<&str> = implied.iter().copied().chain(words[taken..].iter().copied()).collect();
    let candidates = &TABLE.forms[op as usize];
    let spelled: Vec<(&Form, Since)> =
        candidates.iter().filter_map(|f| Some((f, f.matches(&rest)?))).collect();
    if spelled.is_empty() {
        return Err((Reason::Invalid, no_such_form(op, &rest, candidates)));
    }
    let mods = words::modifiers(op, &rest)
        .map_err(|word| (Reason::Invalid, format!("`.{word}` has no meaning on `{}`", op.word())))?;
    order(op, &rest)?;
    let mut complaint = None;
    let mut forms = Vec::new();
    for (form, since) in spelled {
        if let Some((reason, what)) = since.lacking(version, target) {
            complaint = Some((reason, format!("`{}` {what}", words.join("."))));
        } else if let Some(sm) = form.row.until.filter(|&sm| target.sm >= sm) {
            let message = format!("`{}` is gone since sm_{sm}; use the .sync form", words.join("."));
            complaint = Some((Reason::Target, message));
        } else if let Some(Err(what)) = form.row.rule.map(|rule| rule(&mods)) {
            complaint = Some((Reason::Invalid, what.to_owned()));
        } else {
            forms.push(form);
        }
    }
    match (forms.is_empty(), complaint) {
        (true, Some(complaint)) => Err(complaint),
        _ => Ok(Head { op, mods, forms }),
    }
}

/// `mul.lo.s32` keeps its order: `.lo`, `.hi` and `.wide` are part of the name and precede the type.
fn order(op: Opcode, words: &[&str]) -> Result<(), (Reason, String)> {
    use Opcode::{Dp2a, Mad, Mad24, Madc, Mul, Mul24};
    let part = words.iter().position(|w| matches!(*w, "lo" | "hi" | "wide"));
    match part {
        Some(at) if at > 0 && matches!(op, Mul | Mad | Madc | Mul24 | Mad24 | Dp2a) => {
            Err((Reason::Invalid, format!("`.{}` must follow `{}` directly", words[at], op.word())))
        }
        _ => Ok(()),
    }
}

/// The most helpful message for words that fit no row.
fn no_such_form(op: Opcode, words: &[&str], forms: &[Form]) -> String {
    let known =
        |word: &str| forms.iter().any(|f| f.elements.iter().any(|e| e.words.iter().any(|(w, _)| *w == word)));
    if let Some(word) = words.iter().find(|w| !known(w)) {
        return format!("`.{word}` is no modifier or type of `{}`", op.word());
    }
    let twice = |(i, word): &(usize, &&str)| {
        crate::syntax::ast::Type::from_word(word).is_none() && words[..*i].contains(*word)
    };
    if let Some((_, word)) = words.iter().enumerate().find(twice) {
        return format!("`.{word}` stands twice on `{}`", op.word());
    }
    // The row that needs the fewest changes.
    let distance = |form: &Form| {
        let strange = words
            .iter()
            .filter(|w| !form.elements.iter().any(|e| e.words.iter().any(|(x, _)| x == *w)))
            .count();
        let missing = form
            .elements
            .iter()
            .filter(|e| e.required && !e.words.iter().any(|(w, _)| words.contains(w)))
            .count();
        strange + missing
    };
    match forms.iter().min_by_key(|f| distance(f)) {
        Some(form) => {
            format!("these words do not go together on `{}`; nearest: {}", op.word(), form.syntax())
        }
        None => format!("`{}` is not supported", op.word()),
    }
}
