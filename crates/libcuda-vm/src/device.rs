//! A device: its memory, its allocations, its primary context, its attributes.
use crate::{
    config::Config,
    context::Context,
    handle::lock,
    pool::Pool,
    result::{Code, Result},
};
use ptx_vm::{
    Memory,
    gpu::{self, Gpu},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Alignment of `cuMemAlloc`, bytes.
const ALIGNMENT: usize = 256;

/// One device.
pub struct Device {
    /// Its number.
    pub ordinal: usize,
    /// Which GPU it plays.
    pub gpu: &'static Gpu,
    /// Its address space.
    pub memory: Memory,
    /// Live allocations by address.
    pub allocations: Mutex<BTreeMap<u64, Allocation>>,
    /// The primary context and how often it is retained.
    pub primary: Mutex<Primary>,
    /// The pool that comes with the device.
    pub default_pool: Arc<Pool>,
    /// The pool that `cuMemAllocAsync` uses.
    pub pool: Mutex<Arc<Pool>>,
    /// What graphs allocate is counted here.
    pub graph_pool: Arc<Pool>,
}

/// A device allocation.
#[derive(Clone)]
pub struct Allocation {
    /// Its size as asked for.
    pub bytes: usize,
    /// The handle of the context that made it.
    pub context: usize,
    /// The pool it came from, if any.
    pub pool: Option<Arc<Pool>>,
    /// A number that no other allocation of the process has.
    pub id: u64,
}

/// State of a device's primary context.
#[derive(Default)]
pub struct Primary {
    /// The context while it is active.
    pub context: Option<Arc<Context>>,
    /// How often it is retained.
    pub retained: usize,
    /// The flags for its next activation.
    pub flags: u32,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Device {
    /// A device with fresh memory.
    pub fn new(ordinal: usize, config: &Config) -> Result<Device> {
        let memory = Memory::new(config.memory).map_err(|e| {
            eprintln!("ferrotune-vm: no address space for {} bytes of device memory: {e}", config.memory);
            Code::OPERATING_SYSTEM.because(e.to_string())
        })?;
        memory.set_poison(config.seed);
        let default_pool = Pool::new(ordinal, 0);
        Ok(Device {
            ordinal,
            gpu: config.gpu,
            memory,
            allocations: Mutex::default(),
            primary: Mutex::default(),
            pool: Mutex::new(default_pool.clone()),
            default_pool,
            graph_pool: Pool::new(ordinal, 0),
        })
    }

    /// Allocates device memory for a context.
    pub fn alloc(&self, bytes: usize, context: usize, pool: Option<Arc<Pool>>) -> Result<u64> {
        let address = self.memory.alloc(bytes, ALIGNMENT).map_err(|e| {
            Code::OUT_OF_MEMORY
                .because(format!("{bytes} bytes beside the {} in use: {e}", self.memory.used()))
        })?;
        if let Some(pool) = &pool {
            pool.took(bytes);
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        lock(&self.allocations).insert(address, Allocation { bytes, context, pool, id });
        Ok(address)
    }

    /// Frees the allocation that starts at `address`.
    pub fn free(&self, address: u64) -> Result<()> {
        let removed = lock(&self.allocations).remove(&address);
        let Some(allocation) = removed else {
            return Err(Code::INVALID_VALUE.because(format!("no allocation starts at {address:#x}")));
        };
        if let Some(pool) = &allocation.pool {
            pool.gave_back(allocation.bytes);
        }
        self.memory.free(address).map_err(|e| Code::INVALID_VALUE.because(e.to_string()))
    }

    /// Frees everything that a context allocated.
    pub fn free_all_of(&self, context: usize) {
        let owned: Vec<u64> =
            lock(&self.allocations).iter().filter(|(_, a)| a.context == context).map(|(&a, _)| a).collect();
        for address in owned {
            // An address taken from the table a moment ago may be freed by another thread meanwhile: fine.
            let _ = self.free(address);
        }
    }

    /// The allocation around an address: start, and what it is.
    pub fn allocation_at(&self, address: u64) -> Option<(u64, Allocation)> {
        let allocations = lock(&self.allocations);
        let (&start, a) = allocations.range(..=address).next_back()?;
        (address - start < a.bytes.max(1) as u64).then(|| (start, a.clone()))
    }

    /// The PCI address, as text.
    pub fn pci(&self) -> String {
        format!("0000:{:02x}:00.0", self.ordinal + 1)
    }

    /// A stable identifier: the GPU's name and the device's number.
    pub fn uuid(&self) -> [u8; 16] {
        let mut id = *b"ferrotune-vm\0\0\0\0";
        id[12] = self.gpu.sm as u8;
        id[15] = self.ordinal as u8;
        id
    }

    /// Attribute `CU_DEVICE_ATTRIBUTE_*` number `attribute`; `None` when the driver knows no such attribute.
    pub fn attribute(&self, attribute: i32) -> Option<i32> {
        let (gpu, limits) = (self.gpu, self.gpu.limits());
        let int = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
        Some(match attribute {
            1 => gpu::THREADS_PER_BLOCK as i32,
            2..=4 => gpu::BLOCK_MAX[attribute as usize - 2] as i32,
            5..=7 => gpu::GRID_MAX[attribute as usize - 5] as i32,
            8 => gpu::SHARED_PER_BLOCK as i32,
            9 => 64 << 10,  // constant memory
            10 => 32,       // warp
            11 => i32::MAX, // pitch
            12 | 82 => limits.registers_per_sm as i32,
            13 => gpu.clock_khz as i32,
            14 | 30 => 512,         // texture and surface alignment
            15 | 19 | 31 | 41 => 1, // overlap, mapped host memory, concurrent kernels, unified addressing
            16 => gpu.sm_count as i32,
            17 | 18 | 20 | 32 | 34 | 35 | 50 => 0, // timeout, integrated, compute mode, ECC, PCI device and domain, TCC
            33 => self.ordinal as i32 + 1,         // PCI bus
            36 => gpu.memory_khz as i32,
            37 => gpu.bus_bits as i32,
            38 => int(gpu.l2_bytes),
            39 => limits.threads_per_sm as i32,
            40 => 2,                               // copy engines
            51 => 32,                              // texture pitch alignment
            21..=29 | 42..=49 | 52..=74 | 77 => 0, // textures and surfaces: none here
            75 => (gpu.sm / 10) as i32,
            76 => (gpu.sm % 10) as i32,
            78..=80 => 1, // stream priorities, L1 for global and local memory
            81 => limits.shared_per_sm as i32,
            83 => 1,                   // managed memory
            84 | 86 => 0,              // several GPUs on a board, native host atomics
            85 => self.ordinal as i32, // board group
            87 => limits.f32_over_f64 as i32,
            88 | 100 | 101 => 0, // pageable host memory is not visible to kernels
            89..=95 => 1, // managed, preemption, registered pointers, stream memory operations, cooperative
            97 => limits.shared_per_block_optin as i32,
            99 | 115 | 122 | 123 => 1, // host registration, pools, 64-bit and NOR stream memory operations
            106 => limits.blocks_per_sm as i32,
            108 | 109 => 0, // persisting L2
            111 => gpu::SHARED_RESERVED as i32,
            120 => 0,        // cluster launch
            126 => 1,        // memory synchronisation domains
            130 => 0,        // NUMA configuration
            131 | 134 => -1, // NUMA nodes
            96
            | 98
            | 102..=105
            | 107
            | 110
            | 112..=114
            | 116..=119
            | 121
            | 124
            | 125
            | 127..=129
            | 132
            | 133
            | 135..=161 => 0, // not here
            _ => return None,
        })
    }
}
