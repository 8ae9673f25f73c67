//! The meaning of each word after a mnemonic: which field of [`Modifiers`] it sets.
use crate::syntax::ast::*;

/// Sorts the words of a head into typed fields. The instruction table has let each of them pass, so every word has a
/// meaning here; the first that has none is returned.
pub(super) fn modifiers<'w>(op: Opcode, words: &[&'w str]) -> Result<Modifiers, &'w str> {
    let mut mods = Modifiers::default();
    for word in words {
        if !apply(op, word, &mut mods) {
            return Err(word);
        }
    }
    Ok(mods)
}

/// Sets a field whose values are words: true when the word is one of them.
macro_rules! set {
    ($field:expr, $kind:ident, $word:expr) => {
        match $kind::from_word($word) {
            Some(value) => {
                $field = Some(value);
                true
            }
            None => false,
        }
    };
}

fn apply(op: Opcode, word: &str, mods: &mut Modifiers) -> bool {
    if let Some(ty) = Type::from_word(word) {
        return mods.types.push(ty);
    }
    by_operation(op, word, mods) || flag(word, mods) || cache(word, mods) || general(word, mods)
}

/// Words whose meaning depends on the instruction.
fn by_operation(op: Opcode, word: &str, mods: &mut Modifiers) -> bool {
    match op {
        Opcode::Set | Opcode::Setp if set!(mods.compare, Compare, word) => true,
        Opcode::Shf if set!(mods.direction, Direction, word) => true,
        Opcode::Prmt => set!(mods.permute, PermuteMode, word),
        Opcode::Shfl if set!(mods.shuffle, Shuffle, word) => true,
        Opcode::Testp => set!(mods.property, FloatProperty, word),
        Opcode::Vote | Opcode::Match if set!(mods.vote, VoteMode, word) => true,
        Opcode::WmmaLoad | Opcode::WmmaStore if set!(mods.fragment, Fragment, word) => true,
        Opcode::Prefetch | Opcode::Prefetchu if set!(mods.level, Level, word) => true,
        Opcode::Discard if word == "L2" => set!(mods.level, Level, word),
        Opcode::CreatePolicyCvt if word == "L2" => set!(mods.level, Level, word),
        Opcode::Membar if word == "gl" => {
            mods.scope = Some(Scope::Gpu);
            true
        }
        Opcode::Membar | Opcode::Fence if word == "alias" => set!(mods.proxy, Proxy, word),
        Opcode::Membar | Opcode::Fence if word == "proxy" => true,
        Opcode::Mma | Opcode::WmmaMma if word == "popc" => {
            mods.popc = true;
            true
        }
        _ => false,
    }
}

/// Words that are there or not.
fn flag(word: &str, mods: &mut Modifiers) -> bool {
    let field = match word {
        "ftz" => &mut mods.ftz,
        "sat" => &mut mods.saturate,
        "satfinite" => &mut mods.satfinite,
        "relu" => &mut mods.relu,
        "NaN" => &mut mods.nan,
        "xorsign" => &mut mods.xorsign,
        "abs" => &mut mods.xorsign_abs,
        "cc" => &mut mods.cc,
        "to" => &mut mods.to,
        "nc" => &mut mods.nc,
        "shiftamt" => &mut mods.shiftamt,
        "noftz" => &mut mods.noftz,
        "sync" => &mut mods.sync,
        "aligned" => &mut mods.aligned,
        "uni" => &mut mods.uniform,
        "trans" => &mut mods.trans,
        "noComplete" => &mut mods.no_complete,
        "noinc" => &mut mods.noinc,
        "parity" => &mut mods.parity,
        "mask" => &mut mods.mask,
        _ => return false,
    };
    *field = true;
    true
}

/// Cache and eviction words, vector widths and counts.
fn cache(word: &str, mods: &mut Modifiers) -> bool {
    match word {
        "v2" | "v4" => mods.vector = Some(word.as_bytes()[1] - b'0'),
        "x1" | "x2" | "x4" => mods.count = Some(word.as_bytes()[1] - b'0'),
        "L2::cache_hint" => mods.cache_hint = true,
        "L2::64B" => mods.prefetch_bytes = Some(64),
        "L2::128B" => mods.prefetch_bytes = Some(128),
        "L2::256B" => mods.prefetch_bytes = Some(256),
        _ => {
            if let Some(evict) = word.strip_prefix("L1::").and_then(Evict::from_word) {
                mods.evict_l1 = Some(evict);
            } else if let Some(evict) = word.strip_prefix("L2::").and_then(Evict::from_word) {
                match mods.evict_l2 {
                    None => mods.evict_l2 = Some(evict),
                    Some(_) => mods.evict_l2_second = Some(evict),
                }
            } else {
                return false;
            }
        }
    }
    true
}

/// Everything else means the same wherever it stands.
fn general(word: &str, mods: &mut Modifiers) -> bool {
    if let Some(space) = Space::from_word(word) {
        match mods.space {
            None => mods.space = Some(space),
            Some(_) => mods.source_space = Some(space),
        }
        return true;
    }
    if let Some(layout) = MatrixLayout::from_word(word) {
        match mods.layouts[0] {
            None => mods.layouts[0] = Some(layout),
            Some(_) => mods.layouts[1] = Some(layout),
        }
        return true;
    }
    set!(mods.rounding, Rounding, word)
        || set!(mods.precision, Precision, word)
        || set!(mods.part, Part, word)
        || set!(mods.operation, Operation, word)
        || set!(mods.semantics, Semantics, word)
        || set!(mods.scope, Scope, word)
        || set!(mods.cache, CacheOp, word)
        || set!(mods.bound, Bound, word)
        || set!(mods.shape, Shape, word)
}
