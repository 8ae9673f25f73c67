//! Clients of the stand-in: each test runs in a process of its own, which loads the library as a real program does.
// Each test program uses a part of this.
#![allow(dead_code)]
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

pub mod raw;

/// The kernels that clients run.
pub const PTX: &str = include_str!("../../../../tests/clients/kernels.ptx");

/// Says to a test that it is the client process.
const ROLE: &str = "LIBCUDA_VM_TEST";

/// Runs `body` in a process that finds the stand-in as `libcuda.so`, with those settings in its environment.
///
/// `name` is the calling test's: the process is this test program again, running that one test.
pub fn client(name: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    if env::var(ROLE).is_ok_and(|role| role == name) {
        return body();
    }
    let mut command = Command::new(env::current_exe().expect("a test program has a path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, name);
    let output = with_stand_in(&mut command, settings).output().expect("the test program starts again");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{said}", output.status);
    assert!(said.contains("1 passed"), "{name}: no such test\n{said}");
}

/// Lets a command find the stand-in, with small settings that a test machine bears, and the given ones.
pub fn with_stand_in<'a>(command: &'a mut Command, settings: &[(&str, &str)]) -> &'a mut Command {
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("FERROTUNE_VM")) {
        command.env_remove(name);
    }
    command
        .env("LD_LIBRARY_PATH", folder())
        .env("FERROTUNE_VM", "1")
        .env("FERROTUNE_VM_CHECKS", "all")
        .env("FERROTUNE_VM_LOG", "1")
        .envs(settings.iter().copied())
}

/// A folder with the freshly built library under the names that clients look for.
pub fn folder() -> PathBuf {
    let exe = env::current_exe().expect("a test program has a path");
    let deps = exe.parent().expect("the test program lies in a folder");
    let built = deps.join("libcuda.so");
    assert!(built.exists(), "cargo builds {} for the tests of this package", built.display());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stand-in");
    fs::create_dir_all(&folder).expect("the temporary folder is writable");
    for name in ["libcuda.so", "libcuda.so.1"] {
        link(&built, &folder.join(name));
    }
    folder
}

/// Links in one step, since tests run side by side.
fn link(target: &Path, at: &Path) {
    if fs::read_link(at).is_ok_and(|t| t == target) {
        return;
    }
    let part = at.with_extension(format!("{}.{:?}", std::process::id(), std::thread::current().id()));
    std::os::unix::fs::symlink(target, &part).expect("links can be made");
    fs::rename(&part, at).expect("a link can be renamed");
}
