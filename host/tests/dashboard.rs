//! The dashboard: everything for the operator, its own for a tenant, nothing for anybody else, and the same numbers as
//! the metrics.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;

use common::server::{Server, get};
use common::{finish, tenants};
use serde_json::Value;
use tempfile::TempDir;

const BODY: &str = r#"{"query":"blue","documents":["sky","sea"]}"#;

/// Nothing that is shown may hold this.
const MARKER: &str = "MaRk3r";

/// A server with the tenants `acme` and `neighbour`, and their keys.
fn start() -> (TempDir, Server, [String; 2]) {
    let dir = tenants::data_dir();
    let server = Server::on(dir.path(), &[]);
    let guest = dir.path().join("seeded.wasm");
    std::fs::write(&guest, tenants::seeded(3)).unwrap();
    let keys = ["acme", "neighbour"].map(|tenant| {
        server.tenant(&["deploy", tenant, guest.to_str().unwrap()]);
        server.tenant(&["key", "create", tenant])
    });
    (dir, server, keys)
}

fn operator_key(data_dir: &Path, arguments: &[&str]) -> String {
    finish(common::assay(data_dir).arg("operator-key").args(arguments)).succeeds().stdout.trim().to_owned()
}

fn with_key(key: &str) -> Vec<u8> {
    let request = String::from_utf8(get("/dashboard/events")).unwrap();
    request.replacen("\r\n", &format!("\r\nAuthorization: Bearer {key}\r\n"), 1).into_bytes()
}

