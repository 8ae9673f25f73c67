//! Launches: the checks of a grid against the kernel and the device, and the parameter image.
use crate::{
    ffi::In,
    module::Function,
    occupancy::{self, Needs},
    op::KernelOp,
    result::{Code, Failure, Result},
};
use ptx_vm::gpu;
use std::sync::{Arc, OnceLock, atomic::Ordering};

/// A grid as the client gives it.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
    /// Whether all blocks must run at once.
    pub cooperative: bool,
}

/// `CU_LAUNCH_PARAM_END`, `_BUFFER_POINTER`, `_BUFFER_SIZE`.
const EXTRA: [usize; 3] = [0, 1, 2];

/// Checks a launch and takes its parameters from the client.
pub fn prepare(function: Arc<Function>, grid: Grid, params: In<usize>, extra: In<usize>) -> Result<KernelOp> {
    check(&function, grid)?;
    let params = match (params.is_null(), extra.is_null()) {
        (_, true) => from_pointers(&function, params)?,
        (true, false) => from_buffer(&function, extra)?,
        (false, false) => return Err(wrong("kernelParams and extra are both given")),
    };
    let Grid { grid, block, shared_bytes, cooperative } = grid;
    Ok(KernelOp { function, grid, block, shared_bytes, params, cooperative, pointers: OnceLock::new() })
}

fn wrong(why: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Code::INVALID_VALUE.because(why)
}

fn check(function: &Function, grid: Grid) -> Result<()> {
    let kernel = function.kernel()?;
    let device = function.module.device;
    for (what, size, max) in [("grid", grid.grid, gpu::GRID_MAX), ("block", grid.block, gpu::BLOCK_MAX)] {
        if size.iter().zip(max).any(|(&n, max)| n == 0 || n > max) {
            return Err(wrong(format!("a {what} of {size:?}; each number is 1 to at most {max:?}")));
        }
    }
    let threads = grid.block.iter().map(|&n| u64::from(n)).product::<u64>();
    if threads > u64::from(gpu::THREADS_PER_BLOCK) {
        return Err(wrong(format!("a block of {threads} threads; at most {}", gpu::THREADS_PER_BLOCK)));
    }
    if let Some(required) = kernel.required_block
        && required != grid.block
    {
        return Err(wrong(format!("a block of {:?}; the kernel requires {required:?}", grid.block)));
    }
    if kernel.max_threads.is_some_and(|max| threads > u64::from(max)) {
        return Err(wrong(format!(
            "a block of {threads} threads; the kernel allows {:?}",
            kernel.max_threads
        )));
    }
    let most = function.settings.max_dynamic_shared.load(Ordering::Relaxed);
    if i64::from(grid.shared_bytes) > i64::from(most) {
        let why = format!(
            "{} bytes of dynamic shared memory; the kernel may have {most} \
             (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES raises it)",
            grid.shared_bytes
        );
        return Err(wrong(why));
    }
    let resident =
        occupancy::blocks(device.gpu, Needs::of(function, threads as u32, grid.shared_bytes as usize)?);
    if resident == 0 {
        let why = format!("{threads} threads of {} registers do not fit a multiprocessor", kernel.registers);
        return Err(Code::LAUNCH_OUT_OF_RESOURCES.because(why));
    }
    let blocks = grid.grid.iter().map(|&n| u64::from(n)).product::<u64>();
    if grid.cooperative && blocks > u64::from(resident) * u64::from(device.gpu.sm_count) {
        let why = format!("{blocks} blocks at once; the device holds {}", resident * device.gpu.sm_count);
        return Err(Code::COOPERATIVE_LAUNCH_TOO_LARGE.because(why));
    }
    Ok(())
}

/// One pointer a parameter, each to the parameter's value.
fn from_pointers(function: &Function, pointers: In<usize>) -> Result<Vec<u8>> {
    let kernel = function.kernel()?;
    let mut image = vec![0; kernel.param_bytes];
    for (i, param) in kernel.params.iter().enumerate() {
        let value = In::<u8>::from_address(pointers.at(i)?).array(param.size)?;
        image[param.offset..param.offset + param.size].copy_from_slice(&value);
    }
    Ok(image)
}

/// One buffer that holds the parameters at their offsets.
fn from_buffer(function: &Function, extra: In<usize>) -> Result<Vec<u8>> {
    let (mut buffer, mut size) = (0, None);
    let mut i = 0;
    loop {
        match extra.at(i)? {
            key if key == EXTRA[0] => break,
            key if key == EXTRA[1] => buffer = extra.at(i + 1)?,
            key if key == EXTRA[2] => size = Some(In::<usize>::from_address(extra.at(i + 1)?).get()?),
            key => return Err(wrong(format!("no launch parameter {key:#x} in extra"))),
        }
        i += 2;
    }
    let wanted = function.kernel()?.param_bytes;
    let size = size.ok_or_else(|| wrong("extra names no CU_LAUNCH_PARAM_BUFFER_SIZE"))?;
    // Compilers round the buffer up: what lies beyond the last parameter is padding.
    if size < wanted {
        return Err(wrong(format!("a parameter buffer of {size} bytes; the kernel takes {wanted}")));
    }
    In::<u8>::from_address(buffer).array(wanted)
}
