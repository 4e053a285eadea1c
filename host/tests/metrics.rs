//! What a server counts, in Prometheus' format: it agrees with what was asked, is the operator's to see, has bounds,
//! and holds nothing that was sent.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;

use common::server::{Answer, Server, get, post};
use common::{finish, tenants};
use tempfile::TempDir;

const BODY: &str = r#"{"query":"blue","documents":["sky","sea"]}"#;

/// Nothing that is counted may hold this.
const MARKER: &str = "MaRk3r";

/// A server with these tenants, each with the guest of this name, and their keys.
struct Counted {
    server: Server,
    keys: BTreeMap<String, String>,
    // Last: the server runs in it.
    dir: TempDir,
}

impl Counted {
    fn start(guests: &[(&str, Vec<u8>)], arguments: &[&str]) -> Self {
        let dir = tenants::data_dir();
        let server = Server::on(dir.path(), arguments);
        let mut keys = BTreeMap::new();
        for (tenant, wasm) in guests {
            let file = dir.path().join(format!("{tenant}.wasm"));
            std::fs::write(&file, wasm).unwrap();
            server.tenant(&["deploy", tenant, file.to_str().unwrap()]);
            keys.insert((*tenant).to_owned(), server.tenant(&["key", "create", tenant]));
        }
        Self { server, keys, dir }
    }

    fn ask(&self, tenant: &str, path: &str, body: &str) -> Answer {
        self.server.post_as(&self.keys[tenant], path, body)
    }

    /// The counters over HTTP, with the operator's key.
    fn metrics(&self) -> String {
        let answer = self.server.send(&with_key("/metrics", &operator_key(self.dir.path(), &[])));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
        answer.text()
    }
}

fn operator_key(data_dir: &Path, arguments: &[&str]) -> String {
    let printed = finish(common::assay(data_dir).arg("operator-key").args(arguments)).succeeds();
    printed.stdout.trim().to_owned()
}

fn with_key(path: &str, key: &str) -> Vec<u8> {
    let request = String::from_utf8(get(path)).unwrap();
    request.replacen("\r\n", &format!("\r\nAuthorization: Bearer {key}\r\n"), 1).into_bytes()
}

