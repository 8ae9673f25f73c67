//! CSV, TSV and the snippets file.

use std::path::Path;

use super::assemble::Assembler;
use super::{LoadOptions, Loaded, at_line, read_text};
use crate::DataError;

pub(super) fn load(path: &Path, options: &LoadOptions, delimiter: u8) -> Result<Loaded, DataError> {
    read(path, options, delimiter, options.names.as_deref())
}

/// Id, mean rating, text.
pub(super) fn load_snippets(path: &Path, options: &LoadOptions) -> Result<Loaded, DataError> {
    let names = ["id", "rating", "text"].map(str::to_owned);
    read(path, options, b'\t', Some(&names))
}

fn read(
    path: &Path,
    options: &LoadOptions,
    delimiter: u8,
    names: Option<&[String]>,
) -> Result<Loaded, DataError> {
    let text = read_text(path)?;
    if text.trim().is_empty() {
        let expected = "a header row and one record a line".to_owned();
        return Err(DataError::Empty { path: path.to_owned(), expected });
    }
    // tab-separated files hold quotes as they are
    let quoting = delimiter == b',';
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(quoting)
        .has_headers(names.is_none())
        .flexible(true)
        .from_reader(text.as_bytes());
    let columns: Vec<String> = match names {
        Some(names) => names.to_vec(),
        None => {
            let header = reader.headers().map_err(|e| at_line(path, 1, None, e.to_string()))?;
            header.iter().map(|name| name.trim().to_owned()).collect()
        }
    };
    let present: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut records = Assembler::new(path, options, &present)?;
    let mut row = csv::StringRecord::new();
    loop {
        let before = reader.position().clone();
        let more = reader.read_record(&mut row);
        if !more.map_err(|e| at_line(path, before.line(), None, e.to_string()))? {
            break;
        }
        let line = row.position().map_or(before.line(), csv::Position::line);
        let start = row.position().map_or(0, |p| p.byte() as usize);
        if row.len() == 1 && row[0].trim().is_empty() && columns.len() > 1 {
            continue;
        }
        if quoting && reader.position().byte() as usize >= text.len() {
            check_end(path, line, &text[start..], delimiter)?;
        }
        if row.len() != columns.len() {
            let problem = format!(
                "{} fields where {} are expected ({}); quote fields that hold the delimiter, and check that the file is \
                 complete",
                row.len(),
                columns.len(),
                columns.join(", ")
            );
            return Err(at_line(path, line, None, problem));
        }
        records.push(line, |name| Ok(columns.iter().position(|c| c == name).map(|i| row[i].to_owned())))?;
    }
    records.finish()
}

/// A quote opened in the last record and never closed: the parser would take the rest of the file for one field.
fn check_end(path: &Path, line: u64, record: &str, delimiter: u8) -> Result<(), DataError> {
    let opens = record.starts_with('"') || record.contains(&format!("{}\"", delimiter as char));
    if opens && record.matches('"').count() % 2 == 1 {
        let problem =
            "a quoted field is never closed; the file looks cut short, or a quote inside it is not doubled";
        return Err(at_line(path, line, None, problem));
    }
    Ok(())
}
