//! Execution: register files, lane-wide operations, warps, blocks, grids.
//!
//! A [`block::Block`] owns its warps, its shared memory and its barriers and runs on one thread. A [`warp::Warp`]
//! is a set of paths: groups of lanes that stand at the same instruction of the same call. A path runs until it
//! splits, waits, ends, or its quantum is over; paths wait for each other at joins (the immediate post-dominator of
//! the branch that split them) and at the `.sync` instructions.
//!
//! **Architecture Invariant**: the state of a block changes only on the thread that runs it; the only state that
//! blocks share is memory, and a kernel that can notice other blocks runs all of them on one thread, so that a
//! result never depends on the number of threads.
pub(crate) mod access;
pub(crate) mod atomics;
pub(crate) mod barrier;
pub(crate) mod block;
pub(crate) mod call;
pub(crate) mod context;
pub(crate) mod copies;
pub(crate) mod exchange;
pub(crate) mod grid;
pub(crate) mod lanes;
mod local;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
mod moves;
pub(crate) mod paths;
mod printf;
pub(crate) mod regs;
pub(crate) mod shared;
pub(crate) mod special;
pub(crate) mod tally;
mod undefined;
pub(crate) mod warp;
