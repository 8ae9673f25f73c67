//! The forward norm together with the residual sum before it and the norm beside it.
//!
//! A transformer block adds the output of a linear layer, its bias and the residual stream, and normalises the sum;
//! GPT-NeoX (arXiv 2204.06745, section 2.1) normalises it twice, for attention and for the feed-forward layer beside it.
//! Here the row is read once for all of that.

use crate::{
    NormForward, NormForwardArgs, layout,
    norm_forward::{self, PLAIN, Template},
    ptx,
};
use kernel_abi::{
    ArgError, Cost, DevicePtr, Float, Half, In, Kernel, LaunchError, Launcher, Out, expect_len, narrow,
    optional, optional_out, typed, widen,
};

/// sum = x + x_bias + residual; y = norm(sum), and with a second weight and bias y2 = norm2(sum).
///
/// What the struct says is there must be there in the arguments, and nothing else.
#[derive(Debug, Clone, Copy)]
pub struct FusedNormForward {
    /// Shape and kind.
    pub norm: NormForward,
    /// A bias is added to x.
    pub x_bias: bool,
    /// A residual is added to x.
    pub residual: bool,
    /// The sum is written.
    pub sum: bool,
    /// There is a second norm.
    pub second: bool,
}

/// Arguments of [`FusedNormForward`].
pub struct FusedNormForwardArgs<'a, T = f32> {
    /// `[rows, cols]`.
    pub x: In<'a, T>,
    /// `[cols]`.
    pub x_bias: Option<In<'a, T>>,
    /// `[rows, cols]`.
    pub residual: Option<In<'a, T>>,
    /// `[rows, cols]`: x + x_bias + residual, rounded to the element type. The norms are of the rounded sum.
    pub sum: Option<Out<'a, T>>,
    /// `[cols]`.
    pub weight: In<'a, T>,
    /// `[cols]`.
    pub bias: Option<In<'a, T>>,
    /// `[rows, cols]`.
    pub y: Out<'a, T>,
    /// The second norm.
    pub second: Option<SecondNorm<'a, T>>,
    /// `[rows]`; zero for RMSNorm.
    pub mean: Out<'a>,
    /// `[rows]` 1 / sqrt(variance + eps).
    pub rstd: Out<'a>,
}

/// A second norm of the same rows: the same statistics, another weight, bias and output.
pub struct SecondNorm<'a, T = f32> {
    /// `[cols]`.
    pub weight: In<'a, T>,
    /// `[cols]`.
    pub bias: Option<In<'a, T>>,
    /// `[rows, cols]`.
    pub y: Out<'a, T>,
}

impl FusedNormForward {
    fn check_args<T>(&self, args: &FusedNormForwardArgs<'_, T>) -> Result<(), ArgError> {
        let (name, NormForward { rows, cols, .. }) = (Self::NAME, self.norm);
        let all = rows * cols;
        layout::check(name, rows, cols)?;
        let there = |arg, says: bool, len: Option<usize>, want: usize| match (says, len) {
            (true, Some(len)) => expect_len(name, arg, len, want),
            (false, None) => Ok(()),
            (true, None) => Err(ArgError { kernel: name, arg, problem: "is missing".into() }),
            (false, Some(_)) => Err(ArgError { kernel: name, arg, problem: "is not expected".into() }),
        };
        expect_len(name, "x", args.x.len(), all)?;
        there("x_bias", self.x_bias, args.x_bias.map(|a| a.len()), cols)?;
        there("residual", self.residual, args.residual.map(|a| a.len()), all)?;
        there("sum", self.sum, args.sum.as_ref().map(Out::len), all)?;
        expect_len(name, "weight", args.weight.len(), cols)?;
        expect_len(name, "bias", args.bias.map_or(cols, |b| b.len()), cols)?;
        expect_len(name, "y", args.y.len(), all)?;
        let second = args.second.as_ref();
        there("second.weight", self.second, second.map(|s| s.weight.len()), cols)?;
        there("second.y", self.second, second.map(|s| s.y.len()), all)?;
        expect_len(name, "second.bias", second.and_then(|s| s.bias).map_or(cols, |b| b.len()), cols)?;
        expect_len(name, "mean", args.mean.len(), rows)?;
        expect_len(name, "rstd", args.rstd.len(), rows)
    }

    /// With elements of so many bytes.
    fn bytes(&self, element: u64) -> Cost {
        let NormForward { rows, cols, .. } = self.norm;
        let (r, c) = (rows as u64, cols as u64);
        let [x_bias, residual, sum, second] =
            [self.x_bias, self.residual, self.sum, self.second].map(u64::from);
        Cost {
            bytes_read: element * (r * c * (1 + residual) + c * (2 + x_bias + 2 * second)),
            bytes_written: element * r * c * (1 + sum + second) + 8 * r,
            flops: (7 + x_bias + residual + 2 * second) * r * c,
            ..Cost::default()
        }
    }

