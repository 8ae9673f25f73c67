//! A run in progress: settings, directory, metrics, device.

use crate::{
    config::Config,
    error::{Error, Result},
    interrupt,
    metrics::MetricsWriter,
    ranks,
    run_dir::RunDir,
};
use device::Device;
use parallel::Mesh;
use std::{
    path::Path,
    time::{Duration, Instant},
};

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
    /// The ranks that work on it.
    pub mesh: Mesh,
    /// No progress output.
    pub quiet: bool,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
}

impl Run {
    /// Opens or continues a run in `out`. Every rank calls it; the one that leads holds the directory.
    ///
    /// # Errors
    /// When the settings are refused, the directory is taken, or it was begun with other settings or on another device
    /// (whose sums have other last bits: the run would not repeat an unbroken one).
    pub fn open(
        config: Config,
        device: Device,
        mesh: Mesh,
        out: &Path,
        resume: bool,
        quiet: bool,
    ) -> Result<Run> {
        config.validate()?;
        let led = mesh.leads().then(|| Run::lead(&config, &device, out, resume)).transpose();
        let (dir, writer) = match ranks::agree(&mesh, led)? {
            Some(led) => led,
            None => {
                let dir = RunDir::follow(out)?;
                let writer = MetricsWriter::silent(&dir.path("metrics.jsonl"));
                (dir, writer)
            }
        };
        let quiet = quiet || !mesh.leads();
        let checkpoint_every = Duration::from_secs_f64(config.run.checkpoint_seconds.max(0.0));
        Ok(Run { config, dir, writer, device, mesh, quiet, checkpoint_every })
    }

    fn lead(config: &Config, device: &Device, out: &Path, resume: bool) -> Result<(RunDir, MetricsWriter)> {
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
        Ok((dir, writer))
    }

    /// Writes files, on the rank that leads; the others wait, and fail when it fails.
    ///
    /// # Errors
    /// What `work` says, or that another rank failed.
    pub fn write(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        ranks::agree(&self.mesh, if self.mesh.leads() { work() } else { Ok(()) })
    }

    /// After a step: whether a stop was asked for, and whether a checkpoint is due, the last one having been written at `saved`. The
    /// same answer on all ranks.
    ///
    /// # Errors
    /// When a rank has ended.
    pub fn pause(&self, saved: Instant) -> Result<(bool, bool)> {
        let due = self.mesh.leads() && saved.elapsed() >= self.checkpoint_every;
        let [stop, due] = ranks::any(&self.mesh, [interrupt::requested(), due])?;
        Ok((stop, stop || due))
    }

    /// Says something on standard error, unless quiet.
    pub fn say(&self, message: &str) {
        if !self.quiet {
            eprintln!("{message}");
        }
    }
}
