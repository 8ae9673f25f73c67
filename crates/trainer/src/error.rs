//! What can go wrong, each with where and what to do.

use std::path::{Path, PathBuf};

/// The trainer's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A training error. `Display` names the file, field, stage or step and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is out of range or contradicts another.
    #[error("config: `{field}`: {problem}")]
    Config {
        /// `section.field`.
        field: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A data set could not be read or is unusable.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// A model, tokenizer or checkpoint file could not be read or written.
    #[error(transparent)]
    Format(#[from] formats::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another run holds the directory, or it holds an earlier run.
    #[error("{dir}: {problem}")]
    RunDir {
        /// The run directory.
        dir: PathBuf,
        /// What is in the way and what to do.
        problem: String,
    },
    /// A NaN or infinity appeared; the weights were not touched by it.
    #[error("{what} is not finite: {whence}")]
    NotFinite {
        /// Loss or gradient.
        what: String,
        /// The first place it was seen.
        whence: String,
    },
    /// The GPU or its driver failed.
    #[error("stage `{stage}`: {source}\n  the last good checkpoint is kept; continue with --resume")]
    Device {
        /// Stage name.
        stage: &'static str,
        /// The driver's words.
        source: device::DeviceError,
    },
    /// A stage takes more memory than the device has; nothing was loaded.
    #[error(
        "stage `{stage}` does not fit: {need}, and {room}\n\n{table}\n{advice}\n  \
         memory.limit = \"off\" tries it all the same"
    )]
    DoesNotFit {
        /// Stage name.
        stage: &'static str,
        /// What the plan takes, in words.
        need: String,
        /// What there is, in words.
        room: String,
        /// The plan.
        table: String,
        /// Settings that fit.
        advice: String,
    },
    /// Anything inside a stage, with the stage and step.
    #[error(
        "stage `{stage}`, step {step}: {source}\n  the last good checkpoint is kept; continue with --resume"
    )]
    Step {
        /// Stage name.
        stage: &'static str,
        /// Step, from 1.
        step: usize,
        /// What happened.
        source: Box<Error>,
    },
    /// Another rank ended, or the ranks cannot work together.
    #[error("between the ranks: {0}")]
    Ranks(#[from] parallel::CommError),
    /// Another rank failed; this one stopped with it.
    #[error("rank {rank}: {message}")]
    Peer {
        /// The other rank.
        rank: usize,
        /// What it says.
        message: String,
    },
    /// The user asked to stop; a checkpoint was written.
    #[error("stopped in stage `{stage}` after step {step}; a checkpoint was written, continue with --resume")]
    Interrupted {
        /// Stage name.
        stage: &'static str,
        /// Last finished step.
        step: usize,
    },
    /// A guard of the PPO stage stopped the run.
    #[error(
        "stopped in stage `ppo` after iteration {step}: {alarm}\n  the best checkpoint (iteration {best}) is kept"
    )]
    Alarm {
        /// Iteration.
        step: usize,
        /// The alarm's message.
        alarm: String,
        /// Iteration of the best checkpoint.
        best: usize,
    },
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        |source| Error::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn config(field: &str, problem: impl Into<String>) -> Error {
        Error::Config { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn at(self, stage: &'static str, step: usize) -> Error {
        match self {
            stop @ (Error::Interrupted { .. }
            | Error::Alarm { .. }
            | Error::Device { .. }
            | Error::Step { .. }) => stop,
            source => Error::Step { stage, step, source: Box::new(source) },
        }
    }

    /// Whether it is another rank's failure, which that rank has told.
    pub fn is_of_peer(&self) -> bool {
        match self {
            Error::Peer { .. } => true,
            Error::Step { source, .. } => source.is_of_peer(),
            _ => false,
        }
    }

    /// The process exit code: 130 after an interrupt (as shells expect), else 1.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Interrupted { .. } => 130,
            _ => 1,
        }
    }
}
