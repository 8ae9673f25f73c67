//! Rotary embedding, causal attention over ragged batches, forward and backward, and KV-cache decode.
