//! `cargo xtask tidy`: the house rules that a compiler does not check.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Longest source file, in lines.
const MAX_LINES: usize = 600;

/// Runs the subcommand and gives its exit code.
pub fn run() -> i32 {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let mut files = Vec::new();
    for dir in ["crates", "kernels", "xtask", "tests"] {
        collect(&root.join(dir), &mut files);
    }
    let problems: Vec<String> =
        files.iter().flat_map(|f| check_file(f, &fs::read_to_string(f).unwrap_or_default())).collect();
    for p in &problems {
        eprintln!("{p}");
    }
    eprintln!("tidy: {} files, {} problems", files.len(), problems.len());
    i32::from(!problems.is_empty())
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn check_file(path: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut say = |line: usize, what: String| problems.push(format!("{}:{line}: {what}", path.display()));
    let lines = text.lines().count();
    if lines > MAX_LINES {
        say(lines, format!("{lines} lines; at most {MAX_LINES}: is there a seam?"));
    }
    // Spelled in two parts, so that this file passes its own check.
    let leftovers = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[", "ignore"),
    ];
    for (i, line) in text.lines().enumerate() {
        for word in leftovers {
            if line.contains(word) {
                say(i + 1, format!("`{word}` is left"));
            }
        }
    }
    if !text.trim_start().starts_with("//!") && !path.ends_with("build.rs") {
        say(1, "the file does not say what it holds (//!)".into());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_leftovers_and_headless_files() {
        let check = |text: &str| check_file(Path::new("x.rs"), text).len();
        assert_eq!(check("//! Fine.\nfn main() {}\n"), 0);
        assert_eq!(check("fn main() {}\n"), 1);
        assert_eq!(check(&format!("//! Bad.\nfn f() {{ {}) }}\n", concat!("todo", "!("))), 1);
        assert_eq!(check(&format!("//! Long.\n{}", "\n".repeat(MAX_LINES))), 1);
    }
}
