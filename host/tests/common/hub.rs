//! A hub on this machine: serves a model's files as the real one does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// A hub that has one model under every name, and takes one token.
pub struct Hub {
    pub endpoint: String,
    /// What the requests had as authorization.
    seen: Arc<Mutex<Vec<Option<String>>>>,
}

impl Hub {
    pub fn start(files: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (files, record) = (files.clone(), Arc::clone(&record));
                std::thread::spawn(move || answer(&stream, &files, &record));
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
fn answer(mut stream: &TcpStream, files: &Path, seen: &Mutex<Vec<Option<String>>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        let headers: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let header = |name: &str| {
            let mut pairs = headers.iter().filter_map(|line| line.split_once(": "));
            pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let token = header("authorization");
        let is_known = token.as_deref() == Some("Bearer hf_right");
        seen.lock().unwrap().push(token);
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (status, body) = match path.split_once(&format!("/resolve/{COMMIT}/")) {
            _ if !is_known => ("401 Unauthorized", b"{}".to_vec()),
            Some((_, file)) => match std::fs::read(files.join(file)) {
                Ok(bytes) => ("206 Partial Content", bytes),
                Err(_) => ("404 Not Found", Vec::new()),
            },
            None => ("200 OK", info(files)),
        };
        let whole = body.len();
        let body = if header("range").as_deref() == Some("bytes=0-0") { &body[..body.len().min(1)] } else { &body };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes 0-{}/{whole}\r\netag: \"{whole}\"\r\n\
             x-repo-commit: {COMMIT}\r\n\r\n",
            body.len(),
            body.len().saturating_sub(1),
        );
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_err() {
            return;
        }
    }
}

fn info(files: &Path) -> Vec<u8> {
    let siblings: Vec<_> = listed(files).iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
    serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes()
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
