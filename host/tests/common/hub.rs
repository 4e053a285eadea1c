//! A hub on this machine: serves a model's files as the real one does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::Bench;

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The variables that the hub's tools read.
const VARIABLES: [&str; 12] = [
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "XDG_CACHE_HOME",
    "HTTP_PROXY",
];

/// What a hub does otherwise than it should, or may.
#[derive(Default)]
pub struct Manner {
    /// What it says for a commit.
    pub commit: Option<String>,
    /// The SHA-256 that it announces for weights.
    pub sha256: Option<String>,
    /// Where it keeps its files.
    pub elsewhere: Option<String>,
    /// How many answers with weights it breaks off half-way.
    pub breaks: AtomicUsize,
    /// Whether it takes no token as well as the right one.
    pub is_open: bool,
}

/// A hub that has one model under every name, and takes one token.
pub struct Hub {
    pub endpoint: String,
    /// What the requests had as authorization.
    seen: Arc<Mutex<Vec<Option<String>>>>,
}

impl Hub {
    pub fn start(files: PathBuf) -> Self {
        Self::with(files, Manner::default())
    }

    pub fn with(files: PathBuf, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (record, manner) = (Arc::clone(&seen), Arc::new(manner));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (files, record, manner) = (files.clone(), Arc::clone(&record), Arc::clone(&manner));
                std::thread::spawn(move || answer(&stream, &files, &record, &manner));
            }
        });
        Self { endpoint, seen }
    }

    /// What the requests had since the last call.
    pub fn tokens(&self) -> Vec<Option<String>> {
        self.seen.lock().unwrap().drain(..).collect()
    }
}

/// Answers the requests of one connection until it is closed.
fn answer(mut stream: &TcpStream, files: &Path, seen: &Mutex<Vec<Option<String>>>, manner: &Manner) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        let headers: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let header = |name: &str| {
            let mut pairs = headers.iter().filter_map(|line| line.split_once(": "));
            pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let token = header("authorization");
        let is_known = token.as_deref() == Some("Bearer hf_right") || (manner.is_open && token.is_none());
        seen.lock().unwrap().push(token);
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (mut status, body) = match path.split_once(&format!("/resolve/{COMMIT}/")) {
            _ if !is_known => ("401 Unauthorized", b"{}".to_vec()),
            Some(_) if manner.elsewhere.is_some() => ("302 Found", Vec::new()),
            Some((_, file)) => match std::fs::read(files.join(file)) {
                Ok(bytes) => ("200 OK", bytes),
                Err(_) => ("404 Not Found", Vec::new()),
            },
            None => ("200 OK", info(files, manner)),
        };
        let mut more = String::new();
        if let Some(elsewhere) = &manner.elsewhere {
            more += &format!("location: {elsewhere}{path}\r\n");
        }
        let is_weights = path.ends_with(".safetensors");
        if let Some(sha256) = manner.sha256.as_ref().filter(|_| is_weights) {
            more += &format!("x-linked-etag: \"{sha256}\"\r\n");
        }
        let range = header("range").and_then(|range| {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?))
        });
        let mut part = body.as_slice();
        if let Some((from, to)) = range.filter(|&(from, _)| from < body.len() && status == "200 OK") {
            let to = (to + 1).min(body.len());
            status = "206 Partial Content";
            more += &format!("content-range: bytes {from}-{}/{}\r\n", to - 1, body.len());
            part = &body[from..to];
        }
        if range.is_some_and(|(from, _)| from >= body.len()) && status == "200 OK" {
            (status, part) = ("416 Range Not Satisfiable", &[]);
            more += &format!("content-range: bytes */{}\r\n", body.len());
        }
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n", part.len());
        let breaks = is_weights
            && manner.breaks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let sent = if breaks { &part[..part.len() / 2] } else { part };
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent)).is_err() || breaks {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn info(files: &Path, manner: &Manner) -> Vec<u8> {
    let siblings: Vec<_> = listed(files).iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
    let commit = manner.commit.as_deref().unwrap_or(COMMIT);
    serde_json::json!({ "sha": commit, "siblings": siblings }).to_string().into_bytes()
}

/// Every file of a directory and of the folders in it, by its path.
fn listed(files: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(files).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        match entry.path().is_dir() {
            true => names.extend(listed(&entry.path()).iter().map(|inner| format!("{name}/{inner}"))),
            false => names.push(name),
        }
    }
    names
}

/// `assay` with these of the hub's variables and no others.
pub fn assay(bench: &Bench, variables: &[(&str, &str)]) -> Command {
    let mut command = bench.assay();
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command.env("HOME", bench.path("home")).envs(variables.iter().copied());
    command
}
