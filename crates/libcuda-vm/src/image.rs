//! What clients hand over as code: PTX text; cubins and fat binaries are refused.
use crate::{
    ffi::{In, Out},
    result::{Code, Result},
};
use std::{ffi::c_char, fs, time::Duration};

/// PTX and the name that messages call it by.
pub struct Image {
    /// The name.
    pub name: String,
    /// The text.
    pub text: String,
}

/// First bytes of an ELF file: a cubin.
const ELF: [u8; 4] = *b"\x7fELF";
/// First bytes of a fat binary, little-endian, and of the wrapper that a compiler puts around one.
const FATBIN: [[u8; 4]; 2] = [0xba55_ed50_u32.to_le_bytes(), 0x4662_43b1_u32.to_le_bytes()];

impl Image {
    /// Text behind a pointer: up to its NUL, or `size` bytes when the client says how many.
    pub fn from_memory(name: &str, image: In<u8>, size: Option<usize>) -> Result<Image> {
        let mut bytes = Vec::new();
        // Byte by byte: nothing says how long the image is, and a NUL ends it.
        while size.is_none_or(|n| bytes.len() < n) {
            match image.at(bytes.len())? {
                0 => break,
                b => bytes.push(b),
            }
            if bytes.len() == 4 {
                refuse_binary(name, &bytes)?;
            }
        }
        Image::from_bytes(name, bytes)
    }

    /// The text of a file.
    pub fn from_file(path: &str) -> Result<Image> {
        let bytes = fs::read(path).map_err(|e| Code::FILE_NOT_FOUND.because(format!("{path}: {e}")))?;
        Image::from_bytes(path, bytes)
    }

    fn from_bytes(name: &str, mut bytes: Vec<u8>) -> Result<Image> {
        refuse_binary(name, &bytes)?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        if bytes.is_empty() {
            return Err(Code::INVALID_IMAGE.because("the image is empty"));
        }
        Ok(Image { name: name.into(), text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

fn refuse_binary(name: &str, bytes: &[u8]) -> Result<()> {
    let what = match bytes.get(..4) {
        Some(b) if b == ELF => "a cubin (machine code of a GPU)",
        Some(b) if FATBIN.iter().any(|f| b == f) => "a fat binary",
        _ => return Ok(()),
    };
    let why = format!("{name} is {what}; the VM runs PTX text: compile with -ptx or --output-mode ptx");
    eprintln!("ferrotune-vm: {why}");
    Err(Code::NO_BINARY_FOR_GPU.because(why))
}

/// The newest PTX version that the VM reads: that of the release whose driver version it reports.
const NEWEST: [u64; 2] = [9, 5];

/// The driver's code for PTX that does not load. A newer version alone is no reason to refuse; it is when something fails.
pub fn code_of(text: &str) -> Code {
    let version = directive(text, ".version").map(|v| numbers(&v));
    if version.is_some_and(|v| v > NEWEST) { Code::UNSUPPORTED_PTX_VERSION } else { Code::INVALID_PTX }
}

/// What follows a directive of a module's head.
pub fn directive(text: &str, name: &str) -> Option<String> {
    let line = text.lines().map(str::trim_start).find(|l| l.starts_with(name))?;
    Some(line[name.len()..].split("//").next()?.trim().to_string())
}

/// The first two numbers in a text: `8.10` gives 8 and 10, `sm_86, debug` gives 86 and 0.
pub fn numbers(text: &str) -> [u64; 2] {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).filter(|p| !p.is_empty());
    [(); 2].map(|()| parts.next().and_then(|p| p.parse().ok()).unwrap_or(0))
}

/// The client's log buffers and timers: the JIT options that ask for something back.
#[derive(Clone, Copy, Default)]
pub struct JitLog {
    info: Option<Buffer>,
    error: Option<Buffer>,
    /// Where the milliseconds of compiling go, in the place of the option's value.
    wall_time: Option<usize>,
}

#[derive(Clone, Copy, Default)]
struct Buffer {
    address: usize,
    room: usize,
    /// Where the bytes written go: the place of the size option's value.
    written: Option<usize>,
}

impl JitLog {
    /// Reads `count` options and their values.
    pub fn read(count: u32, options: In<i32>, values: In<usize>) -> Result<JitLog> {
        let (mut info, mut error, mut wall_time) = (Buffer::default(), Buffer::default(), None);
        for i in 0..count as usize {
            let (option, value) = (options.at(i)?, values.at(i)?);
            let place = values.address() + i * size_of::<usize>();
            match option {
                2 => wall_time = Some(place),
                3 => info.address = value,
                // A size arrives as an unsigned int in the room of a pointer.
                4 => (info.room, info.written) = (value as u32 as usize, Some(place)),
                5 => error.address = value,
                6 => (error.room, error.written) = (value as u32 as usize, Some(place)),
                0..=35 => {}
                _ => return Err(Code::INVALID_VALUE.because(format!("no JIT option {option}"))),
            }
        }
        let some = |b: Buffer| (b.address != 0 && b.room != 0).then_some(b);
        let log = JitLog { info: some(info), error: some(error), wall_time };
        for buffer in [log.info, log.error].into_iter().flatten() {
            buffer.put("");
        }
        Ok(log)
    }

    /// Reports why compiling failed: to the client's buffer, or to stderr when it gave none.
    pub fn error(&self, text: &str) {
        match self.error {
            Some(buffer) => buffer.put(text),
            None => eprintln!("ferrotune-vm: {text}"),
        }
    }

    /// Reports how long compiling took.
    pub fn wall_time(&self, took: Duration) {
        if let Some(place) = self.wall_time {
            Out::<f32>::from_address(place).put(took.as_secs_f32() * 1e3);
        }
    }
}

impl Buffer {
    fn put(&self, text: &str) {
        let written = Out::<c_char>::from_address(self.address).put_text(text, self.room);
        if let Some(place) = self.written {
            Out::<usize>::from_address(place).put(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_version_is_an_unsupported_one() {
        assert_eq!(code_of("// x\n .version 9.6\n"), Code::UNSUPPORTED_PTX_VERSION);
        assert_eq!(code_of(".version 10.0"), Code::UNSUPPORTED_PTX_VERSION);
        assert_eq!(code_of(".version 9.5"), Code::INVALID_PTX);
        assert_eq!(code_of("no ptx"), Code::INVALID_PTX);
    }

    #[test]
    fn binaries_are_refused_by_their_first_bytes() {
        for bytes in [&b"\x7fELF\x02"[..], &[0x50, 0xed, 0x55, 0xba, 1], &[0xb1, 0x43, 0x62, 0x46, 1]] {
            let refused = Image::from_bytes("x", bytes.to_vec()).err().map(|f| f.code);
            assert_eq!(refused, Some(Code::NO_BINARY_FOR_GPU));
        }
        assert!(Image::from_bytes("x", b".version 7.8".to_vec()).is_ok());
    }
}
