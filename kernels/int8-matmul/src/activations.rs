//! Rows of x quantised to 8 bits by their absmax, outliers set aside, in the order in which tiles read them.

// NaN is an outlier too: it must come through, so "not below" is meant.
#![allow(clippy::neg_cmp_op_on_partial_ord)]

use crate::micro::{Form, Micro};

/// A row's scale and what the epilogue takes off its sums.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row {
    /// absmax / 127 of the elements below the threshold.
    pub(crate) scale: f32,
    /// What the row's integer sums still lack: [`Micro::correction`].
    pub(crate) correction: i32,
    /// Its part of its tile's outliers.
    outliers: (u32, u32),
}

/// The rows of x, quantised.
#[derive(Default)]
pub(crate) struct Activations {
    /// Tile after tile, in the form of [`Form`].
    tiles: Vec<u64>,
    rows: Vec<Row>,
    /// (column, value) of each tile's outliers, row after row.
    outliers: Vec<Vec<(u32, f32)>>,
    /// Rows of a tile.
    height: usize,
}

cpu::simd_fn! {
    /// Largest |x| below the limit, and whether any element is not below it (NaN is not).
    fn absmax(x: &[f32], limit: f32) -> (f32, bool) {
        let mut acc = [0.0f32; 32];
        let mut out = [0u32; 32];
        let mut chunks = x.chunks_exact(32);
        for c in &mut chunks {
            for i in 0..32 {
                let a = c[i].abs();
                let near = a < limit;
                out[i] |= u32::from(!near);
                let a = if near { a } else { 0.0 };
                acc[i] = if a > acc[i] { a } else { acc[i] };
            }
        }
        for v in chunks.remainder() {
            let near = v.abs() < limit;
            out[0] |= u32::from(!near);
            acc[0] = if near && v.abs() > acc[0] { v.abs() } else { acc[0] };
        }
        (acc.iter().fold(0.0, |m: f32, v| m.max(*v)), out.iter().any(|o| *o != 0))
    }
}

