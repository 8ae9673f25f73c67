//! Turns `symbols.txt` into the exports and the table behind `cuGetProcAddress`, and names the library.
//!
//! A function is real when an `api!` block under `src/api` declares it (`fn cuName(`, with `ptds` or `ptsz` before it
//! when the per-thread form exists too). Every other name of the table becomes a function that refuses.
use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=symbols.txt");
    println!("cargo:rerun-if-changed=src/api");
    // `-Bsymbolic`: calls inside the library stay inside it even when another libcuda is loaded in the same process.
    // `nodelete`: worker threads and the exit hook outlive a client's dlclose.
    for arg in ["-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic", "-Wl,-z,nodelete"] {
        println!("cargo:rustc-cdylib-link-arg={arg}");
    }
    let real = real_functions(Path::new("src/api"));
    let table = fs::read_to_string("symbols.txt").expect("symbols.txt lies beside build.rs");
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("symbols.rs");
    fs::write(out, generate(&table, &real)).expect("OUT_DIR is writable");
}

/// The names that the `api!` blocks under `dir` declare.
fn real_functions(dir: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).expect("src/api is there").flatten() {
        for line in fs::read_to_string(entry.path()).expect("a source file").lines() {
            let Some((before, declared)) = line.trim_start().split_once("fn ") else { continue };
            let Some((name, _)) = declared.split_once('(') else { continue };
            let form = Some(before.trim()).filter(|f| f.starts_with("pt"));
            if name.strip_prefix("cu").is_some_and(|n| n.starts_with(|c: char| c.is_ascii_uppercase())) {
                names.extend(form.map(|f| format!("{name}_{f}")));
                names.insert(name.to_string());
            }
        }
    }
    names
}

fn generate(table: &str, real: &BTreeSet<String>) -> String {
    let (mut rows, mut all) = (String::new(), BTreeSet::new());
    for line in table.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut cells = line.split_whitespace();
        let name = cells.next().expect("a row starts with a name");
        write!(rows, "    Row {{ name: {name:?}, forms: &[").expect("a string grows");
        for cell in cells {
            let digits = cell.find(|c: char| !c.is_ascii_digit()).unwrap_or(cell.len());
            let (version, suffix) = cell.split_at(digits);
            let symbol = match suffix.strip_prefix('=') {
                Some(other) => other.to_string(),
                None => format!("{name}{suffix}"),
            };
            let per_thread = suffix.contains("_pt");
            write!(
                rows,
                "Form {{ version: {version}, per_thread: {per_thread}, function: linked::{symbol} }}, "
            )
            .expect("a string grows");
            all.insert(symbol);
        }
        rows.push_str("] },\n");
    }
    if let Some(name) = real.difference(&all).next() {
        panic!("src/api declares {name}, which symbols.txt does not list");
    }
    let (mut linked, mut refused) = (String::new(), String::new());
    for symbol in &all {
        writeln!(linked, "        pub fn {symbol}();").expect("a string grows");
        if !real.contains(symbol) {
            writeln!(
                refused,
                "    #[unsafe(no_mangle)]\n    extern \"C\" fn {symbol}() -> i32 {{ super::refuse({symbol:?}) }}"
            )
            .expect("a string grows");
        }
    }
    format!(
        "mod linked {{\n    unsafe extern \"C\" {{\n{linked}    }}\n}}\nmod refused {{\n{refused}}}\n\
         /// Every name, in order.\npub static ROWS: &[Row] = &[\n{rows}];\n"
    )
}
