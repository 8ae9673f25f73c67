//! From text to the syntax tree.
pub mod ast;
mod lexer;
pub mod limits;
pub mod modifiers;
pub mod opcode;
mod parser;
mod scope;
pub mod special;
pub mod types;

pub use parser::parse;
