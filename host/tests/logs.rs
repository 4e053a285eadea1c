//! What a server writes to its log: one line for each event, with the request's name, never with what was sent.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::server::{Server, keyless_dir, post};
use common::tenants;
use serde_json::Value;

const BODY: &str = r#"{"query":"blue","documents":["sky","sea"]}"#;

const THREE: &str = r#"{"query":"blue","documents":["sky","sea","ink"]}"#;

/// Nothing that the server writes may hold this.
const MARKER: &str = "MaRk3r";

/// A request with a name of its own, which may be no good one.
fn named(id: &str, path: &str, key: Option<&str>, body: &str) -> Vec<u8> {
    let request = String::from_utf8(post(path, key, body.as_bytes())).unwrap();
    request.replacen("\r\n", &format!("\r\nX-Request-Id: {id}\r\n"), 1).into_bytes()
}

/// The lines of a log that has one JSON object a line.
fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn of<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["message"] == message).collect()
}

#[test]
fn every_answer_and_line_has_the_requests_name() {
    let dir = keyless_dir();
    let log = dir.path().join("log");
    let server = Server::logging_to(&log, &dir.path().join("data"), &["--log-format", "json", "--access-log"]);
    let answer = server.send(&named("job-7/part:2", "/v2/rerank", None, BODY));
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("job-7/part:2")));
    let missing = server.send(&named("job-8", "/nowhere", None, BODY));
    assert_eq!((missing.status, missing.header("x-request-id")), (404, Some("job-8")));
    let made = server.send(&named("two words", "/v2/rerank", None, "{}"));
    let made = made.header("x-request-id").unwrap();
    assert!(!made.contains("two words") && made.len() > 16, "{made}");
    assert_ne!(server.get("/health").header("x-request-id"), server.get("/health").header("x-request-id"));
    assert!(server.stop());
    let lines = lines(&log);
    let requests = of(&lines, "request");
    let line = requests.iter().find(|line| line["request_id"] == "job-7/part:2").unwrap();
    assert_eq!(
        (&line["path"], &line["dialect"], &line["status"]),
        (&"/v2/rerank".into(), &"cohere-v2".into(), &200.into())
    );
    assert_eq!((&line["documents"], &line["tenant"]), (&2.into(), &"stand-alone".into()));
    assert!(line["total_ms"].as_f64().unwrap() >= line["inference_ms"].as_f64().unwrap(), "{line}");
    assert!(requests.iter().any(|line| line["request_id"] == "job-8" && line["failure"] == "no-route"), "{requests:?}");
    assert!(requests.iter().any(|line| line["request_id"] == made && line["failure"] == "invalid-input"));
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["target"].is_string(), "{line}");
    }
    assert_eq!(of(&lines, "listening").len(), 1);
}

#[test]
fn no_text_document_or_key_is_ever_written() {
    let dir = tenants::data_dir();
    let guest = dir.path().join("nonsense.wasm");
    std::fs::write(&guest, tenants::component("nonsense")).unwrap();
    let log = dir.path().join("log");
    let arguments = ["--log-level", "trace", "--access-log"];
    let server = Server::logging_to(&log, dir.path(), &arguments);
    server.tenant(&["deploy", "acme", guest.to_str().unwrap()]);
    let key = server.tenant(&["key", "create", "acme"]);
    server.post_marked(&key, MARKER);
    let text = format!(r#"{{"query":"{MARKER}","documents":["{MARKER}","b"]}}"#);
    assert_eq!(server.get(&format!("/{MARKER}?query={MARKER}")).status, 404);
    let spaced = format!("{MARKER} {MARKER}");
    assert_eq!(server.send(&named(&spaced, "/v2/rerank", Some(&key), &text)).status, 200);
    assert!(server.stop());
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("the guest failed") && log.contains("/v2/rerank"), "{log}");
    assert!(!log.contains(MARKER), "{log}");
    assert!(!log.contains(&key), "the log has a key");
}

#[test]
fn callers_cannot_flood_the_log() {
    let dir = tenants::data_dir();
    let log = dir.path().join("log");
    let server = Server::logging_to(&log, dir.path(), &["--log-format", "json"]);
    let guest = dir.path().join("seeded.wasm");
    std::fs::write(&guest, tenants::seeded(3)).unwrap();
    server.tenant(&["deploy", "acme", guest.to_str().unwrap(), "--limits", limits(dir.path()).to_str().unwrap()]);
    let key = server.tenant(&["key", "create", "acme"]);
    for _ in 0..200 {
        assert_eq!(server.post_as("assay_guessed", "/v2/rerank", BODY).status, 401);
        assert_eq!(server.post_as(&key, "/v2/rerank", THREE).status, 413);
    }
    assert!(server.stop());
    let lines = lines(&log);
    let refused = of(&lines, "a caller without a valid key was refused");
    let met = of(&lines, "a limit was met");
    assert!((1..20).contains(&refused.len()), "{} lines", refused.len());
    assert!(
        (1..20).contains(&met.len()) && met[0]["limit"] == "max_documents" && met[0]["tenant"] == "acme",
        "{met:?}"
    );
    assert!(of(&lines, "request").is_empty(), "the access log was not asked for");
    // What the operator does is told too.
    assert!(lines.iter().any(|line| line["change"] == "create-key" && line["by"] == "\"tester\""), "{lines:?}");
}

fn limits(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("limits.toml");
    std::fs::write(&file, "max_documents = 2\n").unwrap();
    file
}

#[test]
fn a_level_that_is_none_stops_the_start_and_names_the_levels() {
    let dir = keyless_dir();
    let mut command = common::assay(&dir.path().join("data"));
    common::finish(command.args(["serve", "--log-level", "loud"])).fails(2, &["loud", "debug", "MODULE=LEVEL"]);
}
