//! LLM.int8: mixed-precision int8 linear layers, forward and backward.
