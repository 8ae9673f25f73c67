//! LayerNorm, RMSNorm and the gated and ungated activations, forward and backward.
