//! `cargo xtask vm`: any CUDA driver program, on the PTX VM.

use crate::fail;
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

const HELP: &str = "\
COMMAND runs with LD_LIBRARY_PATH leading to a stand-in libcuda.so that compiles and executes PTX on the CPU.
It plays one RTX 3090 unless told otherwise; every setting is an environment variable too (docs/vm.md).

Examples:
  cargo xtask vm -- ./my-cuda-program
  cargo xtask vm --device a100 --memory 1G -- python train.py
  cargo xtask vm --checks all --seed 7 -- ./kernel-tests    find races and reads of what nobody wrote
  cargo xtask vm --counters launches.json -- ./bench && cargo xtask ptx counters launches.json
  LD_LIBRARY_PATH=$(cargo xtask vm --path) FERROTUNE_VM=1 ./my-cuda-program";

/// Run a CUDA program with no GPU: its kernels execute on the PTX VM.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    pub settings: Settings,
    /// Print the folder that holds the stand-in libcuda.so, and stop.
    #[arg(long)]
    path: bool,
    /// Build and run the client that uses the `cust` crate, which needs CUDA libraries at build time.
    #[arg(long, conflicts_with = "path")]
    test_cust: bool,
    /// The program and its arguments.
    #[arg(last = true, required_unless_present_any = ["path", "test_cust"])]
    command: Vec<OsString>,
}

/// What the VM plays and how strict it is.
#[derive(clap::Args, Default)]
pub struct Settings {
    /// GPU to play: rtx3090, rtx4090, l4, a100, h100.
    #[arg(long, value_name = "KEY")]
    device: Option<String>,
    /// Device memory, such as 512M or 24G.
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Adversarial schedule, poisoned memory and perturbed .approx results, drawn from this seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What is checked: off, memory (bounds, reads of what nobody wrote), all (races too).
    #[arg(long, value_name = "LEVEL")]
    checks: Option<String>,
    /// Write the counters of every launch to this JSON file.
    #[arg(long, value_name = "FILE")]
    counters: Option<PathBuf>,
    /// Threads for one launch.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Say on stderr why driver calls fail.
    #[arg(long)]
    log: bool,
}

impl Settings {
    /// The settings that were given, as the environment that the stand-in reads.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        let number = |value: Option<u64>| value.map(|n| n.to_string().into());
        [
            ("FERROTUNE_VM_DEVICE", text(&self.device)),
            ("FERROTUNE_VM_MEMORY", text(&self.memory)),
            ("FERROTUNE_VM_SEED", number(self.seed)),
            ("FERROTUNE_VM_CHECKS", text(&self.checks)),
            ("FERROTUNE_VM_COUNTERS", self.counters.as_ref().map(OsString::from)),
            ("FERROTUNE_VM_THREADS", number(self.threads.map(|n| n as u64))),
            ("FERROTUNE_VM_LOG", self.log.then(|| "1".into())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    if args.test_cust {
        return test_cust();
    }
    let folder = match stand_in() {
        Ok(folder) => folder,
        Err(e) => return fail(e),
    };
    if args.path {
        println!("{}", folder.display());
        return 0;
    }
    let (program, arguments) = args.command.split_first().expect("clap requires a command");
    match on_vm(Command::new(program).args(arguments), &folder, &args.settings).status() {
        // A program killed by a signal has no code: the shell's convention for a failure will do.
        Ok(status) => status.code().unwrap_or(1),
        Err(e) => fail(format_args!("{}: {e}", program.to_string_lossy())),
    }
}

/// Lets a command find the stand-in, and nothing of cargo's own library path before it.
pub fn on_vm<'a>(command: &'a mut Command, folder: &Path, settings: &Settings) -> &'a mut Command {
    let mut path = folder.as_os_str().to_owned();
    if let Some(rest) = env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    command.env("LD_LIBRARY_PATH", path).env("FERROTUNE_VM", "1").envs(settings.environment())
}

/// Builds the stand-in and gives the folder where it lies under all the names that clients look for.
///
/// The folder is private to it: whoever is pointed there gets libcuda and nothing else.
pub fn stand_in() -> Result<PathBuf, String> {
    build(&["build", "--release", "--quiet", "--package", "libcuda-vm"], &[])?;
    let target = target_dir();
    let built = target.join("release/libcuda.so");
    let folder = target.join("vm");
    // `lib64` is where a CUDA installation has it: build scripts look there below CUDA_LIBRARY_PATH.
    fs::create_dir_all(folder.join("lib64")).map_err(|e| format!("{}: {e}", folder.display()))?;
    for name in ["libcuda.so", "libcuda.so.1", "lib64/libcuda.so"] {
        link(&built, &folder.join(name))?;
    }
    Ok(folder)
}

/// The workspace, wherever the command was called.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Points `at` to `target`, whatever was there before, in one step.
pub fn link(target: &Path, at: &Path) -> Result<(), String> {
    if fs::read_link(at).is_ok_and(|t| t == target) {
        return Ok(());
    }
    let part = at.with_extension(format!("part{}", std::process::id()));
    symlink(target, &part).and_then(|()| fs::rename(&part, at)).map_err(|e| format!("{}: {e}", at.display()))
}

/// The target directory that this program was built into.
pub fn target_dir() -> PathBuf {
    let exe = env::current_exe().expect("this program has a path");
    exe.ancestors().nth(2).expect("cargo puts programs into target/PROFILE").to_path_buf()
}

fn build(arguments: &[&str], environment: &[(&str, &OsStr)]) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root());
    command.args(arguments).envs(environment.iter().copied());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo {}: {status}", arguments.join(" "))),
        Err(e) => Err(format!("cargo: {e}")),
    }
}

/// Builds and runs the `cust` client; gives the exit code.
pub fn test_cust() -> i32 {
    stand_in().and_then(|folder| run_cust(&folder)).map_or_else(fail, |()| 0)
}

/// The `cust` client is a workspace of its own: its build script wants CUDA libraries, which the stand-in provides.
fn run_cust(folder: &Path) -> Result<(), String> {
    let root = root();
    let manifest = root.join("tests/clients/cust/Cargo.toml");
    let target = target_dir().join("cust");
    let (manifest, target_text) = (manifest.to_string_lossy(), target.to_string_lossy());
    let arguments =
        ["build", "--release", "--quiet", "--manifest-path", &*manifest, "--target-dir", &*target_text];
    build(&arguments, &[("CUDA_LIBRARY_PATH", folder.as_os_str())])?;
    let settings = Settings { checks: Some("all".into()), ..Settings::default() };
    let status = on_vm(&mut Command::new(target.join("release/cust-client")), folder, &settings)
        .status()
        .map_err(|e| format!("cust-client: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("cust-client: {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_environment() {
        let settings =
            Settings { device: Some("a100".into()), seed: Some(7), log: true, ..Settings::default() };
        let expected =
            [("FERROTUNE_VM_DEVICE", "a100"), ("FERROTUNE_VM_SEED", "7"), ("FERROTUNE_VM_LOG", "1")];
        assert_eq!(settings.environment(), expected.map(|(name, value)| (name, OsString::from(value))));
    }

    #[test]
    fn a_link_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("libcuda.so");
        link(Path::new("/old"), &at).unwrap();
        link(Path::new("/new"), &at).unwrap();
        assert_eq!(fs::read_link(&at).unwrap(), Path::new("/new"));
    }
}
