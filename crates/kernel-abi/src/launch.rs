//! GPU launches as plain data, and who takes them.

use std::fmt::Write;

/// An address in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// No address: how an absent optional argument is passed.
    pub const NULL: DevicePtr = DevicePtr(0);

    /// The address `bytes` further on.
    pub fn offset(self, bytes: usize) -> DevicePtr {
        DevicePtr(self.0 + bytes as u64)
    }
}

/// PTX text that a driver compiles as one unit. Lives in a `static`, so its address identifies it.
#[derive(Debug)]
pub struct Module {
    /// Name for errors and exports: the file's stem.
    pub name: &'static str,
    /// The PTX.
    pub ptx: &'static str,
}

impl Module {
    /// The module with no other entry than this one: what a driver has to compile before the entry can run. A file that
    /// holds every type and tile would take a real driver seconds.
    pub fn only(&self, entry: &str) -> Option<String> {
        let (mut rest, mut out, mut found) = (self.ptx, String::new(), false);
        const START: &str = "\n.visible .entry ";
        while let Some(at) = rest.find(START) {
            out.push_str(&rest[..at + 1]);
            let block = &rest[at + 1..];
            let end = body_end(block)?;
            let name = block[START.len() - 1..].split(['(', ' ', '\n']).next()?;
            if name == entry {
                found = true;
                out.push_str(&block[..end]);
            }
            rest = &block[end..];
        }
        out.push_str(rest);
        found.then_some(out)
    }
}

/// Where the first `{ ... }` of `text` ends, comments not counted.
fn body_end(text: &str) -> Option<usize> {
    let (mut depth, mut comment) = (0usize, false);
    let bytes = text.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        match b {
            b'\n' => comment = false,
            b'/' if bytes.get(i + 1) == Some(&b'/') => comment = true,
            _ if comment => {}
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(i + 1),
            b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// An entry's name, inline, so that a launch needs no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    bytes: [u8; Entry::MAX],
    len: u8,
}

impl Entry {
    const MAX: usize = 63;

    fn new(name: std::fmt::Arguments<'_>) -> Entry {
        let mut entry = Entry { bytes: [0; Entry::MAX], len: 0 };
        entry.write_fmt(name).expect("entry names are at most 63 bytes");
        entry
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len as usize]).expect("made of strings")
    }
}

impl std::fmt::Write for Entry {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let (from, to) = (self.len as usize, self.len as usize + s.len());
        self.bytes.get_mut(from..to).ok_or(std::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = to as u8;
        Ok(())
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value of a kernel's parameter list.
pub trait Param: bytemuck::NoUninit {}
impl Param for DevicePtr {}
impl Param for u32 {}
impl Param for i32 {}
impl Param for u64 {}
impl Param for f32 {}
impl Param for f64 {}

// SAFETY: a u64 in a struct of its own.
unsafe impl bytemuck::NoUninit for DevicePtr {}

/// Most bytes of all parameters together (the limit of the PTX ISA for `.param` space before sm_70's extension).
pub const PARAM_BYTES: usize = 4096;

/// Parameters laid out as PTX does: each at the next multiple of its alignment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    bytes: smallvec::SmallVec<[u8; 256]>,
    offsets: smallvec::SmallVec<[u16; 32]>,
}

impl Params {
    fn push(&mut self, value: &[u8], align: usize) {
        let at = self.bytes.len().next_multiple_of(align);
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(value);
        assert!(self.bytes.len() <= PARAM_BYTES, "a kernel's parameters take at most {PARAM_BYTES} bytes");
        self.offsets.push(at as u16);
    }

    /// The image of the parameter space.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where each parameter begins.
    pub fn offsets(&self) -> &[u16] {
        &self.offsets
    }
}

/// One kernel launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The PTX that holds the entry.
    pub module: &'static Module,
    /// The entry.
    pub entry: Entry,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// Parameters.
    pub params: Params,
}

impl Launch {
    /// A launch of `entry` with one block of one thread and no parameters: the builders below set them.
    pub fn new(module: &'static Module, entry: std::fmt::Arguments<'_>) -> Launch {
        let params = Params::default();
        Launch { module, entry: Entry::new(entry), grid: [1; 3], block: [1; 3], shared: 0, params }
    }

    /// Blocks.
    pub fn grid(mut self, x: usize, y: usize, z: usize) -> Launch {
        self.grid = [x, y, z].map(|n| u32::try_from(n).expect("grids have at most 2^31 blocks a side"));
        self
    }

