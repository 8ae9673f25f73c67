//! A run in progress: settings, directory, metrics, device.

use crate::{
    config::Config,
    error::{Error, Result},
    metrics::MetricsWriter,
    run_dir::RunDir,
};
use device::Device;
use std::{path::Path, time::Duration};

/// Settings that change no number, and may differ when a run goes on.
const FREE: [&str; 3] = ["threads =", "checkpoint_seconds =", "limit ="];

/// What every stage needs.
pub struct Run {
    /// Settings.
    pub config: Config,
    /// Directory.
    pub dir: RunDir,
    /// metrics.jsonl.
    pub writer: MetricsWriter,
    /// Where tensors live.
    pub device: Device,
    /// No progress output.
    pub quiet: bool,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
}

impl Run {
    /// Opens or continues a run in `out`.
    ///
    /// # Errors
    /// When the settings are refused, the directory is taken, or it was begun with other settings or on another device
    /// (whose sums have other last bits: the run would not repeat an unbroken one).
    pub fn open(config: Config, device: Device, out: &Path, resume: bool, quiet: bool) -> Result<Run> {
        config.validate()?;
        let mut dir = RunDir::open(out, resume)?;
        let path = dir.path("config.toml");
        if let Some(start) = dir.result("start") {
            let before = start["device"].as_str().unwrap_or("cpu");
            if before != device.name() {
                let problem = format!("was begun on device `{before}`; continue with --device {before}");
                return Err(Error::RunDir { dir: out.to_path_buf(), problem });
            }
            let before = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            let now = config.to_toml();
            let differs = |(a, b): &(&str, &str)| a != b && !FREE.iter().any(|f| b.starts_with(f));
            if let Some((a, b)) = before.lines().zip(now.lines()).find(differs) {
                let problem =
                    format!("was begun with `{a}`, now it is `{b}`; use the same settings or another --out");
                return Err(Error::RunDir { dir: out.to_path_buf(), problem });
            }
        } else {
            dir.write("config.toml", config.to_toml().as_bytes())?;
            dir.finish(
                "start",
                serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "device": device.name() }),
            )?;
        }
        let writer = MetricsWriter::open(&dir.path("metrics.jsonl"))?;
        let checkpoint_every = Duration::from_secs_f64(config.run.checkpoint_seconds.max(0.0));
        Ok(Run { config, dir, writer, device, quiet, checkpoint_every })
    }

    /// Says something on standard error, unless quiet.
    pub fn say(&self, message: &str) {
        if !self.quiet {
            eprintln!("{message}");
        }
    }
}
