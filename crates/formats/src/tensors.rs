//! Named tensors in safetensors files: checkpoints, adapters, weights.

use crate::{
    Error,
    stream::{Element, Entry, Writer},
};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::{collections::BTreeMap, fs::File, path::Path};

/// A named f32 tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Name in the file.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Row-major elements.
    pub data: Vec<f32>,
}

/// A whole file of tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TensorFile {
    /// The tensors, by name.
    pub tensors: Vec<Tensor>,
    /// The header's metadata.
    pub metadata: BTreeMap<String, String>,
}

/// Writes f32 tensors `(name, shape, elements)` and metadata, atomically.
///
/// # Errors
/// With the file's name; an earlier file is left as it was.
pub fn save_tensors(
    path: &Path,
    tensors: &[(&str, &[usize], &[f32])],
    metadata: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let entry = |(name, shape, _): &(&str, &[usize], &[f32])| Entry {
        name: (*name).to_string(),
        element: Element::F32,
        shape: shape.to_vec(),
    };
    let mut writer = Writer::create(path, tensors.iter().map(entry).collect(), metadata)?;
    for (.., data) in tensors {
        writer.put(data)?;
    }
    writer.finish()
}

/// Reads every tensor of a safetensors file as f32.
///
/// # Errors
/// Names the file and what is damaged.
pub fn load_tensors(path: &Path) -> Result<TensorFile, Error> {
    let map = map(path)?;
    let file = parse(path, &map)?;
    let (_, header) = SafeTensors::read_metadata(&map).map_err(|e| damaged(path, &e))?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut tensors = Vec::new();
    for name in file.names() {
        tensors.push(read(path, &file, name)?);
    }
    Ok(TensorFile { tensors, metadata })
}

pub(crate) fn map(path: &Path) -> Result<Mmap, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the file is opened for reading; that nobody truncates it meanwhile is assumed of model files,
    // which are replaced by rename.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path))
}

fn damaged(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::bad(path, format!("is truncated or damaged ({e}); fetch or write it again"))
}

pub(crate) fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, Error> {
    SafeTensors::deserialize(bytes).map_err(|e| match culprit(bytes) {
        Some(what) => damaged(path, &what),
        None => damaged(path, &e),
    })
}

/// What is wrong with the first tensor of a damaged file's header, if the header itself can be read.
fn culprit(bytes: &[u8]) -> Option<String> {
    let (length, rest) = bytes.split_at_checked(8)?;
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (header, data) = rest.split_at_checked(length)?;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    header.iter().filter(|(name, _)| *name != "__metadata__").find_map(|(name, entry)| {
        let dtype = entry["dtype"].as_str().unwrap_or("missing");
        let Ok(known) = serde_json::from_value::<Dtype>(entry["dtype"].clone()) else {
            return Some(format!("tensor `{name}` has the unknown dtype \"{dtype}\""));
        };
        let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).ok()?;
        let [start, end]: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone()).ok()?;
        if end > data.len() || start > end {
            let have = data.len();
            return Some(format!("tensor `{name}` lies at bytes {start} to {end}, the file has {have}"));
        }
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let size = elements.and_then(|n| n.checked_mul(known.size()));
        (size != Some(end - start))
            .then(|| format!("tensor `{name}` of shape {shape:?} ({dtype}) has {} bytes", end - start))
    })
}

pub(crate) fn read(path: &Path, file: &SafeTensors<'_>, name: &str) -> Result<Tensor, Error> {
    let view = file.tensor(name).map_err(|_| Error::bad(path, format!("tensor `{name}` is missing")))?;
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => {
            bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        Dtype::BF16 => {
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        other => {
            let problem = format!("tensor `{name}` is {other:?}; supported: F32, F16, BF16");
            return Err(Error::bad(path, problem));
        }
    };
    Ok(Tensor { name: name.to_string(), shape: view.shape().to_vec(), data })
}

/// The bytes of a tensor of I8 or U8 elements, and its shape.
pub(crate) fn read_bytes<'a>(
    path: &Path,
    file: &SafeTensors<'a>,
    name: &str,
) -> Result<(&'a [u8], Vec<usize>), Error> {
    let view = file.tensor(name).map_err(|_| Error::bad(path, format!("tensor `{name}` is missing")))?;
    match view.dtype() {
        Dtype::I8 | Dtype::U8 => Ok((view.data(), view.shape().to_vec())),
        other => Err(Error::bad(path, format!("tensor `{name}` is {other:?}, expected I8 or U8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let metadata = BTreeMap::from([("step".to_string(), "7".to_string())]);
        save_tensors(&path, &[("a", &[2, 2], &[1.0, -2.0, 3.5, f32::MIN]), ("b", &[0], &[])], &metadata)
            .unwrap();
        let file = load_tensors(&path).unwrap();
        assert_eq!(file.metadata, metadata);
        let a = file.tensors.iter().find(|t| t.name == "a").unwrap();
        assert_eq!((a.shape.as_slice(), a.data.as_slice()), (&[2, 2][..], &[1.0, -2.0, 3.5, f32::MIN][..]));
        let whole = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let text = String::from_utf8(whole[8..8 + header].to_vec()).unwrap();
        let with = |from: &str, to: &str| {
            let text = text.replace(from, to);
            [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &whole[8 + header..]].concat()
        };
        let cases = [
            (
                "cut in the data",
                whole[..whole.len() - 5].to_vec(),
                "`a` lies at bytes 0 to 16, the file has 11",
            ),
            ("cut in the header", whole[..12].to_vec(), ""),
            ("header past the end", [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(), ""),
            ("empty", Vec::new(), ""),
            ("offsets past the end", with("[0,16]", "[0,1600]"), "`a` lies at bytes 0 to 1600"),
            (
                "huge shape",
                with("[2,2]", "[9223372036854775807,9223372036854775807]"),
                "`a` of shape [9223372036854775807, 9223372036854775807] (F32) has 16 bytes",
            ),
            ("unknown dtype", with("\"F32\"", "\"Q99\""), "`a` has the unknown dtype \"Q99\""),
        ];
        for (what, bytes, needle) in cases {
            std::fs::write(&path, bytes).unwrap();
            let e = load_tensors(&path).unwrap_err().to_string();
            assert!(e.contains("t.safetensors") && e.contains("damaged"), "{what}: {e}");
            assert!(e.contains(needle), "{what}: {e}");
        }
    }
}
