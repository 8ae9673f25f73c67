//! The launches of the products with bf16 weights.

use crate::{
    bf16::{Bf16Linear, Bf16LinearArgs, Bf16LinearBackward, Bf16LinearBackwardArgs, unpack_bf16},
    bf16_packed_len, ptx,
    tensor::{Matrix, Product, Tile},
};
use kernel_abi::{
    ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, optional,
};

const LARGE: Tile = Tile { name: "large", rows: 128, cols: 128, threads: 256, dynamic: 0 };
const SMALL: Tile = Tile { name: "small", rows: 64, cols: 64, threads: 128, dynamic: 0 };
const THIN: Tile = Tile { name: "thin", rows: 16, cols: 32, threads: 128, dynamic: 0 };
/// As [`SMALL`], element by element.
const ANY: Tile = Tile { name: "any", ..SMALL };
/// Large tiles from which on a GPU of some 80 multiprocessors is busy with them.
const BUSY: usize = 80;

impl Product {
    /// The tile for f32 rows of A and bf16 rows of B. No bit of the result depends on it.
    fn bf16_tile(&self) -> Tile {
        match self.m.div_ceil(128) * self.n.div_ceil(128) {
            _ if !self.a.aligned(4, 16) || !self.b.aligned(2, 16) => ANY,
            _ if self.m <= THIN.rows => THIN,
            tiles if tiles >= BUSY && self.m.min(self.n) > 64 => LARGE,
            _ => SMALL,
        }
    }

    fn bf16(&self, way: &str, tile: Tile, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.m == 0 || self.n == 0 {
            return Ok(());
        }
        let entry = format_args!("bf16_{way}_{}", tile.name);
        self.launch(&ptx::BF16_LINEAR, entry, tile, (self.k, DevicePtr::NULL), on)
    }
}

/// A product of plain f32 matrices around a packed weight.
fn product([m, n, k]: [usize; 3], a: DevicePtr, b: Matrix, out: DevicePtr) -> Product {
    let (a, out) = (Matrix::new(a, k), Matrix::new(out, n));
    let (bias, add) = (DevicePtr::NULL, Matrix::default());
    Product { batch: 1, m, n, k, a, b, bias, add, out, alpha: 1.0, beta: 1.0, act: 0, out_bytes: 4 }
}

/// A weight packed by [`crate::PackBf16`] on the GPU.
fn packed(at: DevicePtr, k: usize) -> Matrix {
    Matrix::new(at, k.next_multiple_of(2))
}

impl Bf16Linear {
    pub(crate) fn submit(&self, args: &Bf16LinearArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let Bf16Linear { m, n, k } = *self;
        let weight = packed(args.packed.device(), k);
        let product = product([m, n, k], args.x.device(), weight, args.y.device());
        let add = Matrix::new(optional(args.residual), n);
        let product = Product { bias: optional(args.bias), add, ..product };
        product.bf16("forward", product.bf16_tile(), on)
    }
}

impl Bf16LinearBackward {
    pub(crate) fn submit(
        &self,
        args: &Bf16LinearBackwardArgs<'_>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let Bf16LinearBackward { m, n, k, accumulate } = *self;
        let weight = packed(args.packed.device(), k);
        let product = product([m, k, n], args.dy.device(), weight, args.dx.device());
        let add = if accumulate { product.out } else { product.add };
        let product = Product { add, ..product };
        product.bf16("backward", product.bf16_tile(), on)
    }
}

/// Submits `pack_bf16` or `unpack_bf16`.
pub(crate) fn pack(
    entry: &str,
    weight: DevicePtr,
    packed: DevicePtr,
    (n, k): (usize, usize),
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    let words = n * k.div_ceil(2);
    if words == 0 {
        return Ok(());
    }
    let launch = Launch::new(&ptx::PACK, format_args!("{entry}")).grid(words.div_ceil(256), 1, 1).block(256);
    on.launch(launch.arg(weight).arg(packed).dim(n).dim(k))
}

/// The row-major `[n, k]` form in f32 of a weight packed by [`crate::PackBf16`] on the same device.
#[derive(Debug, Clone, Copy)]
pub struct UnpackBf16 {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Arguments of [`UnpackBf16`].
pub struct UnpackBf16Args<'a> {
    /// `[bf16_packed_len(n, k)]`.
    pub packed: In<'a, u32>,
    /// `[n, k]`.
    pub w: Out<'a>,
}

impl Kernel for UnpackBf16 {
    type Args<'a> = UnpackBf16Args<'a>;
    const NAME: &'static str = "unpack_bf16";

    fn check(&self, args: &UnpackBf16Args<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "packed", args.packed.len(), bf16_packed_len(self.n, self.k))?;
        expect_len(Self::NAME, "w", args.w.len(), self.n * self.k)
    }

    fn cost(&self) -> Cost {
        let n = (self.n * self.k) as u64;
        Cost { bytes_read: 2 * n, bytes_written: 4 * n, ..Cost::default() }
    }

    fn cpu(&self, args: UnpackBf16Args<'_>) {
        args.w.host().copy_from_slice(&unpack_bf16(args.packed.host(), self.n, self.k));
    }

    fn ptx(&self, args: UnpackBf16Args<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        pack("unpack_bf16", args.w.device(), args.packed.device(), (self.n, self.k), on)
    }
}
