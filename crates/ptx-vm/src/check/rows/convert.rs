//! Conversions (9.7.9.21) and address spaces (`cvta`, `isspacep`).
use crate::check::form::{Row, row};
use crate::syntax::ast::Modifiers;

/// Between equal types nothing can be out of range.
fn sat_changes_type(mods: &Modifiers) -> Result<(), &'static str> {
    match mods.saturate && mods.types.first() == mods.types.last() {
        true => Err("`.sat` between equal types has no meaning"),
        false => Ok(()),
    }
}

pub(super) const ROWS: &[Row] = &[
    row("cvt ?sat .$int8 .$int8", "d~ a:1~").rule(sat_changes_type),
    row("cvt .$rnd ?ftz ?sat .f32 .$int8", "d~ a:1~"),
    row("cvt .$rnd ?sat .f64 .$int8", "d~ a:1~"),
    row("cvt .$rnd ?sat .f16 .$int8", "d~ a:1~").since(2, 0, 20),
    row("cvt .$rndi ?ftz ?sat .$int8 .f32", "d~ a:1~"),
    row("cvt .$rndi ?sat .$int8 .f64", "d~ a:1~"),
    row("cvt .$rndi ?sat .$int8 .f16", "d~ a:1~"),
    // between floats: a rounding mode exactly when bits are lost
    row("cvt ?ftz ?sat .f64 .f32", "d~ a:1~"),
    row("cvt ?ftz ?sat .f32 .f16", "d~ a:1~"),
    row("cvt ?sat .f64 .f16", "d~ a:1~"),
    row("cvt .$rnd ?ftz ?sat .f32 .f64", "d~ a:1~"),
    row("cvt .$rnd ?ftz ?sat .f16 .f32", "d~ a:1~"),
    row("cvt .$rnd ?sat .f16 .f64", "d~ a:1~"),
    row("cvt ?$rndi ?ftz ?sat .f32 .f32", "d~ a:1~"),
    row("cvt ?$rndi ?sat .f64 .f64", "d~ a:1~"),
    row("cvt ?$rndi ?sat .f16 .f16", "d~ a:1~"),
    row("cvt .rn|rz .relu ?satfinite@8.1/80 .f16 .f32", "d~ a:1~").since(7, 0, 80),
    row("cvt .rn|rz .satfinite .f16 .f32", "d~ a:1~").since(8, 1, 80),
    row("cvt .rn|rz ?relu ?satfinite@8.1/80 .bf16 .f32", "d a:1").since(7, 0, 80),
    row("cvt .rn|rz ?relu ?satfinite@8.1/80 .f16x2|bf16x2 .f32", "d a:1 a:1").since(7, 0, 80),
    row("cvt .rna ?satfinite@8.1/80 .tf32 .f32", "d r:1").since(7, 0, 80),
    row("cvt .f32 .bf16", "d a:1").since(7, 1, 80),
    row("cvt .rn .satfinite ?relu .e4m3x2|e5m2x2 .f32", "d a:1 a:1").since(8, 1, 89),
    row("cvt .rn .satfinite ?relu .e4m3x2|e5m2x2 .f16x2", "d a:1").since(8, 1, 89),
    row("cvt .rn ?relu .f16x2 .e4m3x2|e5m2x2", "d a:1").since(8, 1, 89),
    row("cvt.pack .sat .u16|s16 .s32", "d:u32 a:1 a:1").since(6, 5, 72),
    row("cvt.pack .sat .u8|s8|u4@6.5/75|s4@6.5/75 .s32 .b32", "d:u32 a:1 a:1 a:2").since(6, 5, 72),
    row("cvta .const|global|local|shared|shared::cta@7.8/30|param@7.7/20 .u64", "d n").since(2, 0, 20),
    row("cvta .to .const|global|local|shared|shared::cta@7.8/30|param@7.7/20 .u64", "d r").since(2, 0, 20),
    row("isspacep .const@3.1/20|global|local|shared|shared::cta@7.8/30|param@7.7/20", "d:pred r:u64")
        .since(2, 0, 20),
];
