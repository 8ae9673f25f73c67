//! Programs that were not written for the stand-in: one in C, one on NVIDIA's Python bindings.
mod common;

use common::{folder, with_stand_in};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients")
}

fn check(output: &Output, says: &str) {
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains(says), "{}\n{said}", output.status);
}

#[test]
fn a_c_program_links_and_runs() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("client-c");
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Werror", "-o"]).arg(&program).arg(clients().join("client.c"));
    let built = match cc.arg("-L").arg(folder()).arg("-lcuda").output() {
        Ok(output) => output,
        Err(_) => {
            eprintln!("skipped: no cc");
            return;
        }
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let kernels = clients().join("kernels.ptx");
    check(&with_stand_in(Command::new(program).arg(kernels), &[]).output().unwrap(), "1000 sums");
}

#[test]
fn nvidias_python_bindings_run() {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let python = tmp.parent().expect("the target folder").join("tools/venv/bin/python");
    let has = Command::new(&python).args(["-c", "import cuda.bindings"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no cuda-bindings (cargo xtask tools --only bindings installs them)");
        return;
    }
    let mut client = Command::new(python);
    client.arg(clients().join("client.py")).arg(clients().join("kernels.ptx"));
    check(&with_stand_in(&mut client, &[("FERROTUNE_VM_MEMORY", "64M")]).output().unwrap(), "all is well");
}
