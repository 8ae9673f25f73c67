//! Packing: `[out, in]` weights into panels of `tile_cols()` outputs, inner dimension first.

use crate::{panel::tile_cols, ptx};
use kernel_abi::{ArgError, Cost, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

/// Elements of the packed form of an `[n, k]` weight: whole panels, the last one padded with zeros.
pub fn packed_len(n: usize, k: usize) -> usize {
    n.next_multiple_of(tile_cols()) * k
}

/// Packs an `[n, k]` row-major weight (out, in) for [`crate::Linear`].
///
/// On the GPU the packed form is the row-major weight in the first `n * k` elements; the rest is left as it is.
#[derive(Debug, Clone, Copy)]
pub struct PackWeight {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Arguments of [`PackWeight`].
pub struct PackWeightArgs<'a> {
    /// `[n, k]`.
    pub w: In<'a>,
    /// `[packed_len(n, k)]`.
    pub packed: Out<'a>,
}

impl Kernel for PackWeight {
    type Args<'a> = PackWeightArgs<'a>;
    const NAME: &'static str = "pack_weight";

    fn check(&self, args: &PackWeightArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "w", args.w.len(), self.n * self.k)?;
        expect_len(Self::NAME, "packed", args.packed.len(), packed_len(self.n, self.k))
    }

    fn cost(&self) -> Cost {
        let n = 4 * (self.n * self.k) as u64;
        Cost { bytes_read: n, bytes_written: n, ..Cost::default() }
    }

    fn cpu(&self, args: PackWeightArgs<'_>) {
        let PackWeight { n, k } = *self;
        let (w, cols) = (args.w.host(), tile_cols());
        cpu::par_rows(args.packed.host(), k * cols, 1, 2 * k * cols, |p, panel| {
            pack_transposed(w, k, p * cols, cols.min(n - p * cols), k, panel);
        });
    }

    fn ptx(&self, args: PackWeightArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let (from, to, len) = (args.w.device(), args.packed.device(), self.n * self.k);
        if len == 0 {
            return Ok(());
        }
        let vectors = if (from.0 | to.0).is_multiple_of(16) { len / 4 } else { 0 };
        let threads = vectors.max(len - 4 * vectors);
        let launch =
            Launch::new(&ptx::PACK, format_args!("pack_f32")).grid(threads.div_ceil(256), 1, 1).block(256);
        on.launch(launch.arg(from).arg(to).arg(vectors as u64).arg(len as u64))
    }
}

/// panel[kk, j] = w[(first + j) * ld + kk] for j < have, else 0.
pub(crate) fn pack_transposed(w: &[f32], ld: usize, first: usize, have: usize, k: usize, panel: &mut [f32]) {
    let cols = tile_cols();
    if have < cols {
        panel.fill(0.0);
    }
    // Square blocks: both sides stay in cache lines that were just touched.
    const STEP: usize = 16;
    for k0 in (0..k).step_by(STEP) {
        let k1 = (k0 + STEP).min(k);
        for j in 0..have {
            let row = &w[(first + j) * ld..][k0..k1];
            for (kk, v) in row.iter().enumerate() {
                panel[(k0 + kk) * cols + j] = *v;
            }
        }
    }
}

/// panel[kk, j] = b[kk * ld + first + j] for j < have, else 0.
pub(crate) fn pack_plain(b: &[f32], ld: usize, first: usize, have: usize, k: usize, panel: &mut [f32]) {
    let cols = tile_cols();
    for (kk, row) in panel.chunks_exact_mut(cols).enumerate().take(k) {
        row[..have].copy_from_slice(&b[kk * ld + first..][..have]);
        row[have..].fill(0.0);
    }
}
