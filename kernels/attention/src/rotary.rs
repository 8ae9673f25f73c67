//! Rotary position embedding (arXiv 2104.09864), half-split form: element i of the first half rotates with
//! element i of the second half by the angle position * theta^(-2 i / rotary_dim).
//!
//! Angles are computed in f64 and tabulated once per position.

use crate::ptx;
use kernel_abi::{
    ArgError, Cost, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, narrow, typed,
    widen,
};
use std::{cell::RefCell, rc::Rc};

/// Rotates queries and keys of a fused qkv matrix in place.
#[derive(Debug, Clone, Copy)]
pub struct Rotary {
    /// Token rows.
    pub rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Leading elements of each head that rotate; even.
    pub rotary_dim: usize,
    /// Base of the frequencies.
    pub theta: f32,
    /// Rotate back: the transpose, which is the backward pass.
    pub inverse: bool,
}

/// Arguments of [`Rotary`].
pub struct RotaryArgs<'a, T = f32> {
    /// `[rows, (heads + 2 kv_heads) head_dim]`.
    pub qkv: Out<'a, T>,
    /// `[rows]`.
    pub positions: In<'a, u32>,
}

/// cos and sin `[positions, rotary_dim / 2]` each, for one (rotary_dim, theta).
struct Table {
    rotary_dim: usize,
    theta: f32,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

thread_local! {
    static TABLE: RefCell<Rc<Table>> =
        RefCell::new(Rc::new(Table { rotary_dim: 0, theta: 0.0, cos: Vec::new(), sin: Vec::new() }));
}

/// Radians that element `i` turns from a position to the next.
pub(crate) fn frequency(theta: f32, i: usize, rotary_dim: usize) -> f64 {
    f64::from(theta).powf(-2.0 * i as f64 / rotary_dim as f64)
}

fn table(rotary_dim: usize, theta: f32, positions: usize) -> Rc<Table> {
    TABLE.with_borrow_mut(|t| {
        let half = rotary_dim / 2;
        if t.rotary_dim != rotary_dim || t.theta != theta || t.cos.len() < positions * half {
            let positions = positions.next_power_of_two().max(128);
            let angle = |i: usize| (i / half) as f64 * frequency(theta, i % half, rotary_dim);
            let cos = (0..positions * half).map(|i| angle(i).cos() as f32).collect();
            let sin = (0..positions * half).map(|i| angle(i).sin() as f32).collect();
            *t = Rc::new(Table { rotary_dim, theta, cos, sin });
        }
        t.clone()
    })
}

cpu::simd_fn! {
    fn rotate(a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        for i in 0..a.len() {
            let (x, y, s) = (a[i], b[i], sign * sin[i]);
            a[i] = x.mul_add(cos[i], -(y * s));
            b[i] = y.mul_add(cos[i], x * s);
        }
    }
}

/// Frequencies that `rotary.ptx` takes with the launch.
const FREQUENCIES: usize = 384;

impl Rotary {
    fn check_lens<T>(&self, args: &RotaryArgs<'_, T>) -> Result<(), ArgError> {
        let Rotary { rows, heads, kv_heads, head_dim, rotary_dim, .. } = *self;
        if rotary_dim % 2 != 0 || rotary_dim > head_dim {
            let problem = format!("{rotary_dim} of {head_dim}: must be even and at most the head's size");
            return Err(ArgError { kernel: Self::NAME, arg: "rotary_dim", problem });
        }
        expect_len(Self::NAME, "qkv", args.qkv.len(), rows * (heads + 2 * kv_heads) * head_dim)?;
        expect_len(Self::NAME, "positions", args.positions.len(), rows)
    }

    fn launch<T: Float>(&self, args: &RotaryArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let Rotary { rows, heads, kv_heads, head_dim, rotary_dim, theta, inverse } = *self;
        let half = rotary_dim / 2;
        if rows == 0 || half == 0 {
            return Ok(());
        }
        if half > FREQUENCIES {
            let problem = format!("rotary_dim {rotary_dim}: the PTX takes at most {}", 2 * FREQUENCIES);
            return Err(LaunchError { kernel: Self::NAME.into(), problem });
        }
        let mut frequencies = [0.0f64; FREQUENCIES];
        for (i, f) in frequencies[..half].iter_mut().enumerate() {
            *f = frequency(theta, i, rotary_dim);
        }
        let (qkv, sign) = (args.qkv.device(), if inverse { -1.0f32 } else { 1.0 });
        let whole = |elements: usize| (elements * size_of::<T>()).is_multiple_of(16);
        let vectors = whole(half) && whole(head_dim) && qkv.0.is_multiple_of(16);
        let launch =
            Launch::new(&ptx::ROTARY, format_args!("rotary_{}", T::NAME)).grid(rows, 1, 1).block(128);
        let launch = launch.arg(qkv).arg(args.positions.device()).dim((heads + 2 * kv_heads) * head_dim);
        let launch = launch.dim(heads + kv_heads).dim(head_dim).dim(half).arg(u32::from(vectors)).arg(sign);
        on.launch(launch.table(&frequencies))
    }
}

impl Kernel for Rotary {
    type Args<'a> = RotaryArgs<'a>;
    const NAME: &'static str = "rotary";

    fn check(&self, args: &RotaryArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let n = (self.rows * (self.heads + self.kv_heads) * self.rotary_dim) as u64;
        Cost { bytes_read: 4 * n, bytes_written: 4 * n, flops: 3 * n, ..Cost::default() }
    }

    fn cpu(&self, args: RotaryArgs<'_>) {
        let Rotary { heads, kv_heads, head_dim, rotary_dim, theta, inverse, .. } = *self;
        if rotary_dim == 0 {
            return;
        }
        let (positions, half) = (args.positions.host(), rotary_dim / 2);
        let width = (heads + 2 * kv_heads) * head_dim;
        let longest = positions.iter().max().map_or(0, |p| *p as usize + 1);
        let t = table(rotary_dim, theta, longest);
        let (cos, sin) = (&t.cos[..], &t.sin[..]);
        let sign = if inverse { -1.0 } else { 1.0 };
        cpu::par_rows(args.qkv.host(), width, 16, width, |first, rows| {
            for (row, p) in rows.chunks_exact_mut(width).zip(&positions[first..]) {
                let at = *p as usize * half;
                let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                for head in row[..(heads + kv_heads) * head_dim].chunks_exact_mut(head_dim) {
                    let (a, b) = head[..rotary_dim].split_at_mut(half);
                    rotate(a, b, cos, sin, sign);
                }
            }
        });
    }

    fn ptx(&self, args: RotaryArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }
}

typed!(
    /// [`Rotary`] over 16-bit elements.
    RotaryOf,
    Rotary
);

impl<T: Half> Kernel for RotaryOf<T> {
    type Args<'a> = RotaryArgs<'a, T>;
    const NAME: &'static str = "rotary";

    fn check(&self, args: &RotaryArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let c = self.kernel.cost();
        Cost { bytes_read: c.bytes_read / 2, bytes_written: c.bytes_written / 2, ..c }
    }

    fn cpu(&self, args: RotaryArgs<'_, T>) {
        let qkv = args.qkv.host();
        let mut turned = widen(qkv);
        self.kernel.cpu(RotaryArgs { qkv: (&mut turned).into(), positions: args.positions });
        narrow(&turned, qkv);
    }

    fn ptx(&self, args: RotaryArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}
