//! Norm, scaling and AdamW over all tensors of a model in one launch each.

use crate::{
    AdamW, AdamWArgs,
    adamw::{self, Constants},
    norm::{self, PARTIALS, squares},
    ptx,
    table::{CHUNK, Clip, Row, launches},
};
use kernel_abi::{ArgError, Cost, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

/// Tensors of a launch of the norm and of scaling.
const MOST: usize = 128;

/// Partial sums of squares over many tensors: their sum is the squared global norm.
///
/// Chunks of 4096 elements, counted over all tensors in order, go to the partial sums in turn.
#[derive(Debug, Clone, Copy)]
pub struct SquaredNormMulti<'t> {
    /// Elements of each tensor.
    pub lens: &'t [usize],
}

impl SquaredNormMulti<'_> {
    /// Partial sums.
    pub const PARTIALS: usize = PARTIALS;
}

/// Arguments of [`SquaredNormMulti`].
pub struct SquaredNormMultiArgs<'a> {
    /// The tensors.
    pub x: Vec<In<'a>>,
    /// `[256]`, added to.
    pub partials: Out<'a, f64>,
}

/// x *= scale for many tensors, and down to a global norm.
#[derive(Debug, Clone, Copy)]
pub struct ScaleMulti<'t> {
    /// Elements of each tensor.
    pub lens: &'t [usize],
    /// Factor.
    pub scale: f32,
    /// With `norm` given: greatest global norm of what is written; 0 = any.
    pub max_norm: f32,
}

/// Arguments of [`ScaleMulti`].
pub struct ScaleMultiArgs<'a> {
    /// The tensors, updated.
    pub x: Vec<Out<'a>>,
    /// `[256]` from [`SquaredNormMulti`] over the same tensors. A norm that is not finite leaves them as they are.
    pub norm: Option<In<'a, f64>>,
}

/// A tensor of [`AdamWMulti`].
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// Weights.
    pub len: usize,
    /// Decoupled weight decay.
    pub decay: f32,
}

/// One [`AdamW`] step over many tensors.
#[derive(Debug, Clone, Copy)]
pub struct AdamWMulti<'t> {
    /// The tensors.
    pub tensors: &'t [Weights],
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Step number from 1, for the bias correction.
    pub step: u32,
    /// Factor on the gradients (accumulation).
    pub grad_scale: f32,
    /// With `norm` given: greatest global norm of the scaled gradients; 0 = any.
    pub max_norm: f32,
}

/// Arguments of [`AdamWMulti`].
pub struct AdamWMultiArgs<'a> {
    /// For each tensor.
    pub tensors: Vec<AdamWArgs<'a>>,
    /// `[256]` from [`SquaredNormMulti`] over the gradients: clips without a round trip through the host. A norm that is
    /// not finite leaves weights and moments as they are.
    pub norm: Option<In<'a, f64>>,
}

pub(crate) fn check_list(
    kernel: &'static str,
    arg: &'static str,
    lens: &[usize],
    got: &[usize],
) -> Result<(), ArgError> {
    if lens.len() != got.len() {
        let problem = format!("lists {} tensors, expected {}", got.len(), lens.len());
        return Err(ArgError { kernel, arg, problem });
    }
    lens.iter().zip(got).try_for_each(|(len, got)| expect_len(kernel, arg, *got, *len))
}

impl Kernel for SquaredNormMulti<'_> {
    type Args<'a> = SquaredNormMultiArgs<'a>;
    const NAME: &'static str = "squared_norm_multi";

    fn check(&self, args: &SquaredNormMultiArgs<'_>) -> Result<(), ArgError> {
        check_list(Self::NAME, "x", self.lens, &args.x.iter().map(In::len).collect::<Vec<_>>())?;
        expect_len(Self::NAME, "partials", args.partials.len(), PARTIALS)
    }

    fn cost(&self) -> Cost {
        let (n, p) = (self.lens.iter().sum::<usize>() as u64, 8 * PARTIALS as u64);
        Cost { bytes_read: 4 * n + p, bytes_written: p, flops: 2 * n, ..Cost::default() }
    }

    fn cpu(&self, args: SquaredNormMultiArgs<'_>) {
        let chunks: Vec<&[f32]> = args.x.iter().flat_map(|x| x.host().chunks(CHUNK)).collect();
        let work = CHUNK * chunks.len().div_ceil(PARTIALS);
        cpu::par_rows(args.partials.host(), 1, 1, work, |i, partial| {
            partial[0] += chunks.iter().skip(i).step_by(PARTIALS).map(|x| squares(x)).sum::<f64>();
        });
    }

    fn ptx(&self, args: SquaredNormMultiArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let (out, tensors) = (args.partials.device(), args.x.iter().map(|x| (x.len(), x.device())));
        launches(tensors, MOST, CHUNK, Row::new, |rows, chunks| {
            norm::launch(rows, MOST, chunks, out, true, on)
        })
    }
}

