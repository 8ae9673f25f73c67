//! Everything that can be wrong with data, said with the file, the line, the field and what to do.

use std::path::PathBuf;

/// Why data could not be loaded, built or downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file whose format cannot be told.
    #[error("{path}: {problem}")]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A record that cannot be used.
    #[error("{path}: line {line}{}: {problem}", field.as_ref().map(|f| format!(", field `{f}`")).unwrap_or_default())]
    Record {
        /// The file.
        path: PathBuf,
        /// 1-based line (for parquet: row).
        line: u64,
        /// The column or key, where one is to blame.
        field: Option<String>,
        /// What is wrong and what to do.
        problem: String,
    },
    /// No usable record at all.
    #[error("{path}: no records; expected {expected}")]
    Empty {
        /// The file or folder.
        path: PathBuf,
        /// What a record looks like.
        expected: String,
    },
    /// Labelled data in which every record has the same label.
    #[error(
        "{path}: all {count} records are {label}; a classifier needs both classes. Check the label column, \
         or allow one class (`allow_one_class`) if this is meant"
    )]
    OneClass {
        /// The file or folder.
        path: PathBuf,
        /// The only label there is.
        label: &'static str,
        /// How many records carry it.
        count: usize,
    },
    /// A request that makes no sense, whatever the data.
    #[error("{0}")]
    Request(String),
    /// A program the download needs is missing.
    #[error("`{program}` is needed to fetch {what} but could not be started ({detail}); install it: {hint}")]
    MissingProgram {
        /// Name of the program.
        program: String,
        /// What was being fetched.
        what: String,
        /// What the system said.
        detail: String,
        /// How to get it.
        hint: String,
    },
    /// A program ran and failed.
    #[error("fetching {what}: `{command}` failed ({status}): {detail}")]
    ProgramFailed {
        /// What was being fetched.
        what: String,
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote to stderr.
        detail: String,
    },
    /// A downloaded file is not what it should be.
    #[error(
        "{name}: {what} is {found}, expected {expected}; the source has changed or the download was cut short. \
         Delete the partial download and try again"
    )]
    Checksum {
        /// Which file.
        name: String,
        /// `size` or `SHA-256`.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
}

impl DataError {
    /// Wraps an I/O error with the path it happened on.
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> DataError {
        DataError::Io { path: path.to_owned(), source }
    }
}
