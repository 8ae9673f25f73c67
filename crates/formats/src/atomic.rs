//! Files that are either the old or the new version, never a part.

use crate::Error;
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

/// Writes `parts` one after another to a temporary file beside `path`, syncs it and renames it into place.
///
/// # Errors
/// With the file's name; the old file is left as it was and the temporary one is removed.
pub fn atomic_write(path: &Path, parts: &[&[u8]]) -> Result<(), Error> {
    let name = path.file_name().ok_or_else(|| Error::bad(path, "is not a file name"))?;
    let temporary = path.with_file_name(format!(".{}.part", name.to_string_lossy()));
    let write = || {
        let mut file = File::create(&temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        let bytes: usize = parts.iter().map(|p| p.len()).sum();
        Error::bad(
            path,
            format!("could not write {bytes} bytes: {e}; the earlier file, if any, is untouched"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        atomic_write(&path, &[b"one ", b"two"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two");
        // A directory in the way of the temporary file makes the write fail.
        fs::create_dir(dir.path().join(".x.part")).unwrap();
        let e = atomic_write(&path, &[b"three"]).unwrap_err().to_string();
        assert!(e.contains("could not write 5 bytes"), "{e}");
        assert_eq!(fs::read(&path).unwrap(), b"one two");
    }
}
