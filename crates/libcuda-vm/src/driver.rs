//! The process's driver: whether it is set up, and its devices.
use crate::{
    config,
    device::Device,
    result::{Code, Result},
};
use std::{path::Path, sync::OnceLock};

/// The driver version reported: the CUDA release whose PTX version is the newest that the VM reads.
pub const VERSION: i32 = 13_050;

static DEVICES: OnceLock<Result<Vec<Device>>> = OnceLock::new();

/// `cuInit`: sets the driver up once.
pub fn init() -> Result<()> {
    match DEVICES.get_or_init(start) {
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.clone()),
    }
}

fn start() -> Result<Vec<Device>> {
    let config = config::check().map_err(|wrong| {
        eprintln!("ferrotune-vm: {wrong}");
        Code::INVALID_VALUE.because(wrong)
    })?;
    asked_for(&config)?;
    (0..config.devices).map(|ordinal| Device::new(ordinal, &config)).collect()
}

/// The stand-in serves those who ask for it: nobody ends up on it by accident, least of all instead of a GPU.
fn asked_for(config: &config::Config) -> Result<()> {
    let real = Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/nvidiactl").exists();
    // Cargo puts its build folders into the library path of the programs that it runs: being found there is chance.
    let by_cargo = std::env::var_os("CARGO_MANIFEST_DIR").is_some();
    let refuse = |code: Code, why: &'static str| {
        eprintln!("ferrotune-vm: {why}");
        Err(code.because(why))
    };
    match (config.asked_for, real, by_cargo) {
        (true, true, _) => {
            eprintln!("ferrotune-vm: kernels run on the PTX VM; the real NVIDIA driver is not used")
        }
        (true, false, _) => {}
        (false, true, _) => {
            let why = "a real NVIDIA driver is installed, and this libcuda.so is the PTX VM's stand-in: set FERROTUNE_VM=1 \
                       to run on the VM, or take its folder out of LD_LIBRARY_PATH to run on the GPU";
            return refuse(Code::SYSTEM_DRIVER_MISMATCH, why);
        }
        (false, false, true) => {
            let why = "no GPU here; cargo's library path leads to the PTX VM's stand-in: set FERROTUNE_VM=1 to run on the VM";
            return refuse(Code::NO_DEVICE, why);
        }
        (false, false, false) => {
            eprintln!("ferrotune-vm: no GPU here: kernels run on the PTX VM (silence: FERROTUNE_VM=1)")
        }
    }
    Ok(())
}

/// Whether `cuInit` has succeeded, as every other call needs.
pub fn require_init() -> Result<()> {
    devices().map(|_| ())
}

/// All devices.
pub fn devices() -> Result<&'static [Device]> {
    match DEVICES.get() {
        Some(Ok(devices)) => Ok(devices),
        _ => Err(Code::NOT_INITIALIZED.into()),
    }
}

/// The device of that number.
pub fn device(ordinal: i32) -> Result<&'static Device> {
    let device = usize::try_from(ordinal).ok().and_then(|i| devices().ok()?.get(i));
    device.ok_or_else(|| Code::INVALID_DEVICE.because(format!("there is no device {ordinal}")))
}
