//! Functions: attributes and occupancy.
use super::launch::Config;
use crate::{
    context,
    ffi::{In, Out, api},
    module::function,
    occupancy::{self, Needs},
    result::{Code, Result},
};
use ptx_vm::gpu::{SHARED_RESERVED, THREADS_PER_BLOCK};
use std::ffi::c_char;

type SharedOf = Option<extern "C" fn(i32) -> usize>;

api! {
    fn cuFuncGetAttribute(value: Out<i32>, attribute: i32, handle: usize) {
        let value = value.required()?;
        value.set(function(handle)?.attribute(attribute)?)
    }

    fn cuFuncSetAttribute(handle: usize, attribute: i32, value: i32) {
        function(handle)?.set_attribute(attribute, value)
    }

    fn cuFuncSetCacheConfig(handle: usize, config: i32) {
        function(handle)?;
        if (0..=3).contains(&config) { Ok(()) } else { Err(Code::INVALID_VALUE.into()) }
    }

    fn cuFuncSetSharedMemConfig(handle: usize, config: i32) {
        function(handle)?;
        if (0..=2).contains(&config) { Ok(()) } else { Err(Code::INVALID_VALUE.into()) }
    }

    fn cuFuncGetModule(out: Out<usize>, handle: usize) {
        let out = out.required()?;
        out.set(function(handle)?.module.handle)
    }

    fn cuFuncGetName(name: Out<*const c_char>, handle: usize) {
        let name = name.required()?;
        name.set(function(handle)?.c_name())
    }

    fn cuFuncGetParamInfo(handle: usize, index: usize, offset: Out<usize>, size: Out<usize>) {
        let offset = offset.required()?;
        let (at, bytes) = function(handle)?.param(index)?;
        offset.put(at);
        size.put(bytes);
        Ok(())
    }

    fn cuFuncGetParamCount(handle: usize, count: Out<usize>) {
        let count = count.required()?;
        count.set(function(handle)?.kernel()?.params.len())
    }

    fn cuFuncIsLoaded(state: Out<i32>, handle: usize) {
        let state = state.required()?;
        function(handle)?;
        // CU_FUNCTION_LOADING_STATE_LOADED
        state.set(1)
    }

    fn cuFuncLoad(handle: usize) {
        function(handle).map(|_| ())
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<i32>, handle: usize, threads: i32, shared: usize) {
        resident(blocks, handle, threads, shared)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>, handle: usize, threads: i32, shared: usize, flags: u32,
    ) {
        check_flags(flags)?;
        resident(blocks, handle, threads, shared)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>, block: Out<i32>, handle: usize, shared_of: SharedOf, shared: usize, limit: i32,
    ) {
        best(grid, block, handle, shared_of, shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>, block: Out<i32>, handle: usize, shared_of: SharedOf, shared: usize, limit: i32, flags: u32,
    ) {
        check_flags(flags)?;
        best(grid, block, handle, shared_of, shared, limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, handle: usize, blocks: i32, threads: i32) {
        let bytes = bytes.required()?;
        let function = function(handle)?;
        let gpu = function.module.device.gpu;
        let resident = occupancy::blocks(gpu, Needs::of(&function, positive(threads)?, 0)?);
        let blocks = positive(blocks)?;
        if blocks > resident {
            return Err(Code::INVALID_VALUE.because(format!("{blocks} blocks; {resident} fit with no dynamic memory")));
        }
        let limits = gpu.limits();
        let share = (limits.shared_per_sm / blocks) as usize / 128 * 128 - SHARED_RESERVED as usize;
        let most = share.min(limits.shared_per_block_optin as usize);
        bytes.set(most.saturating_sub(function.kernel()?.static_shared))
    }

    fn cuOccupancyMaxPotentialClusterSize(size: Out<i32>, handle: usize, _config: In<Config>) {
        let size = size.required()?;
        function(handle)?;
        size.set(1)
    }

    fn cuOccupancyMaxActiveClusters(clusters: Out<i32>, handle: usize, config: In<Config>) {
        let clusters = clusters.required()?;
        let (function, config) = (function(handle)?, config.get()?);
        let gpu = function.module.device.gpu;
        let threads = config.block.iter().product();
        let per_sm = occupancy::blocks(gpu, Needs::of(&function, threads, config.shared_bytes as usize)?);
        clusters.set((per_sm * gpu.sm_count) as i32)
    }
}

fn check_flags(flags: u32) -> Result<()> {
    if flags <= 1 { Ok(()) } else { Err(Code::INVALID_VALUE.because("unknown flags")) }
}

fn positive(n: i32) -> Result<u32> {
    u32::try_from(n)
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| Code::INVALID_VALUE.because(format!("{n} is no size")))
}

fn resident(out: Out<i32>, handle: usize, threads: i32, shared: usize) -> Result<()> {
    let out = out.required()?;
    let function = function(handle)?;
    let threads = positive(threads)?;
    if threads > THREADS_PER_BLOCK {
        return Err(Code::INVALID_VALUE.because(format!("a block of {threads} threads")));
    }
    out.set(occupancy::blocks(function.module.device.gpu, Needs::of(&function, threads, shared)?) as i32)
}

fn best(
    grid: Out<i32>,
    block: Out<i32>,
    handle: usize,
    shared_of: SharedOf,
    shared: usize,
    limit: i32,
) -> Result<()> {
    let (grid, block) = (grid.required()?, block.required()?);
    context::current()?;
    let function = function(handle)?;
    let limit = u32::try_from(limit).map_err(|_| Code::INVALID_VALUE.because("a negative limit"))?;
    let shared = |threads: u32| shared_of.map_or(shared, |f| f(threads as i32));
    let (blocks, threads) = occupancy::best_block(&function, shared, limit)?;
    grid.put(blocks as i32);
    block.set(threads as i32)
}
