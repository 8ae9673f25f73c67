//! Control flow (9.7.12) and the miscellaneous instructions (9.7.19).
use crate::check::form::{Row, row};

pub(super) const ROWS: &[Row] = &[
    row("bra ?uni", "label"),
    row("brx.idx ?uni", "a:u32 table").since(6, 0, 30),
    row("call ?uni", ""),
    row("ret ?uni", ""),
    row("exit", ""),
    row("brkpt", "").since(1, 0, 11),
    row("trap", ""),
    row("pmevent", "i").since(1, 4, 10),
    row("pmevent .mask", "i").since(3, 0, 20),
    row("nanosleep .u32", "a").since(6, 3, 70),
];