    /// Threads of a block, in x.
    pub fn block(mut self, threads: usize) -> Launch {
        self.block = [threads as u32, 1, 1];
        self
    }

    /// Dynamic shared memory.
    pub fn shared(mut self, bytes: usize) -> Launch {
        self.shared = bytes as u32;
        self
    }

    /// The next parameter.
    pub fn arg<T: Param>(mut self, value: T) -> Launch {
        self.params.push(bytemuck::bytes_of(&value), size_of::<T>());
        self
    }

    /// A dimension as `.u32`.
    ///
    /// # Panics
    /// When it does not fit: [`crate::Kernel::check`] refuses such shapes.
    pub fn dim(self, n: usize) -> Launch {
        self.arg(u32::try_from(n).expect("dimensions are below 2^32"))
    }

    /// A structure or array by value, e.g. a table of tensors (`.param .align 8 .b8 name[..]`).
    pub fn table<T: bytemuck::NoUninit>(mut self, values: &[T]) -> Launch {
        self.params.push(bytemuck::cast_slice(values), align_of::<T>().max(8));
        self
    }
}

/// Why a launch did not happen, or what the device said after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kernel}: {problem}")]
pub struct LaunchError {
    /// The entry, or what was being done.
    pub kernel: String,
    /// The device's words.
    pub problem: String,
}

/// Why a kernel did not run in an engine that checks and submits in one call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// An argument does not fit the kernel's shape.
    #[error(transparent)]
    Argument(#[from] crate::ArgError),
    /// The driver refused the launch.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

/// Takes launches in order: a stream of a CUDA context, the PTX VM, or a list.
pub trait Launcher {
    /// Compute capability, ten times the major number plus the minor one: 86.
    fn sm(&self) -> u32;

    /// Scratch memory, 256-byte aligned, contents unspecified, valid for the launches of this kernel call.
    ///
    /// # Errors
    /// When the device has no room.
    fn workspace(&mut self, bytes: usize) -> Result<DevicePtr, LaunchError>;

    /// Submits a launch, after all before it.
    ///
    /// # Errors
    /// When the device refuses it.
    fn launch(&mut self, launch: Launch) -> Result<(), LaunchError>;
}

/// Keeps launches instead of running them: to look at what a kernel would do, or to submit it by other means.
///
/// Workspace addresses are made up, from 2^40 on.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The launches, in order.
    pub launches: Vec<Launch>,
    /// Sizes of the workspaces asked for, in order.
    pub workspaces: Vec<usize>,
}

impl Launcher for Recorder {
    fn sm(&self) -> u32 {
        80
    }

    fn workspace(&mut self, bytes: usize) -> Result<DevicePtr, LaunchError> {
        let before: usize = self.workspaces.iter().map(|w| w.next_multiple_of(256)).sum();
        self.workspaces.push(bytes);
        Ok(DevicePtr(1 << 40).offset(before))
    }

    fn launch(&mut self, launch: Launch) -> Result<(), LaunchError> {
        self.launches.push(launch);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static M: Module = Module { name: "m", ptx: "" };

    #[test]
    fn one_entry_is_cut_out_with_what_all_share() {
        let ptx = ".target sm_80\n.const .u32 c = 1;\n.visible .entry a(.param .u64 x) // {\n{ { ret; } }\n\
                   .func f() { ret; }\n.visible .entry ab()\n{ ret; // }\n}\n";
        let module = Module { name: "m", ptx };
        let a = module.only("a").unwrap();
        assert!(
            a.contains("entry a(")
                && a.contains(".func f")
                && a.contains(".const")
                && !a.contains("entry ab"),
            "{a}"
        );
        let ab = module.only("ab").unwrap();
        assert!(ab.contains("entry ab(") && !ab.contains("entry a(") && ab.ends_with("// }\n}\n"), "{ab}");
        assert_eq!(module.only("b"), None);
    }

    #[test]
    fn parameters_lie_as_ptx_lays_them() {
        let launch =
            Launch::new(&M, format_args!("e_{}", 1)).dim(7).arg(DevicePtr(9)).arg(1.0f32).arg(2.0f64);
        assert_eq!((launch.entry.as_str(), launch.params.offsets()), ("e_1", &[0, 8, 16, 24][..]));
        assert_eq!(launch.params.bytes().len(), 32);
        let launch = launch.dim(1).table(&[1u64, 2]);
        assert_eq!(launch.params.offsets()[4..], [32, 40]);
    }
}
