//! The compilers: NVRTC and Triton, run by the Python of `cargo xtask tools`.
use crate::kernel_harness::tools;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// One kernel as a compiler made it.
pub struct Made {
    pub source: String,
    /// Threads of a block and dynamic shared memory, where the compiler decides them.
    pub threads: u32,
    pub shared: u32,
}

/// What a script says when its compiler is not there.
const MISSING: i32 = 3;

/// Runs one of the scripts beside this file; `None`, with the reason printed, where the tool is missing.
fn script(tool: &str, name: &str, args: &[&str]) -> Option<Output> {
    let skip = || println!("skipped: no {tool} (cargo xtask tools installs it)");
    let Some(python) = tools::python() else {
        skip();
        return None;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compilers");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("triton");
    let mut command = Command::new(python);
    command.arg(folder.join(name)).args(args).current_dir(folder).env("TRITON_CACHE_DIR", cache);
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("python starts");
    if output.status.code() == Some(MISSING) {
        skip();
        return None;
    }
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output)
}

/// `kernels.cu` for one architecture.
pub fn cuda(arch: u32) -> Option<String> {
    let output = script("nvrtc", "nvrtc.py", &["kernels.cu", &arch.to_string()])?;
    Some(String::from_utf8(output.stdout).expect("PTX is text"))
}

/// `kernels.py` for one architecture, by name.
pub fn triton(arch: u32) -> Option<BTreeMap<String, Made>> {
    let folder: PathBuf = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder").keep();
    let output = script("triton", "kernels.py", &[folder.to_str().expect("a plain path"), &arch.to_string()]);
    let list = output.map(|o| String::from_utf8(o.stdout).expect("a list of kernels"));
    let made = list.map(|list| list.lines().map(|line| read(&folder, line)).collect());
    std::fs::remove_dir_all(folder).expect("the folder goes");
    made
}

/// A line of the list: name, architecture, threads, shared bytes.
fn read(folder: &Path, line: &str) -> (String, Made) {
    let words: Vec<&str> = line.split(' ').collect();
    let [name, arch, threads, shared] = words[..] else { panic!("not a kernel: {line}") };
    let source =
        std::fs::read_to_string(folder.join(format!("{name}.{arch}.ptx"))).expect("the PTX is there");
    let number = |text: &str| text.parse().expect("a number");
    let made = Made { source, threads: number(threads), shared: number(shared) };
    (name.into(), made)
}
