//! The instruction table against itself and, where there is one, against the real assembler.
//!
//! From every row, instructions are generated that the row allows, that no row may allow, and neighbours of the row.
//! Without an assembler the first two kinds are checked; with one, all three get its verdict.
#[path = "accept/generate.rs"]
mod generate;
#[path = "accept/ptxas.rs"]
mod ptxas;

use generate::{Case, DECLARATIONS, Expected, cases};
use ptx_vm::check::{compile, head};
use std::collections::BTreeMap;

/// A module around lines of code; the number of the first line.
fn module(version: (u32, u32), sm: u32, lines: &[Option<&str>]) -> (String, u32) {
    let (major, minor) = version;
    let wide = if (major, minor) >= (8, 3) { ".reg .b128 %q<9>;" } else { "" };
    let header = format!(
        ".version {major}.{minor}\n.target sm_{sm}\n.address_size 64\n.visible .entry k(.param .align 16 .b8 p0[64]) {{\n{DECLARATIONS} {wide}\nts: .branchtargets L;\n"
    );
    let first = header.lines().count() as u32 + 1;
    let mut source = header;
    for line in lines {
        source.push_str(line.unwrap_or(""));
        source.push('\n');
    }
    source.push_str("L: ret;\n}\n");
    (source, first)
}

fn ours(version: (u32, u32), sm: u32, case: &str) -> Result<(), String> {
    let (source, _) = module(version, sm, &[Some(case)]);
    compile("case.ptx", &source).map(|_| ()).map_err(|e| e.to_string())
}

/// Verdicts that differ on purpose: what the assembler takes and the machine refuses, by a part of the text.
const STRICTER: &[&str] = &[];

fn all_cases() -> Vec<Case> {
    let mut cases: Vec<Case> = head::forms().flat_map(cases).collect();
    cases.sort_by(|a, b| a.text.cmp(&b.text));
    cases.dedup_by(|a, b| a.text == b.text && a.expected == b.expected);
    cases
}

#[test]
fn the_table_accepts_what_it_says_and_rejects_what_it_must() {
    let mut wrong = Vec::new();
    for case in all_cases() {
        let verdict = ours((9, 5), 89, &case.text);
        match (case.expected, verdict) {
            (Expected::Accept, Err(why)) if !why.contains("gone since") => wrong.push(why),
            (Expected::Reject, Ok(())) => wrong.push(format!("accepted: {}", case.text)),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} of the table's own cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_instruction_is_accepted_before_its_time() {
    for case in all_cases().iter().filter(|c| c.expected == Expected::Accept) {
        let (major, minor) = case.since.version;
        let earlier = if minor > 0 { (major, minor - 1) } else { (major - 1, 9) };
        if earlier >= (1, 0) {
            assert!(ours(earlier, 89, &case.text).is_err(), "{} at .version {earlier:?}", case.text);
        }
        if case.since.sm > 10 {
            assert!(
                ours((9, 5), case.since.sm - 1, &case.text).is_err(),
                "{} before sm_{}",
                case.text,
                case.since.sm
            );
        }
    }
}

/// Compares both verdicts on a batch; returns the differences.
fn compare(ptxas: &std::path::PathBuf, version: (u32, u32), sm: u32, cases: &[&Case]) -> Vec<String> {
    let mut differences = Vec::new();
    for chunk in cases.chunks(400) {
        let lines: Vec<&str> = chunk.iter().map(|c| c.text.as_str()).collect();
        let theirs = ptxas::rejected(ptxas, sm, &|kept| module(version, sm, kept), &lines);
        for (i, line) in lines.iter().enumerate() {
            let verdict = ours(version, sm, line);
            let stricter = STRICTER.iter().any(|s| line.contains(s));
            if verdict.is_ok() == theirs.contains(&i) && !(stricter && verdict.is_err()) {
                let ours = verdict
                    .err()
                    .map_or("accepted here".into(), |e| e.lines().next().unwrap_or("").to_owned());
                differences.push(format!("sm_{sm} {version:?} {line}    [{ours}]"));
            }
        }
    }
    differences
}

#[test]
fn verdicts_are_those_of_ptxas() {
    let Some(ptxas) = ptxas::find() else {
        println!("skipped: no ptxas (set FERROTUNE_PTXAS or put it on the path)");
        return;
    };
    let all = all_cases();
    let mut differences = Vec::new();
    for sm in [80, 89] {
        let batch: Vec<&Case> = all.iter().filter(|c| sm == 89 || c.expected == Expected::Accept).collect();
        differences.extend(compare(&ptxas, (9, 5), sm, &batch));
    }
    // Each row at the version it says it exists since, and at the one before.
    let mut by_version: BTreeMap<((u32, u32), u32), Vec<&Case>> = BTreeMap::new();
    for case in all.iter().filter(|c| c.expected == Expected::Accept) {
        let sm = if case.since.version >= (7, 8) { 89 } else { 80 };
        let lowest = if sm == 89 { (7, 8) } else { (7, 0) };
        let (major, minor) = case.since.version;
        for version in [(major, minor), if minor > 0 { (major, minor - 1) } else { (major - 1, 8) }] {
            if version >= lowest {
                by_version.entry((version, sm)).or_default().push(case);
            }
        }
    }
    for ((version, sm), batch) in by_version {
        differences.extend(compare(&ptxas, version, sm, &batch));
    }
    assert!(differences.is_empty(), "{} verdicts differ:\n{}", differences.len(), differences.join("\n"));
}
