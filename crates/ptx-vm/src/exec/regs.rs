//! The register file: one row of 32 lanes per 32-bit register, two rows per 64-bit register.
//!
//! **Architecture Invariant**: a value narrower than its row is zero-extended; predicates are bit masks, bit `l`
//! for lane `l`, in a file of their own, of which number 0 is the carry flag.
use bytemuck::{Pod, Zeroable};

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// 32 lanes of 32 bits, on a cache line boundary.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Row(pub [u32; LANES]);

/// A lane's type: how it lies in rows.
pub(crate) trait Lane: Pod + Default + Send + Sync {
    /// The lanes of the register at row `at`.
    fn lanes(rows: &[Row], at: u32) -> &[Self; LANES];
    /// The same, to write.
    fn lanes_mut(rows: &mut [Row], at: u32) -> &mut [Self; LANES];
}

impl Lane for u32 {
    #[inline(always)]
    fn lanes(rows: &[Row], at: u32) -> &[u32; LANES] {
        &rows[at as usize].0
    }
    #[inline(always)]
    fn lanes_mut(rows: &mut [Row], at: u32) -> &mut [u32; LANES] {
        &mut rows[at as usize].0
    }
}

impl Lane for u64 {
    #[inline(always)]
    fn lanes(rows: &[Row], at: u32) -> &[u64; LANES] {
        let two: &[Row; 2] = rows[at as usize..][..2].try_into().expect("two rows were taken");
        bytemuck::cast_ref(two)
    }
    #[inline(always)]
    fn lanes_mut(rows: &mut [Row], at: u32) -> &mut [u64; LANES] {
        let two: &mut [Row; 2] = (&mut rows[at as usize..][..2]).try_into().expect("two rows were taken");
        bytemuck::cast_mut(two)
    }
}

/// The registers of one function call, for all lanes that are in it.
#[derive(Default, Debug)]
pub(crate) struct Regs {
    /// Data registers and constants.
    pub rows: Vec<Row>,
    /// Predicates; [`CARRY`] first.
    pub preds: Vec<u32>,
    /// For each watched register, the lanes in which it holds nothing.
    pub undefined: Vec<u32>,
}

/// The predicate that holds the carry flag.
pub(crate) const CARRY: u32 = 0;

impl Regs {
    /// The register at row `at`.
    #[inline(always)]
    pub fn get<T: Lane>(&self, at: u32) -> &[T; LANES] {
        T::lanes(&self.rows, at)
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn put<T: Lane>(&mut self, at: u32, mask: u32, values: &[T; LANES]) {
        let to = T::lanes_mut(&mut self.rows, at);
        if mask == !0 {
            *to = *values;
        } else {
            for l in 0..LANES {
                to[l] = if mask >> l & 1 == 1 { values[l] } else { to[l] };
            }
        }
    }

    /// One lane of a 32-bit or 64-bit register, zero-extended.
    #[inline]
    pub fn lane(&self, reg: Slot, lane: usize) -> u64 {
        if reg.wide { self.get::<u64>(reg.at)[lane] } else { u64::from(self.get::<u32>(reg.at)[lane]) }
    }

    /// Writes one lane of a 32-bit or 64-bit register.
    #[inline]
    pub fn set_lane(&mut self, reg: Slot, lane: usize, value: u64) {
        if reg.wide {
            u64::lanes_mut(&mut self.rows, reg.at)[lane] = value;
        } else {
            u32::lanes_mut(&mut self.rows, reg.at)[lane] = value as u32;
        }
    }

    /// Writes the lanes of `mask` of a predicate.
    #[inline(always)]
    pub fn set_pred(&mut self, at: u32, mask: u32, bits: u32) {
        let p = &mut self.preds[at as usize];
        *p = *p & !mask | bits & mask;
    }
}

/// Where a register of either width lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Slot {
    /// First row.
    pub at: u32,
    /// 64 bits, two rows.
    pub wide: bool,
}
