//! Launching a kernel: what the caller says, and how blocks are spread over threads.
use crate::counters::Counters;
use crate::exec;
use crate::memory::Memory;
use crate::module::Loaded;
use crate::strict::Fault;

/// A grid to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// The packed image of the parameters, [`crate::Kernel::param_bytes`] long.
    pub params: Vec<u8>,
    /// Every block is resident and makes progress, so that the grid may synchronise by spinning.
    pub cooperative: bool,
}

/// How much the VM watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Checks {
    /// Accesses stay inside live blocks, aligned; nothing else.
    Off,
    /// Also reads of bytes that nobody wrote, reads of asynchronous copies before their wait.
    #[default]
    Memory,
    /// Also races in shared and global memory.
    All,
}

/// The parts of a GPU that a kernel can notice.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceModel {
    /// Compute capability: 86 for 8.6. A module for a higher target is refused by the driver, not here.
    pub sm: u32,
    /// Multiprocessors.
    pub sm_count: u32,
    /// Core clock in kHz (`%clock64` against `%globaltimer`).
    pub clock_khz: u32,
    /// Shared memory of a block in bytes, static and dynamic.
    pub shared_per_block: u32,
    /// Blocks resident on a multiprocessor at once.
    pub blocks_per_sm: u32,
    /// Threads of a block.
    pub threads_per_block: u32,
    /// Stack of a thread in bytes: what `.local` variables of nested calls may take.
    pub stack_bytes: u32,
}

impl Default for DeviceModel {
    fn default() -> DeviceModel {
        DeviceModel {
            sm: 86,
            sm_count: 82,
            clock_khz: 1_695_000,
            shared_per_block: 99 << 10,
            blocks_per_sm: 16,
            threads_per_block: 1024,
            stack_bytes: 64 << 10,
        }
    }
}

/// How to run a launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What is checked.
    pub checks: Checks,
    /// The adversary: a random schedule and perturbed `.approx` results, drawn from this seed.
    pub seed: Option<u64>,
    /// Threads to spread blocks over. Results and counters do not depend on it.
    pub threads: usize,
    /// Warp instructions the launch may execute.
    pub instruction_budget: Option<u64>,
    /// The GPU that is played.
    pub device: DeviceModel,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            checks: Checks::default(),
            seed: None,
            threads: 1,
            instruction_budget: None,
            device: DeviceModel::default(),
        }
    }
}

/// Runs `kernel` over a grid and counts what it does.
///
/// # Errors
/// The first fault, in the order in which blocks are started.
pub fn launch(
    memory: &Memory,
    loaded: &Loaded,
    kernel: &str,
    launch: &Launch,
    options: &Options,
) -> Result<Counters, Fault> {
    exec::grid::run(memory, loaded, kernel, launch, options)
}
