//! Squared norm of a gradient, in f64 and a fixed order; NaN and infinity come through.

use crate::{
    ptx,
    table::{Row, chunks},
};
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

/// out += sum x^2.
#[derive(Debug, Clone, Copy)]
pub struct SquaredNorm {
    /// Elements.
    pub len: usize,
}

/// Arguments of [`SquaredNorm`].
pub struct SquaredNormArgs<'a> {
    /// `[len]`.
    pub x: In<'a>,
    /// `[1]`, added to.
    pub out: Out<'a, f64>,
}

/// Elements of a partial sum: part of the definition of the twin's result.
const CHUNK: usize = 64 * 1024;

cpu::simd_fn! {
    pub(crate) fn squares(x: &[f32]) -> f64 {
        let mut acc = [0.0f64; 8];
        let mut chunks = x.chunks_exact(8);
        for c in &mut chunks {
            for i in 0..8 {
                let v = f64::from(c[i]);
                acc[i] = v.mul_add(v, acc[i]);
            }
        }
        for (a, v) in acc.iter_mut().zip(chunks.remainder()) {
            *a = f64::from(*v).mul_add(f64::from(*v), *a);
        }
        acc.iter().sum()
    }
}

impl Kernel for SquaredNorm {
    type Args<'a> = SquaredNormArgs<'a>;
    const NAME: &'static str = "squared_norm";

    fn check(&self, args: &SquaredNormArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "x", args.x.len(), self.len)?;
        expect_len(Self::NAME, "out", args.out.len(), 1)
    }

    fn cost(&self) -> Cost {
        let n = self.len as u64;
        Cost { bytes_read: 4 * n, bytes_written: 8, flops: 2 * n, ..Cost::default() }
    }

    fn cpu(&self, args: SquaredNormArgs<'_>) {
        let x = args.x.host();
        let mut partial = vec![0.0f64; x.len().div_ceil(CHUNK)];
        cpu::par_rows(&mut partial, 1, 1, CHUNK, |i, p| {
            p[0] = squares(&x[i * CHUNK..((i + 1) * CHUNK).min(x.len())])
        });
        args.out.host()[0] += partial.iter().sum::<f64>();
    }

    fn ptx(&self, args: SquaredNormArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let blocks = chunks(self.len).min(PARTIALS);
        let (row, out) = (Row::new(args.x.device(), self.len, 0), args.out.device());
        match blocks {
            0 => Ok(()),
            1 => launch(&[row], 1, 1, out, true, on),
            _ => {
                let partials = on.workspace(8 * blocks)?;
                launch(&[row], 1, chunks(self.len), partials, false, on)?;
                let sum = Launch::new(&ptx::NORM, format_args!("sum_partials")).block(256);
                on.launch(sum.arg(partials).dim(blocks).arg(out))
            }
        }
    }
}

/// Partial sums of squares: part of the definition of a result.
pub(crate) const PARTIALS: usize = 256;

/// Partial sums over the tensors of `rows`, padded to `capacity` rows.
pub(crate) fn launch(
    rows: &[Row],
    capacity: usize,
    chunks: usize,
    out: DevicePtr,
    add: bool,
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    let mut table = rows.to_vec();
    table.resize(capacity, Row::default());
    let launch = Launch::new(&ptx::NORM, format_args!("squared_norm_{capacity}"))
        .grid(chunks.min(PARTIALS), 1, 1)
        .block(256)
        .table(&table);
    on.launch(launch.dim(rows.len()).dim(chunks).arg(out).arg(u32::from(add)))
}

/// The factor that brings a gradient of global norm `norm` down to `max_norm` (1 when it is within).
pub fn clip_scale(norm: f32, max_norm: f32) -> f32 {
    if norm > max_norm { max_norm / (norm + 1e-6) } else { 1.0 }
}
