//! Low-rank adapters, forward and backward.
