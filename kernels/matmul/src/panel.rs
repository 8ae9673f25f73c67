//! Blocks of rows times panels, tile by tile, with the epilogue; the other kernel families build on this.

use crate::micro::{
    Element, Finish, MAX_COLS, MAX_ROWS, Operands, Store, panels_at_once, shape, store_one, tile,
};
use std::{cell::RefCell, marker::PhantomData, ops::Range};

/// Columns of a panel on this machine: packed weights are laid out in panels of this width.
pub fn tile_cols() -> usize {
    shape().1
}

/// Rows of the register tile on this machine.
pub fn tile_rows() -> usize {
    shape().0
}

/// A strided view of A: element (i, k) lies at `i * row + k * step`.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    /// What the elements hold, here and in the panels.
    pub element: Element,
    /// The elements.
    pub data: &'a [f32],
    /// Distance between rows.
    pub row: usize,
    /// Distance between inner elements.
    pub step: usize,
}

/// The output matrix that tasks write side by side, and what is done to a product on its way there:
/// out = alpha * product (+ bias) (+ residual or the old out).
#[derive(Clone, Copy)]
pub struct Target<'a> {
    out: *mut f32,
    len: usize,
    row: usize,
    cols: usize,
    alpha: f32,
    bias: Option<&'a [f32]>,
    add: *const f32,
    borrow: PhantomData<&'a mut [f32]>,
}
// SAFETY: `product`'s contract makes tasks write disjoint elements.
unsafe impl Send for Target<'_> {}
// SAFETY: as above.
unsafe impl Sync for Target<'_> {}

impl<'a> Strided<'a> {
    /// Rows of f32, `row` apart.
    pub fn rows(data: &'a [f32], row: usize) -> Self {
        Strided { element: Element::F32, data, row, step: 1 }
    }

    /// Rows of bf16 pairs, `row` pairs apart.
    pub fn pairs(data: &'a [u32], row: usize) -> Self {
        Strided { element: Element::Bf16Pair, data: bytemuck::cast_slice(data), row, step: 1 }
    }
}

impl<'a> Target<'a> {
    /// Overwrites `out`, whose rows are `row` apart and `cols` long.
    pub fn new(out: &'a mut [f32], row: usize, cols: usize) -> Self {
        assert!(cols <= row, "target: {cols} columns in rows of {row}");
        let (len, borrow) = (out.len(), PhantomData);
        Target {
            out: out.as_mut_ptr(),
            len,
            row,
            cols,
            alpha: 1.0,
            bias: None,
            add: std::ptr::null(),
            borrow,
        }
    }

    /// With a factor on the product.
    pub fn scaled(self, alpha: f32) -> Self {
        Target { alpha, ..self }
    }

    /// Adding to `out` when `on`.
    pub fn accumulating(self, on: bool) -> Self {
        Target { add: if on { self.out } else { std::ptr::null() }, ..self }
    }

    /// Adding a bias of one element per column, and a matrix laid out like `out`.
    pub fn with(self, bias: Option<&'a [f32]>, residual: Option<&'a [f32]>) -> Self {
        assert!(bias.is_none_or(|b| b.len() >= self.cols), "target: bias is too short");
        assert!(residual.is_none_or(|r| r.len() >= self.len), "target: residual is too short");
        Target { bias, add: residual.map_or(self.add, <[f32]>::as_ptr), ..self }
    }

    /// Where the tile at (row, first column) goes.
    ///
    /// # Safety
    /// The tile must begin inside `out`.
    unsafe fn store(&self, i: usize, first: usize) -> Store {
        let at = i * self.row + first;
        // SAFETY: `at` is inside `out` by the caller's contract, and inside `add`, which is as long.
        unsafe {
            Store {
                alpha: self.alpha,
                bias: self.bias.map_or(std::ptr::null(), |b| b[first..].as_ptr()),
                add: if self.add.is_null() { self.add } else { self.add.add(at) },
                out: self.out.add(at),
                row: self.row,
            }
        }
    }
}

/// Bytes of a panel that stay in the first-level cache while the rows of a block pass by.
const PANEL_BYTES: usize = 16 * 1024;

