//! Sums, means and maxima of rows; a whole array is one row.
//!
//! The order is a function of the row's length alone: segments of 1024 elements; in a segment 128 interleaved chains and
//! then a tree, halves first; the results of the segments are a row again.

use crate::ptx;
use kernel_abi::{
    ArgError, Cost, DevicePtr, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len,
    typed, widen,
};

/// What is made of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The sum; 0 of no elements.
    Sum,
    /// The sum over the number of elements; NaN of no elements.
    Mean,
    /// The largest element; NaN if one is, negative infinity of no elements.
    Max,
}

/// y[i] = sum, mean or maximum over j of x[i, j].
#[derive(Debug, Clone, Copy)]
pub struct Reduce {
    /// Rows.
    pub rows: usize,
    /// Elements per row.
    pub cols: usize,
    /// What is made of them.
    pub reduction: Reduction,
}

/// Arguments of [`Reduce`].
pub struct ReduceArgs<'a, T = f32> {
    /// `[rows, cols]`.
    pub x: In<'a, T>,
    /// `[rows]`.
    pub y: Out<'a>,
}

/// Elements that one warp reduces, and chains in it: part of the definition of a result.
const SEGMENT: usize = 1024;
const CHAINS: usize = 128;

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

#[inline(always)]
fn segment(x: &[f32], start: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut acc = [start; CHAINS];
    for x in x.chunks(CHAINS) {
        acc.iter_mut().zip(x).for_each(|(a, x)| *a = combine(*a, *x));
    }
    let mut half = CHAINS / 2;
    while half > 0 {
        for i in 0..half {
            acc[i] = combine(acc[i], acc[i + half]);
        }
        half /= 2;
    }
    acc[0]
}

cpu::simd_fn! {
    fn sum_segments(x: &[f32], out: &mut [f32]) {
        x.chunks(SEGMENT).zip(out).for_each(|(x, out)| *out = segment(x, 0.0, |a, b| a + b));
    }
}
cpu::simd_fn! {
    fn max_segments(x: &[f32], out: &mut [f32]) {
        x.chunks(SEGMENT).zip(out).for_each(|(x, out)| *out = segment(x, f32::NEG_INFINITY, larger));
    }
}

impl Reduce {
    /// Segments of a row, at least one.
    fn segments(&self) -> usize {
        self.cols.div_ceil(SEGMENT).max(1)
    }

    /// What the last results are divided by.
    fn divisor(&self) -> f32 {
        if self.reduction == Reduction::Mean { self.cols as f32 } else { 1.0 }
    }

    fn row(&self, x: &[f32]) -> f32 {
        let mut out = vec![0.0; self.segments()];
        match self.reduction {
            _ if x.is_empty() => {
                out[0] = if self.reduction == Reduction::Max { f32::NEG_INFINITY } else { 0.0 }
            }
            Reduction::Max => max_segments(x, &mut out),
            Reduction::Sum | Reduction::Mean => sum_segments(x, &mut out),
        }
        if out.len() == 1 { out[0] } else { self.row_of_segments(&out) }
    }

    fn row_of_segments(&self, x: &[f32]) -> f32 {
        Reduce { cols: x.len(), ..*self }.row(x)
    }

    fn check_lens<T>(&self, args: &ReduceArgs<'_, T>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "x", args.x.len(), self.rows * self.cols)?;
        expect_len(Self::NAME, "y", args.y.len(), self.rows)
    }

    /// One launch per 1024-fold of the columns.
    fn launch<T: Float>(
        &self,
        x: DevicePtr,
        y: DevicePtr,
        divisor: f32,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        if self.rows == 0 {
            return Ok(());
        }
        let segments = self.segments();
        let to = if segments == 1 { y } else { on.workspace(4 * self.rows * segments)? };
        let op = if self.reduction == Reduction::Max { "max" } else { "sum" };
        let aligned = x.0.is_multiple_of(4 * size_of::<T>() as u64) && self.cols.is_multiple_of(4);
        let vector = if aligned { 4 } else { 1 };
        let launch = Launch::new(&ptx::REDUCE, format_args!("reduce_{op}_{}_v{vector}", T::NAME))
            .grid((self.rows * segments).div_ceil(4), 1, 1)
            .block(128);
        let launch = launch.arg(x).arg(to).dim(self.rows).dim(self.cols).dim(segments);
        on.launch(launch.arg(if segments == 1 { divisor } else { 1.0f32 }))?;
        match segments {
            1 => Ok(()),
            _ => Reduce { cols: segments, ..*self }.launch::<f32>(to, y, divisor, on),
        }
    }
}

impl Kernel for Reduce {
    type Args<'a> = ReduceArgs<'a>;
    const NAME: &'static str = "reduce";

    fn check(&self, args: &ReduceArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let (rows, n) = (self.rows as u64, (self.rows * self.cols) as u64);
        Cost { bytes_read: 4 * n, bytes_written: 4 * rows, flops: n, ..Cost::default() }
    }

    fn cpu(&self, args: ReduceArgs<'_>) {
        let (x, divisor) = (args.x.host(), self.divisor());
        cpu::par_rows(args.y.host(), 1, 1, self.cols, |i, y| {
            y[0] = self.row(&x[i * self.cols..][..self.cols]) / divisor;
        });
    }

    fn ptx(&self, args: ReduceArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch::<f32>(args.x.device(), args.y.device(), self.divisor(), on)
    }
}

typed!(
    /// [`Reduce`] of 16-bit elements; y stays f32.
    ReduceOf,
    Reduce
);

impl<T: Half> Kernel for ReduceOf<T> {
    type Args<'a> = ReduceArgs<'a, T>;
    const NAME: &'static str = "reduce";

    fn check(&self, args: &ReduceArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let cost = self.kernel.cost();
        Cost { bytes_read: cost.bytes_read / 2, ..cost }
    }

    fn cpu(&self, args: ReduceArgs<'_, T>) {
        self.kernel.cpu(ReduceArgs { x: (&widen(args.x.host())).into(), y: args.y });
    }

    fn ptx(&self, args: ReduceArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch::<T>(args.x.device(), args.y.device(), self.kernel.divisor(), on)
    }
}
