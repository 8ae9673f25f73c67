//! Files of known content: checked while they are written, put in place in one step.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::DataError;

/// A file as it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Artifact<'a> {
    /// Path below the target folder, with `/`.
    pub(super) name: &'a str,
    /// Bytes.
    pub(super) size: u64,
    /// In lower-case hexadecimal.
    pub(super) sha256: &'a str,
}

impl Artifact<'_> {
    /// Whether the file at `path` is this one.
    pub(super) fn check(&self, path: &Path) -> Result<(), DataError> {
        let mut file = File::open(path).map_err(|e| DataError::io(path, e))?;
        let size = file.metadata().map_err(|e| DataError::io(path, e))?.len();
        self.compare("size", format!("{size} bytes"), format!("{} bytes", self.size))?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer).map_err(|e| DataError::io(path, e))? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
        self.compare("SHA-256", hex(hash), self.sha256.to_owned())
    }

    /// Lets `fill` write the content into a temporary file, checks it, and renames it to `path`.
    pub(super) fn store(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let io = |e| DataError::io(path, e);
        std::fs::create_dir_all(folder).map_err(io)?;
        let temporary =
            tempfile::Builder::new().prefix(".fetch-").suffix(".part").tempfile_in(folder).map_err(io)?;
        let mut out = Checked { file: BufWriter::new(temporary), hash: Sha256::new(), size: 0 };
        fill(&mut out)?;
        out.flush().map_err(io)?;
        let Checked { file, hash, size } = out;
        self.compare("size", format!("{size} bytes"), format!("{} bytes", self.size))?;
        self.compare("SHA-256", hex(hash), self.sha256.to_owned())?;
        let temporary = file.into_inner().map_err(|e| DataError::io(path, e.into_error()))?;
        readable(temporary.as_file()).map_err(io)?;
        temporary.as_file().sync_all().map_err(io)?;
        temporary.persist(path).map_err(|e| DataError::io(path, e.error))?;
        sync_folder(folder).map_err(io)
    }

    fn compare(&self, what: &'static str, found: String, expected: String) -> Result<(), DataError> {
        if found == expected {
            return Ok(());
        }
        Err(DataError::Checksum { name: self.name.to_owned(), what, found, expected })
    }
}

/// Temporary files are private; finished ones are for all.
#[cfg(unix)]
fn readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> std::io::Result<()> {
    Ok(())
}

/// Makes the rename last through a power cut.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}

pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Counts and hashes what passes through.
struct Checked<W> {
    file: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
