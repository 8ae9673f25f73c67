//! The least work that a kernel's mathematics needs.

use std::ops::{Add, AddAssign};

/// Bytes and operations: each input read once, each output written once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Floating-point operations (a fused multiply-add counts as two).
    pub flops: u64,
    /// Floating-point operations of products of 16-bit operands, summed in f32: what tensor cores do at their 16-bit rate.
    pub half_flops: u64,
    /// 8-bit integer operations (a multiply-accumulate counts as two).
    pub int8_ops: u64,
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, o: Cost) -> Cost {
        Cost {
            bytes_read: self.bytes_read + o.bytes_read,
            bytes_written: self.bytes_written + o.bytes_written,
            flops: self.flops + o.flops,
            half_flops: self.half_flops + o.half_flops,
            int8_ops: self.int8_ops + o.int8_ops,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, o: Cost) {
        *self = *self + o;
    }
}
