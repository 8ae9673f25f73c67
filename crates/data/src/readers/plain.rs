//! Plain text, one sentence a line; blank lines are skipped.

use std::path::Path;

use super::lines::numbered;
use super::{Loaded, read_text};
use crate::DataError;

pub(super) fn load(path: &Path) -> Result<Loaded, DataError> {
    let items: Vec<String> = numbered(&read_text(path)?).map(|(_, line)| line.to_owned()).collect();
    if items.is_empty() {
        return Err(DataError::Empty { path: path.to_owned(), expected: "one sentence a line".to_owned() });
    }
    Ok(Loaded::Texts(items.into()))
}