thread_local! {
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Grows `v` to at least `len` elements.
pub(crate) fn grow(v: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if v.len() < len {
        v.resize(len, 0.0);
    }
    &mut v[..len]
}

/// Rows `rows` of the product of A with consecutive packed panels, of which the first is the output's panel
/// number `first_panel`. Every element is one fused chain over ascending k, then `target`'s epilogue.
///
/// # Safety
/// No other task may touch these rows and columns of the target meanwhile.
///
/// # Panics
/// When A, the panels or the target are too short.
pub unsafe fn product(
    a: Strided<'_>,
    rows: Range<usize>,
    k: usize,
    panels: &[f32],
    first_panel: usize,
    count: usize,
    target: &Target<'_>,
) {
    let cols = tile_cols();
    if rows.is_empty() || count == 0 {
        return;
    }
    assert!(target.cols > (first_panel + count - 1) * cols, "product: target has too few columns");
    assert!(panels.len() >= count * k * cols, "product: panels are too short");
    let last_row = rows.end - 1;
    assert!(k == 0 || a.data.len() > last_row * a.row + (k - 1) * a.step, "product: A is too short");
    assert!(target.len >= last_row * target.row + target.cols, "product: target is too short");
    // A is repacked where that pays.
    let mut packed = ROWS.take();
    let tiles = Tiles::new(rows.clone());
    let block = if tiles.count == 1 { k.max(1) } else { PANEL_BYTES / (4 * cols) };
    let repack = if a.step != 1 { rows.len() > 1 } else { tiles.count > 1 && count >= 4 && a.row >= block };
    if repack {
        tiles.pack(a, k, block, grow(&mut packed, rows.len() * k));
    }
    let mut sums = SUMS.take();
    grow(&mut sums, if k > block { rows.len() * cols } else { 0 });
    let at_once = if tiles.count == 1 { panels_at_once(rows.len()) } else { 1 };
    let mut p = 0;
    while p < count {
        let first = (first_panel + p) * cols;
        let have = (target.cols - first).min(cols);
        let wide = p + at_once <= count && first + at_once * cols <= target.cols;
        let (take, width) = if wide { (at_once, at_once * cols) } else { (1, have) };
        for k0 in (0..k.max(1)).step_by(block) {
            let len = block.min(k - k0);
            for (i, height) in tiles.iter() {
                let local = i - rows.start;
                let (x, row, step) = if repack {
                    (packed[rows.len() * k0 + local * len..].as_ptr(), 1, height)
                } else {
                    (a.data[(i * a.row + k0 * a.step).min(a.data.len())..].as_ptr(), a.row, a.step)
                };
                let saved = if k > block { sums[local * cols..].as_mut_ptr() } else { std::ptr::null_mut() };
                let o = Operands {
                    element: a.element,
                    a: x,
                    row,
                    step,
                    b: panels[p * k * cols + k0 * cols..].as_ptr(),
                    next_panel: k * cols,
                    k: len,
                    start: if k0 > 0 { saved } else { std::ptr::null() },
                    acc_row: cols,
                };
                // SAFETY: the asserts above bound every operand; the target is this task's by contract.
                unsafe {
                    if k0 + len < k {
                        tile(height, width, &o, Finish::Raw(saved));
                    } else {
                        finish_tile(height, width, &o, target.store(i, first));
                    }
                }
            }
        }
        p += take;
    }
    SUMS.set(sums);
    ROWS.set(packed);
}

/// The last block of a tile: whole vectors go straight to the output, a ragged edge by way of the stack.
///
/// # Safety
/// As [`tile`].
unsafe fn finish_tile(rows: usize, cols: usize, o: &Operands, store: Store) {
    let half = tile_cols() / 2;
    // SAFETY: the caller's contract; the buffer holds the largest single panel.
    unsafe {
        if cols.is_multiple_of(half) {
            return tile(rows, cols, o, Finish::Store(store));
        }
        let mut edge = [0.0f32; MAX_ROWS * MAX_COLS / 4];
        tile(rows, cols, o, Finish::Raw(edge.as_mut_ptr()));
        for i in 0..rows {
            for j in 0..cols {
                store_one(&store, i, j, edge[i * o.acc_row + j]);
            }
        }
    }
}

/// A block of rows cut into tiles of nearly equal height.
struct Tiles {
    rows: Range<usize>,
    count: usize,
}

impl Tiles {
    fn new(rows: Range<usize>) -> Self {
        let count = rows.len().div_ceil(tile_rows());
        Tiles { rows, count }
    }

    /// (first row, rows) of each tile.
    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        let (start, rows, count) = (self.rows.start, self.rows.len(), self.count);
        (0..count).map(move |t| {
            let (from, to) = (rows * t / count, rows * (t + 1) / count);
            (start + from, to - from)
        })
    }

    /// Block by block of the inner dimension, tile by tile, each step's rows side by side: the tile reads A as
    /// one stream.
    fn pack(&self, a: Strided<'_>, k: usize, block: usize, out: &mut [f32]) {
        let rows = self.rows.len();
        for k0 in (0..k).step_by(block) {
            let len = block.min(k - k0);
            for (i, height) in self.iter() {
                let to = &mut out[rows * k0 + (i - self.rows.start) * len..][..height * len];
                let from = Strided { data: &a.data[i * a.row + k0 * a.step..], ..a };
                match height {
                    12 => interleave::<12>(from, to),
                    6 => interleave::<6>(from, to),
                    5 => interleave::<5>(from, to),
                    4 => interleave::<4>(from, to),
                    _ => interleave_any(height, from, to),
                }
            }
        }
    }
}

fn interleave<const H: usize>(a: Strided<'_>, to: &mut [f32]) {
    if a.step == 1 {
        let len = to.len() / H;
        let rows: [&[f32]; H] = std::array::from_fn(|i| &a.data[i * a.row..][..len]);
        for (step, to) in to.as_chunks_mut::<H>().0.iter_mut().enumerate() {
            *to = std::array::from_fn(|i| rows[i][step]);
        }
    } else if a.row == 1 {
        for (step, to) in to.as_chunks_mut::<H>().0.iter_mut().enumerate() {
            to.copy_from_slice(&a.data[step * a.step..][..H]);
        }
    } else {
        interleave_any(H, a, to);
    }
}

fn interleave_any(height: usize, a: Strided<'_>, to: &mut [f32]) {
    for (step, to) in to.chunks_exact_mut(height).enumerate() {
        for (t, v) in to.iter_mut().enumerate() {
            *v = a.data[t * a.row + step * a.step];
        }
    }
}
