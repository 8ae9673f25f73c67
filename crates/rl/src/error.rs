//! What can be wrong with the numbers handed in.

/// The errors of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A configuration field holds a value that cannot be used.
    #[error("{field} = {value}: {advice}")]
    Config {
        /// The field's name as written in the configuration.
        field: &'static str,
        /// Its value.
        value: String,
        /// Why it is refused and what to write instead.
        advice: String,
    },
    /// An array has the wrong length.
    #[error("{name} has {got} values, expected {expected} ({unit})")]
    Length {
        /// The argument.
        name: &'static str,
        /// Values found.
        got: usize,
        /// Values expected.
        expected: usize,
        /// What there is one value of: "one per token", "one per response", ...
        unit: &'static str,
    },
    /// The offsets do not describe a batch.
    #[error(
        "starts is not a list of offsets: {0}; it must begin with 0, rise, and end with the number of tokens"
    )]
    Starts(String),
    /// A response without tokens.
    #[error("response {index} has no tokens; keep at least its end-of-sequence token, or drop the response")]
    EmptyResponse {
        /// Its index in the batch.
        index: usize,
    },
    /// An input is needed and was not given.
    #[error("{name} is missing: {why}")]
    Missing {
        /// The argument.
        name: &'static str,
        /// What needs it.
        why: String,
    },
    /// The number of responses does not split into groups of one prompt.
    #[error("{responses} responses do not split into groups of {group} for {estimator}; {advice}")]
    Groups {
        /// The advantage estimator.
        estimator: &'static str,
        /// Responses in the batch.
        responses: usize,
        /// Responses per prompt (`num_generations`).
        group: usize,
        /// What to do.
        advice: &'static str,
    },
    /// A number is NaN or infinite.
    #[error("{name} is {value} at index {index}; find where it became non-finite before going on")]
    NonFinite {
        /// The argument.
        name: &'static str,
        /// The position in it.
        index: usize,
        /// The value as text.
        value: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn check_len(name: &'static str, got: usize, expected: usize, unit: &'static str) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Length { name, got, expected, unit }) }
}

pub(crate) fn check_finite(name: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NonFinite { name, index, value: values[index].to_string() }),
    }
}
