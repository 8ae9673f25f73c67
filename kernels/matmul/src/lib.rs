//! Dense matrix products with fused epilogues.
