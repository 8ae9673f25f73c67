//! Taking the wanted files out of the archives the registries deliver.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use flate2::read::GzDecoder;

use super::Source;
use crate::DataError;

/// The ratings within the archive within the source package.
const RATINGS_ARCHIVE: &str = "additional_resources/hutto_ICWSM_2014.tar.gz";
const RATINGS: &str = "movieReviewSnippets_GroundTruth.txt";

/// Writes the file `name` of `source` from `archive` to `out`.
pub(super) fn extract(
    source: Source,
    name: &str,
    archive: &Path,
    out: &mut dyn Write,
) -> Result<(), DataError> {
    match source {
        Source::MovieReviews => {
            let mut found = false;
            each_file(archive, open(archive)?, |path, inner| {
                if path.ends_with(RATINGS_ARCHIVE) {
                    each_file(archive, inner, |path, content| {
                        if path.ends_with(RATINGS) {
                            found = true;
                            copy(archive, content, out)?;
                        }
                        Ok(())
                    })?;
                }
                Ok(())
            })?;
            present(found, archive, RATINGS)
        }
        Source::PlainText => brown(archive, out),
        Source::Gpt2Bpe => {
            let wanted = format!("package/{}", name.rsplit('/').next().unwrap_or(name));
            let mut found = false;
            each_file(archive, open(archive)?, |path, content| {
                if path == wanted {
                    found = true;
                    copy(archive, content, out)?;
                }
                Ok(())
            })?;
            present(found, archive, &wanted)
        }
        Source::Smollm2 => {
            let mut zip = zip::ZipArchive::new(open(archive)?).map_err(|e| broken(archive, &e))?;
            let names: Vec<String> = zip.file_names().flatten().map(|n| n.into_owned()).collect();
            let wanted = names.iter().find(|n| n.rsplit('/').next() == Some(name));
            let Some(wanted) = wanted else { return present(false, archive, name) };
            let mut content = zip.by_name(wanted).map_err(|e| broken(archive, &e))?;
            copy(archive, &mut content, out)
        }
    }
}

/// The tagged corpus as plain sentences: files `ca01` to `cr09` in order, `word/tag` cut down to `word`, blanks
/// squeezed, empty lines dropped.
fn brown(archive: &Path, out: &mut dyn Write) -> Result<(), DataError> {
    let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
    each_file(archive, open(archive)?, |path, content| {
        let name = path.rsplit('/').next().unwrap_or_default();
        let [b'c', b'a'..=b'r', b'0'..=b'9', b'0'..=b'9'] = name.as_bytes() else { return Ok(()) };
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(|e| DataError::io(archive, e))?;
        parts.push((path.to_owned(), bytes));
        Ok(())
    })?;
    present(!parts.is_empty(), archive, "ca01")?;
    parts.sort();
    let all: Vec<u8> = parts.into_iter().flat_map(|(_, bytes)| bytes).collect();
    let mut line = Vec::new();
    for raw in all.split(|&b| b == b'\n') {
        strip_tags(raw, &mut line);
        if !line.is_empty() {
            line.push(b'\n');
            out.write_all(&line).map_err(|e| DataError::io(archive, e))?;
        }
    }
    Ok(())
}

/// Drops every `/tag`, leading blanks and doubled blanks.
fn strip_tags(raw: &[u8], line: &mut Vec<u8>) {
    line.clear();
    let mut at = 0;
    while at < raw.len() {
        let blank = |b: u8| b == b' ' || b == b'\t';
        let tag = raw[at] == b'/' && raw.get(at + 1).is_some_and(|&b| !blank(b));
        if tag {
            at += raw[at..].iter().position(|&b| blank(b)).unwrap_or(raw.len() - at);
            continue;
        }
        match blank(raw[at]) {
            true if matches!(line.last(), None | Some(b' ')) => {}
            true => line.push(b' '),
            false => line.push(raw[at]),
        }
        at += 1;
    }
}

fn open(archive: &Path) -> Result<BufReader<File>, DataError> {
    File::open(archive).map(BufReader::new).map_err(|e| DataError::io(archive, e))
}

/// Calls `visit` for each regular file of a gzipped tar.
fn each_file<R: Read>(
    archive: &Path,
    compressed: R,
    mut visit: impl FnMut(&str, &mut dyn Read) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut tar = tar::Archive::new(GzDecoder::new(compressed));
    for entry in tar.entries().map_err(|e| broken(archive, &e))? {
        let mut entry = entry.map_err(|e| broken(archive, &e))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(|e| broken(archive, &e))?.to_string_lossy().into_owned();
        visit(&path, &mut entry)?;
    }
    Ok(())
}

fn copy(archive: &Path, content: &mut dyn Read, out: &mut dyn Write) -> Result<(), DataError> {
    std::io::copy(content, out).map(drop).map_err(|e| broken(archive, &e))
}

fn broken(archive: &Path, error: &dyn std::fmt::Display) -> DataError {
    let problem =
        format!("cannot unpack ({error}); the download was cut short or the disk is full, try again");
    DataError::Format { path: archive.to_owned(), problem }
}

fn present(found: bool, archive: &Path, name: &str) -> Result<(), DataError> {
    if found {
        return Ok(());
    }
    let problem = format!("the archive has no {name}; the package has changed");
    Err(DataError::Format { path: archive.to_owned(), problem })
}
