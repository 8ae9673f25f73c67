//! Row movement and sums that the tape needs between the fused kernels.
//!
//! Memory-bound, one read and one write per element; every sum runs in an order fixed by the shape.
mod add;
mod cast;
mod column_sum;
mod reduce;
mod rows;

pub use add::{Add, AddArgs, AddOf};
pub use cast::{Cast, CastArgs};
pub use column_sum::{ColumnSum, ColumnSumArgs, ColumnSumOf};
pub use reduce::{Reduce, ReduceArgs, ReduceOf, Reduction};
pub use rows::{
    GatherRows, GatherRowsArgs, GatherRowsOf, ScatterAddRows, ScatterAddRowsArgs, ScatterAddRowsOf,
};

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
