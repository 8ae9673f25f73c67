//! The reference libraries, where they are installed: equal logits and scores in both directions.

use std::process::Command;

#[test]
fn models_adapters_and_rewards_agree_with_the_reference_libraries() {
    let o = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["parity", "--if-installed"]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
    assert!(o.status.success(), "{out}{err}");
    assert!(out.contains("skipped: no parity environment") || out.contains(" 0 failed"), "{out}");
    println!("{out}");
}
