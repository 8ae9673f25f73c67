//! C (+)= alpha op(A) op(B) for all transposes and strides; B is packed into scratch on the way.

use crate::{
    blocks::{for_blocks, for_slices},
    dense::{Dense, DenseTile, Operand},
    pack::{pack_plain, pack_transposed},
    panel::{Strided, Target, grow, product, tile_cols, tile_rows},
};
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, LaunchError, Launcher, Out};
use std::{cell::RefCell, ops::Range};

/// Up to this many rows, packing all of B first would cost more than the product.
const FEW_ROWS: usize = 32;

/// C (+)= alpha op(A) op(B), op(A) `[m, k]`, op(B) `[k, n]`, C `[m, n]`.
#[derive(Debug, Clone, Copy)]
pub struct Matmul {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Inner dimension.
    pub k: usize,
    /// A is stored `[k, m]`.
    pub ta: bool,
    /// B is stored `[n, k]`.
    pub tb: bool,
    /// Row stride of A as stored.
    pub lda: usize,
    /// Row stride of B as stored.
    pub ldb: usize,
    /// Row stride of C.
    pub ldc: usize,
    /// Factor on the product.
    pub alpha: f32,
    /// Add to C instead of overwriting it.
    pub accumulate: bool,
}

/// Arguments of [`Matmul`]; buffers may be longer than the shape needs.
pub struct MatmulArgs<'a> {
    /// A.
    pub a: In<'a>,
    /// B.
    pub b: In<'a>,
    /// C.
    pub c: Out<'a>,
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

fn at_least(arg: &'static str, got: usize, rows: usize, cols: usize, ld: usize) -> Result<(), ArgError> {
    let want = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * ld + cols };
    let problem = if ld < cols {
        format!("row stride {ld} is less than {cols} columns")
    } else if got < want {
        format!("has {got} elements, expected at least {want}")
    } else {
        return Ok(());
    };
    Err(ArgError { kernel: Matmul::NAME, arg, problem })
}

impl Kernel for Matmul {
    type Args<'a> = MatmulArgs<'a>;
    const NAME: &'static str = "matmul";

    fn check(&self, args: &MatmulArgs<'_>) -> Result<(), ArgError> {
        let Matmul { m, n, k, ta, tb, lda, ldb, ldc, .. } = *self;
        let (ar, ac) = if ta { (k, m) } else { (m, k) };
        let (br, bc) = if tb { (n, k) } else { (k, n) };
        at_least("a", args.a.len(), ar, ac, lda)?;
        at_least("b", args.b.len(), br, bc, ldb)?;
        at_least("c", args.c.len(), m, n, ldc)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.m as u64, self.n as u64, self.k as u64);
        let read = if self.accumulate { m * n } else { 0 };
        Cost {
            bytes_read: 4 * (m * k + n * k + read),
            bytes_written: 4 * m * n,
            flops: 2 * m * n * k,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: MatmulArgs<'_>) {
        let Matmul { m, n, k, ta, tb, lda, ldb, ldc, alpha, accumulate } = *self;
        if m == 0 || n == 0 {
            return;
        }
        let (a, b, cols) = (args.a.host(), args.b.host(), tile_cols());
        let a =
            if ta { Strided { row: 1, step: lda, ..Strided::rows(a, lda) } } else { Strided::rows(a, lda) };
        let target = Target::new(args.c.host(), ldc, n).scaled(alpha).accumulating(accumulate);
        let pack = |panels: Range<usize>, to: &mut [f32]| {
            for (p, panel) in panels.zip(to.chunks_exact_mut((k * cols).max(1))) {
                let pack = if tb { pack_transposed } else { pack_plain };
                pack(b, ldb, p * cols, cols.min(n - p * cols), k, panel);
            }
        };
        if m <= FEW_ROWS {
            // One block of rows: each task packs its own panels, which never leave the core's cache.
            for_slices(m, n, k, |panels| {
                let mut packed = SCRATCH.take();
                let slice = grow(&mut packed, panels.len() * k * cols);
                pack(panels.clone(), slice);
                // SAFETY: `for_slices` hands each panel to one task.
                unsafe { product(a, 0..m, k, slice, panels.start, panels.len(), &target) };
                SCRATCH.set(packed);
            });
            return;
        }
        let mut packed = SCRATCH.take();
        let all = grow(&mut packed, n.next_multiple_of(cols) * k);
        cpu::par_rows(all, k * cols, 1, 2 * k * cols, |p, panel| pack(p..p + 1, panel));
        let all = &*all;
        for_blocks(m, n, cols, tile_rows(), k, |rows, panels| {
            let slice = &all[panels.start * k * cols..panels.end * k * cols];
            // SAFETY: `for_blocks` hands each (row, panel) to one task.
            unsafe { product(a, rows, k, slice, panels.start, panels.len(), &target) };
        });
        SCRATCH.set(packed);
    }

    fn ptx(&self, args: MatmulArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(DenseTile::of(self.m, self.n), args, on)
    }
}

impl Matmul {
    fn launch(
        &self,
        tile: DenseTile,
        args: MatmulArgs<'_>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let Matmul { m, n, k, ta, tb, lda, ldb, ldc, alpha, accumulate } = *self;
        let out = args.c.device();
        let a = Operand { at: args.a.device(), ld: lda, inner: !ta };
        let b = Operand { at: args.b.device(), ld: ldb, inner: tb };
        let (bias, add) = (DevicePtr::NULL, if accumulate { out } else { DevicePtr::NULL });
        Dense { m, n, k, a, b, alpha, bias, add, out, ldc }.launch(tile, on)
    }
}

/// [`Matmul`] with a given tile instead of the one that suits the shape: for tuning and tests.
#[derive(Debug, Clone, Copy)]
pub struct Tiled {
    /// The product.
    pub matmul: Matmul,
    /// The tile; [`DenseTile::Thin`] needs `m <= 16` or `n <= 16`.
    pub tile: DenseTile,
}

impl Kernel for Tiled {
    type Args<'a> = MatmulArgs<'a>;
    const NAME: &'static str = "matmul_tiled";

    fn check(&self, args: &MatmulArgs<'_>) -> Result<(), ArgError> {
        self.matmul.check(args)
    }

    fn cost(&self) -> Cost {
        self.matmul.cost()
    }

    fn cpu(&self, args: MatmulArgs<'_>) {
        self.matmul.cpu(args);
    }

    fn ptx(&self, args: MatmulArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.matmul.launch(self.tile, args, on)
    }
}
