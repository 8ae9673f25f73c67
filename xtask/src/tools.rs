//! `cargo xtask tools`: the compilers and clients that only tests use, in a virtual environment under the target folder.

use crate::{fail, vm};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One tool: a Python package and what it brings.
struct Tool {
    name: &'static str,
    package: &'static str,
    what: &'static str,
    /// A file of it, searched below the environment, and the link to it in `bin`.
    file: &'static str,
    is_program: bool,
}

const TOOLS: &[Tool] = &[
    tool("ptxas", "nvidia-cuda-nvcc", "assembles PTX: the judge of what is right", "ptxas", true),
    tool("nvdisasm", "nvidia-cuda-nvdisasm", "shows what ptxas made of it", "nvdisasm", true),
    tool("nvrtc", "nvidia-cuda-nvrtc", "compiles CUDA C++ to PTX", "nvrtc.h", false),
    tool("runtime", "nvidia-cuda-runtime", "the headers that CUDA C++ includes", "cuda.h", false),
    tool("triton", "triton", "compiles Triton kernels to PTX", "ptxas-blackwell", false),
    tool(
        "bindings",
        "cuda-bindings",
        "NVIDIA's Python driver bindings: a client of the stand-in",
        "cydriver.pxd",
        false,
    ),
];

const fn tool(
    name: &'static str,
    package: &'static str,
    what: &'static str,
    file: &'static str,
    is_program: bool,
) -> Tool {
    Tool { name, package, what, file, is_program }
}

const HELP: &str = "\
Everything comes from PyPI and runs with no GPU. What is installed already stays as it is.
Tests that need a tool say `skipped: no NAME` when it is not there.

  ptxas     assembles PTX                     nvrtc     compiles CUDA C++ to PTX
  nvdisasm  shows machine code                runtime   the headers for it
  triton    compiles Triton kernels to PTX    bindings  NVIDIA's Python driver bindings

Examples:
  cargo xtask tools                           all of them (about 1 GB)
  cargo xtask tools --only ptxas,bindings     the two that CI uses
  cargo xtask tools --list                    what is installed, and where";

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

/// The folder of the tools: the environment, and links to its programs in `bin`.
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
            let packages: Vec<&str> = missing.iter().map(|t| t.package).collect();
            eprintln!("installing {}", packages.join(", "));
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(&packages);
            step(&mut pip, "pip install")?;
        }
        let bin = self.0.join("bin");
        fs::create_dir_all(&bin).map_err(|e| format!("{}: {e}", bin.display()))?;
        vm::link(&python, &bin.join("python"))?;
        for tool in tools.iter().filter(|t| t.is_program) {
            let found = self.find(tool).ok_or_else(|| format!("{} holds no {}", tool.package, tool.file))?;
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

    fn find(&self, tool: &Tool) -> Option<PathBuf> {
        find(&self.venv().join("lib"), tool.file)
    }
}

fn step(command: &mut Command, what: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(e) => Err(format!("{what}: {e}")),
    }
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
    fn a_file_is_found_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/bin");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("ptxas"), "").unwrap();
        assert_eq!(find(folder.path(), "ptxas"), Some(deep.join("ptxas")));
        assert_eq!(find(folder.path(), "nvdisasm"), None);
    }
}
