//! The one stored layout of int8 weights, for the forward and the backward pass.
//!
//! Panels of [`COLS`] outputs; inside a panel, inputs four by four as `[COLS][4]` bytes: the operand of the
//! four-way byte dot product, and after sign extension that of the 16-bit pairwise multiply-add.

use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// Outputs of a panel.
pub(crate) const COLS: usize = 16;

/// Elements of the packed form of an `[n, k]` weight.
pub fn packed_len(n: usize, k: usize) -> usize {
    n.next_multiple_of(COLS) * k.next_multiple_of(4)
}

/// Where weight (j, i) lies in the packed form.
#[inline(always)]
pub(crate) fn at(j: usize, i: usize, k: usize) -> usize {
    (j / COLS) * COLS * k.next_multiple_of(4) + (i / 4) * 4 * COLS + (j % COLS) * 4 + i % 4
}

/// Packs an `[n, k]` row-major int8 weight.
#[derive(Debug, Clone, Copy)]
pub struct PackInt8 {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Arguments of [`PackInt8`].
pub struct PackInt8Args<'a> {
    /// `[n, k]`.
    pub q: In<'a, i8>,
    /// `[packed_len(n, k)]`.
    pub packed: Out<'a, i8>,
}

impl Kernel for PackInt8 {
    type Args<'a> = PackInt8Args<'a>;
    const NAME: &'static str = "pack_int8";

    fn check(&self, args: &PackInt8Args<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "q", args.q.len(), self.n * self.k)?;
        expect_len(Self::NAME, "packed", args.packed.len(), packed_len(self.n, self.k))
    }

    fn cost(&self) -> Cost {
        let n = (self.n * self.k) as u64;
        Cost { bytes_read: n, bytes_written: n, ..Cost::default() }
    }

    fn cpu(&self, args: PackInt8Args<'_>) {
        let PackInt8 { n, k } = *self;
        let q = args.q.host();
        cpu::par_rows(args.packed.host(), COLS * k.next_multiple_of(4), 1, 4 * COLS * k, |p, panel| {
            panel.fill(0);
            for j in 0..COLS.min(n - p * COLS) {
                let row = &q[(p * COLS + j) * k..][..k];
                for (to, from) in panel[4 * j..].chunks_mut(4 * COLS).zip(row.chunks(4)) {
                    to[..from.len()].copy_from_slice(from);
                }
            }
        });
    }
}

/// The row-major `[n, k]` form of a packed weight.
pub fn unpack(packed: &[i8], n: usize, k: usize) -> Vec<i8> {
    (0..n).flat_map(|j| (0..k).map(move |i| packed[at(j, i, k)])).collect()
}
