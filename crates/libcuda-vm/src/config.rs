//! The environment: which GPU the stand-in plays, and how strictly it runs kernels.
use ptx_vm::{Checks, gpu::Gpu};
use std::{env, path::PathBuf, sync::OnceLock};

/// The settings, read once.
#[derive(Debug, Clone)]
pub struct Config {
    /// `FERROTUNE_VM=1`: the user asked for the VM, even beside a real driver.
    pub asked_for: bool,
    /// `FERROTUNE_VM_DEVICE`: the GPU to play.
    pub gpu: &'static Gpu,
    /// `FERROTUNE_VM_DEVICES`: how many of it.
    pub devices: usize,
    /// `FERROTUNE_VM_MEMORY`: bytes of device memory, each.
    pub memory: usize,
    /// `FERROTUNE_VM_SEED`: seed of the adversarial schedule.
    pub seed: Option<u64>,
    /// `FERROTUNE_VM_CHECKS`.
    pub checks: Checks,
    /// `FERROTUNE_VM_COUNTERS`: where the counters of all launches go.
    pub counters: Option<PathBuf>,
    /// `FERROTUNE_VM_THREADS`: threads for one launch.
    pub threads: usize,
    /// `FERROTUNE_VM_BUDGET`: warp instructions after which a kernel counts as endless.
    pub budget: Option<u64>,
    /// `FERROTUNE_VM_LOG=1`: say why calls fail.
    pub log: bool,
}

/// The process's settings; wrong ones are replaced by the defaults here and reported by `cuInit`.
pub fn get() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| check().unwrap_or_else(|_| parse(|_| None).expect("the defaults are right")))
}

/// What is wrong with the environment, if anything.
pub fn check() -> Result<Config, String> {
    parse(|name| env::var(name).ok().filter(|v| !v.is_empty()))
}

fn parse(var: impl Fn(&str) -> Option<String>) -> Result<Config, String> {
    let key = var("FERROTUNE_VM_DEVICE").unwrap_or_else(|| "rtx3090".into());
    let known = || ptx_vm::gpu::GPUS.iter().map(|g| g.key).collect::<Vec<_>>().join(", ");
    let gpu = Gpu::named(&key)
        .ok_or_else(|| format!("FERROTUNE_VM_DEVICE={key}: no such GPU; known are {}", known()))?;
    let number = |name: &str| match var(name) {
        None => Ok(None),
        Some(text) => match text.parse::<u64>() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(format!("{name}={text}: want a whole number")),
        },
    };
    let at_least_one = |name: &str| match number(name)? {
        Some(0) => Err(format!("{name}=0: want at least 1")),
        n => Ok(n),
    };
    let memory = match var("FERROTUNE_VM_MEMORY") {
        None => gpu.memory_bytes,
        Some(text) => bytes(&text)
            .filter(|&b| b > 0)
            .ok_or_else(|| format!("FERROTUNE_VM_MEMORY={text}: want a size such as 512M or 24G"))?,
    };
    let checks = match var("FERROTUNE_VM_CHECKS").as_deref() {
        Some("all") => Checks::All,
        None | Some("memory") => Checks::Memory,
        Some("off") => Checks::Off,
        Some(other) => return Err(format!("FERROTUNE_VM_CHECKS={other}: want off, memory or all")),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let flag = |name: &str| var(name).is_some_and(|v| v != "0");
    Ok(Config {
        asked_for: flag("FERROTUNE_VM"),
        gpu,
        devices: at_least_one("FERROTUNE_VM_DEVICES")?.unwrap_or(1).min(64) as usize,
        memory: memory as usize,
        seed: number("FERROTUNE_VM_SEED")?,
        checks,
        counters: var("FERROTUNE_VM_COUNTERS").map(PathBuf::from),
        threads: at_least_one("FERROTUNE_VM_THREADS")?.map_or(cores, |n| n as usize),
        budget: at_least_one("FERROTUNE_VM_BUDGET")?,
        log: flag("FERROTUNE_VM_LOG"),
    })
}

/// `512M`, `24G`, `1048576`: a size in bytes, with binary suffixes K, M, G.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..].to_ascii_uppercase()[..] {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Config, String> {
        parse(|name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.to_string()))
    }

    #[test]
    fn the_default_is_one_rtx_3090() {
        let c = with(&[]).unwrap();
        assert_eq!((c.gpu.key, c.devices, c.memory), ("rtx3090", 1, 24 << 30));
        assert!(c.seed.is_none() && c.counters.is_none() && !c.asked_for);
    }

    #[test]
    fn every_setting_is_read() {
        let c = with(&[
            ("FERROTUNE_VM_DEVICE", "a100"),
            ("FERROTUNE_VM_MEMORY", "64m"),
            ("FERROTUNE_VM_SEED", "7"),
            ("FERROTUNE_VM_THREADS", "3"),
            ("FERROTUNE_VM", "1"),
        ])
        .unwrap();
        assert_eq!((c.gpu.sm, c.memory, c.seed, c.threads, c.asked_for), (80, 64 << 20, Some(7), 3, true));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (name, value) in [
            ("FERROTUNE_VM_DEVICE", "voodoo2"),
            ("FERROTUNE_VM_MEMORY", "lots"),
            ("FERROTUNE_VM_SEED", "-1"),
            ("FERROTUNE_VM_CHECKS", "some"),
            ("FERROTUNE_VM_THREADS", "0"),
        ] {
            let message = with(&[(name, value)]).unwrap_err();
            assert!(message.contains(name) && message.contains(value), "{message}");
        }
    }
}
