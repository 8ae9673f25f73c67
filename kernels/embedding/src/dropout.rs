//! Dropout with a mask that is computed, not stored.

use crate::philox::{domain, key, philox4x32};
use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// y = x * mask / (1 - p); applied to a gradient with the same seed it is its own backward.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Elements.
    pub len: usize,
    /// Probability of zero; in [0, 1).
    pub p: f32,
    /// Seed of the mask.
    pub seed: u64,
}

/// Arguments of [`Dropout`].
pub struct DropoutArgs<'a> {
    /// `[len]`.
    pub x: In<'a>,
    /// `[len]`.
    pub y: Out<'a>,
}

impl Kernel for Dropout {
    type Args<'a> = DropoutArgs<'a>;
    const NAME: &'static str = "dropout";

    fn check(&self, args: &DropoutArgs<'_>) -> Result<(), ArgError> {
        if !(0.0..1.0).contains(&self.p) {
            let problem = format!("{} is not in [0, 1)", self.p);
            return Err(ArgError { kernel: Self::NAME, arg: "p", problem });
        }
        expect_len(Self::NAME, "x", args.x.len(), self.len)?;
        expect_len(Self::NAME, "y", args.y.len(), self.len)
    }

    fn cost(&self) -> Cost {
        let n = self.len as u64;
        Cost { bytes_read: 4 * n, bytes_written: 4 * n, flops: n, int8_ops: 0 }
    }

    fn cpu(&self, args: DropoutArgs<'_>) {
        let (x, key) = (args.x.host(), key(self.seed));
        let (limit, scale) = ((f64::from(self.p) * 4_294_967_296.0) as u32, 1.0 / (1.0 - self.p));
        cpu::par_rows(args.y.host(), 1, 4096, 16, |first, y| {
            for (i, y) in y.chunks_mut(4).enumerate() {
                let at = first + 4 * i;
                let words = philox4x32([(at / 4) as u32, (at as u64 / 4 >> 32) as u32, 0, domain::DROPOUT], key);
                for (j, y) in y.iter_mut().enumerate() {
                    *y = if words[j] < limit { 0.0 } else { x[at + j] * scale };
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_mean_and_repeats_itself() {
        let x = vec![1.0f32; 40_001];
        let run = |seed| {
            let mut y = vec![f32::NAN; x.len()];
            Dropout { len: x.len(), p: 0.25, seed }.cpu(DropoutArgs { x: (&x).into(), y: (&mut y).into() });
            y
        };
        let y = run(7);
        let zeros = y.iter().filter(|v| **v == 0.0).count() as f64 / y.len() as f64;
        assert!((zeros - 0.25).abs() < 0.01, "{zeros}");
        assert!(y.iter().all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6));
        assert_eq!(y, run(7));
        assert_ne!(y, run(8));
    }
}
