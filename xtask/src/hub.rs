//! Models by name from a hub: `--model ORG/NAME`.
//!
//! A broken download goes on where it stopped; every file is held to the size, and weights to the SHA-256, that the hub
//! lists. All files are of one commit. What is complete is used again without a network.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

const ENDPOINT: &str = "https://huggingface.co";
/// Tries of a file whose connection breaks.
const TRIES: usize = 4;
/// Says that every file is there, and of which commit.
const COMPLETE: &str = ".complete";

/// The folder of a model given by path or by name: a path that exists is itself, `ORG/NAME[@REVISION]` is fetched to
/// `data/hub`.
pub fn resolve(model: &Path, data: &Path) -> Result<PathBuf, String> {
    let Some(name) = name(model) else { return Ok(model.to_path_buf()) };
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| ENDPOINT.into());
    let hub = Hub::new(endpoint.trim_end_matches('/'), std::env::var("HF_TOKEN").ok());
    hub.fetch(name, &data.join("hub"))
}

/// A model's name, if it is one and no path that exists.
fn name(model: &Path) -> Option<&str> {
    let text = model.to_str().filter(|_| !model.exists())?;
    let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
    let (org, model) = name.split_once('/')?;
    let plain = |s: &str| {
        !s.is_empty()
            && !s.starts_with('.')
            && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (plain(org) && plain(model) && plain(revision) && !text.ends_with(".gguf")).then_some(text)
}

/// A file as the hub lists it.
#[derive(Debug, PartialEq)]
struct Remote {
    path: String,
    size: u64,
    /// Of files kept in large-file storage.
    sha256: Option<String>,
}

struct Hub {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
}

impl Hub {
    fn new(endpoint: &str, token: Option<String>) -> Hub {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .build();
        Hub { agent: config.into(), endpoint: endpoint.to_string(), token }
    }

    fn fetch(&self, name: &str, cache: &Path) -> Result<PathBuf, String> {
        let dir = cache.join(name.replace('/', "--"));
        let complete = dir.join(COMPLETE);
        if complete.exists() {
            return Ok(dir);
        }
        if self.endpoint.starts_with("https:") && cfg!(not(feature = "hub")) {
            return Err(format!(
                "`{name}` is no path here, and this build speaks no TLS to fetch it from {}; use `cargo run --release \
                 -p xtask --features hub -- ...`, an http:// mirror in HF_ENDPOINT, or the path of a downloaded folder",
                self.endpoint
            ));
        }
        let (model, revision) = name.split_once('@').unwrap_or((name, "main"));
        let about = self.json(&format!("api/models/{model}/revision/{revision}"), name)?;
        let commit = about["sha"].as_str().ok_or_else(|| format!("{name}: the hub names no commit"))?;
        let files = wanted(&self.json(&format!("api/models/{model}/tree/{commit}"), name)?);
        if !files.iter().any(|f| f.path == "config.json") {
            return Err(format!("{name}: the hub lists no config.json"));
        }
        if !files.iter().any(|f| f.path.ends_with(".safetensors")) {
            return Err(format!("{name}: the hub lists no safetensors; other weight files are not read"));
        }
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for file in &files {
            eprintln!("{name}: {} ({:.1} MB)", file.path, file.size as f64 / 1e6);
            self.file(&format!("{model}/resolve/{commit}/{}", file.path), file, &dir)?;
        }
        fs::write(&complete, commit).map_err(|e| format!("{}: {e}", complete.display()))?;
        Ok(dir)
    }

    fn get(&self, path: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, String> {
        let url = format!("{}/{path}", self.endpoint);
        let mut request = self.agent.get(&url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| {
            format!("{url}: {e}; without a network, give the path of a downloaded folder as --model")
        })
    }

    fn json(&self, path: &str, name: &str) -> Result<Value, String> {
        let mut response = self.get(path, 0)?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 | 404 => {
                return Err(format!(
                    "{name}: {} answers {}: no such model or revision, or one that needs a token in HF_TOKEN",
                    self.endpoint,
                    response.status()
                ));
            }
            _ => return Err(format!("{name}: {}/{path} answers {}", self.endpoint, response.status())),
        }
        serde_json::from_reader(response.body_mut().as_reader()).map_err(|e| format!("{path}: {e}"))
    }

    /// Brings one file, from where an earlier try stopped.
    fn file(&self, path: &str, remote: &Remote, dir: &Path) -> Result<(), String> {
        let (to, part) = (dir.join(&remote.path), dir.join(format!("{}.part", remote.path)));
        let len = |p: &Path| fs::metadata(p).map_or(0, |m| m.len());
        if to.exists() && len(&to) == remote.size {
            return Ok(());
        }
        let mut problem = String::new();
        for _ in 0..TRIES {
            if len(&part) < remote.size || remote.size == 0 {
                match self.append(path, &part) {
                    Ok(()) => {}
                    Err(Broken::Connection(e)) => {
                        problem = e;
                        continue;
                    }
                    Err(Broken::Refused(e)) => return Err(e),
                }
            }
            match verify(&part, remote) {
                Ok(()) => {
                    return fs::rename(&part, &to).map_err(|e| format!("{}: {e}", to.display()));
                }
                // Too short: the connection closed early.
                Err(_) if len(&part) < remote.size => problem = "the connection closed early".into(),
                Err(e) => {
                    let _ = fs::remove_file(&part);
                    return Err(e);
                }
            }
        }
        Err(format!(
            "{}/{path}: {problem} ({TRIES} tries); {} of {} bytes are kept, run again to go on",
            self.endpoint,
            len(&part),
            remote.size
        ))
    }

    fn append(&self, path: &str, part: &Path) -> Result<(), Broken> {
        let have = fs::metadata(part).map_or(0, |m| m.len());
        let mut response = self.get(path, have).map_err(Broken::Connection)?;
        let status = response.status().as_u16();
        let mut options = OpenOptions::new();
        let options = match status {
            206 => options.append(true),
            // The server does not resume: from the start.
            200 => options.write(true).truncate(true),
            500.. => return Err(Broken::Connection(format!("answers {status}"))),
            _ => return Err(Broken::Refused(format!("{}/{path} answers {status}", self.endpoint))),
        };
        let file_error = |e: io::Error| Broken::Refused(format!("{}: {e}", part.display()));
        let mut file = options.create(true).open(part).map_err(file_error)?;
        let mut reader = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => file.write_all(&buffer[..n]).map_err(file_error)?,
                Err(e) => return Err(Broken::Connection(e.to_string())),
            }
        }
    }
}

