//! Launches.
use crate::{
    ffi::{In, api},
    launch::{self, Grid},
    module,
    op::{HostOp, KernelOp, Op},
    result::{Code, Result},
    stream, submit,
};
use std::sync::Arc;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
    stream: usize,
    attributes: In<Attribute>,
    attribute_count: u32,
}

/// `CUlaunchAttribute`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attribute {
    id: i32,
    pad: [u8; 4],
    value: [u32; 16],
}

api! {
    ptsz fn cuLaunchKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared_bytes: u32, stream: usize, params: In<usize>, extra: In<usize>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        submit(function, Grid { grid, block, shared_bytes, cooperative: false }, stream, params, extra)
    }

    ptsz fn cuLaunchCooperativeKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        shared_bytes: u32, stream: usize, params: In<usize>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let none = In::from_address(0);
        submit(function, Grid { grid, block, shared_bytes, cooperative: true }, stream, params, none)
    }

    ptsz fn cuLaunchKernelEx(config: In<Config>, function: usize, params: In<usize>, extra: In<usize>) {
        let config = config.get()?;
        let attributes = config.attributes.array(config.attribute_count as usize)?;
        let Config { grid, block, shared_bytes, stream, .. } = config;
        let cooperative = cooperative(&attributes)?;
        submit(function, Grid { grid, block, shared_bytes, cooperative }, stream, params, extra)
    }

    ptsz fn cuLaunchHostFunc(stream: usize, function: Option<extern "C" fn(usize)>, data: usize) {
        host(stream, function, data)
    }

    ptsz fn cuLaunchHostFunc_v2(stream: usize, function: Option<extern "C" fn(usize)>, data: usize, _mode: u32) {
        host(stream, function, data)
    }
}

/// Reads the attributes; whether the launch is cooperative.
fn cooperative(attributes: &[Attribute]) -> Result<bool> {
    let mut cooperative = false;
    for attribute in attributes {
        let value = attribute.value;
        match attribute.id {
            2 => cooperative = value[0] != 0,
            4 | 11 if value[..3].iter().any(|&n| n > 1) => {
                return Err(
                    Code::INVALID_CLUSTER_SIZE.because("the VM has no clusters of more than one block")
                );
            }
            7 | 12 => return Err(Code::NOT_SUPPORTED.because("events of a launch's inside")),
            // Hints: caching, schedules, priorities, overlap with the launch before.
            0..=18 => {}
            id => return Err(Code::INVALID_VALUE.because(format!("no launch attribute {id}"))),
        }
    }
    Ok(cooperative)
}

fn submit(function: usize, grid: Grid, stream: usize, params: In<usize>, extra: In<usize>) -> Result<()> {
    let (context, stream) = stream::target(stream)?;
    let kernel: KernelOp = launch::prepare(module::function(function)?, grid, params, extra)?;
    if !std::ptr::eq(kernel.function.module.context.as_ptr(), Arc::as_ptr(&context)) {
        return Err(Code::INVALID_HANDLE.because("function and stream belong to different contexts"));
    }
    submit::to_stream(&context, &stream, Op::Kernel(Arc::new(kernel)))
}

fn host(stream: usize, function: Option<extern "C" fn(usize)>, data: usize) -> Result<()> {
    let function = function.ok_or_else(|| Code::INVALID_VALUE.because("the host function is null"))?;
    submit::to(stream, Op::Host(HostOp { function, data }))
}
