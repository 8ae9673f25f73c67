//! `cargo xtask tools`: the compilers and clients that only tests use, in a virtual environment under the target folder.

use crate::{fail, vm};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// One tool: the Python packages that bring it.
struct Tool {
    name: &'static str,
    packages: &'static [&'static str],
    what: &'static str,
    /// Files of it, searched below the environment; the first is shown, and if it is a program, linked to in `bin`.
    files: &'static [&'static str],
    is_program: bool,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "ptxas",
        packages: &["nvidia-cuda-nvcc"],
        what: "assembles PTX: the judge of what is right",
        files: &["ptxas"],
        is_program: true,
    },
    Tool {
        name: "nvdisasm",
        packages: &["nvidia-cuda-nvdisasm"],
        what: "shows what ptxas made of it",
        files: &["nvdisasm"],
        is_program: true,
    },
    Tool {
        name: "nvrtc",
        packages: &["nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-cccl"],
        what: "compiles CUDA C++ to PTX, with its headers",
        files: &["nvrtc.h", "cooperative_groups.h", "annotated_ptr"],
        is_program: false,
    },
    Tool {
        name: "triton",
        packages: &["triton"],
        what: "compiles Triton kernels to PTX",
        files: &["ptxas-blackwell"],
        is_program: false,
    },
    Tool {
        name: "bindings",
        packages: &["cuda-bindings"],
        what: "NVIDIA's Python driver bindings: a client of the stand-in",
        files: &["cydriver.pxd"],
        is_program: false,
    },
];

const HELP: &str = "\
Everything comes from PyPI and runs with no GPU. What is installed already stays as it is.
Tests that need a tool say `skipped: no NAME` when it is not there.

  ptxas     assembles PTX (120 MB)            nvrtc     compiles CUDA C++ to PTX (65 MB)
  nvdisasm  shows machine code                triton    compiles Triton kernels to PTX (286 MB)
  bindings  NVIDIA's Python driver bindings (9 MB)

Examples:
  cargo xtask tools                                 all of them (1.6 GB on disk)
  cargo xtask tools --only ptxas,nvrtc,bindings     those that CI uses
  cargo xtask tools --list                          what is installed, and where";

/// Install the optional tools that tests use: ptxas, NVRTC, Triton, NVIDIA's Python bindings.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Only these.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    only: Vec<String>,
    /// Install nothing: show what is there.
    #[arg(long)]
    list: bool,
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    if let Some(unknown) = args.only.iter().find(|name| TOOLS.iter().all(|t| t.name != **name)) {
        let known: Vec<&str> = TOOLS.iter().map(|t| t.name).collect();
        return fail(format_args!("no tool {unknown}; known are {}", known.join(", ")));
    }
    let wanted = |t: &&Tool| args.only.is_empty() || args.only.iter().any(|name| name == t.name);
    let tools: Vec<&Tool> = TOOLS.iter().filter(wanted).collect();
    let home = Home(vm::target_dir().join("tools"));
    let result = if args.list { Ok(()) } else { home.install(&tools) };
    home.show(&tools);
    result.map_or_else(fail, |()| 0)
}

/// The folder of the tools: the environment in `venv`, and its programs in `bin`.
struct Home(PathBuf);

impl Home {
    fn venv(&self) -> PathBuf {
        self.0.join("venv")
    }

    fn install(&self, tools: &[&Tool]) -> Result<(), String> {
        let python = self.venv().join("bin/python");
        if !python.exists() {
            let venv = self.venv();
            step(Command::new("python3").args(["-m", "venv"]).arg(&venv), "python3 -m venv")?;
        }
        let missing: Vec<&&Tool> = tools.iter().filter(|t| self.find(t).is_none()).collect();
        if !missing.is_empty() {
            let packages: Vec<&str> = missing.iter().flat_map(|t| t.packages).copied().collect();
            eprintln!("installing {}", packages.join(", "));
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(&packages);
            step(&mut pip, "pip install")?;
        }
        let bin = self.0.join("bin");
        fs::create_dir_all(&bin).map_err(|e| format!("{}: {e}", bin.display()))?;
        launcher(&python, &bin.join("python"))?;
        for tool in tools.iter().filter(|t| t.is_program) {
            let found =
                self.find(tool).ok_or_else(|| format!("{} is nowhere in {:?}", tool.name, tool.packages))?;
            vm::link(&found, &bin.join(tool.name))?;
        }
        Ok(())
    }

    fn show(&self, tools: &[&Tool]) {
        println!("{}", self.0.display());
        for tool in tools {
            let at = self.find(tool).map_or_else(|| "not installed".into(), |p| p.display().to_string());
            println!("  {:9} {:58} {at}", tool.name, tool.what);
        }
    }

    /// The first file of a tool, if all are there.
    fn find(&self, tool: &Tool) -> Option<PathBuf> {
        let found: Option<Vec<PathBuf>> =
            tool.files.iter().map(|file| find(&self.venv().join("lib"), file)).collect();
        found?.into_iter().next()
    }
}

fn step(command: &mut Command, what: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(e) => Err(format!("{what}: {e}")),
    }
}

/// A program at `at` that runs `target`: a link would not do for Python, which looks for its packages beside the name it
/// was called by.
fn launcher(target: &Path, at: &Path) -> Result<(), String> {
    let text = format!("#!/bin/sh\nexec '{}' \"$@\"\n", target.display());
    let part = at.with_extension(format!("part{}", std::process::id()));
    let written =
        fs::write(&part, text).and_then(|()| fs::set_permissions(&part, Permissions::from_mode(0o755)));
    written.and_then(|()| fs::rename(&part, at)).map_err(|e| format!("{}: {e}", at.display()))
}

/// The first file of that name below a folder, in the order of names.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).collect();
    entries.sort();
    let here = entries.iter().find(|p| p.is_file() && p.file_name().is_some_and(|n| n == name)).cloned();
    let below = || entries.iter().filter(|p| p.is_dir() && !p.is_symlink()).find_map(|p| find(p, name));
    here.or_else(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_runs_its_target_under_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let (target, at) = (folder.path().join("a target"), folder.path().join("python"));
        fs::write(&target, "#!/bin/sh\necho \"$(basename \"$0\"): $1\"\n").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o755)).unwrap();
        // An earlier link is replaced, not written through.
        std::os::unix::fs::symlink(&target, &at).unwrap();
        launcher(&target, &at).unwrap();
        let said = Command::new(&at).arg("x y").output().unwrap().stdout;
        assert_eq!(String::from_utf8(said).unwrap(), "a target: x y\n");
    }

    #[test]
    fn a_file_is_found_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/bin");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("ptxas"), "").unwrap();
        assert_eq!(find(folder.path(), "ptxas"), Some(deep.join("ptxas")));
        assert_eq!(find(folder.path(), "nvdisasm"), None);
    }
}
