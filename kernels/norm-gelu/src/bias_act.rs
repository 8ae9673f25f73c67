//! Activations with the bias of the linear layer before them, so that its output goes through memory once.

use crate::{
    Act, ActBackward, ActBackwardArgs, ActForward, ActForwardArgs,
    act::halved,
    act_launch::{self, Shape},
    layout,
};
use kernel_abi::{
    ArgError, Cost, Float, Half, In, Kernel, LaunchError, Launcher, Out, expect_len, narrow, optional_out,
    typed, widen,
};

/// y = act(x + bias).
#[derive(Debug, Clone, Copy)]
pub struct BiasActForward {
    /// Rows.
    pub rows: usize,
    /// Columns of the output.
    pub cols: usize,
    /// Which.
    pub kind: Act,
}

/// Arguments of [`BiasActForward`].
pub struct BiasActForwardArgs<'a, T = f32> {
    /// `[rows, cols]`, for SwiGLU `[rows, 2 cols]`: the linear layer's output without its bias.
    pub x: In<'a, T>,
    /// As a row of x.
    pub bias: In<'a, T>,
    /// `[rows, cols]`.
    pub y: Out<'a, T>,
}

/// Gradient of [`BiasActForward`].
#[derive(Debug, Clone, Copy)]
pub struct BiasActBackward {
    /// Rows.
    pub rows: usize,
    /// Columns of the output.
    pub cols: usize,
    /// Which.
    pub kind: Act,
}

/// Arguments of [`BiasActBackward`].
pub struct BiasActBackwardArgs<'a, T = f32> {
    /// `[rows, cols]`, for SwiGLU `[rows, 2 cols]`, as in the forward pass.
    pub x: In<'a, T>,
    /// As a row of x.
    pub bias: In<'a, T>,
    /// `[rows, cols]`.
    pub dy: In<'a, T>,
    /// Like x.
    pub dx: Out<'a, T>,
    /// As a row of x, f32, added to.
    pub dbias: Option<Out<'a>>,
}

/// Each row plus `bias`.
fn add_bias(x: &[f32], bias: &[f32]) -> Vec<f32> {
    x.chunks_exact(bias.len().max(1)).flat_map(|row| row.iter().zip(bias).map(|(x, b)| x + b)).collect()
}

impl BiasActForward {
    fn check_lens<T>(&self, args: &BiasActForwardArgs<'_, T>) -> Result<(), ArgError> {
        let wide = self.cols * self.kind.fan_in();
        layout::check(Self::NAME, self.rows, wide)?;
        expect_len(Self::NAME, "x", args.x.len(), self.rows * wide)?;
        expect_len(Self::NAME, "bias", args.bias.len(), wide)?;
        expect_len(Self::NAME, "y", args.y.len(), self.rows * self.cols)
    }

    fn shape(&self) -> Shape {
        Shape { rows: self.rows, cols: self.cols, kind: self.kind }
    }

    fn twin(&self, x: &[f32], bias: &[f32], y: &mut [f32]) {
        let act = ActForward { rows: self.rows, cols: self.cols, kind: self.kind };
        act.cpu(ActForwardArgs { x: (&add_bias(x, bias)).into(), y: y.into() });
    }
}

impl Kernel for BiasActForward {
    type Args<'a> = BiasActForwardArgs<'a>;
    const NAME: &'static str = "bias_activation_forward";

    fn check(&self, args: &BiasActForwardArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let act = ActForward { rows: self.rows, cols: self.cols, kind: self.kind }.cost();
        let wide = (self.cols * self.kind.fan_in()) as u64;
        Cost { bytes_read: act.bytes_read + 4 * wide, flops: act.flops + self.rows as u64 * wide, ..act }
    }

    fn cpu(&self, args: BiasActForwardArgs<'_>) {
        self.twin(args.x.host(), args.bias.host(), args.y.host());
    }

    fn ptx(&self, args: BiasActForwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        act_launch::forward::<f32>(self.shape(), args.x.device(), args.bias.device(), args.y.device(), on)
    }
}

impl BiasActBackward {
    fn check_lens<T>(&self, args: &BiasActBackwardArgs<'_, T>) -> Result<(), ArgError> {
        let wide = self.cols * self.kind.fan_in();
        layout::check(Self::NAME, self.rows, wide)?;
        expect_len(Self::NAME, "x", args.x.len(), self.rows * wide)?;
        expect_len(Self::NAME, "bias", args.bias.len(), wide)?;
        expect_len(Self::NAME, "dy", args.dy.len(), self.rows * self.cols)?;
        expect_len(Self::NAME, "dx", args.dx.len(), self.rows * wide)?;
        expect_len(Self::NAME, "dbias", args.dbias.as_ref().map_or(wide, |d| d.len()), wide)
    }

