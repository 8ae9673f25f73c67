//! What streams and graphs do: kernels, copies, fills, host functions, waits.
//!
//! An operation is plain data, checked when it is made. A stream runs it once; a graph keeps it and runs it again.
use crate::{
    config,
    context::Context,
    counters,
    device::Device,
    event::Event,
    graph::Exec,
    graph_memory::GraphMemory,
    handle::lock,
    module::Function,
    place::Place,
    result::{Code, Failure, Result},
    stream,
};
use ptx_vm::{DeviceModel, Fault, FaultKind, Launch, Options};
use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

/// `CU_LIMIT_STACK_SIZE`.
const STACK_LIMIT: i32 = 0;

/// One operation.
#[derive(Clone)]
pub enum Op {
    /// A kernel.
    Kernel(Arc<KernelOp>),
    /// A copy.
    Copy(CopyOp),
    /// A fill.
    Fill(FillOp),
    /// A host function.
    Host(HostOp),
    /// Marks an event.
    Record(Arc<Event>),
    /// Waits for an event.
    Wait(Arc<Event>),
    /// A graph inside a graph.
    Graph(Arc<Exec>),
    /// Frees device memory.
    Free(u64, &'static Device),
    /// Begins the contents of a graph's own memory.
    Alloc(Arc<GraphMemory>),
    /// Ends them.
    GraphFree(Arc<GraphMemory>),
    /// Stores a word when the stream gets here.
    Write(WordOp),
    /// Waits until a word has a value.
    Await(WordOp, Test),
    /// Nothing: a point that others depend on.
    Empty,
}

/// A kernel launch.
pub struct KernelOp {
    /// The function.
    pub function: Arc<Function>,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
    /// The parameter image.
    pub params: Vec<u8>,
    /// Whether all blocks run at once.
    pub cooperative: bool,
    /// Addresses of the parameters in `params`, once a client asks.
    pub pointers: OnceLock<Vec<usize>>,
}

/// A copy of `depth` slices of `height` rows of `width` bytes.
#[derive(Clone)]
pub struct CopyOp {
    /// From where.
    pub src: Place,
    /// To where.
    pub dst: Place,
    /// Bytes of a row, rows of a slice, slices.
    pub extent: [usize; 3],
    /// Bytes from row to row and from slice to slice at the source.
    pub src_pitch: [usize; 2],
    /// Bytes from row to row and from slice to slice at the destination.
    pub dst_pitch: [usize; 2],
}

/// A fill of `height` rows of `width` elements.
#[derive(Clone)]
pub struct FillOp {
    /// Where.
    pub dst: Place,
    /// The value, of which the low `element` bytes count.
    pub value: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub element: usize,
    /// Elements of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes from row to row.
    pub pitch: usize,
}

/// A client's function.
#[derive(Clone, Copy)]
pub struct HostOp {
    /// The function.
    pub function: extern "C" fn(usize),
    /// Its argument: an address that means something to the client only.
    pub data: usize,
}

/// A word of memory and a value for it.
#[derive(Clone)]
pub struct WordOp {
    /// Where.
    pub place: Place,
    /// Bytes: 4 or 8.
    pub bytes: usize,
    /// The value.
    pub value: u64,
}

/// When a wait for a word ends, `word` and `value` being signed 4- or 8-byte numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Test {
    /// `word - value >= 0`, wrapping.
    AtLeast,
    /// `word == value`.
    Equal,
    /// `word & value != 0`.
    And,
    /// `!(word | value) != 0`.
    Nor,
}

impl Op {
    /// Whether it is about memory that a graph allocates.
    pub fn is_memory(&self) -> bool {
        matches!(self, Op::Alloc(_) | Op::GraphFree(_))
    }

    /// Does it.
    pub fn run(&self, context: &Context) -> Result<()> {
        match self {
            Op::Kernel(kernel) => kernel.run(context),
            Op::Copy(copy) => copy.run(),
            Op::Fill(fill) => fill.run(),
            Op::Host(host) => {
                stream::calling_back(|| (host.function)(host.data));
                Ok(())
            }
            Op::Record(event) => {
                event.reach_now();
                Ok(())
            }
            Op::Wait(event) => {
                if let Some(fence) = event.fence() {
                    fence.wait();
                }
                Ok(())
            }
            Op::Graph(exec) => exec.run(context),
            Op::Free(address, device) => device.free(*address),
            Op::Alloc(memory) | Op::GraphFree(memory) => memory.renew(),
            Op::Write(word) => word.store(),
            Op::Await(word, test) => word.wait(*test, context),
            Op::Empty => Ok(()),
        }
    }
}

impl KernelOp {
    /// Address of an array of pointers to the parameters' values, as `cuLaunchKernel` takes it.
    pub fn param_pointers(&self) -> Result<usize> {
        let kernel = self.function.kernel()?;
        let base = self.params.as_ptr().expose_provenance();
        let pointers = self.pointers.get_or_init(|| kernel.params.iter().map(|p| base + p.offset).collect());
        Ok(pointers.as_ptr().expose_provenance())
    }

