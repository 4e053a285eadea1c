//! A server from outside: HTTP with keys, commands over the admin socket, and an orderly end.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::Finished;
use common::tenants::{self, Oracle, age, seeded, tiny_model};
use serde_json::Value;

/// A server on a port of its own, ended with the test.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(data_dir: &Path) -> Self {
        let mut child = assay(data_dir, &["serve", "--port", "0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect("the server says where it listens");
        let server = Self { child, address: address.to_owned() };
        let ready = "GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        common::service::until("the server's start", || server.send(ready).0 == 200);
        server
    }

    /// Asks the server to stop, and waits until it has.
    fn stop(mut self) -> bool {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.child.wait().unwrap().success()
    }

    fn post(&self, key: Option<&str>, body: &str) -> (u16, Value) {
        let authorization = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        self.send(&format!(
            "POST /v1/rerank HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    fn send(&self, request: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn assay(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = common::assay(data_dir);
    command.args(arguments).env("USER", "tester");
    command
}

fn tenant(data_dir: &Path, arguments: &[&str]) -> Finished {
    common::finish(assay(data_dir, &["tenant"]).args(arguments))
}

fn said(finished: Finished) -> String {
    finished.succeeds().stdout.trim().to_owned()
}

fn deploy(data_dir: &Path, name: &str, seed: u32) {
    let file = data_dir.join(format!("{seed}.wasm"));
    std::fs::write(&file, seeded(seed)).unwrap();
    said(tenant(data_dir, &["deploy", name, file.to_str().unwrap()]));
}

const BODY: &str = r#"{"query":"q","documents":["some",{"text":"documents"}],"top_n":2}"#;

/// The `seeded` guest's scores as it gave them: it leaves them in the documents' order and does not apply a sigmoid.
fn scores(answer: &Value) -> Vec<f32> {
    let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
    results.iter().map(|hit| hit["relevance_score"].as_f64().unwrap() as f32).collect()
}

#[test]
fn tenants_are_deployed_changed_and_removed_while_the_server_runs() {
    let dir = tenants::data_dir();
    let data_dir = dir.path();
    let mut oracle = Oracle::new(data_dir);
    let mut expected = |seed| oracle.scores(seed, &["some".to_owned(), "documents".to_owned()]);
    // One is there before the server is, and one comes when it runs.
    deploy(data_dir, "early", 61);
    let server = Server::start(data_dir);
    deploy(data_dir, "late", 62);
    let key = |name: &str| said(tenant(data_dir, &["key", "create", name]));
    let (early, late) = (key("early"), key("late"));
    let answer = |key: &str| scores(&server.post(Some(key), BODY).1);
    assert_eq!((answer(&early), answer(&late)), (expected(61), expected(62)));

    deploy(data_dir, "early", 63);
    assert_eq!((answer(&early), answer(&late)), (expected(63), expected(62)));
    said(tenant(data_dir, &["rollback", "early"]));
    assert_eq!(answer(&early), expected(61));

    let shown: Value = serde_json::from_str(&said(tenant(data_dir, &["show", "early", "--json"]))).unwrap();
    assert_eq!(shown["usage"]["answered"], 3);
    assert_eq!(shown["tenant"]["current"], 1);
    let table = said(tenant(data_dir, &["show", "early"]));
    assert!(table.contains("max_guest_cpu_ms") && table.contains("rollback") && table.contains("tester"), "{table}");
    for part in ["tiny/one@", "held by", "the budget is", "ms of device time"] {
        assert!(table.contains(part), "no {part:?} in {table}");
    }

    let devices: Value =
        serde_json::from_str(&said(common::finish(&mut assay(data_dir, &["devices", "--json"])))).unwrap();
    let loaded = &devices["server"]["models"][0];
    assert_eq!((loaded["name"].as_str(), loaded["holders"].as_u64()), (Some("tiny/one"), Some(2)), "{devices}");
    assert!(loaded["weights_bytes"].as_u64() > Some(0) && loaded["tokens"].as_u64() > Some(0), "{loaded}");
    let budget = devices["server"]["memory_budget_bytes"].as_u64();
    assert!(budget.is_some() && budget == devices["auto"]["memory_budget_bytes"].as_u64(), "{devices}");
    let text = said(common::finish(&mut assay(data_dir, &["devices"])));
    assert!(text.contains("the server's device") && text.contains("tiny/one@"), "{text}");

    let id = said(tenant(data_dir, &["key", "list", "early"]));
    let id = id.lines().last().unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(!early.contains(&id), "a key's id is not part of it");
    said(tenant(data_dir, &["key", "revoke", "early", &id]));
    assert_eq!(server.post(Some(&early), BODY).0, 401);
    said(tenant(data_dir, &["remove", "late"]));
    assert_eq!(server.post(Some(&late), BODY).0, 401);
    assert!(server.stop(), "the server did not end well");
    // Without a server the same commands work on the store.
    assert!(said(tenant(data_dir, &["list"])).contains("early"));
    assert!(!said(common::finish(&mut assay(data_dir, &["devices"]))).contains("the server's device"));
}

#[test]
fn a_model_serves_when_it_is_deployed_and_not_when_it_is_added() {
    let dir = tenants::data_dir();
    let data_dir = dir.path();
    let expected = |data_dir: &Path| Oracle::new(data_dir).scores(81, &["some".to_owned(), "documents".to_owned()]);
    let old = expected(data_dir);
    deploy(data_dir, "acme", 81);
    let key = said(tenant(data_dir, &["key", "create", "acme"]));
    let answer = |server: &Server| scores(&server.post(Some(&key), BODY).1);
    let server = Server::start(data_dir);
    assert_eq!(answer(&server), old);
    tiny_model(7).write(&data_dir.join("made"));
    let made = data_dir.join("made");
    let add = ["model", "add", "--name", "tiny/one", made.to_str().unwrap()];
    common::finish(&mut assay(data_dir, &add)).succeeds();
    let new = expected(data_dir);
    assert_ne!(new, old);
    assert_eq!(answer(&server), old);
    assert!(server.stop());
    let server = Server::start(data_dir);
    assert_eq!(answer(&server), old, "a restart adopts what was added");

    let table = said(tenant(data_dir, &["show", "acme"]));
    assert!(table.contains("newer here: "), "{table}");
    let lines = common::finish(&mut assay(data_dir, &["model", "list", "--json"])).succeeds().lines();
    let of_one: Vec<_> = lines.iter().filter(|line| line["manifest"]["name"] == "tiny/one").collect();
    let acme = serde_json::json!([{ "tenant": "acme", "version": 1, "current": true }]);
    assert_eq!((&of_one[0]["current"], &of_one[0]["held_by"]), (&Value::from(true), &serde_json::json!([])));
    assert_eq!((&of_one[1]["current"], &of_one[1]["held_by"]), (&Value::from(false), &acme));

    said(tenant(data_dir, &["deploy", "acme", "--model", "tiny/one"]));
    assert_eq!(answer(&server), new);
    said(tenant(data_dir, &["rollback", "acme"]));
    assert_eq!(answer(&server), old);
    let old_revision = of_one[1]["manifest"]["revision"].as_str().unwrap();
    said(tenant(data_dir, &["deploy", "acme", "--model", &format!("tiny/one@{old_revision:.8}")]));
    assert_eq!(answer(&server), old);
    let refused = tenant(data_dir, &["deploy", "acme"]);
    refused.fails(2, &["nothing is to change of acme"]);
    assert!(server.stop());
    // Without a server the list is read from the files.
    let table = common::finish(&mut assay(data_dir, &["model", "list"])).succeeds().stdout;
    assert!(table.contains("acme 1, acme 3*"), "{table}");
}

#[test]
fn a_server_removes_what_no_tenant_needs_when_it_starts_and_when_it_is_asked_to() {
    let dir = tenants::data_dir();
    let data_dir = dir.path();
    for seed in 91..=93 {
        deploy(data_dir, "acme", seed);
    }
    deploy(data_dir, "gone", 94);
    said(tenant(data_dir, &["remove", "gone"]));
    age(&data_dir.join("tenants/blobs"));
    let blobs = || std::fs::read_dir(data_dir.join("tenants/blobs")).unwrap().count() - 1;
    assert_eq!(blobs(), 4, "removed within the hour");
    let server = Server::start(data_dir);
    // The sweep follows what serves.
    common::service::until("the sweep at the start", || blobs() == 3);

    let gc = |arguments: &[&str]| common::finish(assay(data_dir, &["gc"]).args(arguments));
    let listed = gc(&["--keep", "1", "--dry-run"]).succeeds();
    assert!(listed.stderr.contains("would remove") && listed.stdout.contains("acme version 1"), "{}", listed.stdout);
    assert_eq!(blobs(), 3);
    let removed = gc(&["--keep", "1"]).succeeds();
    assert_eq!((removed.stdout, blobs()), (listed.stdout, 2));
    assert!(removed.stderr.contains("removed ") && removed.stderr.contains(" kB"), "{}", removed.stderr);
    said(tenant(data_dir, &["rollback", "acme"]));
    tenant(data_dir, &["rollback", "acme"]).fails(2, &["no version before"]);
    assert!(server.stop());
    let nothing: Value = serde_json::from_str(&said(gc(&["--keep", "1", "--json"]))).unwrap();
    assert_eq!(nothing["dropped"], serde_json::json!([]));
}

#[test]
fn bad_requests_get_the_status_of_their_fault() {
    let dir = tenants::data_dir();
    deploy(dir.path(), "acme", 71);
    let limits = dir.path().join("limits.toml");
    std::fs::write(&limits, "max_documents = 2\n").unwrap();
    said(tenant(dir.path(), &["limits", "set", "acme", limits.to_str().unwrap()]));
    let server = Server::start(dir.path());
    let key = said(tenant(dir.path(), &["key", "create", "acme"]));
    let wrong = format!("{}0", &key[..key.len() - 1]);
    assert_eq!(server.post(None, BODY).0, 401);
    assert_eq!(server.post(Some("assay_guess"), BODY).0, 401);
    assert_eq!(server.post(Some(&wrong), BODY).0, if wrong == key { 200 } else { 401 });
    assert_eq!(server.post(Some(&key), BODY).0, 200);
    assert_eq!(server.post(Some(&key), "{").0, 400);
    assert_eq!(server.post(Some(&key), r#"{"query":"q"}"#).0, 422);
    let (status, message) = server.post(Some(&key), r#"{"query":"q","documents":["1","2","3"]}"#);
    assert_eq!((status, message["message"].as_str()), (413, Some("max_documents is limited to 2, the request has 3")));
    assert_eq!(server.send("GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").0, 200);
}

#[test]
fn commands_say_what_is_wrong_with_their_input() {
    let dir = tenants::data_dir();
    let failed = |arguments: &[&str]| {
        let Finished { code, stderr, .. } = tenant(dir.path(), arguments);
        (code, stderr)
    };
    let (code, message) = failed(&["show", "nobody"]);
    let expected = "there is no tenant nobody: `assay tenant list` shows what there is";
    assert!(code == Some(2) && message.contains(expected), "{code:?}: {message}");
    let (code, message) = failed(&["show", "No Body"]);
    assert!(code == Some(2) && message.contains("is not a tenant's name"), "{code:?}: {message}");
    let limits = dir.path().join("limits.toml");
    std::fs::write(&limits, "wait = 3").unwrap();
    let (code, message) = failed(&["limits", "set", "nobody", limits.to_str().unwrap()]);
    assert!(code == Some(2) && message.contains("unknown field `wait`"), "{code:?}: {message}");
    let (code, message) = failed(&["deploy", "nobody", "no-such.wasm"]);
    assert!(code == Some(2) && message.contains("no-such.wasm"), "{code:?}: {message}");
}

/// As while a server starts: it has the tenants a moment before it answers.
#[test]
fn a_command_waits_for_the_process_that_has_the_tenants() {
    let (dir, runtime) = (tenants::data_dir(), tokio::runtime::Runtime::new().unwrap());
    let platform = tenants::platform(dir.path(), runtime.handle());
    let mut list =
        assay(dir.path(), &["tenant", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It would have given up at once.
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_millis(500) {
        assert!(list.try_wait().unwrap().is_none(), "it does not wait: {:?}", list.wait_with_output());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(platform);
    let listed = list.wait_with_output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
}

#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let dir = tenants::data_dir();
    let server = Server::start(dir.path());
    let second = assay(dir.path(), &["serve", "--port", "0"]).output().unwrap();
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && message.contains("in use by another process"), "{message}");
    assert!(server.stop());
}
