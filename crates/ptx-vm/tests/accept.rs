//! The instruction table against itself and, where there is one, against the real assembler.
//!
//! From every row, instructions are generated that the row allows, that no row may allow, and neighbours of the row.
//! Without an assembler the first two kinds are checked; with one, all three get its verdict.
#[path = "accept/generate.rs"]
mod generate;
#[path = "accept/ptxas.rs"]
mod ptxas;
mod tools;

use generate::{Case, DECLARATIONS, Expected, cases};
use ptx_vm::check::{compile, head};
use std::collections::BTreeMap;
use std::path::Path;

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

/// What the assembler takes and the machine refuses on purpose: a part of the text, and why.
const STRICTER: &[(&str, &str)] = &[
    ("addc.", "16-bit carries are in no edition of the ISA"),
    ("subc.", "16-bit carries are in no edition of the ISA"),
    ("madc.lo.", "16-bit carries are in no edition of the ISA"),
    ("rcp.rn.ftz.f64", "the ISA has no .ftz on f64"),
    ("cvt.rn.ftz.bf16.f32", "the ISA has no .ftz beside bf16"),
    ("cvt.rn.f32.bf16", "the conversion is exact; the ISA has no rounding on it"),
    ("cvt.pack.", "a register wider than the value would hold undefined bits"),
    ("cvt.rn.f16x2.f32", "a register wider than the value would hold undefined bits"),
    ("%tid.x", "special registers are read by mov alone"),
    ("mov.b16 %h1, sv", "no address fits 16 bits"),
    ("mov.b16 {%b1, %b2}", "only a register can be taken apart"),
    ("mov.b128 %q1", "constants and addresses have at most 64 bits"),
    ("mov.v2.", "a vector is copied from a vector"),
    ("movmatrix.", "the fragment is one .b32 register"),
    ("isspacep.const %p1, ", "an address has 64 bits and lies in a register"),
    ("cvta.const.u64 %rd1, 5", "an address lies in a register or is a variable's"),
    ("cvta.to.const.u64 %rd1, 5", "an address lies in a register or is a variable's"),
    ("cvt.rna.tf32.f32 %r1, 0f", "a constant can be written rounded"),
    ("ld.mmio.relaxed.sys.b128", "mmio has at most 64 bits in the ISA"),
    ("st.mmio.relaxed.sys.b128", "mmio has at most 64 bits in the ISA"),
    ("lop3.b32 _", "without a predicate the result would be lost"),
    ("match.all.sync.b32 _", "the ISA has no sink here"),
    ("match.all.sync.b64 _", "the ISA has no sink here"),
    ("shfl.sync.up.b32 %r1, %r2, ", "lane numbers are integers"),
    ("testp.f32", "the test itself is missing"),
    (".bf16.f16.f16.f16.f16", "five types where the ISA has four"),
    (".bf16.f64.f64.f64.f64", "five types where the ISA has four"),
    (".v2.", "the ISA has no vector here"),
    ("wmma.load.c.sync.aligned.row.m8n8k32.f32", "the ISA has only .s32 for this shape"),
    ("wmma.store.d.sync.aligned.row.m8n8k32.f32", "the ISA has only .s32 for this shape"),
    ("%fx8", "a packed pair is no number"),
];

/// What is not compared: it is right only next to other instructions.
const NEEDS_NEIGHBOURS: &[&str] = &["ld.param::func"];

/// `add.rn.rn`: words that the assembler lets stand twice on some instructions.
fn stutters(line: &str) -> bool {
    let words: Vec<&str> = line.split([' ', ';']).next().unwrap_or("").split('.').collect();
    words.iter().enumerate().any(|(i, w)| words[..i].contains(w))
}

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

/// Everything that the table lets pass also becomes code, so that no kernel is refused after its check.
#[test]
fn what_is_accepted_is_executed() {
    let mut wrong = Vec::new();
    for case in all_cases().iter().filter(|c| c.expected == Expected::Accept) {
        if ours((9, 5), 89, &case.text).is_err() {
            continue; // gone since an older target
        }
        let (source, _) = module((9, 5), 89, &[Some(&case.text)]);
        wrong.extend(ptx_vm::Module::compile("case.ptx", &source).err().map(|e| e.to_string()));
    }
    assert!(wrong.is_empty(), "{} instructions:\n{}", wrong.len(), wrong.join("\n"));
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

/// Where the verdicts differ.
struct Difference {
    text: String,
    /// The machine refuses what the assembler takes.
    stricter: bool,
    stutters: bool,
}

/// Compares both verdicts on a batch; returns the differences. What should pass is assembled together, as is what
/// should not, so that the first needs one run of the assembler.
fn compare(ptxas: &Path, version: (u32, u32), sm: u32, cases: &[&Case]) -> Vec<Difference> {
    let verdicts = cases.iter().map(|case| (case.text.as_str(), ours(version, sm, &case.text).err()));
    let (accepted, refused): (Vec<_>, Vec<_>) = verdicts.partition(|(_, error)| error.is_none());
    let mut differences = Vec::new();
    for chunk in accepted.chunks(2000).chain(refused.chunks(2000)) {
        let lines: Vec<&str> = chunk.iter().map(|(text, _)| *text).collect();
        let theirs = ptxas::rejected(ptxas, sm, &|kept| module(version, sm, kept), &lines);
        for (i, (line, error)) in chunk.iter().enumerate() {
            if error.is_none() == theirs.contains(&i) {
                let ours = error.as_ref().and_then(|e| e.lines().next());
                let text = format!("sm_{sm} {version:?} {line}    [{}]", ours.unwrap_or("accepted here"));
                differences.push(Difference { text, stricter: error.is_some(), stutters: stutters(line) });
            }
        }
    }
    differences
}

/// Every n-th text, by its hash (FNV-1a), so that the choice stays when the table grows.
fn sampled(text: &str, n: u32) -> bool {
    let hash = text.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    (hash >> 8).is_multiple_of(n)
}

#[test]
fn verdicts_are_those_of_ptxas() {
    let Some(ptxas) = tools::ptxas() else {
        println!("skipped: no ptxas (cargo xtask tools --only ptxas installs it)");
        return;
    };
    // `FERROTUNE_PTX_ALL=1` compares every neighbour of every row: minutes instead of seconds.
    let everything = std::env::var_os("FERROTUNE_PTX_ALL").is_some();
    let one_in = if everything { 1 } else { 12 };
    let mut all = all_cases();
    all.retain(|c| !NEEDS_NEIGHBOURS.iter().any(|s| c.text.starts_with(s)));
    all.retain(|c| c.expected == Expected::Accept || sampled(&c.text, one_in));
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
    let (meant, wrong): (Vec<_>, Vec<_>) = differences
        .into_iter()
        .partition(|d| d.stricter && (d.stutters || STRICTER.iter().any(|(part, _)| d.text.contains(part))));
    let texts: Vec<&str> = wrong.iter().map(|d| d.text.as_str()).collect();
    assert!(texts.is_empty(), "{} verdicts differ:\n{}", texts.len(), texts.join("\n"));
    // An exception that nothing needs any more is a mistake waiting to be hidden.
    let idle = |part: &&str| everything && !meant.iter().any(|d| d.text.contains(part));
    let idle: Vec<&str> = STRICTER.iter().map(|(part, _)| *part).filter(idle).collect();
    assert!(idle.is_empty(), "exceptions without a case: {idle:?}");
}
