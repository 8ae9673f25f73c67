//! The launches of the tensor-core products.

use kernel_abi::{DevicePtr, Launch, LaunchError, Launcher, Module};
use std::fmt::Arguments;

/// A row of the table of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    /// How entries are named.
    pub name: &'static str,
    /// Rows and columns of a block's tile.
    pub rows: usize,
    pub cols: usize,
    pub threads: usize,
    /// Bytes of shared memory to be given at launch.
    pub dynamic: usize,
}

/// out = act(alpha op(A) op(B) + bias) + beta add, over a batch of `[m, n]` results. See `ptx/_epilogue.ptx`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Matrix,
    pub b: Matrix,
    /// Null: none.
    pub bias: DevicePtr,
    /// Null address: none.
    pub add: Matrix,
    pub out: Matrix,
    pub alpha: f32,
    pub beta: f32,
    /// 0: none, 1: GELU, 2: its tanh form.
    pub act: u32,
    /// Bytes of an element of out, bias and add.
    pub out_bytes: usize,
}

/// A matrix of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Matrix {
    pub at: DevicePtr,
    /// Elements from row to row.
    pub ld: usize,
    /// Bytes from matrix to matrix.
    pub stride: usize,
}

impl Matrix {
    pub fn new(at: DevicePtr, ld: usize) -> Matrix {
        Matrix { at, ld, stride: 0 }
    }

    /// Whether rows of elements of so many bytes can be accessed `bytes` at a time.
    pub fn aligned(&self, element: usize, bytes: usize) -> bool {
        (self.at.0 as usize | self.stride | (self.ld * element)).is_multiple_of(bytes)
    }
}

impl Product {
    /// Submits the entry, with k in parts of `part` elements whose sums go to `work` (null: one part).
    pub fn launch(
        &self,
        module: &'static Module,
        entry: Arguments<'_>,
        tile: Tile,
        (part, work): (usize, DevicePtr),
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let tiles = self.m.div_ceil(tile.rows) * self.n.div_ceil(tile.cols);
        let launch = Launch::new(module, entry)
            .grid(tiles, self.batch, self.k.div_ceil(part.max(1)).max(1))
            .block(tile.threads)
            .shared(tile.dynamic);
        on.launch(self.arguments(launch, part, work))
    }

    /// The parameters that all entries take.
    pub fn arguments(&self, launch: Launch, part: usize, work: DevicePtr) -> Launch {
        let Product { m, n, k, a, b, bias, add, out, alpha, beta, act, .. } = *self;
        let wide = out.aligned(self.out_bytes, 4 * self.out_bytes)
            && (add.at == DevicePtr::NULL || add.aligned(self.out_bytes, 4 * self.out_bytes));
        let launch = launch.arg(a.at).arg(b.at).arg(bias).arg(add.at).arg(out.at).arg(work);
        let launch = [a, b, add, out].iter().fold(launch, |l, x| l.arg(x.stride as u64));
        let launch = launch.dim(m).dim(n).dim(k).dim(a.ld).dim(b.ld).dim(add.ld).dim(out.ld).dim(part);
        launch.arg(alpha).arg(beta).arg(act).arg(u32::from(wide))
    }
}
