//! What every kernel is made of: typed arguments, cost, and the [`Kernel`] trait.
//!
//! A kernel is a small struct that holds a shape (`LayerNormForward { rows, cols, .. }`). It has several
//! faces over the same typed arguments: a check of the arguments, the native CPU twin, the GPU launches of its
//! hand-written PTX as plain data, and the cost that the mathematics needs at least.
//!
//! **Architecture Invariant:** this crate knows no kernel, no device and no model.
mod arg;
mod cost;
mod float;
mod launch;

pub use arg::{ArgError, In, Out, expect_len, optional, optional_out};
pub use cost::Cost;
pub use float::{Float, Half, bf16, f16, narrow, widen};
pub use launch::{
    DevicePtr, Entry, Launch, LaunchError, Launcher, Module, PARAM_BYTES, Param, Params, Recorder, RunError,
};

/// A kernel: a shape, and what can be done with arguments of that shape.
///
/// Implementations are plain data (`Copy` where possible) and hold no buffers.
pub trait Kernel {
    /// The typed arguments; slices borrowed for one call.
    type Args<'a>;

    /// The name used in errors, counters and profiles, e.g. `"layer_norm_forward"`.
    const NAME: &'static str;

    /// Checks lengths and limits; the error names the argument.
    fn check(&self, args: &Self::Args<'_>) -> Result<(), ArgError>;

    /// The fewest bytes and operations that the mathematics needs, for rooflines and plans.
    fn cost(&self) -> Cost;

    /// The native CPU twin. Deterministic: the same bits for any number of threads.
    ///
    /// Called only after [`Kernel::check`] passed, with host arguments.
    fn cpu(&self, args: Self::Args<'_>);

    /// Submits the hand-written PTX for these arguments.
    ///
    /// Called only after [`Kernel::check`] passed, with device arguments. Deterministic: the same bits every run.
    ///
    /// # Errors
    /// What the launcher says.
    fn ptx(&self, args: Self::Args<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError>;
}
