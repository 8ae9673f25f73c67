//! Data, tensor and pipeline parallelism over an engine that is there.
//!
//! - A [`Link`] moves bytes between processes: MPI ([`launch`] finds it under its starter), or processes of our own over sockets
//!   or threads over channels.
//! - A [`Comm`] moves device buffers: through host memory over a link, or over NCCL on the device's stream, or nowhere in a dry
//!   run, where it counts.
//! - A [`Mesh`] arranges the ranks in data, tensor and pipeline groups.
//!
//! MPI and NCCL are libraries found at run time; building needs neither.
//!
//! **Architecture Invariant:** this crate knows buffers and ranks; never a tape, a model or a file.
//!
//! **Architecture Invariant:** sums run in the order of ranks, element by element, so that a job repeats itself bit for bit, with the
//! same bits on all ranks. (NCCL chooses its own order, the same one for the same machines and lengths.)
mod comm;
mod dry;
mod error;
mod launch;
mod link;
mod local;
mod mesh;
mod mpi;
mod nccl;
mod socket;

pub use comm::Comm;
pub use dry::Traffic;
pub use error::{CommError, Result};
pub use launch::{Engine, Ranks, Role, World, follow_starter, role, started_by_mpi};
pub use link::Link;
pub use local::threads;
pub use mesh::{Carrier, Group, Mesh, Shape};
pub use nccl::Nccl;
