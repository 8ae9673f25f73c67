//! `cargo xtask ptx --out DIR`: the kernels' PTX as files, with a manifest for engines in any language.

use kernel_abi::Module;
use ptx_vm::Kernel;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Every family.
pub const FAMILIES: &[(&str, &[&Module])] = &[
    ("attention", attention::ptx::ALL),
    ("elementwise", elementwise::ptx::ALL),
    ("embedding", embedding::ptx::ALL),
    ("int8-matmul", int8_matmul::ptx::ALL),
    ("lora", lora::ptx::ALL),
    ("loss", loss::ptx::ALL),
    ("matmul", matmul::ptx::ALL),
    ("norm-gelu", norm_gelu::ptx::ALL),
    ("optim", optim::ptx::ALL),
];

/// What `manifest.json` says of itself.
const ABOUT: &str = "Parameters are listed in order with their place in the parameter buffer (cuLaunchKernel takes a \
    pointer to each value). `notes` is the comment at the head of the file: what the entries compute, their grid, block, \
    dynamic shared memory and constraints. Addresses are device pointers (.u64); a null pointer stands for an absent \
    optional argument.";

/// Writes `DIR/FAMILY/MODULE.ptx` for every module and `DIR/manifest.json`. Returns how many entries there are.
pub fn export(out: &Path) -> Result<usize, String> {
    let mut families = serde_json::Map::new();
    let mut entries = 0;
    for (family, modules) in FAMILIES {
        let mut listed = serde_json::Map::new();
        for module in *modules {
            let file = format!("{family}/{}.ptx", module.name);
            write(&out.join(&file), module.ptx)?;
            let compiled = ptx_vm::Module::compile(&file, module.ptx).map_err(|e| e.to_string())?;
            let kernels: serde_json::Map<String, Value> =
                compiled.kernels().map(|k| (k.name.clone(), describe(k))).collect();
            entries += kernels.len();
            let target = format!("sm_{}", compiled.target_sm());
            listed.insert(
                module.name.to_string(),
                json!({ "file": file, "target": target, "notes": notes(module.ptx), "entries": kernels }),
            );
        }
        families.insert(family.to_string(), Value::Object(listed));
    }
    let version = env!("CARGO_PKG_VERSION");
    let manifest = json!({ "ferrotune": version, "about": ABOUT, "families": families });
    write(&out.join("manifest.json"), &(serde_json::to_string_pretty(&manifest).expect("JSON") + "\n"))?;
    Ok(entries)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().expect("a file in a folder");
    let part = path.with_extension("part");
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&part, text))
        .and_then(|()| fs::rename(&part, path));
    written.map_err(|e| format!("{}: {e}", path.display()))
}

fn describe(kernel: &Kernel) -> Value {
    let params: Vec<Value> = kernel
        .params
        .iter()
        .map(|p| json!({ "name": p.name, "offset": p.offset, "bytes": p.size }))
        .collect();
    json!({
        "params": params,
        "param_bytes": kernel.param_bytes,
        "static_shared_bytes": kernel.static_shared,
        "max_threads": kernel.max_threads,
        "required_block": kernel.required_block,
    })
}

/// The comments before the first entry, without their slashes.
fn notes(ptx: &str) -> Vec<&str> {
    let head = ptx.lines().take_while(|line| !line.contains(".entry"));
    head.filter_map(|line| line.strip_prefix("//"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_and_entry_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let entries = export(dir.path()).unwrap();
        let manifest: Value =
            serde_json::from_slice(&fs::read(dir.path().join("manifest.json")).unwrap()).unwrap();
        let mut seen = 0;
        for (family, modules) in FAMILIES {
            for module in *modules {
                let listed = &manifest["families"][family][module.name];
                let text = fs::read_to_string(dir.path().join(listed["file"].as_str().unwrap())).unwrap();
                assert_eq!(text, module.ptx);
                let entries = listed["entries"].as_object().unwrap();
                assert_eq!(entries.len(), text.matches(".visible .entry ").count(), "{}", module.name);
                let notes = listed["notes"].as_array().unwrap();
                assert!(notes.len() >= 3, "{family}/{}.ptx says too little about its entries", module.name);
                seen += entries.len();
            }
        }
        assert_eq!(seen, entries);
    }
}
