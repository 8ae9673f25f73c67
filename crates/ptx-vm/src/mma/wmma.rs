//! `wmma`: fragments whose layout is the machine's own business.
//!
//! The ISA leaves the layout of `wmma` fragments open, it only wants loads, products and stores to agree. Here
//! element number `x` of a fragment (A, C and D counted by rows, B by columns) belongs to lane `x / p`, part
//! `x % p`, with `p` parts per lane; where the registers hold more than the matrix has, the count starts again.
use super::Fragment;
use crate::syntax::ast::{Fragment as Which, MatrixLayout, Shape, Type};

/// The registers of D, A, B, C.
pub(super) fn fragments(
    m: usize,
    n: usize,
    k: usize,
    rows: [Vec<u32>; 4],
    parts: [usize; 4],
) -> [Fragment; 4] {
    let [d, a, b, c] = rows;
    let make = |rows: Vec<u32>, parts: usize, len: usize, by_columns: bool| {
        let per_lane = rows.len() * parts;
        Fragment::new(rows, parts, move |p, l| {
            let x = (l * per_lane + p) % len;
            if by_columns { x % k * n + x / k } else { x }
        })
    };
    [
        make(d, parts[0], m * n, false),
        make(a, parts[1], m * k, false),
        make(b, parts[2], k * n, true),
        make(c, parts[3], m * n, false),
    ]
}

/// Where the elements of a fragment lie in memory.
pub(crate) struct FragmentMap {
    /// Bytes of one access: an element, or a whole register of elements under a byte.
    pub bytes: u32,
    /// Accesses to one register.
    pub parts: u32,
    /// Row and column of access `a` of lane `l` at `a * 32 + l`.
    places: Vec<(u16, u16)>,
    /// Bits of an element.
    bits: u32,
    by_rows: bool,
    default_stride: u32,
}

impl FragmentMap {
    /// `None` for a combination that does not exist.
    pub fn new(
        shape: Shape,
        which: Which,
        ty: Type,
        order: MatrixLayout,
        registers: usize,
    ) -> Option<FragmentMap> {
        let (m, n, k) = shape.mnk();
        let (rows, cols) = match which {
            Which::A => (m, k),
            Which::B => (k, n),
            Which::C | Which::D => (m, n),
        };
        let bits = ty.bits();
        let by_rows = order == MatrixLayout::Row;
        // Elements under a byte move in whole registers, along the direction that is contiguous.
        let packed = bits < 8;
        if packed && (by_rows != (which == Which::A)) {
            return None;
        }
        let step = if packed { 32 / bits as usize } else { 1 };
        let parts = if packed || bits >= 32 { 1 } else { 32 / bits as usize };
        let accesses = registers * parts;
        let place = |a: usize, l: usize| {
            let x = (l * accesses + a) * step % (rows * cols);
            if which == Which::B {
                ((x % rows) as u16, (x / rows) as u16)
            } else {
                ((x / cols) as u16, (x % cols) as u16)
            }
        };
        let places =
            (0..accesses).flat_map(|a| (0..32).map(move |l| (a, l))).map(|(a, l)| place(a, l)).collect();
        Some(FragmentMap {
            bytes: if packed { 4 } else { bits / 8 },
            parts: parts as u32,
            places,
            bits,
            by_rows,
            default_stride: if by_rows { cols as u32 } else { rows as u32 },
        })
    }

    /// Byte offset of access `a` of lane `l` for a stride in elements.
    pub fn offset(&self, a: usize, l: usize, stride: Option<u32>) -> u64 {
        let (row, col) = self.places[a * 32 + l];
        let stride = u64::from(stride.unwrap_or(self.default_stride));
        let (major, minor) = if self.by_rows { (row, col) } else { (col, row) };
        (u64::from(major) * stride + u64::from(minor)) * u64::from(self.bits) / 8
    }
}
