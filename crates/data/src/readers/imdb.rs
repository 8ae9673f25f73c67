//! The folders of the Large Movie Review Dataset: one review a file, named `ID_RATING.txt`.

use std::path::{Path, PathBuf};

use super::assemble::check_classes;
use super::{LoadOptions, Loaded, Part, at_line, read_text};
use crate::{DataError, Dataset, Label, Labelled};

pub(super) fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, DataError> {
    let part = match options.part {
        Part::Train if path.join("pos").is_dir() && !path.join("train").is_dir() => path.to_owned(),
        Part::Train => path.join("train"),
        Part::Test => path.join("test"),
    };
    let mut set = Dataset::new(Vec::new());
    for (folder, label) in [("pos", Label::Positive), ("neg", Label::Negative)] {
        let folder = part.join(folder);
        for file in reviews(&folder)? {
            set.items.push(review(&file, label)?);
        }
    }
    if set.is_empty() {
        let expected = "files such as pos/0_9.txt and neg/0_2.txt".to_owned();
        return Err(DataError::Empty { path: part, expected });
    }
    check_classes(&part, options, &set)?;
    Ok(Loaded::Labelled(set))
}

/// The text files of a folder by number.
fn reviews(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = std::fs::read_dir(folder).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => DataError::Format {
            path: folder.to_owned(),
            problem: "missing; an IMDb folder has train/pos, train/neg, test/pos and test/neg".to_owned(),
        },
        _ => DataError::io(folder, e),
    })?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| DataError::io(folder, e))?.path();
        if path.extension().is_some_and(|e| e == "txt") {
            files.push(path);
        }
    }
    files.sort_by_cached_key(|path| (number_and_rating(path).0.unwrap_or(u64::MAX), path.clone()));
    Ok(files)
}

/// `12_7.txt` is review 12, rated 7 of 10.
fn number_and_rating(path: &Path) -> (Option<u64>, Option<f32>) {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("");
    match stem.split_once('_') {
        Some((number, rating)) => (number.parse().ok(), rating.parse().ok()),
        None => (stem.parse().ok(), None),
    }
}

/// Line breaks in HTML become spaces.
fn review(path: &Path, label: Label) -> Result<Labelled, DataError> {
    let text = read_text(path)?.replace("<br /><br />", " ").replace("<br />", " ").trim().to_owned();
    if text.is_empty() {
        return Err(at_line(
            path,
            1,
            None,
            "empty review; the archive looks unpacked only in part, unpack it again",
        ));
    }
    Ok(Labelled { text, label, rating: number_and_rating(path).1 })
}
