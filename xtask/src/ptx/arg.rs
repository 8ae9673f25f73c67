//! Kernel arguments on the command line: `u32:5`, `iota:f32:1024`, `file:f32:data.bin=out.bin`.

use half::{bf16, f16};
use std::{fs, path::PathBuf, str::FromStr};

/// One argument.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// The bytes of a value.
    Scalar(Vec<u8>),
    /// Device memory, passed by its address.
    Buffer(Buffer),
}

/// A buffer and what to do with it afterwards.
#[derive(Debug, Clone, PartialEq)]
pub struct Buffer {
    /// How to print it.
    pub kind: Kind,
    /// What it holds before the launch.
    pub bytes: Vec<u8>,
    /// Where it goes after the launch.
    pub save: Option<PathBuf>,
}

/// The type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    class: Class,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Unsigned,
    Signed,
    Bits,
    Float,
    BFloat,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let kind = |class, bytes| Ok(Kind { class, bytes });
        match text {
            "f16" => kind(Class::Float, 2),
            "bf16" => kind(Class::BFloat, 2),
            "f32" => kind(Class::Float, 4),
            "f64" => kind(Class::Float, 8),
            _ => {
                let (class, bits) = text.split_at_checked(1).unwrap_or_default();
                let class = match class {
                    "u" => Class::Unsigned,
                    "s" => Class::Signed,
                    "b" => Class::Bits,
                    _ => return Err(format!("{text} is no type")),
                };
                match bits {
                    "8" | "16" | "32" | "64" => kind(class, bits.parse::<usize>().unwrap_or(8) / 8),
                    _ => Err(format!("{text} is no type")),
                }
            }
        }
    }
}

impl Kind {
    /// The bytes of a number in this type.
    fn of_f64(self, value: f64) -> Vec<u8> {
        match (self.class, self.bytes) {
            (Class::BFloat, _) => bf16::from_f64(value).to_le_bytes().to_vec(),
            (Class::Float, 2) => f16::from_f64(value).to_le_bytes().to_vec(),
            (Class::Float, 4) => (value as f32).to_le_bytes().to_vec(),
            (Class::Float, _) => value.to_le_bytes().to_vec(),
            _ => (value as i64).to_le_bytes()[..self.bytes].to_vec(),
        }
    }

    fn parse(self, text: &str) -> Result<Vec<u8>, String> {
        let wrong = || format!("{text} is no value of that type");
        if matches!(self.class, Class::Float | Class::BFloat) {
            return text.parse().map(|v| self.of_f64(v)).map_err(|_| wrong());
        }
        let value: i128 = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).map(i128::from).map_err(|_| wrong())?,
            None => text.parse().map_err(|_| wrong())?,
        };
        let bits = 8 * self.bytes as u32;
        let (low, high) = match self.class {
            Class::Unsigned => (0, (1 << bits) - 1),
            Class::Signed => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            _ => (-(1 << (bits - 1)), (1 << bits) - 1),
        };
        if (low..=high).contains(&value) {
            Ok(value.to_le_bytes()[..self.bytes].to_vec())
        } else {
            Err(wrong())
        }
    }

    /// The first `count` elements, and how many there are.
    pub fn show(self, bytes: &[u8], count: usize) -> String {
        let all = bytes.len() / self.bytes;
        let shown: Vec<String> =
            bytes.chunks_exact(self.bytes).take(count).map(|e| self.show_one(e)).collect();
        let more = if all > count { format!(" ... ({all} in all)") } else { String::new() };
        format!("{}{more}", shown.join(" "))
    }

    fn show_one(self, element: &[u8]) -> String {
        let mut word = [0; 8];
        word[..self.bytes].copy_from_slice(element);
        let bits = u64::from_le_bytes(word);
        let unused = 64 - 8 * self.bytes as u32;
        match (self.class, self.bytes) {
            (Class::Unsigned, _) => bits.to_string(),
            (Class::Signed, _) => (((bits << unused) as i64) >> unused).to_string(),
            (Class::Bits, n) => format!("{bits:#0width$x}", width = 2 + 2 * n),
            (Class::BFloat, _) => bf16::from_bits(bits as u16).to_string(),
            (Class::Float, 2) => f16::from_bits(bits as u16).to_string(),
            (Class::Float, 4) => f32::from_bits(bits as u32).to_string(),
            (Class::Float, _) => f64::from_bits(bits).to_string(),
        }
    }
}

