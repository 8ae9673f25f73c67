//! A virtual machine for PTX: parse, check, execute and count CUDA kernels on the CPU.
//!
//! The way of a module: [`syntax`] turns text into a tree in which every name is resolved; the check stage holds
//! each instruction against a table of what the ISA allows; layout gives each variable its place; flow finds basic
//! blocks and where divergent threads meet again. Only then does anything execute.
pub mod check;
pub mod diagnostic;
pub mod flow;
pub mod layout;
pub mod syntax;