    fn twin(&self, x: &[f32], bias: &[f32], dy: &[f32], dx: &mut [f32], dbias: Option<&mut [f32]>) {
        let act = ActBackward { rows: self.rows, cols: self.cols, kind: self.kind };
        act.cpu(ActBackwardArgs { x: (&add_bias(x, bias)).into(), dy: dy.into(), dx: (&mut *dx).into() });
        let Some(dbias) = dbias else { return };
        let mut sums = vec![0.0f32; dbias.len()];
        for row in dx.chunks_exact(dbias.len().max(1)) {
            sums.iter_mut().zip(row).for_each(|(s, d)| *s += d);
        }
        dbias.iter_mut().zip(&sums).for_each(|(d, s)| *d += s);
    }

    fn launch<T: Float>(
        &self,
        args: &BiasActBackwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let shape = Shape { rows: self.rows, cols: self.cols, kind: self.kind };
        let pointers = [args.x.device(), args.bias.device(), args.dy.device(), args.dx.device()];
        act_launch::backward::<T>(shape, pointers, optional_out(&args.dbias), on)
    }
}

impl Kernel for BiasActBackward {
    type Args<'a> = BiasActBackwardArgs<'a>;
    const NAME: &'static str = "bias_activation_backward";

    fn check(&self, args: &BiasActBackwardArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let act = ActBackward { rows: self.rows, cols: self.cols, kind: self.kind }.cost();
        let wide = (self.cols * self.kind.fan_in()) as u64;
        Cost {
            bytes_read: act.bytes_read + 8 * wide,
            bytes_written: act.bytes_written + 4 * wide,
            flops: act.flops + 2 * self.rows as u64 * wide,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: BiasActBackwardArgs<'_>) {
        let dbias = args.dbias.map(Out::host);
        self.twin(args.x.host(), args.bias.host(), args.dy.host(), args.dx.host(), dbias);
    }

    fn ptx(&self, args: BiasActBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }
}

typed!(
    /// [`BiasActForward`] over 16-bit elements.
    BiasActForwardOf,
    BiasActForward
);
typed!(
    /// [`BiasActBackward`] over 16-bit elements; dbias is f32.
    BiasActBackwardOf,
    BiasActBackward
);

impl<T: Half> Kernel for BiasActForwardOf<T> {
    type Args<'a> = BiasActForwardArgs<'a, T>;
    const NAME: &'static str = BiasActForward::NAME;

    fn check(&self, args: &BiasActForwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        halved(self.kernel.cost())
    }

    fn cpu(&self, args: BiasActForwardArgs<'_, T>) {
        let y = args.y.host();
        let mut exact = vec![0.0; y.len()];
        self.kernel.twin(&widen(args.x.host()), &widen(args.bias.host()), &mut exact);
        narrow(&exact, y);
    }

    fn ptx(&self, args: BiasActForwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let shape = self.kernel.shape();
        act_launch::forward::<T>(shape, args.x.device(), args.bias.device(), args.y.device(), on)
    }
}

impl<T: Half> Kernel for BiasActBackwardOf<T> {
    type Args<'a> = BiasActBackwardArgs<'a, T>;
    const NAME: &'static str = BiasActBackward::NAME;

    fn check(&self, args: &BiasActBackwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let (full, wide) = (self.kernel.cost(), (self.kernel.cols * self.kernel.kind.fan_in()) as u64);
        let half = halved(full);
        // the bias's gradient stays f32
        Cost { bytes_read: half.bytes_read + 2 * wide, bytes_written: half.bytes_written + 2 * wide, ..half }
    }

    fn cpu(&self, args: BiasActBackwardArgs<'_, T>) {
        let dx = args.dx.host();
        let mut exact = vec![0.0; dx.len()];
        let [x, bias, dy] = [args.x, args.bias, args.dy].map(|a| widen(a.host()));
        self.kernel.twin(&x, &bias, &dy, &mut exact, args.dbias.map(Out::host));
        narrow(&exact, dx);
    }

    fn ptx(&self, args: BiasActBackwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}
