//! What can be wrong with a model file.

use std::path::{Path, PathBuf};

/// An error of reading or writing model files; names the file and, where there is one, the tensor or field.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is damaged or not what it should be.
    #[error("{path}: {problem}")]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        |source| Error::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn bad(path: &Path, problem: impl Into<String>) -> Error {
        Error::Bad { path: path.to_path_buf(), problem: problem.into() }
    }
}
