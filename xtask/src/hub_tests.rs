//! The hub client against a server on this machine.

use super::*;
use serde_json::json;
use std::{
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// A hub with one model, which closes the first connections for its weights too early.
struct Server {
    endpoint: String,
    /// Paths and Range headers asked for.
    log: Arc<Mutex<Vec<(String, String)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Behaviour {
    weights: Vec<u8>,
    listed_sha256: String,
    /// Bytes after which a connection for the weights breaks, one number a connection.
    breaks: Vec<usize>,
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn weights() -> Vec<u8> {
    (0..100_000u32).map(|i| (i * 31 % 251) as u8).collect()
}

impl Server {
    fn start(behaviour: Behaviour) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (log, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (their_log, their_stop) = (log.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut behaviour = behaviour;
            for stream in listener.incoming() {
                if their_stop.load(Ordering::SeqCst) {
                    return;
                }
                answer(stream.unwrap(), &mut behaviour, &their_log);
            }
        });
        Server { endpoint, log, stop, thread: Some(thread) }
    }

    fn fetch(&self, name: &str, cache: &Path) -> Result<PathBuf, String> {
        Hub::new(&self.endpoint, None).fetch(name, cache)
    }

    fn ranges(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|(path, _)| path.ends_with(".safetensors")).map(|(_, r)| r.clone()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.endpoint.trim_start_matches("http://"));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Answers one request and closes the connection.
fn answer(mut stream: TcpStream, b: &mut Behaviour, log: &Mutex<Vec<(String, String)>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let path = lines.next().unwrap().unwrap().split(' ').nth(1).unwrap().to_string();
    let mut range = String::new();
    for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
        if let Some(value) = line.to_lowercase().strip_prefix("range: bytes=") {
            range = value.to_string();
        }
    }
    log.lock().unwrap().push((path.clone(), range.clone()));
    let (mut status, mut body) = ("200 OK", Vec::new());
    match path.as_str() {
        "/api/models/org/model/revision/main" => body = json!({ "sha": "c0ffee" }).to_string().into_bytes(),
        "/api/models/org/model/tree/c0ffee" => {
            let lfs = json!({ "oid": b.listed_sha256, "size": b.weights.len() });
            let tree = json!([
                { "type": "file", "path": "config.json", "size": 2 },
                { "type": "file", "path": "pytorch_model.bin", "size": 9 },
                { "type": "file", "path": "model.safetensors", "size": b.weights.len(), "lfs": lfs },
            ]);
            body = tree.to_string().into_bytes();
        }
        "/org/model/resolve/c0ffee/config.json" => body = b"{}".to_vec(),
        "/org/model/resolve/c0ffee/model.safetensors" => {
            let from: usize = range.trim_end_matches('-').parse().unwrap_or(0);
            body = b.weights[from..].to_vec();
            if from > 0 {
                status = "206 Partial Content";
            }
        }
        _ => status = "404 Not Found",
    }
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    if path.ends_with(".safetensors") && !b.breaks.is_empty() {
        body.truncate(b.breaks.remove(0));
    }
    // The client may be gone already.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn good(breaks: &[usize]) -> Behaviour {
    Behaviour { weights: weights(), listed_sha256: sha256(&weights()), breaks: breaks.to_vec() }
}

#[test]
fn a_broken_download_goes_on_and_a_complete_one_needs_no_network() {
    let (server, cache) = (Server::start(good(&[40_000, 30_000])), tempfile::tempdir().unwrap());
    let dir = server.fetch("org/model", cache.path()).unwrap();
    assert_eq!(server.ranges(), ["", "40000-", "70000-"]);
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights());
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [COMPLETE, "config.json", "model.safetensors"], "no other weights, no parts");
    drop(server);
    let gone = Hub::new("http://127.0.0.1:9", None);
    assert_eq!(gone.fetch("org/model", cache.path()).unwrap(), dir);
}

#[test]
fn after_too_many_breaks_the_next_run_goes_on() {
    let (server, cache) = (Server::start(good(&[10_000; TRIES])), tempfile::tempdir().unwrap());
    let e = server.fetch("org/model", cache.path()).unwrap_err();
    assert!(e.contains("40000 of 100000 bytes are kept"), "{e}");
    server.fetch("org/model", cache.path()).unwrap();
    assert_eq!(server.ranges().last().unwrap(), "40000-");
}

#[test]
fn a_wrong_checksum_is_refused_and_removed() {
    let wrong = Behaviour { listed_sha256: sha256(b"other"), ..good(&[]) };
    let (server, cache) = (Server::start(wrong), tempfile::tempdir().unwrap());
    let e = server.fetch("org/model", cache.path()).unwrap_err();
    assert!(e.contains("model.safetensors: its SHA-256 is") && e.contains("was removed"), "{e}");
    let dir = cache.path().join("org--model");
    assert!(!dir.join("model.safetensors.part").exists() && !dir.join("model.safetensors").exists());
}

#[test]
fn an_unknown_model_and_a_missing_network_are_said() {
    let (server, cache) = (Server::start(good(&[])), tempfile::tempdir().unwrap());
    let e = server.fetch("org/other", cache.path()).unwrap_err();
    assert!(e.contains("org/other") && e.contains("404") && e.contains("HF_TOKEN"), "{e}");
    // Port 9 of this machine: nobody listens.
    let e = Hub::new("http://127.0.0.1:9", None).fetch("org/model", cache.path()).unwrap_err();
    assert!(e.contains("without a network, give the path of a downloaded folder"), "{e}");
}

#[test]
fn names_are_told_from_paths() {
    let here = tempfile::tempdir().unwrap();
    assert_eq!(name(Path::new("EleutherAI/pythia-70m")), Some("EleutherAI/pythia-70m"));
    assert_eq!(name(Path::new("org/model@v1.0")), Some("org/model@v1.0"));
    assert_eq!(name(here.path()), None);
    for path in ["model", "a/b/c", "../model", "./model", "/abs/model", "models/x.gguf", "org/na me"] {
        assert_eq!(name(Path::new(path)), None, "{path}");
    }
}
