//! Tools from elsewhere, where there are any: what `cargo xtask tools` installs, or what the machine has.
#![allow(dead_code)]
use std::path::{Path, PathBuf};

/// The folder of `cargo xtask tools`.
fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder").join("tools")
}

/// NVIDIA's assembler: `FERROTUNE_PTXAS`, else the installed one, else `ptxas` on the path.
pub fn ptxas() -> Option<PathBuf> {
    let named = std::env::var_os("FERROTUNE_PTXAS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("ptxas"));
    named.into_iter().chain([home().join("bin/ptxas")]).chain(on_path).find(|p| p.is_file())
}

/// The Python that has the installed packages.
pub fn python() -> Option<PathBuf> {
    Some(home().join("venv/bin/python")).filter(|p| p.is_file())
}
