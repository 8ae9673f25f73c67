//! AdamW, gradient norm and clipping.
