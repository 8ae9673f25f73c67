//! Matrices: `wmma`, `mma`, `ldmatrix`, `movmatrix` (9.7.14).
//!
//! The counts are registers per thread: rows times columns of the operand, over 32 threads, over the elements that one
//! register holds.
use crate::check::form::{Row, row};
use crate::syntax::ast::Modifiers;

/// 4-bit and 1-bit fragments have one layout each: A by rows, B by columns.
fn narrow_layout(mods: &Modifiers) -> Result<(), &'static str> {
    use crate::syntax::ast::{Fragment, MatrixLayout};
    match (mods.fragment, mods.layouts[0]) {
        (Some(Fragment::A), Some(MatrixLayout::Col)) => Err("this A is in row layout only"),
        (Some(Fragment::B), Some(MatrixLayout::Row)) => Err("this B is in column layout only"),
        _ => Ok(()),
    }
}

pub(super) const ROWS: &[Row] = &[
    // wmma.load: f16
    row("wmma.load .a|b .sync .aligned .row|col .m16n16k16|m8n32k16@6.1/70|m32n8k16@6.1/70 ?global|$shared .f16", "d8:f16x2 m a:u32?").since(6, 0, 70),
    row("wmma.load .c .sync .aligned .row|col .m16n16k16|m8n32k16@6.1/70|m32n8k16@6.1/70 ?global|$shared .f16", "d4:f16x2 m a:u32?").since(6, 0, 70),
    row("wmma.load .c .sync .aligned .row|col .m16n16k16|m8n32k16@6.1/70|m32n8k16@6.1/70 ?global|$shared .f32", "d8 m a:u32?").since(6, 0, 70),
    // wmma.load: 8-bit integers
    row("wmma.load .a|b .sync .aligned .row|col .m16n16k16 ?global|$shared .u8|s8", "d2:b32 m a:u32?").since(6, 3, 72),
    row("wmma.load .a .sync .aligned .row|col .m8n32k16 ?global|$shared .u8|s8", "d1:b32 m a:u32?").since(6, 3, 72),
    row("wmma.load .b .sync .aligned .row|col .m8n32k16 ?global|$shared .u8|s8", "d4:b32 m a:u32?").since(6, 3, 72),
    row("wmma.load .a .sync .aligned .row|col .m32n8k16 ?global|$shared .u8|s8", "d4:b32 m a:u32?").since(6, 3, 72),
    row("wmma.load .b .sync .aligned .row|col .m32n8k16 ?global|$shared .u8|s8", "d1:b32 m a:u32?").since(6, 3, 72),
    row("wmma.load .c .sync .aligned .row|col .m16n16k16|m8n32k16|m32n8k16 ?global|$shared .s32", "d8 m a:u32?").since(6, 3, 72),
    // wmma.load: bf16, tf32, f64
    row("wmma.load .a|b .sync .aligned .row|col .m16n16k16 ?global|$shared .bf16", "d4:b32 m a:u32?").since(7, 0, 80),
    row("wmma.load .a .sync .aligned .row|col .m8n32k16 ?global|$shared .bf16", "d2:b32 m a:u32?").since(7, 0, 80),
    row("wmma.load .b .sync .aligned .row|col .m8n32k16 ?global|$shared .bf16", "d8:b32 m a:u32?").since(7, 0, 80),
    row("wmma.load .a .sync .aligned .row|col .m32n8k16 ?global|$shared .bf16", "d8:b32 m a:u32?").since(7, 0, 80),
    row("wmma.load .b .sync .aligned .row|col .m32n8k16 ?global|$shared .bf16", "d2:b32 m a:u32?").since(7, 0, 80),
    row("wmma.load .a|b .sync .aligned .row|col .m16n16k8 ?global|$shared .tf32", "d4:b32 m a:u32?").since(7, 0, 80),
    row("wmma.load .c .sync .aligned .row|col .m16n16k8 ?global|$shared .f32", "d8 m a:u32?").since(7, 0, 80),
    row("wmma.load .a|b .sync .aligned .row|col .m8n8k4 ?global|$shared .f64", "d1 m a:u32?").since(7, 0, 80),
    row("wmma.load .c .sync .aligned .row|col .m8n8k4 ?global|$shared .f64", "d2 m a:u32?").since(7, 0, 80),
    // wmma.load: 4 and 1 bit
    row("wmma.load .a|b .sync .aligned .row|col .m8n8k32 ?global|$shared .u4|s4", "d1:b32 m a:u32?").since(6, 3, 75).rule(narrow_layout),
    row("wmma.load .c .sync .aligned .row|col .m8n8k32|m8n8k128 ?global|$shared .s32", "d2 m a:u32?").since(6, 3, 75),
    row("wmma.load .a|b .sync .aligned .row|col .m8n8k128 ?global|$shared .b1", "d1:b32 m a:u32?").since(6, 3, 75).rule(narrow_layout),
    // wmma.store
    row("wmma.store .d .sync .aligned .row|col .m16n16k16|m8n32k16@6.1/70|m32n8k16@6.1/70 ?global|$shared .f16", "m r4:f16x2 a:u32?").since(6, 0, 70),
    row("wmma.store .d .sync .aligned .row|col .m16n16k16|m8n32k16@6.1/70|m32n8k16@6.1/70 ?global|$shared .f32", "m r8 a:u32?").since(6, 0, 70),
    row("wmma.store .d .sync .aligned .row|col .m16n16k16|m8n32k16|m32n8k16 ?global|$shared .s32", "m r8 a:u32?").since(6, 3, 72),
    row("wmma.store .d .sync .aligned .row|col .m16n16k8 ?global|$shared .f32", "m r8 a:u32?").since(7, 0, 80),
    row("wmma.store .d .sync .aligned .row|col .m8n8k4 ?global|$shared .f64", "m r2 a:u32?").since(7, 0, 80),
    row("wmma.store .d .sync .aligned .row|col .m8n8k32|m8n8k128 ?global|$shared .s32", "m r2 a:u32?").since(6, 3, 75),
    // wmma.mma: f16 by the types of D and C
    row("wmma.mma .sync .aligned .row|col .row|col .m16n16k16|m8n32k16@6.1/70|m32n8k16@6.1/70 .f16 .f16", "d4:f16x2 r8:f16x2 r8:f16x2 r4:f16x2").since(6, 0, 70),
    row("wmma.mma .sync .aligned .row|col .row|col .m16n16k16|m8n32k16@6.1/70|m32n8k16@6.1/70 .f32 .f16", "d8:f32 r8:f16x2 r8:f16x2 r4:f16x2").since(6, 0, 70),
    row("wmma.mma .sync .aligned .row|col .row|col .m16n16k16|m8n32k16@6.1/70|m32n8k16@6.1/70 .f16 .f32", "d4:f16x2 r8:f16x2 r8:f16x2 r8:f32").since(6, 0, 70),
    row("wmma.mma .sync .aligned .row|col .row|col .m16n16k16|m8n32k16@6.1/70|m32n8k16@6.1/70 .f32 .f32", "d8:f32 r8:f16x2 r8:f16x2 r8:f32").since(6, 0, 70),
    row("wmma.mma .sync .aligned .row|col .row|col .m16n16k16 .s32 .u8 .u8 .s32 ?satfinite", "d8 r2:b32 r2:b32 r8").since(6, 3, 72),
    row("wmma.mma .sync .aligned .row|col .row|col .m16n16k16 .s32 .s8 .s8 .s32 ?satfinite", "d8 r2:b32 r2:b32 r8").since(6, 3, 72),
    row("wmma.mma .sync .aligned .row|col .row|col .m8n32k16 .s32 .u8 .u8 .s32 ?satfinite", "d8 r1:b32 r4:b32 r8").since(6, 3, 72),
    row("wmma.mma .sync .aligned .row|col .row|col .m8n32k16 .s32 .s8 .s8 .s32 ?satfinite", "d8 r1:b32 r4:b32 r8").since(6, 3, 72),
    row("wmma.mma .sync .aligned .row|col .row|col .m32n8k16 .s32 .u8 .u8 .s32 ?satfinite", "d8 r4:b32 r1:b32 r8").since(6, 3, 72),
    row("wmma.mma .sync .aligned .row|col .row|col .m32n8k16 .s32 .s8 .s8 .s32 ?satfinite", "d8 r4:b32 r1:b32 r8").since(6, 3, 72),
    row("wmma.mma .sync .aligned .row|col .row|col .m16n16k16 .f32 .bf16 .bf16 .f32", "d8 r4:b32 r4:b32 r8").since(7, 0, 80),
    row("wmma.mma .sync .aligned .row|col .row|col .m8n32k16 .f32 .bf16 .bf16 .f32", "d8 r2:b32 r8:b32 r8").since(7, 0, 80),
    row("wmma.mma .sync .aligned .row|col .row|col .m32n8k16 .f32 .bf16 .bf16 .f32", "d8 r8:b32 r2:b32 r8").since(7, 0, 80),
    row("wmma.mma .sync .aligned .row|col .row|col .m16n16k8 .f32 .tf32 .tf32 .f32", "d8 r4:b32 r4:b32 r8").since(7, 0, 80),
    row("wmma.mma .sync .aligned .row|col .row|col .m8n8k4 ?$rnd .f64 .f64 .f64 .f64", "d2 r1 r1 r2").since(7, 0, 80),
    row("wmma.mma .sync .aligned .row .col .m8n8k32 .s32 .u4 .u4 .s32 ?satfinite", "d2 r1:b32 r1:b32 r2").since(6, 3, 75),
    row("wmma.mma .sync .aligned .row .col .m8n8k32 .s32 .s4 .s4 .s32 ?satfinite", "d2 r1:b32 r1:b32 r2").since(6, 3, 75),
    row("wmma.mma .xor|and@7.1/80 .popc .sync .aligned .row .col .m8n8k128 .s32 .b1 .b1 .s32", "d2 r1:b32 r1:b32 r2").since(6, 3, 75),
    // mma: f16
    row("mma .sync .aligned .m8n8k4 .row|col .row|col .f16 .f16 .f16 .f16", "d4:f16x2 r2:f16x2 r2:f16x2 r4:f16x2").since(6, 4, 70),
    row("mma .sync .aligned .m8n8k4 .row|col .row|col .f32 .f16 .f16 .f16", "d8 r2:f16x2 r2:f16x2 r4:f16x2").since(6, 4, 70),
    row("mma .sync .aligned .m8n8k4 .row|col .row|col .f32 .f16 .f16 .f32", "d8 r2:f16x2 r2:f16x2 r8").since(6, 4, 70),
    row("mma .sync .aligned .m16n8k8 .row .col .f16 .f16 .f16 .f16", "d2:f16x2 r2:f16x2 r1:f16x2 r2:f16x2").since(6, 5, 75),
    row("mma .sync .aligned .m16n8k8 .row .col .f32 .f16 .f16 .f32", "d4 r2:f16x2 r1:f16x2 r4").since(6, 5, 75),
    row("mma .sync .aligned .m16n8k16 .row .col .f16 .f16 .f16 .f16", "d2:f16x2 r4:f16x2 r2:f16x2 r2:f16x2").since(7, 0, 80),
    row("mma .sync .aligned .m16n8k16 .row .col .f32 .f16 .f16 .f32", "d4 r4:f16x2 r2:f16x2 r4").since(7, 0, 80),
    // mma: bf16, tf32, f64
    row("mma .sync .aligned .m16n8k8 .row .col .f32 .bf16 .bf16 .f32", "d4 r2:b32 r1:b32 r4").since(7, 0, 80),
    row("mma .sync .aligned .m16n8k16 .row .col .f32 .bf16 .bf16 .f32", "d4 r4:b32 r2:b32 r4").since(7, 0, 80),
    row("mma .sync .aligned .m16n8k4 .row .col .f32 .tf32 .tf32 .f32", "d4 r2:b32 r1:b32 r4").since(7, 0, 80),
    row("mma .sync .aligned .m16n8k8 .row .col .f32 .tf32 .tf32 .f32", "d4 r4:b32 r2:b32 r4").since(7, 0, 80),
    row("mma .sync .aligned .m8n8k4 .row .col .f64 .f64 .f64 .f64 ?$rnd", "d2 r1 r1 r2").since(7, 0, 80),
    // mma: 8-bit integers
    row("mma .sync .aligned .m8n8k16 .row .col ?satfinite .s32 .u8|s8 .u8|s8 .s32", "d2 r1:b32 r1:b32 r2").since(6, 5, 75),
    row("mma .sync .aligned .m16n8k16 .row .col ?satfinite .s32 .u8|s8 .u8|s8 .s32", "d4 r2:b32 r1:b32 r4").since(7, 0, 80),
    row("mma .sync .aligned .m16n8k32 .row .col ?satfinite .s32 .u8|s8 .u8|s8 .s32", "d4 r4:b32 r2:b32 r4").since(7, 0, 80),
    // mma: 4-bit integers
    row("mma .sync .aligned .m8n8k32 .row .col ?satfinite .s32 .u4|s4 .u4|s4 .s32", "d2 r1:b32 r1:b32 r2").since(6, 5, 75),
    row("mma .sync .aligned .m16n8k32 .row .col ?satfinite .s32 .u4|s4 .u4|s4 .s32", "d4 r2:b32 r1:b32 r4").since(7, 0, 80),
    row("mma .sync .aligned .m16n8k64 .row .col ?satfinite .s32 .u4|s4 .u4|s4 .s32", "d4 r4:b32 r2:b32 r4").since(7, 0, 80),
    // mma: bits
    row("mma .sync .aligned .m8n8k128 .row .col .s32 .b1 .b1 .s32 .xor|and@7.1/80 .popc", "d2 r1:b32 r1:b32 r2").since(7, 0, 75),
    row("mma .sync .aligned .m16n8k128 .row .col .s32 .b1 .b1 .s32 .xor|and@7.1/80 .popc", "d4 r2:b32 r1:b32 r4").since(7, 0, 80),
    row("mma .sync .aligned .m16n8k256 .row .col .s32 .b1 .b1 .s32 .xor|and@7.1/80 .popc", "d4 r4:b32 r2:b32 r4").since(7, 0, 80),
    // mma: 8-bit floats
    row("mma .sync .aligned .m16n8k32 .row .col .f32 .e4m3|e5m2 .e4m3|e5m2 .f32", "d4 r4:b32 r2:b32 r4").since(8, 4, 89),
    row("mma .sync .aligned .m16n8k32 .row .col .f16 .e4m3|e5m2 .e4m3|e5m2 .f16", "d2:f16x2 r4:b32 r2:b32 r2:f16x2").since(8, 7, 89),
    row("mma .sync .aligned .m16n8k16 .row .col .f32 .e4m3|e5m2 .e4m3|e5m2 .f32", "d4 r2:b32 r1:b32 r4").since(8, 7, 89),
    row("mma .sync .aligned .m16n8k16 .row .col .f16 .e4m3|e5m2 .e4m3|e5m2 .f16", "d2:f16x2 r2:b32 r1:b32 r2:f16x2").since(8, 7, 89),
    // moving 8 x 8 matrices
    row("ldmatrix .sync .aligned .m8n8 .x1 ?trans ?$shared .b16", "d1:b32 m").since(6, 5, 75),
    row("ldmatrix .sync .aligned .m8n8 .x2 ?trans ?$shared .b16", "d2:b32 m").since(6, 5, 75),
    row("ldmatrix .sync .aligned .m8n8 .x4 ?trans ?$shared .b16", "d4:b32 m").since(6, 5, 75),
    row("movmatrix .sync .aligned .m8n8 .trans .b16", "d:b32 r:b32").since(7, 8, 75),
];
