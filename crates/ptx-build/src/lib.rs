//! Renders the PTX templates of a kernel crate; called from its build script.
//!
//! A template is a `.ptx` file in the crate's `ptx/` folder: PTX with [minijinja](https://docs.rs/minijinja) in
//! delimiters that PTX does not use. `${expression}` is replaced by its value; a line `//% statement` is a statement
//! (`for`, `if`, `macro`, `set`, `import`, ... and their `end`s); `//# remark` is left out. Everything else, comments
//! too, is copied. Macros shared by families lie in this crate's `include/` folder:
//! `//% import "types.ptx" as types`.
//!
//! Unrolled and per-dtype code is made this way and in no other: what is rendered is what ships, and what
//! `cargo xtask ptx --out DIR` exports.

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context, syntax::SyntaxConfig,
};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

const INCLUDE: &[(&str, &str)] = &[
    ("types.ptx", include_str!("include/types.ptx")),
    ("math.ptx", include_str!("include/math.ptx")),
    ("tensor.ptx", include_str!("include/tensor.ptx")),
];

/// Renders every template in `ptx/` to `OUT_DIR`, and writes `OUT_DIR/modules.rs` with one
/// `static NAME: kernel_abi::Module` for each and `static ALL` that lists them by name.
///
/// # Panics
/// When a template does not render: the message names the file and line.
pub fn render() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("called from a build script"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("called from a build script"));
    println!("cargo::rerun-if-changed=ptx");
    println!("cargo::rerun-if-changed=build.rs");
    let sources = templates(&root.join("ptx"));
    let mut modules = String::new();
    for (name, text) in render_all(&sources) {
        fs::write(out.join(format!("{name}.ptx")), text).expect("OUT_DIR is writable");
        let constant = name.to_uppercase();
        modules.push_str(&format!(
            "/// `{name}.ptx`\npub static {constant}: kernel_abi::Module = kernel_abi::Module {{ name: \"{name}\", ptx: \
             include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}.ptx\")) }};\n"
        ));
    }
    let names: Vec<String> =
        sources.keys().filter(|n| !n.starts_with('_')).map(|n| format!("&{}", n.to_uppercase())).collect();
    modules.push_str(&format!(
        "/// All modules of this family.\npub static ALL: &[&kernel_abi::Module] = &[{}];\n",
        names.join(", ")
    ));
    fs::write(out.join("modules.rs"), modules).expect("OUT_DIR is writable");
}

/// The templates of a folder by stem. Those whose name begins with `_` are only for import.
fn templates(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_some_and(|e| e == "ptx") {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            found.insert(path.file_stem().expect("a name").to_string_lossy().into_owned(), text);
        }
    }
    found
}

/// Bytes of an element.
fn bytes(t: &str) -> Result<usize, Error> {
    match t {
        "f64" => Ok(8),
        "f32" | "u32" | "s32" => Ok(4),
        "f16" | "bf16" => Ok(2),
        "s8" | "u8" => Ok(1),
        other => Err(Error::new(ErrorKind::InvalidOperation, format!("no element type {other}"))),
    }
}

/// `%f3, %f4` for `("%f", 3, 2)`.
fn list(r: &str, first: usize, n: usize) -> String {
    (first..first + n).map(|i| format!("{r}{i}")).collect::<Vec<_>>().join(", ")
}

/// The vector suffix of an access of `n` registers.
fn vector(n: usize) -> &'static str {
    match n {
        1 => "",
        2 => ".v2",
        _ => ".v4",
    }
}

/// A macro call that eats the line break after it also eats the indent of the next line: put back before instructions.
fn indented(text: &str) -> String {
    let instruction =
        |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase() || c == '@') && line.contains(';');
    text.lines().map(|l| if instruction(l) { format!("    {l}\n") } else { format!("{l}\n") }).collect()
}

fn render_all(sources: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .variable_delimiters("${", "}")
            .block_delimiters("<%%", "%%>")
            .comment_delimiters("/#", "#/")
            .line_statement_prefix("//%")
            .line_comment_prefix("//#")
            .build()
            .expect("distinct delimiters"),
    );
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_trim_blocks(true);
    env.add_function("bytes", bytes);
    env.add_function("wide", |t: &str| bytes(t).map(|b| 16 / b));
    env.add_function("list", list);
    env.add_function("log2", |n: u32| n.ilog2());
    env.add_function("f32", |x: f64| format!("0f{:08X}", (x as f32).to_bits()));
    env.add_function("vector", vector);
    env.add_function("braced", |r: &str, first: usize, n: usize| match n {
        1 => list(r, first, 1),
        _ => format!("{{{}}}", list(r, first, n)),
    });
    for (name, text) in INCLUDE {
        env.add_template(name, text).unwrap_or_else(|e| panic!("{e:#}"));
    }
    for (name, text) in sources {
        env.add_template_owned(format!("{name}.ptx"), text.clone())
            .unwrap_or_else(|e| panic!("{name}.ptx: {e:#}"));
    }
    let rendered = sources.keys().filter(|name| !name.starts_with('_')).map(|name| {
        let template = env.get_template(&format!("{name}.ptx")).expect("just added");
        let text = template.render(context! {}).unwrap_or_else(|e| panic!("{name}.ptx: {e:#}"));
        (name.clone(), indented(&text))
    });
    rendered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ptx_passes_through_and_statements_do_not() {
        let source = "//# a remark\n//% for t in [\"f32\", \"f16\"]\n.entry e_${t}() { ld.v2 {%f1, %f2}, [%rd1]; }\n//% endfor\n";
        let rendered = render_all(&BTreeMap::from([("a".to_string(), source.to_string())]));
        let want =
            ".entry e_f32() { ld.v2 {%f1, %f2}, [%rd1]; }\n.entry e_f16() { ld.v2 {%f1, %f2}, [%rd1]; }\n";
        assert_eq!(rendered[0].1.trim_start_matches('\n'), want);
    }
}
