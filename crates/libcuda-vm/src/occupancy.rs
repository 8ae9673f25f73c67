//! How many blocks of a kernel a multiprocessor holds at once: the smallest of what threads, registers, shared memory
//! and block slots allow.
use crate::{module::Function, result::Result};
use ptx_vm::gpu::{Gpu, SHARED_RESERVED, THREADS_PER_BLOCK};

/// What a block needs.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Threads.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Shared memory, static and dynamic, bytes.
    pub shared: usize,
}

impl Needs {
    /// Needs of a function's blocks of `threads` threads with so much dynamic shared memory.
    pub fn of(function: &Function, threads: u32, dynamic_shared: usize) -> Result<Needs> {
        let kernel = function.kernel()?;
        Ok(Needs { threads, registers: kernel.registers, shared: kernel.static_shared + dynamic_shared })
    }
}

/// Registers are handed out to warps in units of this many.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is handed out in units of this many bytes.
const SHARED_UNIT: usize = 128;

/// Blocks that a multiprocessor holds at once; 0 when not even one fits.
pub fn blocks(gpu: &Gpu, needs: Needs) -> u32 {
    let limits = gpu.limits();
    if needs.threads == 0 || needs.threads > THREADS_PER_BLOCK {
        return 0;
    }
    if needs.shared > limits.shared_per_block_optin as usize {
        return 0;
    }
    let warps = needs.threads.div_ceil(32);
    let by_threads = limits.threads_per_sm / 32 / warps;
    let per_warp = (needs.registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
    // Four schedulers share the registers evenly, and a warp stays with its own.
    let by_registers = limits.registers_per_sm / 4 / per_warp * 4 / warps;
    let shared = (needs.shared + SHARED_RESERVED as usize).next_multiple_of(SHARED_UNIT);
    let by_shared = limits.shared_per_sm as usize / shared;
    by_threads.min(by_registers).min(by_shared as u32).min(limits.blocks_per_sm)
}

/// The block size with the most threads at once, and the blocks that fill the device with it.
///
/// `shared` gives the dynamic shared memory of a block of so many threads; `limit` bounds the size, 0 for no bound.
pub fn best_block(function: &Function, shared: impl Fn(u32) -> usize, limit: u32) -> Result<(u32, u32)> {
    let gpu = function.module.device.gpu;
    let most = function.max_threads()?.min(if limit == 0 { THREADS_PER_BLOCK } else { limit });
    let (mut best, mut best_threads, mut grid) = (0, 0, 0);
    // From large to small, so that of equals the largest block wins.
    for threads in (1..=most.div_ceil(32)).rev().map(|warps| (warps * 32).min(most)) {
        let resident = blocks(gpu, Needs::of(function, threads, shared(threads))?);
        if resident * threads > best {
            (best, best_threads, grid) = (resident * threads, threads, resident * gpu.sm_count);
        }
    }
    Ok((grid, best_threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_3090(threads: u32, registers: u32, shared: usize) -> u32 {
        blocks(Gpu::named("rtx3090").unwrap(), Needs { threads, registers, shared })
    }

    #[test]
    fn each_resource_can_be_the_scarce_one() {
        assert_eq!(on_3090(256, 32, 0), 6, "threads: 1536 / 256");
        assert_eq!(on_3090(32, 16, 0), 16, "block slots");
        assert_eq!(on_3090(256, 128, 0), 2, "registers: 65536 / (128 * 256)");
        assert_eq!(on_3090(128, 32, 32 << 10), 3, "shared: 100 KiB / 33 KiB");
        assert_eq!(on_3090(128, 32, 99 << 10), 1, "the most a block may have");
        assert_eq!(on_3090(128, 32, 100 << 10), 0, "more than a block may have");
        assert_eq!(on_3090(2048, 32, 0), 0, "more threads than a block may have");
    }
}
