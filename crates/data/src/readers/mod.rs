//! Readers for files of labelled texts, demonstrations, ranked pairs and plain sentences, one module a format.
//!
//! | format | what it looks like |
//! |---|---|
//! | IMDb folder | `DIR/train/pos/0_9.txt`, `DIR/train/neg/...`, `DIR/test/...` |
//! | CSV, TSV | a header row, or names given in [`LoadOptions::names`] |
//! | JSONL | one object a line: `text,label`, `prompt,completion` or `prompt,chosen,rejected` |
//! | parquet | the same columns (feature `parquet`) |
//! | snippets | tab-separated id, mean rating around 0, text; no header |
//! | plain text | one sentence a line |

mod assemble;
mod detect;
mod imdb;
mod jsonl;
mod lines;
mod parquet;
mod plain;
mod table;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::{DataError, Dataset, Demonstration, Labelled, Ranked};

/// How a file or folder is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The folders of the Large Movie Review Dataset (Maas et al., 2011).
    ImdbFolder,
    /// Comma-separated values, fields in double quotes where needed.
    Csv,
    /// Tab-separated values, quotes taken literally.
    Tsv,
    /// Movie-review snippets: id, mean rating, text, tab-separated, no header.
    Snippets,
    /// One JSON object a line.
    Jsonl,
    /// Apache parquet.
    Parquet,
    /// One sentence a line.
    Plain,
}

/// What the records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Texts with a class.
    Labelled,
    /// Prompts with a good answer.
    Demonstrations,
    /// Prompts with a better and a worse answer.
    Ranked,
    /// Texts alone.
    Texts,
}

/// Which part of the IMDb folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// `train/` (or `pos/` and `neg/` right under the folder).
    #[default]
    Train,
    /// `test/`.
    Test,
}

/// Names of the columns or keys. `None` takes the first of the usual names that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// `text`, `review`, `sentence` or `content`.
    pub text: Option<String>,
    /// `label`, `sentiment` or `class`.
    pub label: Option<String>,
    /// `rating`, `score` or `stars`.
    pub rating: Option<String>,
    /// `prompt`, `query` or `question`.
    pub prompt: Option<String>,
    /// `completion`, `response` or `answer`.
    pub completion: Option<String>,
    /// `chosen`.
    pub chosen: Option<String>,
    /// `rejected`.
    pub rejected: Option<String>,
}

/// How to load; the default looks at the file and decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// The layout; `None` goes by the name and the first bytes.
    pub format: Option<Format>,
    /// What the records are; `None` goes by the columns.
    pub kind: Option<Kind>,
    /// Names of the columns to read.
    pub columns: Columns,
    /// Names for the columns of a CSV or TSV file that has no header row, in order.
    pub names: Option<Vec<String>>,
    /// Which part of the IMDb folder.
    pub part: Part,
    /// Where there are ratings but no labels: ratings above this are positive. `None` takes 0 where some
    /// ratings are negative, and asks otherwise.
    pub positive_above: Option<f32>,
    /// Accept labelled data in which every label is the same.
    pub allow_one_class: bool,
}

/// What a file held.
#[derive(Clone, Debug, PartialEq)]
pub enum Loaded {
    /// Texts with a class.
    Labelled(Dataset<Labelled>),
    /// Prompts with a good answer.
    Demonstrations(Dataset<Demonstration>),
    /// Prompts with a better and a worse answer.
    Ranked(Dataset<Ranked>),
    /// Texts alone.
    Texts(Dataset<String>),
}

impl Loaded {
    /// How many records.
    pub fn len(&self) -> usize {
        match self {
            Loaded::Labelled(set) => set.len(),
            Loaded::Demonstrations(set) => set.len(),
            Loaded::Ranked(set) => set.len(),
            Loaded::Texts(set) => set.len(),
        }
    }

