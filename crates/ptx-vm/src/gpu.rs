//! What GPUs are: limits that a launch must keep, and peak rates for predictions.
//!
//! Limits per compute capability are those of the CUDA programming guide's table of technical specifications; counts,
//! clocks and rates are those of the vendor's published data sheets (boost clock, dense matrices, no sparsity).

/// One GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// How the command line and the environment name it: `rtx3090`.
    pub key: &'static str,
    /// How the driver names it.
    pub name: &'static str,
    /// Compute capability, ten times the major number plus the minor one: 86.
    pub sm: u32,
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Boost clock of the multiprocessors, kHz.
    pub clock_khz: u32,
    /// Memory clock, kHz, at two transfers a cycle.
    pub memory_khz: u32,
    /// Width of the memory bus, bits.
    pub bus_bits: u32,
    /// Device memory, bytes.
    pub memory_bytes: u64,
    /// L2 cache, bytes.
    pub l2_bytes: u64,
    /// Peak bandwidth of device memory, bytes a second.
    pub bandwidth: f64,
    /// Peak rates, operations a second (a fused multiply-add is two).
    pub peak: Peak,
}

/// Peak rates, operations a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// f32 outside the tensor cores.
    pub f32: f64,
    /// f64 outside the tensor cores.
    pub f64: f64,
    /// f16 and bf16 matrices, summed in f32.
    pub mma_f16: f64,
    /// tf32 matrices.
    pub mma_tf32: f64,
    /// 8-bit integer matrices.
    pub mma_i8: f64,
}

/// What a compute capability allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Resident threads on a multiprocessor.
    pub threads_per_sm: u32,
    /// Resident blocks on a multiprocessor.
    pub blocks_per_sm: u32,
    /// Registers of a multiprocessor, 32 bits each.
    pub registers_per_sm: u32,
    /// Shared memory of a multiprocessor, bytes.
    pub shared_per_sm: u32,
    /// Shared memory of a block that asks for it, bytes.
    pub shared_per_block_optin: u32,
    /// f32 rate over f64 rate.
    pub f32_over_f64: u32,
}

/// Shared memory of a block that asks for nothing, bytes.
pub const SHARED_PER_BLOCK: u32 = 48 << 10;
/// Shared memory that the system keeps for itself in each block, bytes.
pub const SHARED_RESERVED: u32 = 1 << 10;
/// Threads of a block.
pub const THREADS_PER_BLOCK: u32 = 1024;
/// Block sizes along x, y, z.
pub const BLOCK_MAX: [u32; 3] = [1024, 1024, 64];
/// Grid sizes along x, y, z.
pub const GRID_MAX: [u32; 3] = [0x7fff_ffff, 0xffff, 0xffff];
/// Registers of a thread.
pub const REGISTERS_PER_THREAD: u32 = 255;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const T: f64 = 1e12;
const G: f64 = 1e9;

/// The GPUs known by name.
#[rustfmt::skip]
pub static GPUS: &[Gpu] = &[
    Gpu { key: "rtx3090", name: "NVIDIA GeForce RTX 3090", sm: 86, sm_count: 82, clock_khz: 1_695_000, memory_khz: 9_751_000,
          bus_bits: 384, memory_bytes: 24 * GIB, l2_bytes: 6 * MIB, bandwidth: 936.2 * G,
          peak: Peak { f32: 35.6 * T, f64: 0.556 * T, mma_f16: 71.0 * T, mma_tf32: 35.6 * T, mma_i8: 284.0 * T } },
    Gpu { key: "rtx4090", name: "NVIDIA GeForce RTX 4090", sm: 89, sm_count: 128, clock_khz: 2_520_000, memory_khz: 10_501_000,
          bus_bits: 384, memory_bytes: 24 * GIB, l2_bytes: 72 * MIB, bandwidth: 1008.0 * G,
          peak: Peak { f32: 82.6 * T, f64: 1.29 * T, mma_f16: 165.2 * T, mma_tf32: 82.6 * T, mma_i8: 660.6 * T } },
    Gpu { key: "l4", name: "NVIDIA L4", sm: 89, sm_count: 58, clock_khz: 2_040_000, memory_khz: 6_251_000,
          bus_bits: 192, memory_bytes: 24 * GIB, l2_bytes: 48 * MIB, bandwidth: 300.0 * G,
          peak: Peak { f32: 30.3 * T, f64: 0.473 * T, mma_f16: 121.0 * T, mma_tf32: 60.0 * T, mma_i8: 242.5 * T } },
    Gpu { key: "a100", name: "NVIDIA A100-SXM4-80GB", sm: 80, sm_count: 108, clock_khz: 1_410_000, memory_khz: 1_593_000,
          bus_bits: 5120, memory_bytes: 80 * GIB, l2_bytes: 40 * MIB, bandwidth: 2039.0 * G,
          peak: Peak { f32: 19.5 * T, f64: 9.7 * T, mma_f16: 312.0 * T, mma_tf32: 156.0 * T, mma_i8: 624.0 * T } },
    Gpu { key: "h100", name: "NVIDIA H100 80GB HBM3", sm: 90, sm_count: 132, clock_khz: 1_980_000, memory_khz: 2_619_000,
          bus_bits: 5120, memory_bytes: 80 * GIB, l2_bytes: 50 * MIB, bandwidth: 3352.0 * G,
          peak: Peak { f32: 66.9 * T, f64: 33.5 * T, mma_f16: 989.4 * T, mma_tf32: 494.7 * T, mma_i8: 1978.9 * T } },
];

impl Gpu {
    /// The GPU of that key.
    pub fn named(key: &str) -> Option<&'static Gpu> {
        GPUS.iter().find(|g| g.key == key)
    }

    /// What its compute capability allows.
    pub fn limits(&self) -> Limits {
        let (threads_per_sm, blocks_per_sm, shared_kib, f32_over_f64) = match self.sm {
            80 => (2048, 32, 164, 2),
            86 => (1536, 16, 100, 64),
            89 => (1536, 24, 100, 64),
            _ => (2048, 32, 228, 2),
        };
        Limits {
            threads_per_sm,
            blocks_per_sm,
            registers_per_sm: 65_536,
            shared_per_sm: shared_kib << 10,
            shared_per_block_optin: (shared_kib << 10) - SHARED_RESERVED,
            f32_over_f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_from_clocks_and_widths() {
        for gpu in GPUS {
            let bus = f64::from(gpu.memory_khz) * 1e3 * 2.0 * f64::from(gpu.bus_bits) / 8.0;
            assert!(
                (bus / gpu.bandwidth - 1.0).abs() < 0.02,
                "{}: {bus:e} bytes a second by the bus",
                gpu.key
            );
            let lanes = if gpu.sm == 80 { 64.0 } else { 128.0 };
            let f32_rate = 2.0 * lanes * f64::from(gpu.sm_count) * f64::from(gpu.clock_khz) * 1e3;
            assert!((f32_rate / gpu.peak.f32 - 1.0).abs() < 0.02, "{}: {f32_rate:e} f32 a second", gpu.key);
        }
    }
}
