//! The integer tile on AMX: 16 rows times 16 outputs times 64 inputs are one instruction.
//!
//! A tile register holds up to 16 rows of 64 bytes. Four hold sums (32 rows, two panels), two hold activations (row
//! after row, 64 inputs each) and two hold weights: 16 fours of inputs of a panel, just as they lie in memory. So a
//! step of 64 inputs loads four tiles for four products. Both sides are signed, and the sums are the exact integers
//! of every other instruction set. Intel's manual, volume 2, TDPBSSD.

use crate::micro::{Operands, QUAD};
use crate::pack::COLS;
use std::arch::asm;

/// Rows of a tile register.
const ROWS: usize = 16;
/// Fours of inputs that a tile register holds.
const QUADS: usize = 16;
/// Bytes of its row.
const LINE: usize = 64;

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Sums in tiles 0 to 3 and activations in 4 and 5, by upper and lower rows; weights in 6 and 7.
    fn of(rows: usize) -> Config {
        let (upper, lower) = (rows.min(ROWS) as u8, rows.saturating_sub(ROWS) as u8);
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let all = [upper, upper, lower, lower, upper, lower, QUADS as u8, QUADS as u8];
        for (tile, rows) in all.into_iter().enumerate().filter(|(_, rows)| *rows > 0) {
            (config.rows[tile], config.row_bytes[tile]) = (rows, LINE as u16);
        }
        config
    }
}

/// One instruction that takes a tile and a matrix in memory: its first byte and the bytes between its rows.
macro_rules! with_memory {
    ($format:literal, $at:expr, $stride:expr) => {
        asm!($format, at = in(reg) $at, by = in(reg) $stride, options(nostack, preserves_flags))
    };
}

/// One instruction on tiles alone.
macro_rules! tiles {
    ($format:literal) => {
        asm!($format, options(nostack, preserves_flags, nomem))
    };
}

/// The sums of `rows` rows, 1 to 32.
///
/// # Safety
/// As [`crate::micro::Micro::run`], and [`cpu::amx_int8`] must hold. Activations are complete to a multiple of 64 inputs.
pub(crate) unsafe fn amx(rows: usize, o: &Operands) {
    let config = Config::of(rows);
    // SAFETY: the caller's contract; the tiles are released before anything else can see them.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags));
        match (rows > ROWS, o.panels) {
            (false, 1) => sums::<false, false>(rows, o),
            (false, _) => sums::<false, true>(rows, o),
            (true, 1) => sums::<true, false>(rows, o),
            (true, _) => sums::<true, true>(rows, o),
        }
        tiles!("tilerelease");
    }
}

/// With LOWER there are more than 16 rows, with SECOND two panels.
///
/// # Safety
/// As [`amx`], with the tiles configured.
#[inline(always)]
unsafe fn sums<const LOWER: bool, const SECOND: bool>(rows: usize, o: &Operands) {
    let stride = if SECOND { 2 * LINE } else { LINE };
    let acc = o.acc.cast::<u8>();
    // SAFETY: the caller's contract covers `rows` rows, the panels' columns and all steps; the last, short step
    // reads its weights from a copy that zeros complete.
    unsafe {
        let low = acc.wrapping_add(ROWS * stride);
        if o.resume {
            with_memory!("tileloadd tmm0, [{at} + {by}]", acc, stride);
            if SECOND {
                with_memory!("tileloadd tmm1, [{at} + {by}]", acc.add(LINE), stride);
            }
            if LOWER {
                with_memory!("tileloadd tmm2, [{at} + {by}]", low, stride);
            }
            if LOWER && SECOND {
                with_memory!("tileloadd tmm3, [{at} + {by}]", low.add(LINE), stride);
            }
        } else {
            tiles!("tilezero tmm0");
            if SECOND {
                tiles!("tilezero tmm1");
            }
            if LOWER {
                tiles!("tilezero tmm2");
            }
            if LOWER && SECOND {
                tiles!("tilezero tmm3");
            }
        }
        let (mut x, mut w) = (o.x, o.w);
        for _ in 0..o.quads / QUADS {
            step::<LOWER, SECOND>(x, w, w.wrapping_add(o.next_panel));
            x = x.wrapping_add(rows * LINE);
            w = w.wrapping_add(QUADS * QUAD);
        }
        let rest = o.quads % QUADS * QUAD;
        if rest > 0 {
            let mut ends = [[0i8; QUADS * QUAD]; 2];
            for (p, end) in ends.iter_mut().enumerate().take(o.panels) {
                std::ptr::copy_nonoverlapping(w.wrapping_add(p * o.next_panel), end.as_mut_ptr(), rest);
            }
            step::<LOWER, SECOND>(x, ends[0].as_ptr(), ends[1].as_ptr());
        }
        with_memory!("tilestored [{at} + {by}], tmm0", acc, stride);
        if SECOND {
            with_memory!("tilestored [{at} + {by}], tmm1", acc.add(LINE), stride);
        }
        if LOWER {
            with_memory!("tilestored [{at} + {by}], tmm2", low, stride);
        }
        if LOWER && SECOND {
            with_memory!("tilestored [{at} + {by}], tmm3", low.add(LINE), stride);
        }
    }
}

/// 64 inputs: `x` is `[rows, 64]`, `w` and `second` are `[16, COLS, 4]`.
///
/// # Safety
/// As [`sums`].
#[inline(always)]
unsafe fn step<const LOWER: bool, const SECOND: bool>(x: *const u8, w: *const i8, second: *const i8) {
    const { assert!(QUAD == LINE && COLS == ROWS) };
    // SAFETY: the caller's contract.
    unsafe {
        with_memory!("tileloadd tmm6, [{at} + {by}]", w, LINE);
        with_memory!("tileloadd tmm4, [{at} + {by}]", x, LINE);
        tiles!("tdpbssd tmm0, tmm4, tmm6");
        if LOWER {
            with_memory!("tileloadd tmm5, [{at} + {by}]", x.wrapping_add(ROWS * LINE), LINE);
            tiles!("tdpbssd tmm2, tmm5, tmm6");
        }
        if SECOND {
            with_memory!("tileloadd tmm7, [{at} + {by}]", second, LINE);
            tiles!("tdpbssd tmm1, tmm4, tmm7");
        }
        if LOWER && SECOND {
            tiles!("tdpbssd tmm3, tmm5, tmm7");
        }
    }
}
