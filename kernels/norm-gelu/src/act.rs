//! Activations: GELU exact and tanh (arXiv 1606.08415), SiLU, and the gated SwiGLU (arXiv 2002.05202).

use crate::act_launch::{self, Shape};
use kernel_abi::{
    ArgError, Cost, DevicePtr, Float, Half, In, Kernel, LaunchError, Launcher, Out, expect_len, narrow,
    typed, widen,
};

/// Which activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// x Phi(x) with the error function.
    Gelu,
    /// GELU's tanh approximation.
    GeluTanh,
    /// x sigmoid(x).
    Silu,
    /// silu(gate) * up; x holds gate | up in each row.
    SwiGlu,
}

impl Act {
    /// Input columns per output column.
    pub fn fan_in(self) -> usize {
        if self == Act::SwiGlu { 2 } else { 1 }
    }
}

/// Applies an activation.
#[derive(Debug, Clone, Copy)]
pub struct ActForward {
    /// Rows.
    pub rows: usize,
    /// Columns of the output.
    pub cols: usize,
    /// Which.
    pub kind: Act,
}

/// Arguments of [`ActForward`].
pub struct ActForwardArgs<'a, T = f32> {
    /// `[rows, cols]`, for SwiGLU `[rows, 2 cols]`.
    pub x: In<'a, T>,
    /// `[rows, cols]`.
    pub y: Out<'a, T>,
}

/// Gradient of [`ActForward`].
#[derive(Debug, Clone, Copy)]
pub struct ActBackward {
    /// Rows.
    pub rows: usize,
    /// Columns of the output.
    pub cols: usize,
    /// Which.
    pub kind: Act,
}

/// Arguments of [`ActBackward`].
pub struct ActBackwardArgs<'a, T = f32> {
    /// `[rows, cols]`, for SwiGLU `[rows, 2 cols]`.
    pub x: In<'a, T>,
    /// `[rows, cols]`.
    pub dy: In<'a, T>,
    /// Like x.
    pub dx: Out<'a, T>,
}

const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + cpu::erf(x * SQRT_HALF))
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    const PDF: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    let cdf = 0.5 * (1.0 + cpu::erf(x * SQRT_HALF));
    (x * PDF).mul_add(cpu::exp(-0.5 * x * x), cdf)
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    0.5 * x * (1.0 + cpu::tanh(SQRT_2_OVER_PI * (CUBIC * x * x).mul_add(x, x)))
}

#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    let t = cpu::tanh(SQRT_2_OVER_PI * (CUBIC * x * x).mul_add(x, x));
    let inner = SQRT_2_OVER_PI * (3.0 * CUBIC * x).mul_add(x, 1.0);
    0.5f32.mul_add(1.0 + t, 0.5 * x * (1.0 - t * t) * inner)
}

#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let s = cpu::sigmoid(x);
    s * x.mul_add(1.0 - s, 1.0)
}

macro_rules! elementwise {
    ($forward:ident, $backward:ident, $f:expr, $slope:expr) => {
        cpu::simd_fn! {
            fn $forward(x: &[f32], y: &mut [f32]) {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = $f(*x);
                }
            }
        }
        cpu::simd_fn! {
            fn $backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
                for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = dy * $slope(*x);
                }
            }
        }
    };
}

elementwise!(gelu_row, gelu_back, gelu, gelu_slope);
elementwise!(gelu_tanh_row, gelu_tanh_back, gelu_tanh, gelu_tanh_slope);
elementwise!(silu_row, silu_back, |x: f32| x * cpu::sigmoid(x), silu_slope);

cpu::simd_fn! {
    fn swiglu_row(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = *g * cpu::sigmoid(*g) * u;
        }
    }
}

cpu::simd_fn! {
    fn swiglu_back(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for i in 0..dy.len() {
            let s = cpu::sigmoid(gate[i]);
            dgate[i] = dy[i] * up[i] * s * gate[i].mul_add(1.0 - s, 1.0);
            dup[i] = dy[i] * gate[i] * s;
        }
    }
}

/// Rough scalar operations per element, for the decision to share work.
const WORK: usize = 12;

fn check(
    name: &'static str,
    kind: Act,
    n: usize,
    x: usize,
    y: usize,
    y_name: &'static str,
) -> Result<(), ArgError> {
    expect_len(name, "x", x, n * kind.fan_in())?;
    expect_len(name, y_name, y, n)
}

impl ActForward {
    fn check_lens<T>(&self, args: &ActForwardArgs<'_, T>) -> Result<(), ArgError> {
        check(Self::NAME, self.kind, self.rows * self.cols, args.x.len(), args.y.len(), "y")
    }

    fn launch<T: Float>(
        &self,
        args: &ActForwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let shape = Shape { rows: self.rows, cols: self.cols, kind: self.kind };
        act_launch::forward::<T>(shape, args.x.device(), DevicePtr::NULL, args.y.device(), on)
    }
}

impl Kernel for ActForward {
    type Args<'a> = ActForwardArgs<'a>;
    const NAME: &'static str = "activation_forward";

