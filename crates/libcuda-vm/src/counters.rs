//! The counters of every launch, written to the file of `FERROTUNE_VM_COUNTERS`.
//!
//! The file is always whole: it is written beside its place and renamed, when contexts end and when the process ends
//! (and now and then at a synchronisation, so that a killed process leaves most of them).
use crate::{config, handle::lock, op::KernelOp};
use ptx_vm::Counters;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

struct Log {
    rows: Vec<(u64, Value)>,
    written: usize,
    at: Option<Instant>,
}

static LOG: Mutex<Log> = Mutex::new(Log { rows: Vec::new(), written: 0, at: None });
static NEXT: AtomicU64 = AtomicU64::new(0);
static AT_EXIT: Once = Once::new();

/// How often a synchronisation writes the file at most.
const INTERVAL: Duration = Duration::from_secs(2);

/// The number of the launch that starts now.
pub fn next_launch() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Adds a launch's row.
pub fn add(number: u64, kernel: &KernelOp, took: Duration, counters: &Counters) {
    if config::get().counters.is_none() {
        return;
    }
    AT_EXIT.call_once(|| {
        unsafe extern "C" {
            fn atexit(hook: extern "C" fn()) -> i32;
        }
        extern "C" fn hook() {
            // A panic may not leave a C callback; a file not written is all that is lost.
            let _ = std::panic::catch_unwind(flush);
        }
        // SAFETY: `hook` stays loaded until the process ends: the library is linked with `nodelete`.
        unsafe { atexit(hook) };
    });
    let row = json!({
        "launch": number,
        "kernel": kernel.function.name,
        "grid": kernel.grid,
        "block": kernel.block,
        "dynamic_shared_bytes": kernel.shared_bytes,
        "host_seconds": took.as_secs_f64(),
        "counters": serde_json::to_value(counters).unwrap_or(Value::Null),
    });
    lock(&LOG).rows.push((number, row));
}

/// Writes the file if it is asked for and there is something new.
pub fn flush() {
    let Some(path) = &config::get().counters else { return };
    let mut log = lock(&LOG);
    if log.written == log.rows.len() {
        return;
    }
    log.rows.sort_by_key(|r| r.0);
    let rows: Vec<&Value> = log.rows.iter().map(|r| &r.1).collect();
    let file = json!({ "format": 1, "gpu": config::get().gpu.key, "launches": rows });
    if let Err(e) = replace(path, &file.to_string()) {
        eprintln!("ferrotune-vm: FERROTUNE_VM_COUNTERS={}: {e}", path.display());
    }
    log.written = log.rows.len();
    log.at = Some(Instant::now());
}

/// [`flush`], unless the file was written a moment ago.
pub fn flush_sometimes() {
    if config::get().counters.is_some() && lock(&LOG).at.is_none_or(|at| at.elapsed() > INTERVAL) {
        flush();
    }
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    fs::write(&part, text)?;
    fs::rename(&part, path)
}
