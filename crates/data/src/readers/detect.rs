//! Finding out a format from the name and the first bytes.

use std::io::Read;
use std::path::Path;

use super::{Format, LoadOptions};
use crate::DataError;

pub(super) fn detect(path: &Path, options: &LoadOptions) -> Result<Format, DataError> {
    let about = std::fs::metadata(path).map_err(|e| DataError::io(path, e))?;
    if about.is_dir() {
        return folder(path);
    }
    let mut head = Vec::new();
    let mut file = std::fs::File::open(path).map_err(|e| DataError::io(path, e))?;
    file.by_ref().take(4096).read_to_end(&mut head).map_err(|e| DataError::io(path, e))?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let snippets = options.names.is_none() && looks_like_snippets(&head);
    match extension.as_str() {
        "parquet" => Ok(Format::Parquet),
        "csv" => Ok(Format::Csv),
        "jsonl" | "ndjson" => Ok(Format::Jsonl),
        "tsv" | "tab" if snippets => Ok(Format::Snippets),
        "tsv" | "tab" => Ok(Format::Tsv),
        "json" => json(path, &head),
        _ if head.starts_with(b"PAR1") => Ok(Format::Parquet),
        "txt" | "text" if snippets => Ok(Format::Snippets),
        "txt" | "text" => Ok(Format::Plain),
        _ if snippets => Ok(Format::Snippets),
        _ if head.trim_ascii_start().starts_with(b"{") => Ok(Format::Jsonl),
        _ => Err(unknown(
            path,
            "cannot tell the format; name the file .csv, .tsv, .jsonl, .parquet or .txt, or give the format",
        )),
    }
}

fn unknown(path: &Path, problem: &str) -> DataError {
    DataError::Format { path: path.to_owned(), problem: problem.to_owned() }
}

fn folder(path: &Path) -> Result<Format, DataError> {
    if path.join("train").is_dir() || path.join("test").is_dir() || path.join("pos").is_dir() {
        return Ok(Format::ImdbFolder);
    }
    Err(unknown(
        path,
        "a folder without train/pos and train/neg; give the folder that the IMDb archive unpacks to (aclImdb), or a file",
    ))
}

fn json(path: &Path, head: &[u8]) -> Result<Format, DataError> {
    if head.trim_ascii_start().starts_with(b"[") {
        return Err(unknown(
            path,
            "one big JSON array; write one object a line instead, for example `jq -c '.[]'`",
        ));
    }
    Ok(Format::Jsonl)
}

/// Id, rating and text on the first line.
fn looks_like_snippets(head: &[u8]) -> bool {
    let line = head.split(|&b| b == b'\n').next().unwrap_or_default();
    let fields: Vec<_> = line.splitn(4, |&b| b == b'\t').map(|f| String::from_utf8_lossy(f)).collect();
    let number = |text: &str| text.trim().parse::<f32>().is_ok();
    fields.len() == 3 && fields[0].parse::<u64>().is_ok() && number(&fields[1]) && !number(&fields[2])
}
