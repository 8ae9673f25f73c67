//! `libcuda.so` on the PTX VM: programs that use the CUDA driver API run unchanged with no GPU.
//!
//! From the outside in:
//! - `symbols`: every name of the driver API; those that are not there refuse and say so.
//! - `api`: the exported functions, one family a file, each a few lines over what follows.
//! - `ffi`, `handle`: clients' pointers and handles, and the frame that keeps panics inside.
//! - `driver`, `device`, `context`: what there is; `module`, `image`, `join`, `launch`, `occupancy`: code and its launches.
//! - `op`: what is done (kernels, copies, fills, host functions), as data; `submit`: its way into a `stream`, or through
//!   `capture` into a `graph`; `fence`, `event`: points in streams.
//! - `place`, `host`, `pool`, `graph_memory`: whose memory an address is.
//! - `config`, `counters`: the environment, and the file of counters.
//!
//! **Architecture Invariant:** everything about PTX is in `ptx-vm`; this crate only plays the driver around it.
mod api;
mod capture;
mod config;
mod context;
mod counters;
mod device;
mod driver;
mod event;
mod fence;
mod ffi;
mod graph;
mod graph_memory;
mod handle;
mod host;
mod image;
mod join;
mod launch;
mod module;
mod occupancy;
mod op;
mod place;
mod pool;
mod result;
mod stream;
mod submit;
mod symbols;
