//! One JSON object a line.

use std::path::Path;

use serde_json::{Map, Value};

use super::assemble::Assembler;
use super::lines::numbered;
use super::{LoadOptions, Loaded, at_line, read_text};
use crate::DataError;

pub(super) fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, DataError> {
    let text = read_text(path)?;
    let mut records: Option<Assembler> = None;
    for (line, raw) in numbered(&text) {
        let object = parse(path, line, raw)?;
        if records.is_none() {
            let present: Vec<&str> = object.keys().map(String::as_str).collect();
            records = Some(Assembler::new(path, options, &present)?);
        }
        let Some(assembler) = &mut records else { continue };
        assembler.push(line, |name| field(path, line, &object, name))?;
    }
    match records {
        Some(assembler) => assembler.finish(),
        None => {
            Err(DataError::Empty { path: path.to_owned(), expected: "one JSON object a line".to_owned() })
        }
    }
}

fn parse(path: &Path, line: u64, raw: &str) -> Result<Map<String, Value>, DataError> {
    match serde_json::from_str(raw) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => {
            Err(at_line(path, line, None, "not a JSON object; every line must be {\"key\": value, ...}"))
        }
        Err(e) if e.is_eof() => {
            Err(at_line(path, line, None, "ends in the middle of an object; the file looks cut short"))
        }
        Err(e) => Err(at_line(path, line, None, format!("not valid JSON: {e}"))),
    }
}

/// Strings as they are, numbers and booleans spelt out.
fn field(
    path: &Path,
    line: u64,
    object: &Map<String, Value>,
    name: &str,
) -> Result<Option<String>, DataError> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(Value::Bool(flag)) => Ok(Some(flag.to_string())),
        Some(Value::Array(_) | Value::Object(_)) => {
            let problem =
                "a list or object where a string is expected; turn chat messages into plain text first";
            Err(at_line(path, line, Some(name), problem))
        }
    }
}
