//! What the tests of the engine share: a device, its buffers, launches with typed arguments, the assembler.
#![allow(dead_code)]
#[path = "../tools/mod.rs"]
pub mod tools;

use std::process::Command;
use std::sync::Arc;

use ptx_vm::counters::Counters;
use ptx_vm::launch::{Checks, Launch, Options, launch};
use ptx_vm::memory::Memory;
use ptx_vm::module::{Loaded, Module};
use ptx_vm::strict::Fault;

/// A device with one module on it.
pub struct Gpu {
    pub memory: Memory,
    pub loaded: Loaded,
}

/// A kernel's argument.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    U32(u32),
    U64(u64),
    F32(f32),
}

impl Gpu {
    pub fn new(name: &str, source: &str) -> Gpu {
        Gpu::with_poison(name, source, None)
    }

    pub fn with_poison(name: &str, source: &str, poison: Option<u64>) -> Gpu {
        let module: Arc<Module> = Module::compile(name, source).unwrap_or_else(|e| panic!("{e}\n{source}"));
        let memory = Memory::new(64 << 20).expect("address space");
        memory.set_poison(poison);
        let loaded = Loaded::new(&module, &memory).expect("room for the module");
        Gpu { memory, loaded }
    }

    /// A block that holds `data`.
    pub fn upload<T: bytemuck::Pod>(&self, data: &[T]) -> u64 {
        let at = self.memory.alloc(size_of_val(data).max(1), 256).expect("room");
        self.memory.write(at, bytemuck::cast_slice(data)).expect("inside");
        at
    }

    /// A block that nobody wrote.
    pub fn room<T>(&self, len: usize) -> u64 {
        self.memory.alloc((len * size_of::<T>()).max(1), 256).expect("room")
    }

    pub fn download<T: bytemuck::Pod>(&self, at: u64, len: usize) -> Vec<T> {
        let mut out = vec![T::zeroed(); len];
        self.memory.read(at, bytemuck::cast_slice_mut(&mut out)).expect("inside");
        out
    }

    pub fn try_run(
        &self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        args: &[Arg],
        options: &Options,
    ) -> Result<Counters, Fault> {
        self.try_run_shared(entry, grid, block, 0, args, options)
    }

    /// With dynamic shared memory. Parameters without an argument are zero.
    pub fn try_run_shared(
        &self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        args: &[Arg],
        options: &Options,
    ) -> Result<Counters, Fault> {
        let kernel = self.loaded.module().kernel(entry).expect("the entry exists");
        let mut params = vec![0; kernel.param_bytes];
        for (p, a) in kernel.params.iter().zip(args) {
            let to = &mut params[p.offset..p.offset + p.size];
            match a {
                Arg::U32(v) => to.copy_from_slice(&v.to_le_bytes()),
                Arg::U64(v) => to.copy_from_slice(&v.to_le_bytes()),
                Arg::F32(v) => to.copy_from_slice(&v.to_le_bytes()),
            }
        }
        let l = Launch { grid, block, shared_bytes, params, ..Launch::default() };
        launch(&self.memory, &self.loaded, entry, &l, options)
    }

    pub fn run(
        &self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        args: &[Arg],
        options: &Options,
    ) -> Counters {
        self.try_run(entry, grid, block, args, options).unwrap_or_else(|fault| panic!("{options:?}: {fault}"))
    }
}

/// Every level of checking, with and without an adversary, on one thread and on three.
pub fn every_way() -> Vec<Options> {
    let mut all = Vec::new();
    for checks in [Checks::Off, Checks::Memory, Checks::All] {
        for seed in [None, Some(1), Some(2), Some(77), Some(4242)] {
            all.push(Options {
                checks,
                seed,
                threads: if checks == Checks::Memory { 3 } else { 1 },
                ..Options::default()
            });
        }
    }
    all
}

/// Assembles a kernel for its own target and panics with the assembler's words if it is refused.
pub fn assemble(name: &str, source: &str) {
    let Some(ptxas) = tools::ptxas() else {
        println!("{name}: skipped: no ptxas");
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("kernel.ptx");
    std::fs::write(&file, source).expect("written");
    let target = source.split(".target ").nth(1).expect("a target").split_whitespace().next();
    let out = Command::new(ptxas)
        .args(["-O1", "-arch", target.expect("a target"), "-o"])
        .arg(dir.path().join("kernel.cubin"))
        .arg(&file)
        .output();
    let out = out.expect("ptxas runs");
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A small generator, so that inputs are the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = self.0 ^ self.0 >> 33;
        x.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ x >> 29
    }

    /// In [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() as i32) as f32 / 2147483648.0
    }
}
