//! Devices and their primary contexts.
use crate::{
    context::Context,
    driver::{self, device},
    ffi::{In, Out, Text, api},
    handle::lock,
    pool,
    result::{Code, Result},
};
use std::{ffi::c_char, sync::Arc};

/// `CUdevprop`.
#[repr(C)]
pub struct Properties {
    max_threads_per_block: i32,
    max_threads_dim: [i32; 3],
    max_grid_size: [i32; 3],
    shared_mem_per_block: i32,
    total_constant_memory: i32,
    simd_width: i32,
    mem_pitch: i32,
    regs_per_block: i32,
    clock_rate: i32,
    texture_align: i32,
}

api! {
    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(driver::devices()?.len() as i32)
    }

    fn cuDeviceGet(out: Out<i32>, ordinal: i32) {
        let out = out.required()?;
        out.set(device(ordinal)?.ordinal as i32)
    }

    fn cuDeviceGetName(name: Out<c_char>, len: i32, dev: i32) {
        let name = name.required()?;
        let text = format!("{} (Ferrotune PTX VM)", device(dev)?.gpu.name);
        if len <= 0 {
            return Err(Code::INVALID_VALUE.because("no room for a name"));
        }
        name.put_text(&text, len as usize);
        Ok(())
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, dev: i32) {
        uuid.set(device(dev)?.uuid())
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, dev: i32) {
        uuid.set(device(dev)?.uuid())
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, dev: i32) {
        bytes.set(device(dev)?.memory.capacity())
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: i32, dev: i32) {
        let value = value.required()?;
        let known = device(dev)?.attribute(attribute);
        value.set(known.ok_or_else(|| Code::INVALID_VALUE.because(format!("no device attribute {attribute}")))?)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, dev: i32) {
        let (major, minor) = (major.required()?, minor.required()?);
        let sm = device(dev)?.gpu.sm as i32;
        major.put(sm / 10);
        minor.set(sm % 10)
    }

    fn cuDeviceGetProperties(properties: Out<Properties>, dev: i32) {
        let device = device(dev)?;
        let a = |n| device.attribute(n).unwrap_or(0);
        properties.set(Properties {
            max_threads_per_block: a(1),
            max_threads_dim: [a(2), a(3), a(4)],
            max_grid_size: [a(5), a(6), a(7)],
            shared_mem_per_block: a(8),
            total_constant_memory: a(9),
            simd_width: a(10),
            mem_pitch: a(11),
            regs_per_block: a(12),
            clock_rate: a(13),
            texture_align: a(14),
        })
    }

    fn cuDeviceGetPCIBusId(text: Out<c_char>, len: i32, dev: i32) {
        let text = text.required()?;
        let pci = device(dev)?.pci();
        if len as usize <= pci.len() || len < 0 {
            return Err(Code::INVALID_VALUE.because("too little room for a PCI address"));
        }
        text.put_text(&pci, len as usize);
        Ok(())
    }

    fn cuDeviceGetByPCIBusId(dev: Out<i32>, pci: Text) {
        let (dev, pci) = (dev.required()?, pci.get()?);
        let found = driver::devices()?.iter().find(|d| d.pci().eq_ignore_ascii_case(&pci));
        dev.set(found.ok_or(Code::INVALID_DEVICE)?.ordinal as i32)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, dev: i32, peer: i32) {
        let can = can.required()?;
        device(dev).and(device(peer))?;
        can.set(0)
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, _attribute: i32, src: i32, dst: i32) {
        let value = value.required()?;
        device(src).and(device(dst))?;
        value.set(0)
    }

    fn cuDeviceGetExecAffinitySupport(supported: Out<i32>, _kind: i32, dev: i32) {
        let supported = supported.required()?;
        device(dev)?;
        supported.set(0)
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<usize>, dev: i32) {
        pool.set(device(dev)?.default_pool.handle)
    }

    fn cuDeviceGetMemPool(pool: Out<usize>, dev: i32) {
        let current = lock(&device(dev)?.pool).handle;
        pool.set(current)
    }

    fn cuDeviceSetMemPool(dev: i32, pool: usize) {
        let device = device(dev)?;
        let pool = pool::POOLS.get(pool)?;
        if pool.device != device.ordinal {
            return Err(Code::INVALID_VALUE.because("the pool belongs to another device"));
        }
        *lock(&device.pool) = pool;
        Ok(())
    }

    fn cuDevicePrimaryCtxRetain(context: Out<usize>, dev: i32) {
        let context = context.required()?;
        let device = device(dev)?;
        let mut primary = lock(&device.primary);
        let flags = primary.flags;
        let active = primary.context.get_or_insert_with(|| Context::create(device, flags, true)).handle;
        primary.retained += 1;
        context.set(active)
    }

    fn cuDevicePrimaryCtxRelease_v2(dev: i32) {
        let mut primary = lock(&device(dev)?.primary);
        match primary.retained {
            0 => return Err(Code::INVALID_CONTEXT.because("the primary context is not retained")),
            1 => primary.retained = 0,
            _ => {
                primary.retained -= 1;
                return Ok(());
            }
        }
        let last = primary.context.take();
        drop(primary);
        end(last);
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(dev: i32) {
        let mut primary = lock(&device(dev)?.primary);
        primary.retained = 0;
        let active = primary.context.take();
        drop(primary);
        end(active);
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(dev: i32, flags: u32) {
        check_flags(flags)?;
        let mut primary = lock(&device(dev)?.primary);
        primary.flags = flags;
        if let Some(context) = &primary.context {
            context.flags.store(flags, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(dev: i32, flags: Out<u32>, active: Out<i32>) {
        let (flags, active) = (flags.required()?, active.required()?);
        let primary = lock(&device(dev)?.primary);
        flags.put(primary.flags);
        active.set(i32::from(primary.context.is_some()))
    }

    fn cuFlushGPUDirectRDMAWrites(_target: i32, _scope: i32) {
        Ok(())
    }

    fn cuDeviceGetLuid(_luid: Out<c_char>, _mask: Out<u32>, dev: i32) {
        device(dev)?;
        Err(Code::NOT_SUPPORTED.because("LUIDs are a matter of Windows"))
    }

    fn cuDeviceGetHostAtomicCapabilities(capabilities: Out<u32>, _operations: In<i32>, count: u32, dev: i32) {
        let capabilities = capabilities.required()?;
        device(dev)?;
        for i in 0..count as usize {
            capabilities.put_at(i, 0);
        }
        Ok(())
    }
}

fn end(context: Option<Arc<Context>>) {
    if let Some(context) = context {
        context.destroy();
    }
}

/// `CU_CTX_*` flags that the driver knows: one schedule, and the other bits.
pub fn check_flags(flags: u32) -> Result<()> {
    match (flags & 7, flags & !0xff) {
        (0 | 1 | 2 | 4, 0) => Ok(()),
        _ => Err(Code::INVALID_VALUE.because(format!("{flags:#x} are no context flags"))),
    }
}
