//! NVIDIA's assembler: registers, shared memory and spills of every entry.

use kernel_abi::Module;
use std::{collections::BTreeMap, env, path::PathBuf, process::Command};

/// The architectures every module must assemble for.
pub const TARGETS: [u32; 4] = [80, 86, 89, 90];

/// What the assembler says of one entry on one architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block, bytes.
    pub shared: u32,
    /// Bytes spilled, stores and loads together.
    pub spilled: u32,
    /// Bytes of the stack frame.
    pub stack: u32,
}

/// `FERROTUNE_PTXAS`, then what `cargo xtask tools` installed, then the path.
pub fn find() -> Option<PathBuf> {
    let named = env::var_os("FERROTUNE_PTXAS").map(PathBuf::from);
    let installed = env::current_exe().ok().and_then(|exe| {
        // target/release/deps/test -> target/tools
        let tools = exe.ancestors().nth(3)?.join("tools/bin/ptxas");
        tools.is_file().then_some(tools)
    });
    let path = env::var_os("PATH").unwrap_or_default();
    let found = || env::split_paths(&path).map(|d| d.join("ptxas")).find(|p| p.is_file());
    named.filter(|p| p.is_file()).or(installed).or_else(found)
}

/// Assembles a module for `sm`: usage by entry. None when there is no assembler.
///
/// # Panics
/// With the assembler's words when it refuses the module.
pub fn assemble(module: &Module, sm: u32) -> Option<BTreeMap<String, Usage>> {
    let ptxas = find()?;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join(format!("{}.ptx", module.name));
    std::fs::write(&file, module.ptx).expect("written");
    let out = Command::new(ptxas)
        .args(["-v", "-o"])
        .arg(dir.path().join("kernel.cubin"))
        .arg(format!("-arch=sm_{sm}"))
        .arg(&file)
        .output()
        .expect("ptxas runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}.ptx for sm_{sm}: {said}", module.name);
    Some(parse(&said))
}

fn parse(said: &str) -> BTreeMap<String, Usage> {
    let mut usage: BTreeMap<String, Usage> = BTreeMap::new();
    let mut entry = String::new();
    let before = |line: &str, words: &str| -> Option<u32> {
        let (head, _) = line.split_once(words)?;
        head.rsplit([' ', ',']).find(|w| !w.is_empty())?.parse().ok()
    };
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            entry = rest.split('\'').next().unwrap_or_default().to_string();
        } else if let Some((_, rest)) = line.split_once("Function properties for ") {
            entry = rest.trim().to_string();
        }
        let mine = usage.entry(entry.clone()).or_default();
        mine.registers = before(line, " registers").unwrap_or(mine.registers);
        mine.shared = before(line, " bytes smem").unwrap_or(mine.shared);
        mine.stack = before(line, " bytes stack frame").unwrap_or(mine.stack);
        mine.spilled += before(line, " bytes spill stores").unwrap_or(0)
            + before(line, " bytes spill loads").unwrap_or(0);
    }
    usage.retain(|name, _| !name.is_empty());
    usage
}

/// The static bar of a family: every module assembles for every target with no spill and no stack. Prints a table of
/// registers and shared memory.
///
/// # Panics
/// When an entry spills, or a module does not assemble.
pub fn check(modules: &[&Module]) {
    if find().is_none() {
        println!("skipped: no ptxas (cargo xtask tools --only ptxas installs it)");
        return;
    }
    println!(
        "{:<56}{}",
        "registers, static shared bytes",
        TARGETS.map(|sm| format!("{:>14}", format!("sm_{sm}"))).concat()
    );
    for module in modules {
        let by_target = std::thread::scope(|scope| {
            let running = TARGETS.map(|sm| scope.spawn(move || assemble(module, sm).expect("found above")));
            running.map(|target| target.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        for entry in by_target[0].keys() {
            let row: Vec<Usage> = by_target.iter().map(|t| t[entry]).collect();
            let cells: String = row.iter().map(|u| format!("{:>7}{:>7}", u.registers, u.shared)).collect();
            println!("{entry:<56}{cells}");
            for (u, sm) in row.iter().zip(TARGETS) {
                assert_eq!((u.spilled, u.stack), (0, 0), "{entry} spills on sm_{sm}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_assembler_says() {
        let said = "ptxas info    : 0 bytes gmem\n\
                    ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
                    ptxas info    : Function properties for k\n    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n\
                    ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem, 380 bytes cmem[0]\n";
        let usage = Usage { registers: 40, shared: 1024, spilled: 12, stack: 16 };
        assert_eq!(parse(said), BTreeMap::from([("k".to_string(), usage)]));
    }
}
