//! Elements of one type as elements of another.

use crate::ptx;
use kernel_abi::{ArgError, Cost, Float, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};
use std::marker::PhantomData;

/// y = x over `len` elements, from type `F` to type `T`, rounded to nearest, ties to even. The types must differ.
#[derive(Debug, Clone, Copy)]
pub struct Cast<F, T> {
    /// Elements.
    pub len: usize,
    types: PhantomData<(F, T)>,
}

impl<F, T> Cast<F, T> {
    /// A cast of `len` elements.
    pub fn new(len: usize) -> Self {
        Cast { len, types: PhantomData }
    }
}

/// Arguments of [`Cast`].
pub struct CastArgs<'a, F, T> {
    /// `[len]`.
    pub x: In<'a, F>,
    /// `[len]`.
    pub y: Out<'a, T>,
}

/// Elements of a block.
const CHUNK: usize = 4096;

impl<F: Float, T: Float> Kernel for Cast<F, T> {
    type Args<'a> = CastArgs<'a, F, T>;
    const NAME: &'static str = "cast";

    fn check(&self, args: &CastArgs<'_, F, T>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "x", args.x.len(), self.len)?;
        if F::NAME == T::NAME {
            return Err(ArgError { kernel: Self::NAME, arg: "y", problem: "has the type of x".into() });
        }
        expect_len(Self::NAME, "y", args.y.len(), self.len)
    }

    fn cost(&self) -> Cost {
        let (read, written) = (self.len * size_of::<F>(), self.len * size_of::<T>());
        Cost { bytes_read: read as u64, bytes_written: written as u64, ..Cost::default() }
    }

    fn cpu(&self, args: CastArgs<'_, F, T>) {
        let x = args.x.host();
        cpu::par_rows(args.y.host(), 1, CHUNK, 1, |first, y| {
            y.iter_mut().zip(&x[first..]).for_each(|(y, x)| *y = T::from_f32(x.to_f32()));
        });
    }

    fn ptx(&self, args: CastArgs<'_, F, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.len == 0 {
            return Ok(());
        }
        let (x, y) = (args.x.device(), args.y.device());
        let aligned =
            x.0.is_multiple_of(4 * size_of::<F>() as u64) && y.0.is_multiple_of(4 * size_of::<T>() as u64);
        let vectors = if aligned { self.len / CHUNK * CHUNK } else { 0 };
        let launch = Launch::new(&ptx::CAST, format_args!("cast_{}_{}", F::NAME, T::NAME))
            .grid(self.len.div_ceil(CHUNK), 1, 1)
            .block(256);
        on.launch(launch.arg(x).arg(y).arg(vectors as u64).arg(self.len as u64))
    }
}
