//! The exported functions, one family a file.
//!
//! Signatures follow the driver API: a handle is a `usize`, a device pointer a `u64`, a `size_t` a `usize`, an enum an
//! `i32` or `u32`. `_v2` and later are the forms that today's clients bind; older forms whose meaning differs refuse.
#![allow(non_snake_case)]
mod capture;
mod context;
mod copy;
mod device;
mod event;
mod fill;
mod function;
mod graph;
mod graph_memory;
mod init;
mod launch;
mod library;
mod link;
mod memory;
mod module;
mod node;
mod pointer;
mod pool;
mod ptx_run;
mod stream;
