//! Safetensors files written tensor by tensor: no more than one tensor is in memory.

use crate::Error;
use half::{bf16, f16};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Element types that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    BF16,
    I8,
    U8,
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Element::F32 => "F32",
            Element::F16 => "F16",
            Element::BF16 => "BF16",
            Element::I8 => "I8",
            Element::U8 => "U8",
        }
    }

    fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::BF16 => 2,
            Element::I8 | Element::U8 => 1,
        }
    }
}

/// A tensor to come.
pub(crate) struct Entry {
    pub name: String,
    pub element: Element,
    pub shape: Vec<usize>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.element.size() * self.shape.iter().product::<usize>()
    }
}

/// A file in the making, beside its place until it is finished; dropped before that, it vanishes.
pub(crate) struct Writer {
    file: Option<BufWriter<File>>,
    path: PathBuf,
    temporary: PathBuf,
    left: std::vec::IntoIter<Entry>,
}

impl Writer {
    /// Writes the header of `entries`, which must then be put in this order.
    pub fn create(
        path: &Path,
        entries: Vec<Entry>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Writer, Error> {
        let name = path.file_name().ok_or_else(|| Error::bad(path, "is not a file name"))?;
        let temporary = path.with_file_name(format!(".{}.part", name.to_string_lossy()));
        let header = header(&entries, metadata);
        let file = File::create(&temporary).map_err(Error::io(&temporary))?;
        let left = entries.into_iter();
        let mut out = Writer { file: Some(BufWriter::new(file)), path: path.to_path_buf(), temporary, left };
        out.write(&(header.len() as u64).to_le_bytes())?;
        out.write(&header)?;
        Ok(out)
    }

    /// The next tensor's elements, rounded to its type.
    pub fn put(&mut self, data: &[f32]) -> Result<(), Error> {
        match self.next(data.len())? {
            Element::F32 => self.write(bytemuck::cast_slice(data)),
            Element::F16 => {
                self.write(bytemuck::cast_slice(&data.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>()))
            }
            Element::BF16 => {
                self.write(bytemuck::cast_slice(&data.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>()))
            }
            other => {
                Err(Error::bad(&self.path, format!("f32 elements given for a tensor of {}", other.name())))
            }
        }
    }

    /// The next tensor's elements of one byte each.
    pub fn put_bytes(&mut self, data: &[u8]) -> Result<(), Error> {
        match self.next(data.len())? {
            Element::I8 | Element::U8 => self.write(data),
            other => Err(Error::bad(&self.path, format!("bytes given for a tensor of {}", other.name()))),
        }
    }

    fn next(&mut self, len: usize) -> Result<Element, Error> {
        let entry = self.left.next().ok_or_else(|| Error::bad(&self.path, "more tensors than announced"))?;
        let want = entry.bytes() / entry.element.size();
        if len != want {
            let problem =
                format!("tensor `{}` of shape {:?} was given {len} elements", entry.name, entry.shape);
            return Err(Error::bad(&self.path, problem));
        }
        Ok(entry.element)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let file = self.file.as_mut().expect("open until finished");
        file.write_all(bytes).map_err(|e| {
            Error::bad(&self.path, format!("could not write: {e}; the earlier file, if any, is untouched"))
        })
    }

    /// Syncs the file and puts it in its place.
    pub fn finish(mut self) -> Result<(), Error> {
        if let Some(entry) = self.left.next() {
            return Err(Error::bad(&self.path, format!("tensor `{}` was never written", entry.name)));
        }
        let file = self.file.take().expect("open until finished");
        let place = || {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            fs::rename(&self.temporary, &self.path)
        };
        place().map_err(Error::io(&self.path))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Gone already when it was finished.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn header(entries: &[Entry], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut at = 0;
    for e in entries {
        let end = at + e.bytes();
        let entry =
            serde_json::json!({ "dtype": e.element.name(), "shape": e.shape, "data_offsets": [at, end] });
        header.insert(e.name.clone(), entry);
        at = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, element: Element, shape: &[usize]) -> Entry {
        Entry { name: name.into(), element, shape: shape.to_vec() }
    }

    #[test]
    fn tensors_are_held_to_what_was_announced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let open = || {
            let entries = vec![entry("a", Element::BF16, &[2, 2]), entry("b", Element::F32, &[])];
            Writer::create(&path, entries, &BTreeMap::new()).unwrap()
        };
        let mut w = open();
        w.put(&[1.0, 2.0, 3.0, 1.0 + 1.0 / 1024.0]).unwrap();
        let e = w.put_bytes(&[0]).unwrap_err().to_string();
        assert!(e.contains("bytes given for a tensor of F32"), "{e}");
        drop(w);
        let mut w = open();
        assert!(w.put(&[1.0]).unwrap_err().to_string().contains("`a` of shape [2, 2] was given 1"));
        let mut w = open();
        w.put(&[0.0; 4]).unwrap();
        assert!(w.finish().unwrap_err().to_string().contains("`b` was never written"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no rest is left");
        let mut w = open();
        w.put(&[1.0, 2.0, 3.0, 1.0 + 1.0 / 1024.0]).unwrap();
        w.put(&[0.1]).unwrap();
        w.finish().unwrap();
        let file = crate::load_tensors(&path).unwrap();
        let of = |name: &str| file.tensors.iter().find(|t| t.name == name).unwrap();
        assert_eq!(of("a").data, [1.0, 2.0, 3.0, 1.0], "rounded to bf16");
        assert_eq!((of("b").shape.len(), of("b").data[0]), (0, 0.1));
    }
}
