//! AdamW with moments of 8 bits (arXiv 2110.02861): two bytes of state a weight instead of eight.

use crate::{
    AdamW, AdamWMulti, Weights,
    adamw::{Constants, update},
    codes::{Codes, GROUP, decode, encode},
    multi::check_list,
    ptx,
    table::{Clip, launches},
};
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

/// The same step as [`AdamW`], with block-wise 8-bit moments: each group of 256 has its largest magnitude, and each moment
/// a code for what part of it it is. The weights move by the moments before these are rounded.
///
/// A second moment that is not zero never becomes code zero (the paper leaves this open): a first moment that survived
/// next to it would be divided by `eps` alone in a step without a gradient. Moments that are all zero are maxima of zero,
/// whatever the codes.
#[derive(Debug, Clone, Copy)]
pub struct AdamW8bit(pub AdamW);

/// [`AdamW8bit`] over many tensors in one launch, like [`AdamWMulti`].
#[derive(Debug, Clone, Copy)]
pub struct AdamW8bitMulti<'t>(pub AdamWMulti<'t>);

/// Arguments of [`AdamW8bit`].
pub struct AdamW8bitArgs<'a> {
    /// `[len]`, updated.
    pub param: Out<'a>,
    /// `[len]`.
    pub grad: In<'a>,
    /// `[len]` codes ([`Codes::Signed`]) of the first moment, updated.
    pub m: Out<'a, u8>,
    /// `[len]` codes ([`Codes::Unsigned`]) of the second moment, updated.
    pub v: Out<'a, u8>,
    /// `[len / 256, rounded up]` largest magnitudes of the first moment, updated.
    pub m_largest: Out<'a>,
    /// `[len / 256, rounded up]` of the second.
    pub v_largest: Out<'a>,
}

/// Arguments of [`AdamW8bitMulti`].
pub struct AdamW8bitMultiArgs<'a> {
    /// For each tensor.
    pub tensors: Vec<AdamW8bitArgs<'a>>,
    /// As for [`crate::AdamWMultiArgs`].
    pub norm: Option<In<'a, f64>>,
}

/// Weights of a block, and tensors of a launch.
const CHUNK: usize = 8192;
const MOST: usize = 60;

/// One tensor, as `adamw8_N` takes it.
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Row {
    /// param, grad, m, v, m_largest, v_largest.
    arrays: [u64; 6],
    len: u64,
    /// Chunks of the tensors before.
    first: u32,
    keep: f32,
}

impl Row {
    fn new(kernel: &AdamW, args: &AdamW8bitArgs<'_>, first: usize) -> Row {
        let AdamW8bitArgs { param, grad, m, v, m_largest, v_largest } = args;
        let arrays = [param.device(), grad.device(), m.device(), v.device()];
        let [p, g, m, v] = arrays.map(|a| a.0);
        let arrays = [p, g, m, v, m_largest.device().0, v_largest.device().0];
        Row { arrays, len: kernel.len as u64, first: first as u32, keep: kernel.keep() }
    }
}

fn cost(lens: impl Iterator<Item = usize>) -> Cost {
    lens.fold(Cost::default(), |sum, len| {
        let (n, groups) = (len as u64, len.div_ceil(GROUP) as u64);
        // 12 operations of the step; a product a moment to decode it, and one to encode it.
        sum + Cost {
            bytes_read: 10 * n + 8 * groups,
            bytes_written: 6 * n + 8 * groups,
            flops: 16 * n,
            ..Cost::default()
        }
    })
}

impl Kernel for AdamW8bit {
    type Args<'a> = AdamW8bitArgs<'a>;
    const NAME: &'static str = "adamw_8bit";

    fn check(&self, args: &AdamW8bitArgs<'_>) -> Result<(), ArgError> {
        let (len, groups) = (self.0.len, self.0.len.div_ceil(GROUP));
        expect_len(Self::NAME, "param", args.param.len(), len)?;
        expect_len(Self::NAME, "grad", args.grad.len(), len)?;
        expect_len(Self::NAME, "m", args.m.len(), len)?;
        expect_len(Self::NAME, "v", args.v.len(), len)?;
        expect_len(Self::NAME, "m_largest", args.m_largest.len(), groups)?;
        expect_len(Self::NAME, "v_largest", args.v_largest.len(), groups)?;
        match self.0.step {
            0 => Err(ArgError { kernel: Self::NAME, arg: "step", problem: "counts from 1".into() }),
            _ => Ok(()),
        }
    }

