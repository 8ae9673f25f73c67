//! What can go wrong between ranks.

/// A collective failed: another rank ended, the ranks disagree, or the engine says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {problem}")]
pub struct CommError {
    /// The collective, or the engine's function.
    pub call: String,
    /// What happened and what to do.
    pub problem: String,
}

impl CommError {
    pub(crate) fn new(call: impl Into<String>, problem: impl Into<String>) -> CommError {
        CommError { call: call.into(), problem: problem.into() }
    }
}

/// This crate's result.
pub type Result<T, E = CommError> = std::result::Result<T, E>;