/// A stream of events.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(server: &Server, key: &str) -> Self {
        let mut stream = server.connect();
        stream.write_all(&with_key(key)).unwrap();
        let mut events = Self(BufReader::new(stream));
        let head = events.lines_until(|line| line == "\r\n");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        events
    }

    /// Lines up to one, which is included; fewer if the stream ends.
    fn lines_until(&mut self, is_last: impl Fn(&str) -> bool) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap_or(0) == 0 {
                return all;
            }
            all += &line;
            if is_last(&line) {
                return all;
            }
        }
    }

    /// The data of the next event of a kind; `None` if the stream ends.
    fn next(&mut self, kind: &str) -> Option<Value> {
        loop {
            let text = self.lines_until(|line| line.starts_with("data: "));
            let data = text.lines().find_map(|line| line.strip_prefix("data: "))?;
            if text.contains(&format!("event: {kind}\n")) {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }

    /// The first sample in which something is so.
    #[track_caller]
    fn sample(&mut self, is_so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..30 {
            let sample = self.next("sample").expect("the stream has ended");
            if is_so(&sample) {
                return sample;
            }
        }
        panic!("no such sample came")
    }
}

#[test]
fn the_operator_sees_everything_and_it_agrees_with_the_metrics() {
    let (dir, server, keys) = start();
    let mut events = Events::open(&server, &operator_key(dir.path(), &[]));
    let history = events.next("history").unwrap();
    assert!(history["tenant"].is_null() && history["series"]["utilization_percent"].is_array(), "{history}");
    for key in [&keys[0], &keys[0], &keys[1]] {
        assert_eq!(server.post_as(key, "/v2/rerank", BODY).status, 200);
    }
    let sample = events.sample(|sample| sample["facts"]["answered"] == 3);
    let metrics = finish(common::assay(dir.path()).arg("metrics")).succeeds().stdout;
    assert!(metrics.contains("te_request_success 3.0\n"), "{metrics}");
    let names: Vec<&str> =
        sample["tenants"].as_array().unwrap().iter().map(|tenant| tenant["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["acme", "neighbour", "stand-alone"], "what answered callers without a key is told too");
    assert_eq!((&sample["tenants"][0]["answered"], &sample["tenants"][1]["answered"]), (&2.into(), &1.into()));
    assert!(sample["series"]["requests_per_s"].as_f64().unwrap() > 0.0, "{sample}");
    assert!(sample["series"]["p95_ms"].as_f64().unwrap() > 0.0, "{sample}");
    assert!(sample["series"]["device_memory_mb"].as_f64().unwrap() > 0.0, "{sample}");
    // An hour is kept, so whoever comes later sees it too.
    let history = Events::open(&server, &operator_key(dir.path(), &[])).next("history").unwrap();
    let requests = history["series"]["requests_per_s"].as_array().unwrap();
    assert!(requests.iter().any(|rate| rate.as_f64().unwrap() > 0.0), "{requests:?}");
    assert_eq!(requests.len(), history["at"].as_array().unwrap().len());
}

#[test]
fn a_tenant_sees_itself_and_nobody_without_a_key_sees_anything() {
    let (dir, server, keys) = start();
    let body = format!(r#"{{"query":"{MARKER}","documents":["{MARKER}"]}}"#);
    for key in &keys {
        assert_eq!(server.post_as(key, "/v2/rerank", &body).status, 200);
    }
    server.get("/dashboard/events").refused(401, &["operator's key"]);
    server.send(&with_key("assay_wrong")).refused(401, &[]);
    let mut own = Events::open(&server, &keys[0]);
    let history = own.next("history").unwrap();
    let sample = own.sample(|sample| sample["tenants"][0]["answered"] == 1);
    assert_eq!((&history["tenant"], &sample["tenants"][0]["name"]), (&"acme".into(), &"acme".into()));
    let told = format!("{history}{sample}");
    for other in ["neighbour", "utilization", "facts", MARKER, keys[0].as_str()] {
        assert!(!told.contains(other), "a tenant is told {other}: {told}");
    }
    let mut all = Events::open(&server, &operator_key(dir.path(), &[]));
    let told = format!("{}{}", all.next("history").unwrap(), all.next("sample").unwrap());
    for secret in [MARKER, keys[0].as_str(), keys[1].as_str(), operator_key(dir.path(), &[]).as_str()] {
        assert!(!told.contains(secret), "{secret} is told: {told}");
    }
}

#[test]
fn a_stream_ends_with_its_key_and_with_the_server() {
    let (dir, server, keys) = start();
    let mut own = Events::open(&server, &keys[0]);
    assert!(own.next("history").is_some());
    let listed = server.tenant(&["key", "list", "acme"]);
    let id = listed.lines().last().unwrap().split_whitespace().next().unwrap().to_owned();
    server.tenant(&["key", "revoke", "acme", &id]);
    while own.next("sample").is_some() {}
    let mut old = Events::open(&server, &operator_key(dir.path(), &[]));
    let new = operator_key(dir.path(), &["--renew"]);
    while old.next("sample").is_some() {}
    let mut last = Events::open(&server, &new);
    assert!(last.next("history").is_some());
    // One that is open holds nothing up.
    assert!(server.stop());
    while last.next("sample").is_some() {}
}

#[test]
fn the_page_loads_nothing_from_elsewhere_and_holds_no_numbers() {
    let (_dir, server, _) = start();
    let (page, again) = (server.get("/dashboard"), server.get("/dashboard"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    assert_ne!(policy, again.header("content-security-policy").unwrap(), "a nonce is for one answer");
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let text = page.text();
    assert_eq!(text.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        // The one address is that of SVG, which is a name.
        assert!(!text.replace("http://www.w3.org/2000/svg", "").contains(outside), "the page has {outside}");
    }
    assert!(!text.contains("acme"));
}

#[cfg(unix)]
#[test]
fn top_prints_what_the_metrics_say_and_filters_tenants() {
    let (dir, server, keys) = start();
    for key in [&keys[0], &keys[0], &keys[1]] {
        assert_eq!(server.post_as(key, "/v2/rerank", BODY).status, 200);
    }
    let top = |arguments: &[&str]| {
        let mut command = common::assay(dir.path());
        finish(command.args(["top", "--once", "--interval", "0.1"]).args(arguments)).succeeds().stdout
    };
    let screen = top(&[]);
    assert!(screen.contains("3 answered, 0 failed") && screen.contains("tenants: 2 serve"), "{screen}");
    let row = |name: &str| screen.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    assert!(row("acme").unwrap().ends_with(" 2") && row("neighbour").unwrap().ends_with(" 1"), "{screen}");
    let filtered = top(&["--filter", "neigh"]);
    assert!(filtered.contains("neighbour") && !filtered.contains("acme"), "{filtered}");
    assert!(server.stop());
    finish(common::assay(dir.path()).args(["top", "--once"])).fails(1, &["no server runs on"]);
}
