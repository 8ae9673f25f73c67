//! Apache parquet with the same columns as CSV or JSONL, read row by row.

use std::path::Path;

use super::{LoadOptions, Loaded};
use crate::DataError;

#[cfg(not(feature = "parquet"))]
pub(super) fn load(path: &Path, _: &LoadOptions) -> Result<Loaded, DataError> {
    let problem =
        "this build cannot read parquet; build with `--features parquet`, or convert to JSONL".to_owned();
    Err(DataError::Format { path: path.to_owned(), problem })
}

#[cfg(feature = "parquet")]
pub(super) fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, DataError> {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    let broken = |e: parquet::errors::ParquetError| DataError::Format {
        path: path.to_owned(),
        problem: format!(
            "not readable as parquet ({e}); the file may be cut short or use a compression other than snappy"
        ),
    };
    let file = std::fs::File::open(path).map_err(|e| DataError::io(path, e))?;
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    let present: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut records = super::assemble::Assembler::new(path, options, &present)?;
    for (index, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        let (line, row) = (index as u64 + 1, row.map_err(broken)?);
        records.push(line, |name| {
            let found = row.get_column_iter().find(|(column, _)| *column == name);
            found.map_or(Ok(None), |(_, field)| value(path, line, name, field))
        })?;
    }
    records.finish()
}

#[cfg(feature = "parquet")]
fn value(
    path: &Path,
    line: u64,
    name: &str,
    field: &parquet::record::Field,
) -> Result<Option<String>, DataError> {
    use parquet::record::Field;

    Ok(Some(match field {
        Field::Null => return Ok(None),
        Field::Str(text) => text.clone(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.to_owned(),
            Err(_) => return Err(super::at_line(path, line, Some(name), "not UTF-8 text")),
        },
        Field::Bool(v) => v.to_string(),
        Field::Byte(v) => v.to_string(),
        Field::Short(v) => v.to_string(),
        Field::Int(v) => v.to_string(),
        Field::Long(v) => v.to_string(),
        Field::UByte(v) => v.to_string(),
        Field::UShort(v) => v.to_string(),
        Field::UInt(v) => v.to_string(),
        Field::ULong(v) => v.to_string(),
        Field::Float(v) => v.to_string(),
        Field::Double(v) => v.to_string(),
        other => {
            let problem = format!("a {other:?} where text or a number is expected");
            return Err(super::at_line(path, line, Some(name), problem));
        }
    }))
}