    fn run(&self, context: &Context) -> Result<()> {
        let config = config::get();
        let gpu = context.device.gpu;
        let options = Options {
            checks: config.checks,
            seed: config.seed,
            threads: config.threads,
            instruction_budget: config.budget,
            device: DeviceModel {
                stack_bytes: stack_bytes(context),
                sm: gpu.sm,
                sm_count: gpu.sm_count,
                clock_khz: gpu.clock_khz,
                shared_per_block: gpu.limits().shared_per_block_optin,
                blocks_per_sm: gpu.limits().blocks_per_sm,
                ..DeviceModel::default()
            },
        };
        let launch = Launch {
            grid: self.grid,
            block: self.block,
            shared_bytes: self.shared_bytes,
            params: self.params.clone(),
            cooperative: self.cooperative,
        };
        let number = counters::next_launch();
        let start = Instant::now();
        let module = &self.function.module;
        let counted =
            ptx_vm::launch(&context.device.memory, module.loaded()?, &self.function.name, &launch, &options)
                .map_err(|fault| {
                    eprintln!("ferrotune-vm: {fault}");
                    code_of(&fault).because(fault.to_string())
                })?;
        counters::add(number, self, start.elapsed(), &counted);
        Ok(())
    }
}

/// Stack of a thread, bytes. The driver grows its small default by what a kernel needs; only a client's own limit binds.
fn stack_bytes(context: &Context) -> u32 {
    let limit = lock(&context.limits).get(&STACK_LIMIT).copied();
    limit.map_or(DeviceModel::default().stack_bytes, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// The driver's code for what stopped a kernel. What a GPU would not notice (uninitialised reads, races) fails the launch.
fn code_of(fault: &Fault) -> Code {
    match fault.kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree => Code::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Code::MISALIGNED_ADDRESS,
        FaultKind::BadTarget => Code::INVALID_PC,
        FaultKind::StackOverflow => Code::HARDWARE_STACK_ERROR,
        FaultKind::Budget => Code::LAUNCH_TIMEOUT,
        FaultKind::Assert => Code::ASSERT,
        FaultKind::BadLaunch => Code::INVALID_VALUE,
        _ => Code::LAUNCH_FAILED,
    }
}

impl CopyOp {
    /// `bytes` in one row.
    pub fn linear(src: Place, dst: Place, bytes: usize) -> CopyOp {
        CopyOp { src, dst, extent: [bytes, 1, 1], src_pitch: [bytes; 2], dst_pitch: [bytes; 2] }
    }

    /// Bytes copied.
    pub fn bytes(&self) -> usize {
        self.extent.iter().product()
    }

    /// The same copy with the source taken from the client now, so that the client may reuse its memory.
    pub fn staged(mut self) -> Result<CopyOp> {
        let [width, height, depth] = self.extent;
        let mut data = vec![0; width * height * depth];
        for (i, row) in data.chunks_exact_mut(width.max(1)).enumerate() {
            let at = (i / height) * self.src_pitch[1] + (i % height) * self.src_pitch[0];
            read(&self.src.offset(at), row)?;
        }
        self.src = Place::Staged(data.into(), 0);
        self.src_pitch = [width, width * height];
        Ok(self)
    }

    fn run(&self) -> Result<()> {
        let [width, height, depth] = self.extent;
        let packed = |pitch: [usize; 2]| {
            (height == 1 || pitch[0] == width) && (depth == 1 || pitch[1] == width * height)
        };
        if packed(self.src_pitch) && packed(self.dst_pitch) {
            return copy(&self.src, &self.dst, width * height * depth);
        }
        for z in 0..depth {
            for y in 0..height {
                let at = |pitch: [usize; 2]| z * pitch[1] + y * pitch[0];
                copy(&self.src.offset(at(self.src_pitch)), &self.dst.offset(at(self.dst_pitch)), width)?;
            }
        }
        Ok(())
    }
}

/// Memory that was checked at submission and is gone now: the client freed it too early.
fn gone(e: impl std::fmt::Display) -> Failure {
    eprintln!("ferrotune-vm: a copy or fill in a stream: {e}");
    Code::ILLEGAL_ADDRESS.because(e.to_string())
}

/// Bytes of a bounce buffer between two devices.
const CHUNK: usize = 1 << 20;

fn copy(src: &Place, dst: &Place, bytes: usize) -> Result<()> {
    match (src, dst) {
        _ if bytes == 0 => Ok(()),
        (Place::Device(from, a), Place::Device(to, b)) if a.ordinal == b.ordinal => {
            a.memory.copy(*to, *from, bytes).map_err(gone)
        }
        (Place::Device(from, a), Place::Host(to)) => {
            // SAFETY: the driver API's contract: the client's memory holds the bytes of the copy until it is done.
            let out =
                unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(*to), bytes) };
            a.memory.read(*from, out).map_err(gone)
        }
        (Place::Host(from), Place::Host(to)) => {
            let (from, to) =
                (std::ptr::with_exposed_provenance(*from), std::ptr::with_exposed_provenance_mut(*to));
            // SAFETY: as above, for both sides; the ranges may overlap.
            unsafe { std::ptr::copy::<u8>(from, to, bytes) };
            Ok(())
        }
        (Place::Host(from), _) => {
            // SAFETY: as above.
            write(dst, unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(*from), bytes) })
        }
        (Place::Staged(data, at), _) => write(dst, &data[*at..*at + bytes]),
        (Place::Device(..), _) => {
            let mut buffer = vec![0; bytes.min(CHUNK)];
            for at in (0..bytes).step_by(CHUNK) {
                let part = &mut buffer[..CHUNK.min(bytes - at)];
                read(&src.offset(at), part)?;
                write(&dst.offset(at), part)?;
            }
            Ok(())
        }
    }
}