    fn check(&self, args: &ActForwardArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn ptx(&self, args: ActForwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }

    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        let read = 4 * n * self.kind.fan_in() as u64;
        Cost { bytes_read: read, bytes_written: 4 * n, flops: 12 * n, ..Cost::default() }
    }

    fn cpu(&self, args: ActForwardArgs<'_>) {
        let (cols, x) = (self.cols, args.x.host());
        let block = (4096 / cols.max(1)).max(1);
        cpu::par_rows(args.y.host(), cols, block, WORK * cols, |first, y| {
            let x = &x[first * cols * self.kind.fan_in()..];
            match self.kind {
                Act::Gelu => gelu_row(x, y),
                Act::GeluTanh => gelu_tanh_row(x, y),
                Act::Silu => silu_row(x, y),
                Act::SwiGlu => {
                    for (y, x) in y.chunks_exact_mut(cols).zip(x.chunks_exact(2 * cols)) {
                        swiglu_row(&x[..cols], &x[cols..], y);
                    }
                }
            }
        });
    }
}

impl ActBackward {
    fn check_lens<T>(&self, args: &ActBackwardArgs<'_, T>) -> Result<(), ArgError> {
        let n = self.rows * self.cols;
        check(Self::NAME, self.kind, n, args.x.len(), args.dy.len(), "dy")?;
        expect_len(Self::NAME, "dx", args.dx.len(), n * self.kind.fan_in())
    }

    fn launch<T: Float>(
        &self,
        args: &ActBackwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let shape = Shape { rows: self.rows, cols: self.cols, kind: self.kind };
        let [x, dy, dx] = [args.x.device(), args.dy.device(), args.dx.device()];
        act_launch::backward::<T>(shape, [x, DevicePtr::NULL, dy, dx], DevicePtr::NULL, on)
    }
}

impl Kernel for ActBackward {
    type Args<'a> = ActBackwardArgs<'a>;
    const NAME: &'static str = "activation_backward";

    fn check(&self, args: &ActBackwardArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn ptx(&self, args: ActBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }

    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        let f = self.kind.fan_in() as u64;
        Cost { bytes_read: 4 * n * (1 + f), bytes_written: 4 * n * f, flops: 20 * n, ..Cost::default() }
    }

    fn cpu(&self, args: ActBackwardArgs<'_>) {
        let (cols, x, dy) = (self.cols, args.x.host(), args.dy.host());
        let wide = cols * self.kind.fan_in();
        let block = (4096 / wide.max(1)).max(1);
        cpu::par_rows(args.dx.host(), wide, block, 2 * WORK * cols, |first, dx| {
            let (x, dy) = (&x[first * wide..], &dy[first * cols..]);
            match self.kind {
                Act::Gelu => gelu_back(x, dy, dx),
                Act::GeluTanh => gelu_tanh_back(x, dy, dx),
                Act::Silu => silu_back(x, dy, dx),
                Act::SwiGlu => {
                    let rows = dx.chunks_exact_mut(wide).zip(x.chunks_exact(wide)).zip(dy.chunks_exact(cols));
                    for ((dx, x), dy) in rows {
                        let (dgate, dup) = dx.split_at_mut(cols);
                        swiglu_back(&x[..cols], &x[cols..], dy, dgate, dup);
                    }
                }
            }
        });
    }
}

typed!(
    /// [`ActForward`] over 16-bit elements.
    ActForwardOf,
    ActForward
);
typed!(
    /// [`ActBackward`] over 16-bit elements.
    ActBackwardOf,
    ActBackward
);

/// Half the bytes.
pub(crate) fn halved(cost: Cost) -> Cost {
    Cost { bytes_read: cost.bytes_read / 2, bytes_written: cost.bytes_written / 2, ..cost }
}

impl<T: Half> Kernel for ActForwardOf<T> {
    type Args<'a> = ActForwardArgs<'a, T>;
    const NAME: &'static str = ActForward::NAME;

    fn check(&self, args: &ActForwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        halved(self.kernel.cost())
    }

    fn cpu(&self, args: ActForwardArgs<'_, T>) {
        let y = args.y.host();
        let mut exact = vec![0.0; y.len()];
        self.kernel.cpu(ActForwardArgs { x: (&widen(args.x.host())).into(), y: (&mut exact).into() });
        narrow(&exact, y);
    }

    fn ptx(&self, args: ActForwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}

impl<T: Half> Kernel for ActBackwardOf<T> {
    type Args<'a> = ActBackwardArgs<'a, T>;
    const NAME: &'static str = ActBackward::NAME;

    fn check(&self, args: &ActBackwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        halved(self.kernel.cost())
    }

    fn cpu(&self, args: ActBackwardArgs<'_, T>) {
        let dx = args.dx.host();
        let mut exact = vec![0.0; dx.len()];
        self.kernel.cpu(ActBackwardArgs {
            x: (&widen(args.x.host())).into(),
            dy: (&widen(args.dy.host())).into(),
            dx: (&mut exact).into(),
        });
        narrow(&exact, dx);
    }

    fn ptx(&self, args: ActBackwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}