    /// Whether there are none; [`load`] never returns that.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the records are.
    pub fn kind(&self) -> Kind {
        match self {
            Loaded::Labelled(_) => Kind::Labelled,
            Loaded::Demonstrations(_) => Kind::Demonstrations,
            Loaded::Ranked(_) => Kind::Ranked,
            Loaded::Texts(_) => Kind::Texts,
        }
    }

    /// The labelled texts.
    ///
    /// # Errors
    /// If the records are something else.
    pub fn labelled(self) -> Result<Dataset<Labelled>, DataError> {
        match self {
            Loaded::Labelled(set) => Ok(set),
            other => Err(mismatch("labelled texts (columns `text` and `label`)", other.kind())),
        }
    }

    /// The demonstrations.
    ///
    /// # Errors
    /// If the records are something else.
    pub fn demonstrations(self) -> Result<Dataset<Demonstration>, DataError> {
        match self {
            Loaded::Demonstrations(set) => Ok(set),
            other => Err(mismatch("demonstrations (columns `prompt` and `completion`)", other.kind())),
        }
    }

    /// The ranked pairs.
    ///
    /// # Errors
    /// If the records are something else.
    pub fn ranked(self) -> Result<Dataset<Ranked>, DataError> {
        match self {
            Loaded::Ranked(set) => Ok(set),
            other => Err(mismatch("ranked pairs (columns `prompt`, `chosen`, `rejected`)", other.kind())),
        }
    }

    /// The texts; of labelled texts, the texts; of demonstrations, prompt and completion joined by a space.
    ///
    /// # Errors
    /// If the records are ranked pairs.
    pub fn texts(self) -> Result<Dataset<String>, DataError> {
        match self {
            Loaded::Texts(set) => Ok(set),
            Loaded::Labelled(set) => Ok(set.items.into_iter().map(|item| item.text).collect()),
            Loaded::Demonstrations(set) => Ok(set
                .items
                .into_iter()
                .map(|d| format!("{} {}", d.prompt, d.completion).trim().to_owned())
                .collect()),
            Loaded::Ranked(_) => Err(mismatch("texts", Kind::Ranked)),
        }
    }
}

fn mismatch(needed: &str, found: Kind) -> DataError {
    let found = match found {
        Kind::Labelled => "labelled texts",
        Kind::Demonstrations => "demonstrations",
        Kind::Ranked => "ranked pairs",
        Kind::Texts => "texts without labels",
    };
    DataError::Request(format!(
        "{needed} are needed here, but the file holds {found}; give another file or name the columns"
    ))
}

/// Loads a file or folder, finding out its format where `options` do not say.
///
/// Texts are trimmed; byte-order marks and carriage returns at line ends are dropped. Records come in the
/// order of the file (the IMDb folder: positive first, by number), so shuffle before splitting.
///
/// # Errors
/// Anything missing, malformed, cut short or empty, with the file, line, field and what to do.
pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Loaded, DataError> {
    let path = path.as_ref();
    let format = match options.format {
        Some(format) => format,
        None => detect::detect(path, options)?,
    };
    match format {
        Format::ImdbFolder => imdb::load(path, options),
        Format::Csv => table::load(path, options, b','),
        Format::Tsv => table::load(path, options, b'\t'),
        Format::Snippets => table::load_snippets(path, options),
        Format::Jsonl => jsonl::load(path, options),
        Format::Parquet => parquet::load(path, options),
        Format::Plain => plain::load(path),
    }
}

/// Reads a whole file as UTF-8; an invalid byte is reported with its line.
fn read_text(path: &Path) -> Result<String, DataError> {
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() as u64;
            let problem = format!(
                "byte {at} of the file is not UTF-8; convert the file first, for example `iconv -f latin1 -t utf-8`"
            );
            Err(DataError::Record { path: path.to_owned(), line, field: None, problem })
        }
    }
}

/// An error about one record.
fn at_line(path: &Path, line: u64, field: Option<&str>, problem: impl Into<String>) -> DataError {
    let (path, field): (PathBuf, _) = (path.to_owned(), field.map(str::to_owned));
    DataError::Record { path, line, field, problem: problem.into() }
}
