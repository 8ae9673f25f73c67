//! `ptx_run`: one kernel over host memory in one call, for tools that play CUDA themselves.
use crate::{
    config,
    ffi::{In, Text, call_any_time},
    handle::lock,
    image,
    result::{Code, Failure, Result},
};
use ptx_vm::{DeviceModel, Launch, Loaded, Memory, Module, Options};
use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    sync::{Arc, Mutex},
};

/// Bytes of memory that a run has beside the caller's: variables of modules.
const MEMORY: usize = 1 << 30;
/// Texts whose compiled form is kept: callers run the same kernel again and again.
const KEPT: usize = 64;

static COMPILED: Mutex<BTreeMap<String, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// Runs the first kernel of a PTX text over a grid and waits for it.
///
/// `args` holds one 64-bit word an argument: for a pointer the address of host memory, for a scalar its value in the
/// low bytes. Nothing says how long the buffers are, so the kernel may touch the whole mapping of the process that a
/// pointer argument points into, and no other memory. Gives 0 or a driver result code; the reason goes to stderr.
#[unsafe(no_mangle)]
pub extern "C" fn ptx_run(
    source: Text,
    n_args: i32,
    args: In<u64>,
    block_x: i32,
    block_y: i32,
    block_z: i32,
    grid_x: i32,
    grid_y: i32,
    grid_z: i32,
    shared_bytes: i32,
) -> i32 {
    call_any_time("ptx_run", || {
        let size =
            |n: i32| u32::try_from(n).map_err(|_| Code::INVALID_VALUE.because(format!("{n} is no size")));
        let words = args.array(size(n_args)? as usize)?;
        let launch = Launch {
            grid: [size(grid_x)?, size(grid_y)?, size(grid_z)?],
            block: [size(block_x)?, size(block_y)?, size(block_z)?],
            shared_bytes: size(shared_bytes)?,
            ..Launch::default()
        };
        run(&source.get()?, &words, launch).inspect_err(report)
    })
}

/// Says why a run failed, unless the log of all failures does.
fn report(failure: &Failure) {
    if !config::get().log {
        eprintln!("ferrotune-vm: ptx_run: {failure}");
    }
}

fn run(source: &str, words: &[u64], mut launch: Launch) -> Result<()> {
    let module = compile(source)?;
    let kernel = module.kernels().next().ok_or_else(|| Code::NOT_FOUND.because("the PTX has no kernel"))?;
    if words.len() != kernel.params.len() {
        let why = format!("{} arguments; {} takes {}", words.len(), kernel.name, kernel.params.len());
        return Err(Code::INVALID_VALUE.because(why));
    }
    launch.params = vec![0; kernel.param_bytes];
    for (param, word) in kernel.params.iter().zip(words) {
        let value = word.to_le_bytes();
        let value = value.get(..param.size).ok_or_else(|| {
            Code::INVALID_VALUE
                .because(format!("parameter {} has {} bytes; a word has 8", param.name, param.size))
        })?;
        launch.params[param.offset..param.offset + param.size].copy_from_slice(value);
    }
    // The mappings first: the memory made after them lies elsewhere, though the system may show neighbours as one.
    let reachable = mappings_around(words);
    let memory = Memory::new(MEMORY).map_err(|e| Code::OPERATING_SYSTEM.because(e.to_string()))?;
    memory.set_poison(config::get().seed);
    let loaded = Loaded::new(&module, &memory).map_err(|e| Code::OUT_OF_MEMORY.because(e.to_string()))?;
    for range in &reachable {
        let start = std::ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: the range is mapped, readable and writable now, and the caller keeps its buffers until the run ends.
        unsafe { memory.register_host(start, range.len()) }
            .map_err(|e| Code::UNKNOWN.because(e.to_string()))?;
    }
    let config = config::get();
    let options = Options {
        checks: config.checks,
        seed: config.seed,
        threads: config.threads,
        instruction_budget: config.budget,
        device: DeviceModel { sm: config.gpu.sm, ..DeviceModel::default() },
    };
    let ran = ptx_vm::launch(&memory, &loaded, &kernel.name, &launch, &options);
    loaded.unload(&memory);
    ran.map(|_| ()).map_err(|fault| Code::LAUNCH_FAILED.because(fault.to_string()))
}

fn compile(source: &str) -> Result<Arc<Module>> {
    let mut compiled = lock(&COMPILED);
    if let Some(module) = compiled.get(source) {
        return Ok(module.clone());
    }
    let module = Module::compile("ptx", source).map_err(|e| image::code_of(source).because(e.to_string()))?;
    if compiled.len() == KEPT {
        compiled.clear();
    }
    compiled.insert(source.into(), module.clone());
    Ok(module)
}

/// The writable mappings of this process that the words point into.
fn mappings_around(words: &[u64]) -> Vec<Range<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let touched = |range: &Range<usize>| words.iter().any(|&word| range.contains(&(word as usize)));
    maps.lines().filter_map(writable).filter(touched).collect()
}

/// `START-END rw..` in hexadecimal.
fn writable(line: &str) -> Option<Range<usize>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    rest.starts_with("rw").then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_lies_in_one_mapping() {
        let buffer = vec![1u8; 1 << 20];
        let start = buffer.as_ptr().expose_provenance();
        let found = mappings_around(&[start as u64, 7]);
        assert_eq!(found.len(), 1);
        assert!(found[0].start <= start && start + buffer.len() <= found[0].end);
    }
}
