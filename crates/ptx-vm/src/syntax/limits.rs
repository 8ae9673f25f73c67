//! How large a module may be. The source may come from anywhere, so every quantity that grows faster than the text
//! (array sizes, register ranges) or that costs stack (nesting) has a bound.

/// Bytes of source text.
pub const SOURCE_BYTES: usize = 256 << 20;
/// Bytes of one variable; larger arrays come from allocation, not from a declaration.
pub const VARIABLE_BYTES: u64 = 1 << 32;
/// Bytes of the initialised part of one variable.
pub const IMAGE_BYTES: u64 = 256 << 20;
/// Nested scopes, nested parentheses and nested initialiser braces.
pub const NESTING: usize = 64;
/// Registers of one `%r<N>` declaration.
pub const REGISTER_RANGE: u64 = 1 << 20;
/// Instructions of one function.
pub const INSTRUCTIONS: usize = 4 << 20;
/// Dimensions of an array.
pub const DIMENSIONS: usize = 16;
/// Operands of one instruction or elements of one vector.
pub const OPERANDS: usize = 64;
/// Alignment of a variable in bytes.
pub const ALIGNMENT: u64 = 1 << 16;
/// Arguments of one call.
pub const SIGNATURE: usize = 1024;
