//! A virtual machine for PTX: parse, check, execute and count CUDA kernels on the CPU.
//!
//! The way of a module: [`syntax`] turns text into a tree in which every name is resolved; the check stage holds
//! each instruction against a table of what the ISA allows; layout gives each variable its place; flow finds basic
//! blocks and where divergent threads meet again. Only then does anything execute.
pub mod check;
pub mod counters;
mod decode;
pub mod diagnostic;
mod exec;
pub mod flow;
pub mod gpu;
pub mod launch;
pub mod layout;
pub mod memory;
mod mma;
pub mod module;
pub mod strict;
pub mod syntax;
pub mod value;

pub use counters::Counters;
pub use diagnostic::LoadError;
pub use launch::{Checks, DeviceModel, Launch, Options, launch};
pub use memory::{Memory, MemoryError};
pub use module::{Kernel, Loaded, Module, Param};
pub use strict::{Fault, FaultKind};