    fn cost(&self) -> Cost {
        cost([self.0.len].into_iter())
    }

    fn cpu(&self, args: AdamW8bitArgs<'_>) {
        let (rate, root) = self.0.rate_and_root();
        let codes = args.m.host().chunks_mut(GROUP).zip(args.v.host().chunks_mut(GROUP));
        let largest = args.m_largest.host().iter_mut().zip(args.v_largest.host());
        let weights = args.param.host().chunks_mut(GROUP).zip(args.grad.host().chunks(GROUP));
        let mut groups: Vec<_> = weights.zip(codes.zip(largest)).collect();
        cpu::par_rows(&mut groups, 1, 4, 64 * GROUP, |_, groups| {
            for ((p, g), ((m_codes, v_codes), (m_largest, v_largest))) in groups {
                let (mut m, mut v) = ([0.0f32; GROUP], [0.0f32; GROUP]);
                let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
                decode(Codes::Signed, m_codes, **m_largest, m);
                decode(Codes::Unsigned, v_codes, **v_largest, v);
                update(p, g, m, v, &self.0, rate, root);
                **m_largest = encode(Codes::Signed, m, m_codes);
                **v_largest = encode(Codes::Unsigned, v, v_codes);
            }
        });
    }

    fn ptx(&self, args: AdamW8bitArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.0.len == 0 {
            return Ok(());
        }
        let (launch, row) =
            (Launch::new(&ptx::ADAMW8, format_args!("adamw8_1")), Row::new(&self.0, &args, 0));
        let chunks = self.0.len.div_ceil(CHUNK);
        Constants::new(&self.0).launch(launch, &[row], 1, chunks, (DevicePtr::NULL, 0.0), on)
    }
}

impl Kernel for AdamW8bitMulti<'_> {
    type Args<'a> = AdamW8bitMultiArgs<'a>;
    const NAME: &'static str = "adamw_8bit_multi";

    fn check(&self, args: &AdamW8bitMultiArgs<'_>) -> Result<(), ArgError> {
        let lens: Vec<usize> = self.0.tensors.iter().map(|t| t.len).collect();
        let got: Vec<usize> = args.tensors.iter().map(|t| t.param.len()).collect();
        check_list(Self::NAME, "tensors", &lens, &got)?;
        Clip::check(Self::NAME, &args.norm)?;
        let mut tensors = self.0.tensors.iter().zip(&args.tensors);
        tensors.try_for_each(|(t, args)| AdamW8bit(self.0.each(t, 1.0)).check(args))
    }

    fn cost(&self) -> Cost {
        cost(self.0.tensors.iter().map(|t| t.len))
    }

    fn cpu(&self, args: AdamW8bitMultiArgs<'_>) {
        let clip = Clip { scale: self.0.grad_scale, max_norm: self.0.max_norm };
        let Some(factor) = clip.factor(args.norm) else { return };
        for (tensor, args) in self.0.tensors.iter().zip(args.tensors) {
            AdamW8bit(self.0.each(tensor, factor)).cpu(args);
        }
    }

    fn ptx(&self, args: AdamW8bitMultiArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let clip = (Clip::device(args.norm), self.0.max_norm);
        let constants = Constants::new(&self.0.each(&Weights { len: 0, decay: 0.0 }, self.0.grad_scale));
        let tensors = self.0.tensors.iter().zip(&args.tensors).map(|(t, args)| (t.len, (t, args)));
        let row =
            |(t, args): (&Weights, &AdamW8bitArgs<'_>), _, first| Row::new(&self.0.each(t, 1.0), args, first);
        launches(tensors, MOST, CHUNK, row, |rows, chunks| {
            let launch = Launch::new(&ptx::ADAMW8, format_args!("adamw8_{MOST}"));
            constants.launch(launch, rows, MOST, chunks, clip, on)
        })
    }
}
