//! `cargo xtask test`: everything that must hold before a change lands.

use crate::{main_job, tidy, vm};
use std::process::Command;

/// Format, lints, house rules, all tests, and the main job held to its numbers.
#[derive(clap::Args)]
pub struct Args {
    /// Tests only: skip format, lints, house rules, the cust client and the main job.
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
    if args.fast {
        return 0;
    }
    // The cust client is a workspace of its own, which only the stand-in driver lets build.
    match vm::test_cust() {
        0 => main_job::check(&vm::target_dir()),
        failed => failed,
    }
}
