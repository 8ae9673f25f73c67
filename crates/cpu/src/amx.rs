//! Whether this process may use the tile registers of Intel's AMX.

/// Whether int8 tile products can be used: the instructions are there, the system saves the registers, and the
/// process has leave to use them, which Linux wants to be asked for.
///
/// The source is Intel's manual, volume 1, chapter 18, and Linux's documentation of dynamically enabled features.
pub fn amx_int8() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        static ALLOWED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *ALLOWED.get_or_init(|| crate::isa() >= crate::Isa::Avx512 && linux::present() && linux::allowed())
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod linux {
    use std::arch::{asm, x86_64::__cpuid_count};

    /// State component 18 of the extended state: the tiles' contents.
    const TILE_DATA: u64 = 18;

    /// Leaf 7 names the instructions: bit 24 AMX-TILE, bit 25 AMX-INT8.
    pub(super) fn present() -> bool {
        const BITS: u32 = 1 << 24 | 1 << 25;
        __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
    }

    /// Asks for the tile registers for all threads of the process; refused where the system does not save them.
    pub(super) fn allowed() -> bool {
        const ARCH_PRCTL: u64 = 158;
        const REQUEST_PERMISSION: u64 = 0x1023;
        let result: i64;
        // SAFETY: the call changes nothing but which state the kernel saves; it clobbers rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL as i64 => result,
                in("rdi") REQUEST_PERMISSION,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }
}