impl FromStr for Arg {
    type Err = String;

    fn from_str(text: &str) -> Result<Arg, String> {
        let mut parts = text.splitn(3, ':');
        let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        match (first, second, third) {
            ("zeros" | "ones" | "iota" | "file", Some(kind), Some(rest)) => {
                buffer(first, kind.parse()?, rest)
            }
            (kind, Some(value), None) => Ok(Arg::Scalar(kind.parse::<Kind>()?.parse(value)?)),
            _ => Err("want TYPE:VALUE, zeros:TYPE:COUNT, ones:TYPE:COUNT, iota:TYPE:COUNT or file:TYPE:PATH"
                .into()),
        }
    }
}

fn buffer(fill: &str, kind: Kind, rest: &str) -> Result<Arg, String> {
    let (what, save) = match rest.split_once('=') {
        Some((what, path)) => (what, Some(PathBuf::from(path))),
        None => (rest, None),
    };
    let bytes = if fill == "file" {
        fs::read(what).map_err(|e| format!("{what}: {e}"))?
    } else {
        let count: usize = what.parse().map_err(|_| format!("{what} is no count"))?;
        let value = |i: usize| match fill {
            "zeros" => 0.0,
            "ones" => 1.0,
            _ => i as f64,
        };
        (0..count).flat_map(|i| kind.of_f64(value(i))).collect()
    };
    if bytes.is_empty() || !bytes.len().is_multiple_of(kind.bytes) {
        return Err(format!("{} bytes are no whole number of elements", bytes.len()));
    }
    Ok(Arg::Buffer(Buffer { kind, bytes, save }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> Result<Vec<u8>, String> {
        match text.parse()? {
            Arg::Scalar(bytes) => Ok(bytes),
            Arg::Buffer(_) => Err("a buffer".into()),
        }
    }

    #[test]
    fn scalars_have_their_types_bytes() {
        assert_eq!(scalar("u32:5"), Ok(vec![5, 0, 0, 0]));
        assert_eq!(scalar("s16:-2"), Ok(vec![0xfe, 0xff]));
        assert_eq!(scalar("b8:0xff"), Ok(vec![0xff]));
        assert_eq!(scalar("f32:1.5"), Ok(1.5f32.to_le_bytes().to_vec()));
        assert_eq!(scalar("f16:1"), Ok(vec![0x00, 0x3c]));
        assert_eq!(scalar("bf16:1"), Ok(vec![0x80, 0x3f]));
        for wrong in ["u8:256", "s8:-129", "u32:-1", "f32:x", "q32:1", "u33:1", "u32", "iota:f32", ":", ""] {
            assert!(wrong.parse::<Arg>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn buffers_are_filled_and_shown() {
        let Ok(Arg::Buffer(b)) = "iota:f32:10=out.bin".parse() else { panic!("a buffer") };
        assert_eq!((b.bytes.len(), b.save), (40, Some(PathBuf::from("out.bin"))));
        assert_eq!(b.kind.show(&b.bytes, 3), "0 1 2 ... (10 in all)");
        let Ok(Arg::Buffer(b)) = "ones:s8:2".parse() else { panic!("a buffer") };
        assert_eq!(b.kind.show(&[255, 1], 8), "-1 1");
        assert!("zeros:u32:0".parse::<Arg>().is_err() && "file:u32:/nonexistent".parse::<Arg>().is_err());
    }
}
