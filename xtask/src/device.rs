//! `--device`: where tensors live and kernels run.

use crate::vm;
use ::device::Device;

/// The option.
#[derive(clap::Args)]
pub struct Choice {
    /// cpu; cuda: an NVIDIA GPU by its driver; vm: the same GPU kernels on the PTX VM, with no GPU, slowly and strictly
    /// checked; auto: cuda when there is a GPU, else cpu.
    #[arg(long, value_parser = ["auto", "cpu", "cuda", "vm"], default_value = "cpu")]
    device: String,
}

impl Choice {
    /// Opens the device.
    pub fn open(&self) -> Result<Device, String> {
        self.open_for(0)
    }

    /// Opens the device of the `rank`-th process on this machine: each has a GPU of its own.
    pub fn open_for(&self, rank: usize) -> Result<Device, String> {
        match self.device.as_str() {
            "cuda" => {
                let hint = "--device cuda needs an NVIDIA GPU with its driver for each rank; --device vm runs the same kernels without";
                Device::cuda(rank).map_err(|e| format!("{e}\n  {hint}"))
            }
            "vm" => open_vm(),
            "auto" => Ok(Device::cuda(rank).unwrap_or_else(|_| Device::cpu())),
            _ => Ok(Device::cpu()),
        }
    }

    /// Whether a device opened by this is a real GPU.
    pub fn is_gpu(&self, device: &Device) -> bool {
        self.device != "vm" && device.stream().is_some()
    }
}

fn open_vm() -> Result<Device, String> {
    let library = vm::stand_in()?.join("libcuda.so.1");
    // SAFETY: no other thread runs yet. The stand-in asks to be asked for, so that it never shadows a real driver.
    unsafe { std::env::set_var("FERROTUNE_VM", "1") };
    Device::cuda_from(&library, 0).map_err(|e| e.to_string())
}