impl Kernel for ScaleMulti<'_> {
    type Args<'a> = ScaleMultiArgs<'a>;
    const NAME: &'static str = "scale_multi";

    fn check(&self, args: &ScaleMultiArgs<'_>) -> Result<(), ArgError> {
        check_list(Self::NAME, "x", self.lens, &args.x.iter().map(Out::len).collect::<Vec<_>>())?;
        Clip::check(Self::NAME, &args.norm)
    }

    fn cost(&self) -> Cost {
        let n = self.lens.iter().sum::<usize>() as u64;
        Cost { bytes_read: 4 * n, bytes_written: 4 * n, flops: n, ..Cost::default() }
    }

    fn cpu(&self, args: ScaleMultiArgs<'_>) {
        let clip = Clip { scale: self.scale, max_norm: self.max_norm };
        let Some(factor) = clip.factor(args.norm) else { return };
        for x in args.x {
            cpu::par_rows(x.host(), 1, CHUNK, 1, |_, x| x.iter_mut().for_each(|x| *x *= factor));
        }
    }

    fn ptx(&self, args: ScaleMultiArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let norm = Clip::device(args.norm);
        let tensors = args.x.iter().map(|x| (x.len(), x.device()));
        launches(tensors, MOST, CHUNK, Row::new, |rows, chunks| {
            let mut table = rows.to_vec();
            table.resize(MOST, Row::default());
            let launch = Launch::new(&ptx::NORM, format_args!("scale_{MOST}")).grid(chunks, 1, 1).block(256);
            let launch = launch.table(&table).dim(rows.len()).arg(norm);
            on.launch(launch.arg(self.scale).arg(self.max_norm))
        })
    }
}

impl AdamWMulti<'_> {
    /// The step of one tensor, with this factor on its gradient.
    pub(crate) fn each(&self, tensor: &Weights, grad_scale: f32) -> AdamW {
        let AdamWMulti { lr, beta1, beta2, eps, step, .. } = *self;
        AdamW { len: tensor.len, weight_decay: tensor.decay, lr, beta1, beta2, eps, step, grad_scale }
    }
}

impl Kernel for AdamWMulti<'_> {
    type Args<'a> = AdamWMultiArgs<'a>;
    const NAME: &'static str = "adamw_multi";

    fn check(&self, args: &AdamWMultiArgs<'_>) -> Result<(), ArgError> {
        let lens: Vec<usize> = self.tensors.iter().map(|t| t.len).collect();
        check_list(
            Self::NAME,
            "tensors",
            &lens,
            &args.tensors.iter().map(|t| t.param.len()).collect::<Vec<_>>(),
        )?;
        Clip::check(Self::NAME, &args.norm)?;
        self.tensors.iter().zip(&args.tensors).try_for_each(|(t, args)| self.each(t, 1.0).check(args))
    }

    fn cost(&self) -> Cost {
        let n = self.tensors.iter().map(|t| t.len).sum::<usize>() as u64;
        Cost { bytes_read: 16 * n, bytes_written: 12 * n, flops: 12 * n, ..Cost::default() }
    }

    fn cpu(&self, args: AdamWMultiArgs<'_>) {
        let clip = Clip { scale: self.grad_scale, max_norm: self.max_norm };
        let Some(factor) = clip.factor(args.norm) else { return };
        for (tensor, args) in self.tensors.iter().zip(args.tensors) {
            self.each(tensor, factor).cpu(args);
        }
    }

    fn ptx(&self, args: AdamWMultiArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let norm = Clip::device(args.norm);
        let constants = Constants::new(&self.each(&Weights { len: 0, decay: 0.0 }, self.grad_scale));
        let tensors = self.tensors.iter().zip(&args.tensors).map(|(t, args)| (t.len, (t, args)));
        launches(
            tensors,
            adamw::MOST,
            CHUNK,
            |(t, args), _, first| adamw::Row::new(&self.each(t, 1.0), args, first),
            |rows, chunks| {
                let launch = Launch::new(&ptx::ADAMW, format_args!("adamw_{}", adamw::MOST));
                constants.launch(launch, rows, adamw::MOST, chunks, (norm, self.max_norm), on)
            },
        )
    }
}
