//! C = act(alpha op(A) op(B) + bias) + beta residual on tensor cores: f16, bf16, and f32 data rounded to tf32.

use crate::{
    Matmul, MatmulArgs, ptx,
    tensor::{Matrix, Product, Tile},
};
use kernel_abi::{
    ArgError, Cost, DevicePtr, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Module, Out, optional,
    typed, widen,
};

/// What is applied to alpha op(A) op(B) + bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// GELU (arXiv 1606.08415), by the error function.
    Gelu,
    /// Its tanh form.
    GeluTanh,
}

/// C = act(alpha op(A) op(B) + bias) + beta residual, over a batch; f32 data, rounded to tf32 for the product.
///
/// [`Gemm::of`] makes the kernel for f16 and bf16. Sums are f32. At most one of A and B is transposed against row-major
/// `[m, k]` and `[k, n]`: NN, NT (a linear layer) and TN (its weight gradient).
#[derive(Debug, Clone, Copy)]
pub struct Gemm {
    /// Independent products.
    pub batch: usize,
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
    /// Row strides of A, B and C (and the residual), elements.
    pub ld: [usize; 3],
    /// Distances between the matrices of a batch of A, B and C (and the residual), elements.
    pub strides: [usize; 3],
    /// Factor on the product.
    pub alpha: f32,
    /// Factor on the residual, or on the old C where there is none.
    pub beta: f32,
    /// Applied after the bias.
    pub act: Activation,
    /// Parts of k that are summed apart and then in order. 1: none, so that a row of C depends on that row of A alone. 0: as
    /// many as keep a GPU busy, which depends on m and n.
    pub parts: usize,
}

/// Arguments of [`Gemm`]; buffers may be longer than the shape needs.
pub struct GemmArgs<'a, T = f32> {
    /// A.
    pub a: In<'a, T>,
    /// B.
    pub b: In<'a, T>,
    /// `[n]`.
    pub bias: Option<In<'a, T>>,
    /// Laid out like C.
    pub residual: Option<In<'a, T>>,
    /// C.
    pub c: Out<'a, T>,
}

typed!(
    /// [`Gemm`] over 16-bit elements.
    GemmOf,
    Gemm
);

/// For tensor cores that outrun the second-level cache: a quarter less to read than by 128 x 128.
const WIDE: Tile = Tile { name: "128x256", rows: 128, cols: 256, threads: 256, dynamic: 96 << 10 };
const TILES: [Tile; 3] = [
    Tile { name: "128x128", rows: 128, cols: 128, threads: 128, dynamic: 0 },
    Tile { name: "128x64", rows: 128, cols: 64, threads: 128, dynamic: 0 },
    Tile { name: "64x64", rows: 64, cols: 64, threads: 128, dynamic: 0 },
];
const THIN: Tile = Tile { name: "16x32", rows: 16, cols: 32, threads: 128, dynamic: 0 };
const ANY: Tile = Tile { name: "any", rows: 64, cols: 64, threads: 128, dynamic: 0 };
/// Tiles from which on a GPU of some 80 multiprocessors is busy.
const BUSY: usize = 80;
/// Wide tiles from which on an A100 (108 multiprocessors) is.
const BUSY_WIDE: usize = 108;
/// A part of k is a multiple of this, and not shorter than `SHORTEST`.
const STEP: usize = 64;
const SHORTEST: usize = 256;

/// x rounded to tf32 (10 bits of mantissa), ties away from zero, as `cvt.rna.tf32.f32` does.
pub fn round_tf32(x: f32) -> f32 {
    if !x.is_finite() {
        return x;
    }
    f32::from_bits((x.to_bits() + 0x1000) & 0xffff_e000)
}

impl Gemm {
    /// One product of row-major matrices that lie without gaps: no bias, no activation, parts chosen by shape.
    pub fn new(m: usize, n: usize, k: usize) -> Gemm {
        Gemm {
            batch: 1,
            m,
            n,
            k,
            ta: false,
            tb: false,
            ld: [k, n, n],
            strides: [m * k, k * n, m * n],
            alpha: 1.0,
            beta: 0.0,
            act: Activation::None,
            parts: 0,
        }
    }

    /// As [`Gemm::new`], with A stored `[k, m]`.
    pub fn tn(m: usize, n: usize, k: usize) -> Gemm {
        Gemm { ta: true, ld: [m, n, n], ..Gemm::new(m, n, k) }
    }

