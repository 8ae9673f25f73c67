//! metrics.jsonl: one JSON object per step.

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

/// Appends rows to metrics.jsonl.
pub struct MetricsWriter {
    path: PathBuf,
    /// None on a rank that does not write.
    file: Option<BufWriter<File>>,
}

/// A number as JSON; NaN and infinities as strings, which JSON numbers cannot hold.
pub fn number(v: f64) -> Value {
    if v.is_finite() { json!(v) } else { json!(v.to_string()) }
}

impl MetricsWriter {
    /// Opens or creates the file for appending.
    ///
    /// # Errors
    /// With the file's name.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?;
        Ok(MetricsWriter { path: path.to_path_buf(), file: Some(BufWriter::new(file)) })
    }

    /// For a rank that leaves the writing to another: nothing is written.
    pub fn silent(path: &Path) -> Self {
        MetricsWriter { path: path.to_path_buf(), file: None }
    }

    /// Appends one step's metrics.
    ///
    /// # Errors
    /// With the file's name.
    pub fn log(&mut self, stage: &str, step: usize, metrics: &[(&str, f64)]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut row = Map::new();
        row.insert("stage".into(), json!(stage));
        row.insert("step".into(), json!(step));
        for (name, value) in metrics {
            row.insert((*name).into(), number(*value));
        }
        writeln!(file, "{}", Value::Object(row)).map_err(Error::io(&self.path))
    }

    /// Brings rows to disk.
    ///
    /// # Errors
    /// With the file's name.
    pub fn flush(&mut self) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |f| f.flush()).map_err(Error::io(&self.path))
    }

    /// Drops a stage's rows after `step`: a resumed run writes them again.
    ///
    /// # Errors
    /// With the file's name.
    pub fn truncate_after(&mut self, stage: &str, step: usize) -> Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.flush()?;
        let text = std::fs::read_to_string(&self.path).map_err(Error::io(&self.path))?;
        let keep = |line: &&str| {
            let row: Value = serde_json::from_str(line).unwrap_or(Value::Null);
            // A torn last line of a killed run is dropped too.
            !row.is_null()
                && (row["stage"] != stage || row["step"].as_u64().is_some_and(|s| s <= step as u64))
        };
        let kept: String = text.lines().filter(keep).flat_map(|l| [l, "\n"]).collect();
        if kept != text {
            formats::atomic_write(&self.path, &[kept.as_bytes()])?;
            *self = MetricsWriter::open(&self.path)?;
        }
        Ok(())
    }

    /// All rows.
    ///
    /// # Errors
    /// With the file's name.
    pub fn rows(&mut self) -> Result<Vec<Value>> {
        self.flush()?;
        let text = std::fs::read_to_string(&self.path).map_err(Error::io(&self.path))?;
        Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_stage_drops_its_later_rows_and_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.jsonl");
        let mut w = MetricsWriter::open(&path).unwrap();
        for step in 1..=3 {
            w.log("a", step, &[("x", f64::NAN)]).unwrap();
            w.log("b", step, &[("x", step as f64)]).unwrap();
        }
        w.flush().unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"stage\":\"b\",")
            .unwrap();
        w.truncate_after("b", 1).unwrap();
        let rows = w.rows().unwrap();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0]["x"], "NaN");
    }
}