cpu::simd_fn! {
    /// q = round(x * inverse), ties to even, by adding and subtracting 1.5 * 2^23; outliers give 0.
    /// Returns the sum of q and that of its negative elements.
    fn quantize(x: &[f32], inverse: f32, limit: f32, q: &mut [i8]) -> (i32, i32) {
        const MAGIC: f32 = 12_582_912.0;
        let (mut sum, mut negative) = (0, 0);
        for (q, x) in q.iter_mut().zip(x) {
            let near = if x.abs() < limit { *x } else { 0.0 };
            let v = near.mul_add(inverse, MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
            *q = v as i8;
            sum += v;
            negative += v.min(0);
        }
        (sum, negative)
    }
}

cpu::simd_fn! {
    /// Appends (column, value) of the elements that are not below the limit.
    fn collect(x: &[f32], limit: f32, out: &mut Vec<(u32, f32)>) {
        for (block, c) in x.chunks(64).enumerate() {
            let far = c.iter().fold(0u32, |far, v| far | u32::from(!(v.abs() < limit)));
            if far != 0 {
                let outliers = c.iter().enumerate().filter(|(_, v)| !(v.abs() < limit));
                out.extend(outliers.map(|(i, v)| ((block * 64 + i) as u32, *v)));
            }
        }
    }
}

/// A buffer that tasks fill side by side, each its own elements.
struct Slots<T>(*mut T);
// SAFETY: each task touches its own elements.
unsafe impl<T: Send> Send for Slots<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Slots<T> {}

impl<T> Slots<T> {
    /// # Safety
    /// The elements must exist, and no other task may touch them meanwhile.
    #[allow(clippy::mut_from_ref)]
    unsafe fn get(&self, at: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

thread_local! {
    static LINE: std::cell::RefCell<Vec<i8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Activations {
    /// Quantises x `[m, k]` for the tiles of `micro`.
    pub(crate) fn fill(&mut self, x: &[f32], m: usize, k: usize, threshold: f32, micro: &Micro) {
        let limit = if threshold > 0.0 { threshold } else { f32::INFINITY };
        let words = words(k, micro);
        // Tiles of nearly equal height.
        self.height = m.div_ceil(m.div_ceil(micro.rows).max(1)).max(1);
        let height = self.height;
        self.tiles.resize(self.tiles.len().max(m * words), 0);
        self.rows.clear();
        self.rows.resize(m, Row::default());
        let tasks = m.div_ceil(height);
        self.outliers.resize_with(self.outliers.len().max(tasks), Vec::new);
        let (tiles, rows) = (Slots(self.tiles.as_mut_ptr()), Slots(self.rows.as_mut_ptr()));
        let outliers = Slots(self.outliers.as_mut_ptr());
        cpu::par_for(tasks, height * k / 2, |t| {
            let first = t * height;
            let height = height.min(m - first);
            // SAFETY: rows first..first + height <= m belong to this task alone.
            let (tile, rows) = unsafe { (tiles.get(first * words, height * words), rows.get(first, height)) };
            // SAFETY: so do the outliers of tile t, one of `tasks`.
            let outliers = &mut unsafe { outliers.get(t, 1) }[0];
            outliers.clear();
            let mut line = LINE.take();
            line.clear();
            line.resize(k.next_multiple_of(micro.form.group()), 0);
            for (i, row) in rows.iter_mut().enumerate() {
                let x = &x[(first + i) * k..][..k];
                let (max, far) = absmax(x, limit);
                // Infinite for a row of zeros, or of nothing that f32 could scale up: such a row is zeros.
                let inverse = 127.0 / max;
                let inverse = if inverse.is_finite() { inverse } else { 0.0 };
                let (sum, negative) = quantize(x, inverse, limit, &mut line);
                let start = outliers.len() as u32;
                if far {
                    collect(x, limit, outliers);
                }
                *row = Row {
                    scale: max / 127.0,
                    correction: micro.correction(sum, negative),
                    outliers: (start, outliers.len() as u32),
                };
                place(&line, i, height, micro.form, tile);
            }
            LINE.set(line);
        });
    }

    /// Rows of a tile; the last one may have fewer.
    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// Row i's scale and correction, and its outliers by ascending column.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> (&Row, &[(u32, f32)]) {
        let row = &self.rows[i];
        (row, &self.outliers[i / self.height][row.outliers.0 as usize..row.outliers.1 as usize])
    }

    /// The elements of the tile that begins at row `first` and has `height` rows, from input `4 * quad` on.
    pub(crate) fn tile(
        &self,
        first: usize,
        height: usize,
        quad: usize,
        k: usize,
        micro: &Micro,
    ) -> *const u8 {
        let tile = &self.tiles[first * words(k, micro)..][..height * words(k, micro)];
        assert!(
            4 * quad <= k && (4 * quad).is_multiple_of(micro.form.group()),
            "int8 tile: input {quad} x 4 of {k}"
        );
        tile.as_ptr().cast::<u8>().wrapping_add(quad * height * micro.form.unit())
    }
}

/// 64-bit words of a row.
fn words(k: usize, micro: &Micro) -> usize {
    (k.next_multiple_of(micro.form.group()) / 4 * micro.form.unit()).div_ceil(8)
}

/// Puts a row's elements, group by group, between those of the tile's other rows.
fn place(line: &[i8], i: usize, height: usize, form: Form, tile: &mut [u64]) {
    if line.is_empty() {
        return;
    }
    if form == Form::Lines {
        let tile: &mut [[i8; 64]] = bytemuck::cast_slice_mut(tile);
        let lines = line.as_chunks::<64>().0;
        return tile[i..].iter_mut().step_by(height).zip(lines).for_each(|(to, line)| *to = *line);
    }
    let quads = line.as_chunks::<4>().0.iter().map(|q| u32::from_ne_bytes(q.map(|v| v as u8)));
    if form == Form::Bytes {
        let tile: &mut [u32] = bytemuck::cast_slice_mut(tile);
        return tile[i..].iter_mut().step_by(height).zip(quads).for_each(|(to, q)| *to = q);
    }
    for (to, q) in tile[i..].iter_mut().step_by(height).zip(quads) {
        // Four bytes at once: no byte is -128, so none carries into its neighbour.
        let negative = q >> 7 & 0x0101_0101;
        let sign = negative * 0xff;
        *to = u64::from((q ^ sign) + negative) | u64::from(sign) << 32;
    }
}
