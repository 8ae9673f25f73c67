//! Dense matrix products with fused epilogues.
//!
//! Every output element is one chain over the inner dimension, ascending, of fused multiply-adds; then the
//! bias, then the residual. So a row's result depends on nothing but that row and the weights: not on the
//! number of rows, the tile it fell into, the threads, or the instruction set.
//! The PTX keeps to that: f32 products have the twin's bits, bf16 ones a tensor-core chain in ascending k. Only [`Gemm`],
//! the general tensor-core product for other engines, may split k, in an order of its own.
mod bf16;
mod bf16_ptx;
mod blocks;
mod dense;
mod gemm;
mod linear;
mod matmul;
mod micro;
mod pack;
mod panel;
mod tensor;

pub use bf16::{
    Bf16Linear, Bf16LinearArgs, Bf16LinearBackward, Bf16LinearBackwardArgs, PackBf16, PackBf16Args, Packed,
    bf16_columns, bf16_packed_len, halves, pair, pairs, round_bf16, row_pairs, times_packed, times_pairs,
    unpack_bf16,
};
pub use bf16_ptx::{UnpackBf16, UnpackBf16Args};
pub use blocks::for_blocks;
pub use dense::DenseTile;
pub use gemm::{Activation, Gemm, GemmArgs, GemmOf, round_tf32};
pub use linear::{Linear, LinearArgs};
pub use matmul::{Matmul, MatmulArgs, Tiled};
pub use micro::Element;
pub use pack::{PackWeight, PackWeightArgs, packed_len};
pub use panel::{Strided, Target, product, tile_cols, tile_rows};

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
