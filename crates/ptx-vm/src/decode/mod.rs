//! From the checked tree to code that runs: every operand a row, every instruction one closure or one record.
//!
//! Immediates, addresses of variables and the like become constant rows of the function's frame, so that an
//! operand is always "row number so-and-so" and the hot loop never asks what kind it is.
mod compare;
mod control;
mod convert;
mod float;
mod function;
mod instr;
mod integer;
mod memory;
mod moves;
pub(crate) mod program;
mod pure;
mod undefined;

pub(crate) use float::round;
pub(crate) use function::decode;