/// Why a download stopped.
enum Broken {
    /// Worth another try.
    Connection(String),
    /// Not.
    Refused(String),
}

/// What an engine needs of a repository's files.
fn wanted(tree: &Value) -> Vec<Remote> {
    let needed = |path: &str| {
        let settings =
            ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors.index.json"];
        settings.contains(&path)
            || (path.starts_with("model") && path.ends_with(".safetensors") && !path.contains(['/', '\\']))
    };
    let remote = |f: &Value| {
        let path = f["path"].as_str().filter(|p| needed(p))?.to_string();
        Some(Remote { path, size: f["size"].as_u64()?, sha256: f["lfs"]["oid"].as_str().map(String::from) })
    };
    tree.as_array().into_iter().flatten().filter_map(remote).collect()
}

fn verify(part: &Path, remote: &Remote) -> Result<(), String> {
    let fail = |e: io::Error| format!("{}: {e}", part.display());
    let mut file = File::open(part).map_err(fail)?;
    let len = file.metadata().map_err(fail)?.len();
    if len != remote.size {
        return Err(format!("{}: has {len} bytes, the hub lists {}", remote.path, remote.size));
    }
    let Some(want) = &remote.sha256 else { return Ok(()) };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let have: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if have == *want {
        return Ok(());
    }
    Err(format!("{}: its SHA-256 is {have}, the hub lists {want}; it was removed, run again", remote.path))
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
