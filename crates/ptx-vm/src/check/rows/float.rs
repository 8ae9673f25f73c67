//! Floating point in f32 and f64 (9.7.3).
use crate::check::form::{Row, row};
use crate::syntax::ast::Modifiers;

/// `.xorsign.abs` is one modifier in two words.
pub(super) fn xorsign_abs_together(mods: &Modifiers) -> Result<(), &'static str> {
    match (mods.xorsign, mods.xorsign_abs) {
        (true, false) | (false, true) => Err("`.xorsign.abs` needs both words"),
        _ => Ok(()),
    }
}

pub(super) const ROWS: &[Row] = &[
    row("testp .finite|infinite|number|notanumber|normal|subnormal .f32|f64", "d:pred a").since(2, 0, 20),
    row("copysign .f32|f64", "d a a").since(2, 0, 20),
    row("add ?$rnd ?ftz ?sat .f32", "d a a"),
    row("add ?$rnd .f64", "d a a"),
    row("sub ?$rnd ?ftz ?sat .f32", "d a a"),
    row("sub ?$rnd .f64", "d a a"),
    row("mul ?$rnd ?ftz ?sat .f32", "d a a"),
    row("mul ?$rnd .f64", "d a a"),
    row("fma .$rnd ?ftz ?sat .f32", "d a a a").since(2, 0, 20),
    row("fma .$rnd .f64", "d a a a").since(1, 4, 13),
    row("mad .$rnd ?ftz ?sat .f32", "d a a a").since(2, 0, 20),
    row("mad .$rnd .f64", "d a a a"),
    row("div .approx|full ?ftz .f32", "d a a"),
    row("div .$rnd ?ftz .f32", "d a a").since(1, 4, 20),
    row("div .$rnd .f64", "d a a"),
    row("abs ?ftz .f32", "d a"),
    row("abs .f64", "d a"),
    row("neg ?ftz .f32", "d a"),
    row("neg .f64", "d a"),
    row("min ?ftz ?NaN@7.0/80 ?xorsign@7.2/86 ?abs@7.2/86 .f32", "d a a").rule(xorsign_abs_together),
    row("min .f64", "d a a"),
    row("max ?ftz ?NaN@7.0/80 ?xorsign@7.2/86 ?abs@7.2/86 .f32", "d a a").rule(xorsign_abs_together),
    row("max .f64", "d a a"),
    row("rcp .approx ?ftz .f32", "d a"),
    row("rcp .$rnd ?ftz .f32", "d a").since(1, 4, 20),
    row("rcp .$rnd .f64", "d a"),
    row("rcp .approx .ftz .f64", "d a").since(2, 1, 20),
    row("sqrt .approx ?ftz .f32", "d a"),
    row("sqrt .$rnd ?ftz .f32", "d a").since(1, 4, 20),
    row("sqrt .$rnd .f64", "d a"),
    row("rsqrt .approx ?ftz .f32", "d a"),
    row("rsqrt .approx .f64", "d a"),
    row("rsqrt .approx .ftz .f64", "d a").since(4, 0, 20),
    row("sin .approx ?ftz .f32", "d a"),
    row("cos .approx ?ftz .f32", "d a"),
    row("lg2 .approx ?ftz .f32", "d a"),
    row("ex2 .approx ?ftz .f32", "d a"),
    row("tanh .approx .f32", "d a").since(7, 0, 75),
];