    fn launch<T: Float>(
        &self,
        args: &FusedNormForwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        if self.norm.rows == 0 || self.norm.cols == 0 {
            return Ok(());
        }
        let first = [args.x.device(), args.weight.device(), optional(args.bias), args.y.device()];
        let added = [optional(args.x_bias), optional(args.residual), optional_out(&args.sum)];
        let second = match &args.second {
            Some(s) => [s.weight.device(), optional(s.bias), s.y.device()],
            None => [DevicePtr::NULL; 3],
        };
        let adds = self.x_bias || self.residual || self.sum;
        let template = match (adds, self.second) {
            (false, false) => PLAIN,
            (true, false) => fused("norm_add", 740),
            (_, true) => fused("norm_add_twice", 580),
        };
        let extra = added
            .into_iter()
            .filter(|_| adds || self.second)
            .chain(second.into_iter().filter(|_| self.second));
        let pointers = first.into_iter().chain([args.mean.device(), args.rstd.device()]).chain(extra);
        let rows: Vec<DevicePtr> = first.into_iter().chain(added).chain(second).collect();
        on.launch(norm_forward::launch::<T>(&self.norm, template, &rows, pointers))
    }

    /// The twin, from rows that are already summed up.
    fn norms(&self, sum: &[f32], args: FusedNormForwardArgs<'_>) {
        let first = NormForwardArgs {
            x: sum.into(),
            weight: args.weight,
            bias: args.bias,
            y: args.y,
            mean: args.mean,
            rstd: args.rstd,
        };
        self.norm.cpu(first);
        if let Some(SecondNorm { weight, bias, y }) = args.second {
            let (mut mean, mut rstd) = (vec![0.0; self.norm.rows], vec![0.0; self.norm.rows]);
            let (mean, rstd) = ((&mut mean).into(), (&mut rstd).into());
            self.norm.cpu(NormForwardArgs { x: sum.into(), weight, bias, y, mean, rstd });
        }
    }
}

/// Entries of `norm_fused.ptx`.
const fn fused(name: &'static str, resident: usize) -> Template {
    Template { module: &ptx::NORM_FUSED, name, narrow: 512, wide: 512, resident }
}

/// x + x_bias + residual.
fn add_up(mut x: Vec<f32>, x_bias: Option<&[f32]>, residual: Option<&[f32]>) -> Vec<f32> {
    if let Some(bias) = x_bias {
        x.iter_mut().zip(bias.iter().cycle()).for_each(|(x, b)| *x += b);
    }
    if let Some(residual) = residual {
        x.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
    }
    x
}

impl Kernel for FusedNormForward {
    type Args<'a> = FusedNormForwardArgs<'a>;
    const NAME: &'static str = "fused_norm_forward";

    fn check(&self, args: &FusedNormForwardArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        self.bytes(4)
    }

    fn cpu(&self, mut args: FusedNormForwardArgs<'_>) {
        let sum = add_up(args.x.host().to_vec(), args.x_bias.map(In::host), args.residual.map(In::host));
        if let Some(out) = args.sum.take() {
            out.host().copy_from_slice(&sum);
        }
        self.norms(&sum, args);
    }

    fn ptx(&self, args: FusedNormForwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }
}

typed!(
    /// [`FusedNormForward`] over 16-bit elements; the statistics are f32.
    FusedNormForwardOf,
    FusedNormForward
);

impl<T: Half> Kernel for FusedNormForwardOf<T> {
    type Args<'a> = FusedNormForwardArgs<'a, T>;
    const NAME: &'static str = FusedNormForward::NAME;

    fn check(&self, args: &FusedNormForwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        self.kernel.bytes(size_of::<T>() as u64)
    }

    fn cpu(&self, args: FusedNormForwardArgs<'_, T>) {
        let wide = |a: Option<In<'_, T>>| a.map(|a| widen(a.host()));
        let (x_bias, residual) = (wide(args.x_bias), wide(args.residual));
        let exact = add_up(widen(args.x.host()), x_bias.as_deref(), residual.as_deref());
        let mut rounded = vec![T::from_f32(0.0); exact.len()];
        narrow(&exact, &mut rounded);
        let (y, mut second) = (args.y.host(), args.second);
        let (mut y32, mut second32) = (vec![0.0; y.len()], vec![0.0; y.len()]);
        let (weight, bias) = (widen(args.weight.host()), wide(args.bias));
        let weight2 = second.as_ref().map(|s| widen(s.weight.host()));
        let bias2 = second.as_ref().and_then(|s| wide(s.bias));
        let twin = FusedNormForwardArgs {
            x: In::Meta(0),
            x_bias: None,
            residual: None,
            sum: None,
            weight: (&weight).into(),
            bias: bias.as_ref().map(Into::into),
            y: (&mut y32).into(),
            second: weight2.as_ref().map(|weight| SecondNorm {
                weight: weight.into(),
                bias: bias2.as_ref().map(Into::into),
                y: (&mut second32).into(),
            }),
            mean: args.mean,
            rstd: args.rstd,
        };
        self.kernel.norms(&widen(&rounded), twin);
        narrow(&y32, y);
        if let Some(second) = second.take() {
            narrow(&second32, second.y.host());
        }
        if let Some(sum) = args.sum {
            sum.host().copy_from_slice(&rounded);
        }
    }

    fn ptx(&self, args: FusedNormForwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}
