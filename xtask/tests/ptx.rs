//! Exported kernels in programs of other languages, on the stand-in.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn xtask(arguments: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_xtask"));
    c.args(arguments);
    c
}

/// What a program that must succeed prints.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn export(dir: &Path) -> PathBuf {
    let out = dir.join("kernels-ptx");
    assert!(said(&mut xtask(&["ptx", "--out", out.to_str().unwrap()])).contains("entries"));
    out
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/link").join(name)
}

#[test]
fn a_c_program_launches_an_exported_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let out = export(dir.path());
    let stand_in = said(&mut xtask(&["vm", "--path"]));
    let program = dir.path().join("add");
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Werror", "-o"]).arg(&program).arg(example("add.c"));
    if cc.arg("-L").arg(stand_in.trim()).arg("-lcuda").status().is_err() {
        eprintln!("skipped: no cc");
        return;
    }
    let mut run = xtask(&["vm", "--checks", "all", "--"]);
    assert!(said(run.arg(program).arg(out.join("elementwise/add.ptx"))).contains("1003 sums by add_f32"));
}

#[test]
fn a_python_program_launches_an_exported_kernel() {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let python = tmp.parent().expect("the target folder").join("tools/bin/python");
    let has = Command::new(&python).args(["-c", "import cuda.bindings"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no cuda-bindings (cargo xtask tools --only bindings installs them)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = export(dir.path());
    let mut run = xtask(&["vm", "--checks", "all", "--"]);
    assert!(said(run.arg(python).arg(example("mean.py")).arg(out)).contains("37 means"));
}
