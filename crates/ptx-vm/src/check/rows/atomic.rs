//! Atomics and reductions on memory (9.7.13.10, 9.7.13.11).
use crate::check::form::{Row, row};
use crate::syntax::ast::{Modifiers, Space};

/// An ordering needs a scope, and a cache policy global memory.
fn ordering(mods: &Modifiers) -> Result<(), &'static str> {
    if mods.cache_hint && !matches!(mods.space, None | Some(Space::Global)) {
        return Err("a cache policy is for global memory");
    }
    Ok(())
}

/// The rows of one instruction: its orderings, operations on integers and bits, floats, and the operands of each.
macro_rules! rows {
    ($op:literal, $sem:literal, $operands:literal, $bits:literal) => {
        [
            row(
                concat!($op, " ?", $sem, " ?$scope ?global|$shared .add .u32|s32|u64|f32|f64@5.0/60"),
                $operands,
            ),
            row(
                concat!($op, " ?", $sem, " ?$scope ?global|$shared .add .noftz .f16@6.3/70|f16x2@6.2/60"),
                $operands,
            ),
            row(
                concat!($op, " ?", $sem, " ?$scope ?global|$shared .min|max .u32|s32|u64@3.1/32|s64@3.1/32"),
                $operands,
            ),
            row(concat!($op, " ?", $sem, " ?$scope ?global|$shared .inc|dec .u32"), $operands),
            row(concat!($op, " ?", $sem, " ?$scope ?global|$shared .", $bits, " .b32|b64"), $operands),
        ]
    };
}

const ATOM: [Row; 5] =
    rows!("atom", "relaxed@6.0/70|acquire@6.0/70|release@6.0/70|acq_rel@6.0/70", "d_ m a", "and|or|xor|exch");
const RED: [Row; 5] = rows!("red", "relaxed@6.0/70|release@6.0/70", "m a", "and|or|xor");

/// The same row with a cache policy as last operand.
const ATOM_HINT: &[Row] = &[
    row(
        "atom ?relaxed|acquire|release|acq_rel ?$scope ?global .add .L2::cache_hint .u32|s32|u64|f32|f64",
        "d_ m a a:u64",
    )
    .since(7, 4, 80),
    row(
        "atom ?relaxed|acquire|release|acq_rel ?$scope ?global .add .noftz .L2::cache_hint .f16|f16x2",
        "d_ m a a:u64",
    )
    .since(7, 4, 80),
    row(
        "atom ?relaxed|acquire|release|acq_rel ?$scope ?global .min|max .L2::cache_hint .u32|s32|u64|s64",
        "d_ m a a:u64",
    )
    .since(7, 4, 80),
    row(
        "atom ?relaxed|acquire|release|acq_rel ?$scope ?global .inc|dec .L2::cache_hint .u32",
        "d_ m a a:u64",
    )
    .since(7, 4, 80),
    row(
        "atom ?relaxed|acquire|release|acq_rel ?$scope ?global .and|or|xor|exch .L2::cache_hint .b32|b64",
        "d_ m a a:u64",
    )
    .since(7, 4, 80),
    row("red ?relaxed|release ?$scope ?global .add .L2::cache_hint .u32|s32|u64|f32|f64", "m a a:u64")
        .since(7, 4, 80),
    row("red ?relaxed|release ?$scope ?global .add .noftz .L2::cache_hint .f16|f16x2", "m a a:u64")
        .since(7, 4, 80),
    row("red ?relaxed|release ?$scope ?global .min|max .L2::cache_hint .u32|s32|u64|s64", "m a a:u64")
        .since(7, 4, 80),
    row("red ?relaxed|release ?$scope ?global .inc|dec .L2::cache_hint .u32", "m a a:u64").since(7, 4, 80),
    row("red ?relaxed|release ?$scope ?global .and|or|xor .L2::cache_hint .b32|b64", "m a a:u64")
        .since(7, 4, 80),
];

/// `ptxas` takes no cache hint on these, whatever the ISA says.
const CAS: &[Row] = &[row(
    "atom ?relaxed@6.0/70|acquire@6.0/70|release@6.0/70|acq_rel@6.0/70 ?$scope ?global|$shared .cas .b16@6.3/70|b32|b64",
    "d_ m a a",
)];

pub(super) const ROWS: &[Row] = &{
    const N: usize = ATOM.len() + RED.len() + ATOM_HINT.len() + CAS.len();
    let mut all = [row("atom", ""); N];
    let parts: [&[Row]; 4] = [&ATOM, &RED, ATOM_HINT, CAS];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let mut i = 0;
        while i < parts[part].len() {
            all[at] = parts[part][i].rule(ordering);
            at += 1;
            i += 1;
        }
        part += 1;
    }
    all
};
