//! Callers that attack a service over HTTP, until they are stopped.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::server::{get, post};

const DOCUMENTS: &[u8] =
    br#"{"query":"why is the sky blue","documents":["Air scatters blue light.","Bread is baked."]}"#;

/// Attacks until it is stopped.
pub type Attack = fn(&Target, &AtomicBool);

/// What attacks, and how many at a time.
pub const ATTACKS: [(&str, usize, Attack); 8] = [
    ("1,000 idle connections", 1, idle),
    ("100 slow heads", 1, slow_heads),
    ("slow bodies", 8, slow_bodies),
    ("slow readers", 8, slow_readers),
    ("wrong keys", 2, wrong_keys),
    ("large bodies without a key", 2, large_bodies),
    ("hostile JSON", 2, hostile_json),
    ("spinning guests", 16, spin),
];

/// No attack: as many connections as slow readers have, whose owners read their small answers. It shows what valid rows
/// of another tenant cost, however they come.
pub const NEIGHBOURS: (&str, usize, Attack) = ("as many valid rows, read", 8, neighbours);

/// Whom the attackers know.
#[derive(Debug)]
pub struct Target {
    pub address: String,
    /// The key of a tenant whose guest is `trigger`.
    pub hostile: String,
    /// What the attackers sent so far: connections that were opened, with a request or a part of one.
    pub sent: AtomicUsize,
}

/// Attackers at work.
pub struct Attackers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Attackers {
    /// Starts attacks: their names, how many at a time, and what each does.
    pub fn start(target: &Arc<Target>, attacks: &[(&str, usize, Attack)]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let each = attacks.iter().flat_map(|&(_, count, attack)| std::iter::repeat_n(attack, count));
        let threads = each.map(|attack| {
            let (target, stop) = (Arc::clone(target), Arc::clone(&stop));
            std::thread::spawn(move || {
                step_back();
                attack(&target, &stop);
            })
        });
        Self { threads: threads.collect(), stop }
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|attacker| attacker.join().expect("attackers only give up"));
    }
}

fn open(target: &Target, first: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(&target.address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(first).ok()?;
    target.sent.fetch_add(1, Ordering::Relaxed);
    Some(stream)
}

fn until_stopped(stop: &AtomicBool, mut each: impl FnMut()) {
    while !stop.load(Ordering::Relaxed) {
        each();
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn idle(target: &Target, stop: &AtomicBool) {
    let held: Vec<_> = (0..1_000).filter_map(|_| open(target, b"")).collect();
    until_stopped(stop, || {});
    drop(held);
}

fn slow_heads(target: &Target, stop: &AtomicBool) {
    let mut held: Vec<_> = (0..100).filter_map(|_| open(target, b"GET /health HTTP/1.1\r\nX-A: ")).collect();
    until_stopped(stop, || held.retain_mut(|stream| stream.write_all(b"a").is_ok()));
}

fn slow_bodies(target: &Target, stop: &AtomicBool) {
    let request = post("/v1/rerank", Some(&target.hostile), DOCUMENTS);
    let Some(mut stream) = open(target, &request[..request.len() - 60]) else { return };
    until_stopped(stop, || {
        if stream.write_all(b" ").is_err()
            && let Some(next) = open(target, &request[..request.len() - 60])
        {
            stream = next;
        }
    });
}

fn slow_readers(target: &Target, stop: &AtomicBool) {
    // Fields beside the text are given back, and cost nothing to rank.
    let rest = "x".repeat(2 << 20);
    let body = format!(r#"{{"query":"q","documents":[{{"text":"t","rest":"{rest}"}}],"return_documents":true}}"#);
    let request = post("/v1/rerank", Some(&target.hostile), body.as_bytes());
    until_stopped(stop, || {
        if let Some(mut stream) = open(target, &request) {
            let _ = stream.read(&mut [0; 16]);
        }
    });
}

fn neighbours(target: &Target, stop: &AtomicBool) {
    let request = post("/v1/rerank", Some(&target.hostile), br#"{"query":"q","documents":["t"]}"#);
    until_stopped(stop, || {
        if let Some(mut stream) = open(target, &request) {
            let _ = stream.read(&mut [0; 1024]);
        }
    });
}

fn wrong_keys(target: &Target, stop: &AtomicBool) {
    let request = post("/v1/rerank", Some("assay_wrong"), DOCUMENTS);
    while !stop.load(Ordering::Relaxed) {
        if let Some(mut stream) = open(target, &request) {
            let _ = stream.read(&mut [0; 1024]);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn large_bodies(target: &Target, stop: &AtomicBool) {
    let request = post("/v1/rerank", None, &vec![b'a'; 4 << 20]);
    until_stopped(stop, || {
        if let Some(mut stream) = open(target, &request) {
            let _ = stream.read(&mut [0; 1024]);
        }
    });
}

fn hostile_json(target: &Target, stop: &AtomicBool) {
    let body = format!(r#"{{"query":"q","documents":[{}0]}}"#, "0,".repeat(2 << 20));
    let request = post("/v1/rerank", Some(&target.hostile), body.as_bytes());
    until_stopped(stop, || {
        if let Some(mut stream) = open(target, &request) {
            let _ = stream.read(&mut [0; 1024]);
        }
    });
}

fn spin(target: &Target, stop: &AtomicBool) {
    let request = post("/v1/rerank", Some(&target.hostile), br#"{"query":"ATTACK spin","documents":["d"]}"#);
    until_stopped(stop, || {
        if let Some(stream) = open(target, &request) {
            // Long enough that all of them compute at once. Closing the connection ends the request.
            until_stopped(stop, || {});
            drop(stream);
        }
    });
    // The last answer of a health check says that the server still has a hand free.
    if let Some(mut stream) = open(target, &get("/health")) {
        let _ = stream.read(&mut [0; 256]);
    }
}

/// Gives this thread only what other threads leave, by `chrt` (util-linux): of all classes `SCHED_IDLE` alone takes no
/// share from a thread that waits. Without it the lowest priority must do.
fn step_back() {
    #[cfg(target_os = "linux")]
    {
        let thread = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        let mut chrt = std::process::Command::new("chrt");
        let set = chrt.args(["--idle", "--pid", "0"]).arg(thread.file_name().unwrap_or_default()).status();
        if !set.is_ok_and(|status| status.success()) {
            let _ = rustix::process::setpriority_process(None, 19);
        }
    }
}
