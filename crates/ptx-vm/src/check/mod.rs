//! What the ISA allows: the instruction table, and the check of every instruction against it.
//!
//! **Architecture Invariant:** after [`check`] every instruction is one the ISA has, with operands of the right kind
//! and type, for the module's `.version` and `.target`; nothing later looks for such mistakes again.
pub mod form;
pub mod head;
mod module;
mod operands;
mod rows;
mod words;

pub use module::{BUILTINS, check, compile};
