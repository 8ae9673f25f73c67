//! The instruction table: one row per syntax line of the ISA (chapter 9). The notation is in [`super::form`].
mod atomic;
mod compare;
mod control;
mod convert;
mod float;
mod half;
mod integer;
mod matrix;
mod memory;
mod sync;

use super::form::Row;

/// Every row, by family.
pub(super) const ALL: &[&[Row]] = &[
    integer::ROWS,
    float::ROWS,
    half::ROWS,
    compare::ROWS,
    convert::ROWS,
    memory::ROWS,
    atomic::ROWS,
    sync::ROWS,
    matrix::ROWS,
    control::ROWS,
];
