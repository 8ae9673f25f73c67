//! From text to the syntax tree.
pub mod ast;
pub mod modifiers;
pub mod opcode;
pub mod special;
pub mod types;
