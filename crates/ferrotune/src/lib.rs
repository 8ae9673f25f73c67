//! RLHF fine-tuning of language models: the facade over the workspace.
//!
//! ```no_run
//! use ferrotune::{config::Config, pipeline};
//! let config = Config::embedded();
//! let (device, out) = (ferrotune::device::Device::cpu(), std::path::Path::new("runs/mine"));
//! let mesh = ferrotune::parallel::Mesh::alone();
//! let done = pipeline::train(pipeline::Request { config, device, mesh, out, resume: false, stage: None, quiet: true })?;
//! println!("{}", done.table);
//! # Ok::<(), ferrotune::error::Error>(())
//! ```
pub use autograd;
pub use data;
pub use device;
pub use formats;
pub use model;
pub use parallel;
pub use rl;
pub use trainer::*;