/// The value of a series.
#[track_caller]
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("there is no {series} in\n{metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn metrics_agree_with_what_was_asked() {
    let counted = Counted::start(&[("acme", tenants::seeded(3)), ("hostile", tenants::component("nonsense"))], &[]);
    for _ in 0..3 {
        assert_eq!(counted.ask("acme", "/v2/rerank", BODY).status, 200);
    }
    assert_eq!(counted.ask("acme", "/rerank", r#"{"query":"q","texts":["a","b","c"]}"#).status, 200);
    assert_eq!(counted.ask("acme", "/v2/rerank", "{}").status, 422);
    let attack = r#"{"query":"q","documents":["a"],"settings":{"attack":"nan"}}"#;
    assert_eq!(counted.ask("hostile", "/v2/rerank", attack).status, 502);
    assert_eq!(counted.server.post("/v2/rerank", BODY).status, 401);
    let metrics = counted.metrics();
    // Each deployment was tried with a request of two documents, and so was what answers callers without a key; one
    // guest sends no rows.
    for (series, expected) in [
        (r#"assay_requests_total{tenant="acme",outcome="answered"}"#, 4.0),
        (r#"assay_requests_total{tenant="acme",outcome="refused"}"#, 1.0),
        (r#"assay_requests_total{tenant="hostile",outcome="guest-fault"}"#, 1.0),
        (r#"assay_requests_total{tenant="(others)",outcome="answered"}"#, 0.0),
        (r#"assay_tenant_documents_total{tenant="acme"}"#, 9.0),
        (r#"assay_tenant_rows_total{tenant="acme"}"#, 9.0),
        (r#"assay_guest_faults_total{fault="bad-answer"}"#, 1.0),
        (r#"assay_http_requests_total{dialect="cohere-v2",status="200"}"#, 3.0),
        (r#"assay_http_requests_total{dialect="tei",status="200"}"#, 1.0),
        (r#"assay_http_requests_total{dialect="-",status="401"}"#, 1.0),
        (r#"assay_request_stage_duration_seconds_count{stage="total"}"#, 4.0),
        (r#"assay_request_stage_duration_seconds_bucket{stage="queue",le="+Inf"}"#, 4.0),
        (r#"assay_device_rows_total{device="cpu"}"#, 9.0 + 2.0 + 2.0),
        (r#"assay_guest_starts_total{kind="snapshot"}"#, 4.0 + 1.0 + 3.0),
        (r#"assay_compiles_total{result="done"}"#, 3.0),
        (r#"assay_tenants{state="serving"}"#, 2.0),
        ("te_request_count", 6.0),
        ("te_request_success", 4.0),
        ("te_request_duration_count", 4.0),
    ] {
        assert_eq!(value(&metrics, series), expected, "{series} in\n{metrics}");
    }
    // The stages add up to the total, which includes all time between arrival and answer.
    let sum = |stage: &str| value(&metrics, &format!("assay_request_stage_duration_seconds_sum{{stage=\"{stage}\"}}"));
    let parts: f64 = ["admission", "guest", "queue", "inference"].map(sum).iter().sum();
    assert!((parts - sum("total")).abs() < 1e-6 && sum("inference") > 0.0, "{parts} of {}", sum("total"));
    let batches = value(&metrics, r#"assay_device_batches_total{device="cpu",result="done"}"#);
    assert_eq!(value(&metrics, r#"assay_batch_rows_count{device="cpu"}"#), batches);
    assert!(value(&metrics, "process_resident_memory_bytes") > 1e6 && value(&metrics, "process_open_fds") > 3.0);
    assert!(value(&metrics, r#"assay_device_best_flops_per_second{device="cpu"}"#) > 0.0);
}

#[test]
fn metrics_are_the_operators_and_a_port_of_their_own_has_nothing_else() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let counted = Counted::start(&[("acme", tenants::seeded(3))], &["--metrics-address", &free]);
    let server = &counted.server;
    server.get("/metrics").refused(401, &["assay operator-key"]);
    server.send(&with_key("/metrics", &counted.keys["acme"])).refused(401, &["operator's key"]);
    let old = operator_key(counted.dir.path(), &[]);
    assert_eq!(server.send(&with_key("/metrics", &old)).status, 200);
    let new = operator_key(counted.dir.path(), &["--renew"]);
    server.send(&with_key("/metrics", &old)).refused(401, &[]);
    assert_eq!(server.send(&with_key("/metrics", &new)).status, 200);
    // It is no tenant's key.
    assert_eq!(server.post_as(&new, "/v2/rerank", BODY).status, 401);
    let send = |bytes: &[u8]| {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(&free).unwrap();
        stream.write_all(bytes).unwrap();
        Answer::parse(&common::server::read_all(&mut stream))
    };
    assert!(send(&get("/metrics")).text().contains("assay_requests_total"));
    send(&get("/v1/models")).refused(404, &["there is /metrics"]);
    send(&post("/v2/rerank", Some(&counted.keys["acme"]), BODY.as_bytes())).refused(404, &[]);
    send(&post("/metrics", None, b"{}")).refused(405, &["GET, HEAD"]);
}

#[test]
fn tenants_beyond_the_bound_are_summed_and_nothing_that_was_sent_is_told() {
    let guests = [("a", tenants::seeded(1)), ("b", tenants::seeded(2)), ("c", tenants::component("nonsense"))];
    let counted = Counted::start(&guests, &["--metrics-tenants", "2"]);
    let body = format!(r#"{{"query":"{MARKER}","documents":["{MARKER}"],"settings":{{"attack":"{MARKER}"}}}}"#);
    for (tenant, status) in [("a", 200), ("b", 200), ("c", 502)] {
        assert_eq!(counted.ask(tenant, "/v2/rerank", &body).status, status);
    }
    assert_eq!(counted.server.post_as(&format!("assay_{MARKER}"), "/v2/rerank", &body).status, 401);
    assert_eq!(counted.server.get(&format!("/{MARKER}?{MARKER}")).status, 404);
    let metrics = counted.metrics();
    // The first one is what answered callers without a key, until there was a tenant.
    assert_eq!(value(&metrics, r#"assay_requests_total{tenant="stand-alone",outcome="answered"}"#), 0.0);
    assert_eq!(value(&metrics, r#"assay_requests_total{tenant="a",outcome="answered"}"#), 1.0);
    assert_eq!(value(&metrics, r#"assay_requests_total{tenant="(others)",outcome="answered"}"#), 1.0);
    assert_eq!(value(&metrics, r#"assay_requests_total{tenant="(others)",outcome="guest-fault"}"#), 1.0);
    assert!(!metrics.contains(r#"tenant="b""#), "{metrics}");
    let printed = finish(common::assay(counted.dir.path()).arg("metrics")).succeeds().stdout;
    let json = finish(common::assay(counted.dir.path()).args(["metrics", "--json"])).succeeds().stdout;
    let operator = operator_key(counted.dir.path(), &[]);
    for secret in counted.keys.values().map(String::as_str).chain([MARKER, operator.as_str()]) {
        assert!(!metrics.contains(secret) && !printed.contains(secret) && !json.contains(secret), "{secret} is told");
    }
    assert!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["all"]["usage"]["answered"] == 2);
}

#[test]
fn every_series_follows_the_conventions_and_is_in_the_docs() {
    let counted = Counted::start(&[("acme", tenants::seeded(3))], &[]);
    assert_eq!(counted.ask("acme", "/v2/rerank", BODY).status, 200);
    let metrics = counted.metrics();
    let docs = std::fs::read_to_string(common::root().join("docs/telemetry.md")).unwrap();
    let families: Vec<(&str, &str)> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    assert!(families.len() > 50, "{families:?}");
    let mut seen = BTreeSet::new();
    for (name, kind) in families {
        assert!(seen.insert(name), "{name} is there twice");
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} says nothing");
        assert!((kind == "counter") == name.ends_with("_total"), "{name} is a {kind}");
        assert!(docs.contains(&format!("`{name}`")), "docs/telemetry.md lacks {name}");
        assert!(!name.contains("_ms") && !name.contains("milli"), "{name}: times are in seconds");
    }
    // Each sample belongs to a family and has a number.
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, number) = line.rsplit_once(' ').unwrap();
        assert!(number.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(seen.contains(name) || bare.is_some_and(|bare| seen.contains(bare)), "{line}");
    }
}

#[test]
fn dashboards_and_rules_name_only_series_that_exist() {
    let docs = std::fs::read_to_string(common::root().join("docs/telemetry.md")).unwrap();
    for file in ["deploy/grafana/assay.json", "deploy/prometheus/assay.rules.yml"] {
        let text = std::fs::read_to_string(common::root().join(file)).unwrap();
        let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let names: BTreeSet<&str> = text
            .split(|character: char| !is_word(character))
            .filter(|word| word.starts_with("assay_") || word.starts_with("process_"))
            .collect();
        assert!(names.len() > 10, "{file}: {names:?}");
        for name in names {
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(docs.contains(&format!("`{bare}`")), "{file} names {name}, which docs/telemetry.md lacks");
        }
    }
    serde_json::from_str::<serde_json::Value>(
        &std::fs::read_to_string(common::root().join("deploy/grafana/assay.json")).unwrap(),
    )
    .unwrap();
}
