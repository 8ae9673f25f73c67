//! y += x.

use crate::ptx;
use kernel_abi::{
    ArgError, Cost, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, narrow, typed,
    widen,
};

/// y += x over `len` elements.
#[derive(Debug, Clone, Copy)]
pub struct Add {
    /// Elements.
    pub len: usize,
}

/// Arguments of [`Add`].
pub struct AddArgs<'a, T = f32> {
    /// `[len]`, added.
    pub x: In<'a, T>,
    /// `[len]`, updated in place.
    pub y: Out<'a, T>,
}

cpu::simd_fn! {
    fn add(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }
}

impl Add {
    fn check_lens<T>(&self, args: &AddArgs<'_, T>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "x", args.x.len(), self.len)?;
        expect_len(Self::NAME, "y", args.y.len(), self.len)
    }

    fn launch<T: Float>(&self, args: &AddArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.len == 0 {
            return Ok(());
        }
        let (x, y, wide) = (args.x.device(), args.y.device(), 16 / size_of::<T>());
        let vectors = if x.0 % 16 == 0 && y.0 % 16 == 0 { self.len / wide } else { 0 };
        let threads = vectors.div_ceil(2).max(self.len - vectors * wide);
        let launch = Launch::new(&ptx::ADD, format_args!("add_{}", T::NAME))
            .grid(threads.div_ceil(256), 1, 1)
            .block(256);
        on.launch(launch.arg(x).arg(y).arg(vectors as u64).arg(self.len as u64))
    }
}

impl Kernel for Add {
    type Args<'a> = AddArgs<'a>;
    const NAME: &'static str = "add";

    fn check(&self, args: &AddArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let n = self.len as u64;
        Cost { bytes_read: 8 * n, bytes_written: 4 * n, flops: n, ..Cost::default() }
    }

    fn cpu(&self, args: AddArgs<'_>) {
        const BLOCK: usize = 16 * 1024;
        let x = args.x.host();
        cpu::par_rows(args.y.host(), 1, BLOCK, 1, |first, y| add(&x[first..first + y.len()], y));
    }

    fn ptx(&self, args: AddArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }
}

typed!(
    /// [`Add`] over 16-bit elements.
    AddOf,
    Add
);

impl<T: Half> Kernel for AddOf<T> {
    type Args<'a> = AddArgs<'a, T>;
    const NAME: &'static str = "add";

    fn check(&self, args: &AddArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let n = (self.kernel.len * size_of::<T>()) as u64;
        Cost { bytes_read: 2 * n, bytes_written: n, ..self.kernel.cost() }
    }

    fn cpu(&self, args: AddArgs<'_, T>) {
        let y = args.y.host();
        let mut sum = widen(y);
        self.kernel.cpu(AddArgs { x: (&widen(args.x.host())).into(), y: (&mut sum).into() });
        narrow(&sum, y);
    }

    fn ptx(&self, args: AddArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_in_place_and_checks_lengths() {
        let x: Vec<f32> = (0..40_000).map(|i| i as f32).collect();
        let mut y = vec![1.0f32; x.len()];
        let k = Add { len: x.len() };
        k.cpu(AddArgs { x: (&x).into(), y: (&mut y).into() });
        assert!(y.iter().enumerate().all(|(i, v)| *v == i as f32 + 1.0));
        let e = k.check(&AddArgs { x: (&x).into(), y: (&mut y[..7]).into() }).unwrap_err();
        assert_eq!(e.to_string(), "add: argument `y`: has 7 elements, expected 40000");
    }
}
