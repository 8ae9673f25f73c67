//! The one stored layout of int8 weights, for the forward and the backward pass.
//!
//! On the CPU: panels of [`COLS`] outputs; inside a panel, inputs four by four as `[COLS][4]` bytes: the operand of the
//! four-way byte dot product, and after sign extension that of the 16-bit pairwise multiply-add. On the GPU: row-major,
//! rows padded to a multiple of 16 bytes. A buffer is long enough for either; only its device reads it.

use crate::ptx;
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

/// Outputs of a panel.
pub(crate) const COLS: usize = 16;

/// Elements of the packed form of an `[n, k]` weight.
pub fn packed_len(n: usize, k: usize) -> usize {
    n.next_multiple_of(COLS) * k.next_multiple_of(16)
}

/// Elements that the CPU's panels take of it.
fn panels_len(n: usize, k: usize) -> usize {
    n.next_multiple_of(COLS) * k.next_multiple_of(4)
}

/// The check of a packed weight: its length, and on the GPU its alignment, which 16-byte copies need.
pub(crate) fn expect_packed(
    kernel: &'static str,
    packed: &In<'_, i8>,
    (n, k): (usize, usize),
) -> Result<(), ArgError> {
    expect_len(kernel, "packed", packed.len(), packed_len(n, k))?;
    expect_aligned(kernel, if let In::Device(at, _) = packed { *at } else { DevicePtr::NULL })
}

fn expect_aligned(kernel: &'static str, packed: DevicePtr) -> Result<(), ArgError> {
    if packed.0.is_multiple_of(16) {
        return Ok(());
    }
    let problem = format!("lies at {:#x}, expected a multiple of 16", packed.0);
    Err(ArgError { kernel, arg: "packed", problem })
}

/// One thread for each 16 bytes of the padded form.
fn launch(
    entry: &str,
    (n, k): (usize, usize),
    from: DevicePtr,
    to: DevicePtr,
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    let threads = packed_len(n, k) / 16;
    if threads == 0 {
        return Ok(());
    }
    let whole = k.is_multiple_of(16) && (from.0 | to.0).is_multiple_of(16);
    let launch =
        Launch::new(&ptx::WEIGHTS, format_args!("{entry}")).grid(threads.div_ceil(256), 1, 1).block(256);
    on.launch(launch.arg(from).arg(to).dim(n).dim(k).arg(u32::from(whole)))
}

/// Where weight (j, i) lies in the packed form.
#[inline(always)]
pub(crate) fn at(j: usize, i: usize, k: usize) -> usize {
    (j / COLS) * COLS * k.next_multiple_of(4) + (i / 4) * 4 * COLS + (j % COLS) * 4 + i % 4
}

/// Packs an `[n, k]` row-major int8 weight.
#[derive(Debug, Clone, Copy)]
pub struct PackInt8 {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Arguments of [`PackInt8`].
pub struct PackInt8Args<'a> {
    /// `[n, k]`.
    pub q: In<'a, i8>,
    /// `[packed_len(n, k)]`.
    pub packed: Out<'a, i8>,
}

impl Kernel for PackInt8 {
    type Args<'a> = PackInt8Args<'a>;
    const NAME: &'static str = "pack_int8";

    fn check(&self, args: &PackInt8Args<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "q", args.q.len(), self.n * self.k)?;
        expect_len(Self::NAME, "packed", args.packed.len(), packed_len(self.n, self.k))?;
        expect_aligned(Self::NAME, if let Out::Device(at, _) = args.packed { at } else { DevicePtr::NULL })
    }

    fn cost(&self) -> Cost {
        let n = (self.n * self.k) as u64;
        Cost { bytes_read: n, bytes_written: n, ..Cost::default() }
    }

    fn cpu(&self, args: PackInt8Args<'_>) {
        let PackInt8 { n, k } = *self;
        let q = args.q.host();
        let (panels, rest) = args.packed.host().split_at_mut(panels_len(n, k));
        rest.fill(0);
        cpu::par_rows(panels, COLS * k.next_multiple_of(4), 1, 4 * COLS * k, |p, panel| {
            panel.fill(0);
            for j in 0..COLS.min(n - p * COLS) {
                let row = &q[(p * COLS + j) * k..][..k];
                for (to, from) in panel[4 * j..].chunks_mut(4 * COLS).zip(row.chunks(4)) {
                    to[..from.len()].copy_from_slice(from);
                }
            }
        });
    }

    fn ptx(&self, args: PackInt8Args<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        launch("pack_int8", (self.n, self.k), args.q.device(), args.packed.device(), on)
    }
}

/// The reverse of [`PackInt8`], by the device that packed.
#[derive(Debug, Clone, Copy)]
pub struct UnpackInt8 {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Arguments of [`UnpackInt8`].
pub struct UnpackInt8Args<'a> {
    /// W packed by [`PackInt8`].
    pub packed: In<'a, i8>,
    /// `[n, k]`.
    pub q: Out<'a, i8>,
}

impl Kernel for UnpackInt8 {
    type Args<'a> = UnpackInt8Args<'a>;
    const NAME: &'static str = "unpack_int8";

    fn check(&self, args: &UnpackInt8Args<'_>) -> Result<(), ArgError> {
        expect_packed(Self::NAME, &args.packed, (self.n, self.k))?;
        expect_len(Self::NAME, "q", args.q.len(), self.n * self.k)
    }

    fn cost(&self) -> Cost {
        PackInt8 { n: self.n, k: self.k }.cost()
    }

    fn cpu(&self, args: UnpackInt8Args<'_>) {
        let (packed, k) = (args.packed.host(), self.k);
        cpu::par_rows(args.q.host(), k, 8, k, |first, rows| {
            for (j, row) in rows.chunks_exact_mut(k).enumerate() {
                row.iter_mut().enumerate().for_each(|(i, q)| *q = packed[at(first + j, i, k)]);
            }
        });
    }

    fn ptx(&self, args: UnpackInt8Args<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        launch("unpack_int8", (self.n, self.k), args.packed.device(), args.q.device(), on)
    }
}

/// The row-major `[n, k]` form of a weight packed on the CPU.
pub fn unpack(packed: &[i8], n: usize, k: usize) -> Vec<i8> {
    let mut q = vec![0; n * k];
    UnpackInt8 { n, k }.cpu(UnpackInt8Args { packed: packed.into(), q: (&mut q).into() });
    q
}
