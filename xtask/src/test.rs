//! `cargo xtask test`: everything that must hold before a change lands.

use crate::{tidy, vm};
use std::process::Command;

/// Format, lints, house rules, all tests.
#[derive(clap::Args)]
pub struct Args {
    /// Tests only: skip format, lints and house rules.
    #[arg(long)]
    fast: bool,
}

fn cargo(args: &[&str]) -> bool {
    eprintln!("cargo {}", args.join(" "));
    Command::new(env!("CARGO")).args(args).status().is_ok_and(|s| s.success())
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    let checks: &[&[&str]] = &[
        &["fmt", "--all", "--check"],
        &["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"],
    ];
    if !args.fast {
        if tidy::run() != 0 {
            return 1;
        }
        for check in checks {
            if !cargo(check) {
                return 1;
            }
        }
    }
    // Release: the tests train small models, and the build is shared with `cargo xtask train`.
    if !cargo(&["test", "--release", "--workspace"]) {
        return 1;
    }
    // A workspace of its own, which only the stand-in driver lets build.
    if args.fast { 0 } else { vm::test_cust() }
}