fn read(src: &Place, out: &mut [u8]) -> Result<()> {
    match src {
        Place::Device(from, device) => device.memory.read(*from, out).map_err(gone),
        Place::Staged(data, at) => {
            out.copy_from_slice(&data[*at..*at + out.len()]);
            Ok(())
        }
        Place::Host(from) => {
            // SAFETY: the driver API's contract: the client's memory holds the bytes of the copy until it is done.
            unsafe { std::ptr::copy(std::ptr::with_exposed_provenance(*from), out.as_mut_ptr(), out.len()) };
            Ok(())
        }
    }
}

fn write(dst: &Place, data: &[u8]) -> Result<()> {
    match dst {
        Place::Device(to, device) => device.memory.write(*to, data).map_err(gone),
        Place::Host(to) => {
            // SAFETY: the driver API's contract: the client's memory holds the bytes of the copy until it is done.
            unsafe { std::ptr::copy(data.as_ptr(), std::ptr::with_exposed_provenance_mut(*to), data.len()) };
            Ok(())
        }
        Place::Staged(..) => Err(Code::INVALID_VALUE.because("staged bytes are only a source")),
    }
}

impl FillOp {
    fn run(&self) -> Result<()> {
        let value = self.value.to_le_bytes();
        let pattern = &value[..self.element];
        let packed = self.height == 1 || self.pitch == self.width * self.element;
        let (rows, count) = if packed { (1, self.width * self.height) } else { (self.height, self.width) };
        for y in 0..rows {
            match self.dst.offset(y * self.pitch) {
                Place::Device(at, device) => device.memory.fill(at, pattern, count).map_err(gone)?,
                place => write(&place, &pattern.repeat(count))?,
            }
        }
        Ok(())
    }
}

impl WordOp {
    fn store(&self) -> Result<()> {
        write(&self.place, &self.value.to_le_bytes()[..self.bytes])
    }

    fn load(&self) -> Result<u64> {
        let mut word = [0; 8];
        read(&self.place, &mut word[..self.bytes])?;
        Ok(u64::from_le_bytes(word))
    }

    /// Polls: the word changes when another stream or the host writes it.
    fn wait(&self, test: Test, context: &Context) -> Result<()> {
        while !test.holds(self.load()?, self.value, self.bytes) {
            context.failure()?;
            context.alive()?;
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        Ok(())
    }
}

impl Test {
    /// Whether the wait for a word of `bytes` bytes is over.
    pub fn holds(self, word: u64, value: u64, bytes: usize) -> bool {
        let mask = if bytes == 4 { u64::from(u32::MAX) } else { u64::MAX };
        match self {
            Test::AtLeast if bytes == 4 => (word as u32).wrapping_sub(value as u32) as i32 >= 0,
            Test::AtLeast => word.wrapping_sub(value) as i64 >= 0,
            Test::Equal => (word ^ value) & mask == 0,
            Test::And => word & value & mask != 0,
            Test::Nor => !(word | value) & mask != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Test;

    #[test]
    fn a_word_is_compared_in_its_own_width() {
        assert!(Test::AtLeast.holds(5, 5, 4) && Test::AtLeast.holds(3, u64::from(u32::MAX), 4));
        assert!(!Test::AtLeast.holds(4, 5, 4) && !Test::AtLeast.holds(4, 5, 8));
        assert!(Test::Equal.holds(1 << 32 | 7, 7, 4) && !Test::Equal.holds(1 << 32 | 7, 7, 8));
        assert!(Test::And.holds(6, 2, 4) && !Test::And.holds(1 << 32, 1 << 32, 4));
        assert!(Test::Nor.holds(0, 1, 4) && !Test::Nor.holds(u64::from(u32::MAX), 0, 4));
    }
}
