//! A tape of fused ops, nothing more.
