//! `cargo xtask parity`: models, adapters and rewards exchanged with transformers, peft and bitsandbytes.

use crate::{fail, vm};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use trainer::parity::{self, Check, LIMIT};

const PACKAGES: [&str; 4] = ["torch", "transformers", "peft", "bitsandbytes"];

const HELP: &str = "\
Small random models of every family go both ways. What is written here is loaded by the libraries: base, merged and
int8 folders, reward models, adapters (also merged by peft). What they write is loaded here: folders with
configurations of transformers 4 and 5, peft adapters, reward models, int8 weights. Logits and scores must agree to
1e-4 of their root mean square.

The first run makes a virtual environment in target/parity and installs torch, transformers, peft and bitsandbytes
from the index that pip is set up for (about 5 GB with PyPI's torch; an index with CPU builds takes a tenth of that).

Examples:
  cargo xtask parity
  PIP_INDEX_URL=... cargo xtask parity    another index
  cargo xtask parity --if-installed       never install: skip";

/// Compare with transformers, peft and bitsandbytes in both directions.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Skip, successfully, where the environment is not installed.
    #[arg(long)]
    if_installed: bool,
    /// Print every comparison, not just a line a kind.
    #[arg(long, short)]
    verbose: bool,
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    let home = vm::target_dir().join("parity");
    if args.if_installed && !installed(&home) {
        println!("skipped: no parity environment (cargo xtask parity installs it)");
        return 0;
    }
    match compare(&home) {
        Ok(checks) => report(&checks, args.verbose),
        Err(e) => fail(e),
    }
}

fn python(home: &Path) -> PathBuf {
    home.join("venv/bin/python")
}

/// The environment counts as installed when pip has come to its end.
fn installed(home: &Path) -> bool {
    home.join("installed").exists() && python(home).exists()
}

fn install(home: &Path) -> Result<(), String> {
    if !python(home).exists() {
        step(Command::new("python3").args(["-m", "venv"]).arg(home.join("venv")), "python3 -m venv")?;
    }
    eprintln!("installing {}", PACKAGES.join(", "));
    let mut pip = Command::new(python(home));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    step(&mut pip, "pip install")?;
    let done = home.join("installed");
    fs::write(&done, PACKAGES.join("\n")).map_err(|e| format!("{}: {e}", done.display()))
}

fn step(command: &mut Command, what: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(e) => Err(format!("{what}: {e}")),
    }
}

/// A comparison and its limit.
type Line = (Check, f64);

fn compare(home: &Path) -> Result<Vec<Line>, String> {
    if !installed(home) {
        install(home)?;
    }
    let models = home.join("models");
    if models.exists() {
        fs::remove_dir_all(&models).map_err(|e| format!("{}: {e}", models.display()))?;
    }
    parity::write(&models).map_err(|e| e.to_string())?;
    let script = vm::root().join("tests/references/parity.py");
    step(Command::new(python(home)).arg(script).arg(&models), "tests/references/parity.py")?;
    let path = models.join("results.json");
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    println!("{}", json["versions"]);
    let line = |r: &Value| {
        let number = |name: &str| r[name].as_f64().unwrap_or(f64::INFINITY);
        let what = r["what"].as_str().unwrap_or_default().to_string();
        (Check { what, error: number("error") }, number("limit"))
    };
    let mut out: Vec<Line> = json["results"].as_array().into_iter().flatten().map(line).collect();
    out.extend(parity::read(&models).map_err(|e| e.to_string())?.into_iter().map(|c| (c, LIMIT)));
    Ok(out)
}

fn report(lines: &[Line], verbose: bool) -> i32 {
    let failed = |(check, limit): &&Line| check.error > *limit || check.error.is_nan();
    for line in lines.iter().filter(|l| verbose || failed(l)) {
        let verdict = if failed(&line) { "FAILED" } else { "ok" };
        println!("{verdict:>6}  {:<60} {:.1e} of {:.0e}", line.0.what, line.0.error, line.1);
    }
    let failures = lines.iter().filter(failed).count();
    let worst = lines.iter().filter(|(_, limit)| *limit == LIMIT).fold(0.0f64, |m, (c, _)| m.max(c.error));
    println!("parity: {} comparisons, {failures} failed; worst {worst:.1e} of {LIMIT:.0e}", lines.len());
    i32::from(failures > 0 || lines.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_a_nan_and_nothing_at_all_fail() {
        let line = |error| (Check { what: "x".into(), error }, LIMIT);
        assert_eq!(report(&[line(1e-6)], false), 0);
        assert_eq!(report(&[line(1e-6), line(1e-3)], false), 1);
        assert_eq!(report(&[line(f64::NAN)], false), 1);
        assert_eq!(report(&[], false), 1);
    }
}
