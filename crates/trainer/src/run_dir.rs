//! A run's directory: who holds it, what is done, and where things lie.
//!
//! ```text
//! DIR/config.toml            every setting of the run
//! DIR/state.json             finished stages and their results
//! DIR/checkpoint.safetensors the stage in progress: weights, optimiser, state
//! DIR/metrics.jsonl, events/ metrics
//! DIR/base, sft, reward      models after each stage (Hugging Face folders; the reward's is a classifier's)
//! DIR/adapter, merged        PPO's adapter in PEFT's format with its value head, and the merged model
//! DIR/summary.json, report.html
//! ```

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// An open run directory; dropped, it lets go of the lock.
pub struct RunDir {
    root: PathBuf,
    state: Map<String, Value>,
    /// None on a rank that leaves the writing to another, which holds the lock.
    lock: Option<File>,
}

impl RunDir {
    /// Opens `root` for a new run, or with `resume` for the run that it holds.
    ///
    /// # Errors
    /// When another process works in it, when it holds a run and `resume` is off, or on I/O failure.
    pub fn open(root: &Path, resume: bool) -> Result<RunDir> {
        fs::create_dir_all(root).map_err(Error::io(root))?;
        let problem = |problem: String| Error::RunDir { dir: root.to_path_buf(), problem };
        let lock_path = root.join(".lock");
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
        if lock.try_lock().is_err() {
            return Err(problem("another run is working here; wait for it or choose another --out".into()));
        }
        let state = state(root)?;
        if !state.is_empty() && !resume {
            let hint = "holds an earlier run; continue it with --resume, or choose another --out";
            return Err(problem(hint.into()));
        }
        Ok(RunDir { root: root.to_path_buf(), state, lock: Some(lock) })
    }

    /// The directory of a run that another rank leads and has opened: nothing is written to it from here.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn follow(root: &Path) -> Result<RunDir> {
        Ok(RunDir { root: root.to_path_buf(), state: state(root)?, lock: None })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The result that a finished stage left.
    pub fn result(&self, stage: &str) -> Option<&Value> {
        self.state.get(stage)
    }

    /// Records a stage's result: it will not run again in this directory.
    pub fn finish(&mut self, stage: &str, result: Value) -> Result<()> {
        self.state.insert(stage.to_string(), result);
        if self.lock.is_none() {
            return Ok(());
        }
        self.write("state.json", &serde_json::to_vec_pretty(&self.state).expect("JSON of JSON"))?;
        let checkpoint = self.checkpoint();
        if stage != "start" && checkpoint.exists() {
            fs::remove_file(&checkpoint).map_err(Error::io(&checkpoint))?;
        }
        Ok(())
    }

    /// Writes a file so that a reader sees the old or the new one, never a part. Only the rank that leads writes.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        Ok(formats::atomic_write(&self.path(name), &[bytes])?)
    }

    /// The checkpoint of the stage in progress.
    pub fn checkpoint(&self) -> PathBuf {
        self.path("checkpoint.safetensors")
    }
}

/// The finished stages and their results.
fn state(root: &Path) -> Result<Map<String, Value>> {
    let path = root.join("state.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::RunDir {
            dir: root.to_path_buf(),
            problem: format!("state.json is damaged ({e}); choose another --out"),
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(Error::io(&path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_refused_and_resume_finds_the_results() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = RunDir::open(dir.path(), false).unwrap();
        first.finish("start", Value::from(1)).unwrap();
        let busy = RunDir::open(dir.path(), true).err().unwrap().to_string();
        assert!(busy.contains("another run is working here"), "{busy}");
        drop(first);
        let held = RunDir::open(dir.path(), false).err().unwrap().to_string();
        assert!(held.contains("--resume"), "{held}");
        assert_eq!(RunDir::open(dir.path(), true).unwrap().result("start"), Some(&Value::from(1)));
        fs::write(dir.path().join("state.json"), "{").unwrap();
        let damaged = RunDir::open(dir.path(), true).err().unwrap().to_string();
        assert!(damaged.contains("damaged"), "{damaged}");
    }
}
