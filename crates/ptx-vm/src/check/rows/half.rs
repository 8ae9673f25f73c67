//! Half precision: f16, bf16 and their packed pairs (9.7.4).
use super::float::xorsign_abs_together;
use crate::check::form::{Row, row};

pub(super) const ROWS: &[Row] = &[
    row("add ?rn ?ftz ?sat .f16|f16x2", "d a a").since(4, 2, 53),
    row("sub ?rn ?ftz ?sat .f16|f16x2", "d a a").since(4, 2, 53),
    row("mul ?rn ?ftz ?sat .f16|f16x2", "d a a").since(4, 2, 53),
    row("fma .rn ?ftz ?sat .f16|f16x2", "d a a a").since(4, 2, 53),
    row("fma .rn ?ftz .relu .f16|f16x2", "d a a a").since(7, 0, 80),
    row("fma .rn ?relu .bf16|bf16x2", "d a a a").since(7, 0, 80),
    row("neg ?ftz .f16|f16x2", "d a").since(6, 0, 53),
    row("neg .bf16|bf16x2", "d a").since(7, 0, 80),
    row("abs ?ftz .f16|f16x2", "d a").since(6, 5, 53),
    row("abs .bf16|bf16x2", "d a").since(7, 0, 80),
    row("min ?ftz ?NaN ?xorsign@7.2/86 ?abs@7.2/86 .f16|f16x2", "d a a")
        .since(7, 0, 80)
        .rule(xorsign_abs_together),
    row("min ?NaN ?xorsign@7.2/86 ?abs@7.2/86 .bf16|bf16x2", "d a a")
        .since(7, 0, 80)
        .rule(xorsign_abs_together),
    row("max ?ftz ?NaN ?xorsign@7.2/86 ?abs@7.2/86 .f16|f16x2", "d a a")
        .since(7, 0, 80)
        .rule(xorsign_abs_together),
    row("max ?NaN ?xorsign@7.2/86 ?abs@7.2/86 .bf16|bf16x2", "d a a")
        .since(7, 0, 80)
        .rule(xorsign_abs_together),
    row("tanh .approx .f16|f16x2", "d a").since(7, 0, 75),
    row("ex2 .approx .f16|f16x2", "d a").since(7, 0, 75),
];
