//! Dropout with a mask that is computed, not stored.
//!
//! Sixteen counters run side by side in SIMD lanes; word w of lane l decides element 16 w + l of a block of
//! 64, so that the mask comes out in the order of the elements.

use crate::{
    philox::{domain, key, philox4x32},
    ptx,
};
use kernel_abi::{
    ArgError, Cost, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, narrow, typed,
    widen,
};

const LANES: usize = 16;
/// Elements that one group of counters decides.
const BLOCK: usize = 4 * LANES;
/// Elements per parallel task.
const CHUNK: usize = 64 * BLOCK;

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
pub struct DropoutArgs<'a, T = f32> {
    /// `[len]`.
    pub x: In<'a, T>,
    /// `[len]`.
    pub y: Out<'a, T>,
}

impl Dropout {
    /// An element is zero when its random word is below the first; otherwise it is multiplied by the second.
    fn limit_and_scale(&self) -> (u32, f32) {
        ((f64::from(self.p) * 4_294_967_296.0) as u32, 1.0 / (1.0 - self.p))
    }

    fn check_args<T>(&self, args: &DropoutArgs<'_, T>) -> Result<(), ArgError> {
        if !(0.0..1.0).contains(&self.p) {
            let problem = format!("{} is not in [0, 1)", self.p);
            return Err(ArgError { kernel: Self::NAME, arg: "p", problem });
        }
        expect_len(Self::NAME, "x", args.x.len(), self.len)?;
        expect_len(Self::NAME, "y", args.y.len(), self.len)
    }

    fn launch<T: Float>(&self, args: &DropoutArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.len == 0 {
            return Ok(());
        }
        let (x, y, (limit, scale)) = (args.x.device(), args.y.device(), self.limit_and_scale());
        let aligned = (x.0 | y.0).is_multiple_of(4 * size_of::<T>() as u64);
        let blocks = if aligned { self.len / BLOCK } else { 0 };
        let threads = 4 * blocks + (self.len - blocks * BLOCK).div_ceil(BLOCK) * LANES;
        let launch = Launch::new(&ptx::DROPOUT, format_args!("dropout_{}", T::NAME))
            .grid(threads.div_ceil(256), 1, 1)
            .block(256);
        let launch = launch.arg(x).arg(y).arg(self.len as u64).arg(blocks as u64);
        on.launch(launch.arg(self.seed).arg(limit).arg(scale))
    }
}

impl Kernel for Dropout {
    type Args<'a> = DropoutArgs<'a>;
    const NAME: &'static str = "dropout";

    fn check(&self, args: &DropoutArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        let n = self.len as u64;
        Cost { bytes_read: 4 * n, bytes_written: 4 * n, flops: n, ..Cost::default() }
    }

    fn cpu(&self, args: DropoutArgs<'_>) {
        let (x, key, (limit, scale)) = (args.x.host(), key(self.seed), self.limit_and_scale());
        cpu::par_rows(args.y.host(), 1, CHUNK, 4, |first, y| {
            mask(first / BLOCK, key, limit, scale, &x[first..first + y.len()], y);
        });
    }

    fn ptx(&self, args: DropoutArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }
}

typed!(
    /// [`Dropout`] over 16-bit elements, with the same mask.
    DropoutOf,
    Dropout
);

impl<T: Half> Kernel for DropoutOf<T> {
    type Args<'a> = DropoutArgs<'a, T>;
    const NAME: &'static str = "dropout";

    fn check(&self, args: &DropoutArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        let n = 2 * self.kernel.len as u64;
        Cost { bytes_read: n, bytes_written: n, ..self.kernel.cost() }
    }

    fn cpu(&self, args: DropoutArgs<'_, T>) {
        let y = args.y.host();
        let mut wide = vec![0.0; y.len()];
        self.kernel.cpu(DropoutArgs { x: (&widen(args.x.host())).into(), y: (&mut wide).into() });
        narrow(&wide, y);
    }

    fn ptx(&self, args: DropoutArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}

cpu::simd_fn! {
    fn mask(first: usize, key: [u32; 2], limit: u32, scale: f32, x: &[f32], y: &mut [f32]) {
        for (block, (x, y)) in (first..).zip(x.chunks(BLOCK).zip(y.chunks_mut(BLOCK))) {
            let words = words(block * LANES, key);
            for ((y, x), w) in y.iter_mut().zip(x).zip(words.as_flattened()) {
                *y = if *w < limit { 0.0 } else { *x * scale };
            }
        }
    }
}

/// The random words of [`LANES`] counters from `first` on: `[word][lane]`.
#[inline(always)]
fn words(first: usize, key: [u32; 2]) -> [[u32; LANES]; 4] {
    let mut out = [[0u32; LANES]; 4];
    for lane in 0..LANES {
        let n = (first + lane) as u64;
        let w = philox4x32([n as u32, (n >> 32) as u32, 0, domain::DROPOUT], key);
        for i in 0..4 {
            out[i][lane] = w[i];
        }
    }
    out
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
