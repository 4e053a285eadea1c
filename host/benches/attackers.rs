//! Question: what do hostile callers and guests cost a polite caller of another tenant?
//!
//! Baseline, in the same run: the polite caller alone. Then beside a neighbour who attacks nothing and sends as many valid
//! rows as the slow readers do, beside each kind of attacker, and beside all of them at once; rounds alternate, so that
//! all see the same machine. The polite caller asks over one connection, a small request after
//! the other. Included: HTTP, the key, the guest, the device. Every answer is compared with the first one. The attackers
//! are threads of this process. On Linux they take only what all others leave of the processor (`SCHED_IDLE`), since real
//! ones would have another machine's.
//!
//! `cargo xtask build && cargo bench --workspace --bench attackers`; needs the default model (`assay model pull`).
//! `ASSAY_ATTACK_SECONDS` is the length of a round, 5 by default.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use assay::http::{ConnectionLimits, Deadlines};
use assay::tenant::TenantLimits;
use assay::tenant::admin::{Command, Reply};
use common::attackers::{ATTACKS, Attackers, NEIGHBOURS, Target};
use common::server::post;
use common::service::{Service, Setting};
use common::tenants::{admin, component, demo_model, deploy, name, serving};

const ROUNDS: usize = 3;
const PAUSE: Duration = Duration::from_millis(5);
const DOCUMENTS: &str = r#"{"query":"why is the sky blue","documents":["Air scatters blue light.","Bread is baked."]}"#;

fn main() {
    if demo_model().is_none() {
        return;
    }
    let seconds = std::env::var("ASSAY_ATTACK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let round = Duration::from_secs(seconds);
    let connections = ConnectionLimits { total: 4_096, per_address: 4_000 };
    let limits = TenantLimits::default();
    let setting = Setting {
        guest: component("standard"),
        limits,
        connections,
        deadlines: Deadlines::default(),
        ..Setting::default()
    };
    let service = Service::start_with_model(setting, &testdata::data_dir());
    serving(deploy(&service.platform, "hostile", &component("trigger"), None));
    let Reply::Key { secret: hostile, .. } = admin(&service.platform, Command::CreateKey { tenant: name("hostile") })
    else {
        panic!("no key")
    };
    let target = Arc::new(Target { address: service.address.clone(), hostile, sent: AtomicUsize::new(0) });
    let polite = Polite::new(&service);
    polite.ask(Duration::from_secs(2));

    let neighbours = [NEIGHBOURS];
    let mut settings = vec![&[][..], &neighbours];
    settings.extend(ATTACKS.chunks(1));
    settings.push(&ATTACKS);
    let mut times = vec![Vec::new(); settings.len()];
    let mut sent = vec![0; settings.len()];
    let before = resident_bytes();
    for _ in 0..ROUNDS {
        for (number, setting) in settings.iter().enumerate() {
            let attackers = Attackers::start(&target, setting);
            times[number].extend(polite.ask(round));
            attackers.stop();
            sent[number] += target.sent.swap(0, Ordering::Relaxed);
        }
    }
    let alone = Percentiles::of(&mut times[0].clone());
    for ((setting, times), sent) in settings.iter().zip(&mut times).zip(sent) {
        let what = match setting[..] {
            [] => "alone",
            [(name, ..)] => name,
            _ => "all at once",
        };
        let here = Percentiles::of(times);
        let ratio = here.p99.as_secs_f64() / alone.p99.as_secs_f64();
        println!("{what:<28} {:>5} answers, {here}, p99 over alone {ratio:.2}, attackers sent {sent:>6}", times.len());
    }
    println!("resident memory: {} MiB before, {} MiB after", before >> 20, resident_bytes() >> 20);
}

/// The polite caller: one connection that is kept.
struct Polite {
    address: String,
    request: Vec<u8>,
}

impl Polite {
    fn new(service: &Service) -> Self {
        let request = post("/v1/rerank", Some(&service.key), DOCUMENTS.as_bytes());
        let request = String::from_utf8(request).expect("a request is text").replace("Connection: close\r\n", "");
        Self { address: service.address.clone(), request: request.into_bytes() }
    }

    /// Asks for so long, and gives each answer's time. Every answer must be the same.
    fn ask(&self, time: Duration) -> Vec<Duration> {
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        stream.set_nodelay(true).expect("the system lets us");
        let (began, mut times, mut first) = (Instant::now(), Vec::new(), None);
        while began.elapsed() < time {
            let asked = Instant::now();
            stream.write_all(&self.request).expect("the server reads");
            let scores = results(&read_answer(&mut stream));
            times.push(asked.elapsed());
            assert_eq!(first.get_or_insert_with(|| scores.clone()), &scores, "another answer");
            std::thread::sleep(PAUSE);
        }
        times
    }
}

/// Reads one answer: its head, and as many bytes as that says.
fn read_answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        let read = stream.read(&mut piece).expect("the server answers");
        assert!(read > 0, "the server closed the connection after {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).expect("answers have a length");
        if body.len() >= length {
            assert!(head.starts_with("HTTP/1.1 200"), "{text}");
            return body.to_owned();
        }
    }
}

fn results(body: &str) -> serde_json::Value {
    let body: serde_json::Value = serde_json::from_str(body).expect("answers are JSON");
    body["results"].clone()
}

/// Resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

struct Percentiles {
    p50: Duration,
    p99: Duration,
}

impl Percentiles {
    fn of(times: &mut [Duration]) -> Self {
        times.sort_unstable();
        let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
        Self { p50: at(50).copied().unwrap_or_default(), p99: at(99).copied().unwrap_or_default() }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "p50 {:6.1} ms, p99 {:6.1} ms", ms(self.p50), ms(self.p99))
    }
}
