//! What a body costs in memory: at most three times its size, for any contents.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::server::Server;

const MIB: usize = 1 << 20;

/// Room for what does not depend on the body: a fresh instance of the guest, buffers, the allocator's own.
const SLACK_BYTES: usize = 24 * MIB;

fn status_bytes(server: &Server, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() << 10
}

/// The most memory that the server had while it answered a body, beyond what it had before.
fn growth(server: &Server, path: &str, body: &[u8], status: u16) -> usize {
    // The first request brings in what all of them share.
    server.post(path, r#"{"query":"q","documents":["d"]}"#).ok();
    std::fs::write(format!("/proc/{}/clear_refs", server.id()), "5").unwrap();
    let before = status_bytes(server, "VmRSS");
    assert_eq!(server.post(path, body).status, status);
    status_bytes(server, "VmHWM").saturating_sub(before)
}

#[test]
fn a_body_of_nested_junk_takes_at_most_three_times_its_size() {
    let server = Server::keyless(&[]);
    let bodies = [
        (
            "many small arrays",
            format!(r#"{{"query":"q","documents":[{{"text":"t","x":[{}[0]]}}]}}"#, "[0],".repeat(7 * MIB)),
            200,
        ),
        ("an unknown field", format!(r#"{{"query":"q","documents":["d"],"x":[{}0]}}"#, "0,".repeat(14 * MIB)), 422),
        (
            "a deep array",
            format!(r#"{{"query":"q","documents":["d"],"x":{}{}}}"#, "[".repeat(14 * MIB), "]".repeat(14 * MIB)),
            422,
        ),
        ("documents without end", format!(r#"{{"query":"q","documents":[{}""]}}"#, "\"\",".repeat(9 * MIB)), 413),
        (
            "names without end",
            format!(r#"{{"query":"q","documents":["d"],"rank_fields":[{}""]}}"#, "\"\",".repeat(9 * MIB)),
            422,
        ),
        ("fields without end", format!(r#"{{"query":"q","documents":["d"]{}}}"#, ",\"x\":0".repeat(4 * MIB)), 422),
        ("a long escaped name", format!(r#"{{"query":"q","documents":["d"],"\n{}":0}}"#, "x".repeat(28 * MIB)), 422),
        ("a string without an object", format!("\"{}\"", "\u{7f}".repeat(28 * MIB)), 400),
        (
            "a long setting",
            format!(r#"{{"query":"q","documents":["d"],"settings":{{"x":"{}"}}}}"#, "x".repeat(28 * MIB)),
            422,
        ),
        ("a long query", format!(r#"{{"query":"{}","documents":["d"]}}"#, "x".repeat(28 * MIB)), 413),
    ];
    for (what, body, status) in bodies {
        let grown = growth(&server, "/v1/rerank", body.as_bytes(), status);
        let most = 3 * body.len() + SLACK_BYTES;
        assert!(grown <= most, "{what}: a body of {} MiB took {} MiB", body.len() / MIB, grown / MIB);
    }
}

#[test]
fn settings_of_many_pairs_are_held_once() {
    let server = Server::keyless(&[]);
    let queries: Vec<String> = (0..900).map(|at| format!("\"q{at}\"")).collect();
    let documents = vec!["\"d\""; queries.len()].join(",");
    // A long way to write 512.
    let (queries, setting) = (queries.join(","), "0".repeat(60 << 10) + "512");
    let body =
        format!(r#"{{"text_1":[{queries}],"text_2":[{documents}],"settings":{{"max-document-tokens":"{setting}"}}}}"#);
    let ranking = format!(r#"{{"text_1":[{queries}],"text_2":[{documents}]}}"#);
    assert_eq!(server.post("/score", ranking).status, 200);
    std::fs::write(format!("/proc/{}/clear_refs", server.id()), "5").unwrap();
    let before = status_bytes(&server, "VmRSS");
    assert_eq!(server.post("/score", body).status, 200);
    let grown = status_bytes(&server, "VmHWM").saturating_sub(before);
    assert!(grown <= SLACK_BYTES, "{} MiB", grown / MIB);
}

#[test]
fn an_error_is_short_whatever_the_body_holds() {
    let server = Server::keyless(&[]);
    let junk = "\u{7f}".repeat(MIB);
    let long = "y".repeat(60 << 10);
    for (body, status) in [
        (format!("\"{junk}\""), 400),
        (format!("[\"{junk}\"]"), 400),
        (format!(r#"{{"query":"q","documents":["d"],"{junk}":1}}"#), 422),
        (format!(r#"{{"query":"q","documents":["d"],"model":"{junk}"}}"#), 404),
        (format!(r#"{{"query":"q","documents":["d"],"settings":{{"label":"{long}"}}}}"#), 422),
    ] {
        let answer = server.post("/v1/rerank", body);
        assert_eq!(answer.status, status, "{}", &answer.text()[..200]);
        assert!(answer.body.len() < 16 << 10, "{} bytes: {}", answer.body.len(), &answer.text()[..200]);
    }
}