    /// As [`Gemm::new`], with B stored `[n, k]`.
    pub fn nt(m: usize, n: usize, k: usize) -> Gemm {
        Gemm { tb: true, ld: [k, k, n], ..Gemm::new(m, n, k) }
    }

    /// Rows and columns of A, B and C as stored.
    fn stored(&self) -> [(usize, usize); 3] {
        let Gemm { m, n, k, ta, tb, .. } = *self;
        [if ta { (k, m) } else { (m, k) }, if tb { (n, k) } else { (k, n) }, (m, n)]
    }

    fn check_args<T>(&self, args: &GemmArgs<'_, T>) -> Result<(), ArgError> {
        let wrong = |arg, problem| Err(ArgError { kernel: Self::NAME, arg, problem });
        if self.ta && self.tb {
            return wrong("a", "A and B cannot both be transposed".into());
        }
        if self.batch > 65_535 {
            return wrong("c", format!("{} products in a batch; the grid holds 65535", self.batch));
        }
        let residual = args.residual.as_ref().map_or(args.c.len(), |r| r.len());
        let lens = [
            ("a", args.a.len(), 0),
            ("b", args.b.len(), 1),
            ("c", args.c.len(), 2),
            ("residual", residual, 2),
        ];
        for (arg, got, i) in lens {
            let ((rows, cols), ld, stride) = (self.stored()[i], self.ld[i], self.strides[i]);
            let one = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * ld + cols };
            let want = if self.batch == 0 || one == 0 { 0 } else { (self.batch - 1) * stride + one };
            if ld < cols {
                return wrong(arg, format!("row stride {ld} is less than {cols} columns"));
            }
            if i == 2 && self.batch > 1 && stride < one {
                return wrong(arg, format!("matrices {stride} apart overlap: each takes {one} elements"));
            }
            if got < want {
                return wrong(arg, format!("has {got} elements, expected at least {want}"));
            }
        }
        match args.bias.map(|b| b.len()) {
            Some(len) if len != self.n => wrong("bias", format!("has {len} elements, expected {}", self.n)),
            _ => Ok(()),
        }
    }

    fn cost_of(&self, bytes: usize) -> Cost {
        let [a, b, c] = self.stored().map(|(rows, cols)| (self.batch * rows * cols * bytes) as u64);
        let read = if self.beta == 0.0 { 0 } else { c };
        let flops = 2 * (self.batch * self.m * self.n * self.k) as u64;
        Cost { bytes_read: a + b + read, bytes_written: c, flops, ..Cost::default() }
    }

    fn apply(&self, x: f32) -> f32 {
        match self.act {
            Activation::None => x,
            Activation::Gelu => 0.5 * x * (1.0 + cpu::erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => {
                let inner = (0.044_715 * x * x).mul_add(x, x);
                0.5 * x * (1.0 + cpu::tanh((2.0 / std::f32::consts::PI).sqrt() * inner))
            }
        }
    }

    /// The twin: operands widened by `load`, the product in f32, one rounding.
    fn on_host<T: Float>(&self, args: GemmArgs<'_, T>, load: impl Fn(&[T]) -> Vec<f32>) {
        let Gemm { m, n, k, ta, tb, ld: [lda, ldb, ldc], .. } = *self;
        if m == 0 || n == 0 {
            return;
        }
        let product = Matmul { m, n, k, ta, tb, lda, ldb, ldc: n, alpha: self.alpha, accumulate: false };
        let (a, b, c) = (load(args.a.host()), load(args.b.host()), args.c.host());
        let bias = args.bias.map(|b| widen(b.host()));
        let residual = args.residual.map(In::host);
        let mut sum = vec![0.0; m * n];
        for i in 0..self.batch {
            let [at_a, at_b, at_c] = self.strides.map(|s| i * s);
            let (a, b) = (&a[at_a.min(a.len())..], &b[at_b.min(b.len())..]);
            product.cpu(MatmulArgs { a: a.into(), b: b.into(), c: (&mut sum).into() });
            for (row, sums) in sum.chunks(n).enumerate() {
                for (col, sum) in sums.iter().enumerate() {
                    let at = at_c + row * ldc + col;
                    let v = self.apply(sum + bias.as_ref().map_or(0.0, |b| b[col]));
                    let add = residual.map_or(c[at], |r| r[at]);
                    c[at] = T::from_f32(if self.adds(residual.is_some()) {
                        add.to_f32().mul_add(self.beta, v)
                    } else {
                        v
                    });
                }
            }
        }
    }

    fn adds(&self, residual: bool) -> bool {
        residual || self.beta != 0.0
    }

    fn forms(&self) -> &'static str {
        match (self.ta, self.tb) {
            (true, _) => "tn",
            (_, true) => "nt",
            _ => "nn",
        }
    }

    /// Whether a smaller tile would not do as well.
    fn half_full(&self, tile: &Tile) -> bool {
        2 * self.m > tile.rows && 2 * self.n > tile.cols
    }

    fn tile(&self, aligned: bool, sm: u32) -> Tile {
        let tiles = |t: &Tile| self.batch * self.m.div_ceil(t.rows) * self.n.div_ceil(t.cols);
        match () {
            _ if !aligned => ANY,
            _ if self.m <= THIN.rows && !self.ta => THIN,
            _ if matches!(sm, 80 | 90) && tiles(&WIDE) >= BUSY_WIDE && self.half_full(&WIDE) => WIDE,
            _ => TILES.into_iter().find(|t| tiles(t) >= BUSY && self.half_full(t)).unwrap_or(TILES[2]),
        }
    }

    /// Elements of k in a part.
    fn part(&self, tile: Tile) -> usize {
        let tiles = self.batch * self.m.div_ceil(tile.rows) * self.n.div_ceil(tile.cols);
        let parts = match self.parts {
            0 => (2 * BUSY / tiles.max(1)).min(self.k / SHORTEST).max(1),
            parts => parts,
        };
        self.k.div_ceil(parts).next_multiple_of(STEP).max(STEP)
    }

    fn on_device<T: Float>(
        &self,
        (module, kind): (&'static Module, &str),
        args: GemmArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let Gemm { batch, m, n, k, alpha, beta, .. } = *self;
        if batch == 0 || m == 0 || n == 0 {
            return Ok(());
        }
        let bytes = size_of::<T>();
        let matrix = |at, i: usize| Matrix { at, ld: self.ld[i], stride: self.strides[i] * bytes };
        let (a, b, out) =
            (matrix(args.a.device(), 0), matrix(args.b.device(), 1), matrix(args.c.device(), 2));
        let add = match args.residual {
            Some(residual) => matrix(residual.device(), 2),
            None if beta != 0.0 => out,
            None => Matrix::default(),
        };
        let (bias, act) = (optional(args.bias), self.act as u32);
        let product = Product { batch, m, n, k, a, b, bias, add, out, alpha, beta, act, out_bytes: bytes };
        let tile = self.tile(a.aligned(bytes, 16) && b.aligned(bytes, 16), on.sm());
        let entry = format_args!("gemm_{kind}_{}_{}", self.forms(), tile.name);
        let part = self.part(tile);
        let parts = k.div_ceil(part);
        if parts <= 1 {
            return product.launch(module, entry, tile, (part, DevicePtr::NULL), on);
        }
        let work = on.workspace(4 * parts * batch * m * n)?;
        product.launch(module, entry, tile, (part, work), on)?;
        let threads = m * n.div_ceil(4);
        let sum = Launch::new(module, format_args!("gemm_{kind}_sum")).grid(threads.div_ceil(256), batch, 1);
        on.launch(product.arguments(sum.block(256), parts, work))
    }
}

impl Kernel for Gemm {
    type Args<'a> = GemmArgs<'a>;
    const NAME: &'static str = "gemm";

    fn check(&self, args: &GemmArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        self.cost_of(4)
    }

    fn cpu(&self, args: GemmArgs<'_>) {
        self.on_host(args, |x| x.iter().map(|x| round_tf32(*x)).collect());
    }

    fn ptx(&self, args: GemmArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.on_device((&ptx::GEMM_TF32, "tf32"), args, on)
    }
}

impl<T: Half> Kernel for GemmOf<T> {
    type Args<'a> = GemmArgs<'a, T>;
    const NAME: &'static str = "gemm";

    fn check(&self, args: &GemmArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        let cost = self.kernel.cost_of(2);
        Cost { flops: 0, half_flops: cost.flops, ..cost }
    }

    fn cpu(&self, args: GemmArgs<'_, T>) {
        self.kernel.on_host(args, widen);
    }

    fn ptx(&self, args: GemmArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let module = if T::NAME == "f16" { &ptx::GEMM_F16 } else { &ptx::GEMM_BF16 };
        self.kernel.on_device((module, T::NAME), args, on)
    }
}
