//! y += x.

use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// y += x over `len` elements.
#[derive(Debug, Clone, Copy)]
pub struct Add {
    /// Elements.
    pub len: usize,
}

/// Arguments of [`Add`].
pub struct AddArgs<'a> {
    /// `[len]`, added.
    pub x: In<'a>,
    /// `[len]`, updated in place.
    pub y: Out<'a>,
}

cpu::simd_fn! {
    fn add(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }
}

impl Kernel for Add {
    type Args<'a> = AddArgs<'a>;
    const NAME: &'static str = "add";

    fn check(&self, args: &AddArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "x", args.x.len(), self.len)?;
        expect_len(Self::NAME, "y", args.y.len(), self.len)
    }

    fn cost(&self) -> Cost {
        let n = self.len as u64;
        Cost { bytes_read: 8 * n, bytes_written: 4 * n, flops: n, int8_ops: 0 }
    }

    fn cpu(&self, args: AddArgs<'_>) {
        const BLOCK: usize = 16 * 1024;
        let x = args.x.host();
        cpu::par_rows(args.y.host(), 1, BLOCK, 1, |first, y| add(&x[first..first + y.len()], y));
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
