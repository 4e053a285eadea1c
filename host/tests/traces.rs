//! What a collector of traces gets: whole traces over both forms of OTLP, as callers decided, and nothing that was sent.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

// Only these tests need what it depends on.
#[path = "common/collector.rs"]
mod collector;
mod common;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use collector::{Collector, attribute, hex};
use common::server::{Server, keyless_dir, post};
use common::{finish, tenants};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

const BODY: &str = r#"{"query":"blue","documents":["sky","sea"]}"#;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

const CALLER: &str = "b7ad6b7169203331";

/// Nothing that is traced may hold this.
const MARKER: &str = "MaRk3r";

/// More than any bound on what a stop or a request may take here.
const LONG: Duration = Duration::from_secs(20);

/// A request within a caller's trace.
fn within(traceparent: &str, key: Option<&str>) -> Vec<u8> {
    let request = String::from_utf8(post("/v2/rerank", key, BODY.as_bytes())).unwrap();
    request.replacen("\r\n", &format!("\r\nTraceparent: {traceparent}\r\nX-Request-Id: job-7\r\n"), 1).into_bytes()
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// The one span of this name.
#[track_caller]
fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let named: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    let [span] = named[..] else { panic!("{} spans are named {name}: {spans:#?}", named.len()) };
    span
}

#[track_caller]
fn has(span: &Span, facts: &[(&str, &str)]) {
    for (key, value) in facts {
        assert_eq!(attribute(&span.attributes, key).as_deref(), Some(*value), "{key} of {span:#?}");
    }
}

/// Asks a server that sends its traces to a collector, and checks what that gets.
#[track_caller]
fn a_whole_trace(collector: &Collector, protocol: &str) {
    let dir = keyless_dir();
    let (url, data) = (collector.url(), dir.path().join("data"));
    let server = Server::on(&data, &["--otlp-endpoint", &url, "--otlp-protocol", protocol]);
    assert_eq!(server.send(&within(&traceparent("01"), None)).status, 200);
    assert_eq!(server.get("/health").status, 200);
    assert!(server.stop(), "what waits is sent before the end");
    let spans = collector.spans();
    let request = one(&spans, "POST /v2/rerank");
    assert_eq!((hex(&request.trace_id).as_str(), hex(&request.parent_span_id).as_str()), (TRACE, CALLER));
    assert_eq!(request.kind, SpanKind::Server as i32);
    has(request, &[("http.response.status_code", "200"), ("http.route", "/v2/rerank"), ("assay.request_id", "job-7")]);
    has(request, &[("assay.tenant", "stand-alone"), ("assay.dialect", "cohere-v2"), ("assay.documents", "2")]);
    let model = attribute(&request.attributes, "assay.model").unwrap();
    has(request, &[("assay.rows", "2")]);
    let tokens = attribute(&request.attributes, "assay.tokens").unwrap();
    assert!(tokens.parse::<u64>().unwrap() > 4, "{tokens}");
    let [admission, guest, queue, inference] = ["admission", "guest", "queue", "inference"].map(|it| one(&spans, it));
    for (child, parent) in [(admission, request), (guest, request), (queue, guest), (inference, guest)] {
        assert_eq!((&child.trace_id, &child.parent_span_id), (&request.trace_id, &parent.span_id), "{child:#?}");
        let is_within = parent.start_time_unix_nano <= child.start_time_unix_nano
            && child.start_time_unix_nano <= child.end_time_unix_nano
            && child.end_time_unix_nano <= parent.end_time_unix_nano;
        assert!(is_within, "{child:#?} is not within {parent:#?}");
    }
    assert_eq!(queue.end_time_unix_nano, inference.start_time_unix_nano);
    has(inference, &[("assay.model", &model), ("assay.rows", "2"), ("assay.tokens", &tokens)]);
    let batch = one(&spans, "batch");
    assert!(batch.trace_id != request.trace_id && batch.parent_span_id.is_empty(), "{batch:#?}");
    has(
        batch,
        &[("assay.model", &model), ("assay.rows", "2"), ("assay.tenants", "1"), ("assay.sampled_requests", "1")],
    );
    let linked = |of: &Span, to: &Span| {
        of.links.iter().any(|link| (&link.trace_id, &link.span_id) == (&to.trace_id, &to.span_id))
    };
    assert!(linked(batch, inference) && linked(inference, batch), "{spans:#?}");
    assert_eq!(spans.len(), 6, "nothing else is traced: {spans:#?}");
    assert!(collector.everything().contains("service.name"));
}

#[test]
fn a_collector_gets_whole_traces_over_grpc() {
    a_whole_trace(&Collector::grpc(), "grpc");
}

#[test]
fn a_collector_gets_whole_traces_over_http() {
    a_whole_trace(&Collector::http(), "http");
}

/// The traces that a server with this ratio makes of requests with these headers, by trace id.
fn traced(ratio: &str, headers: &[String]) -> BTreeSet<String> {
    let (collector, dir) = (Collector::http(), keyless_dir());
    let url = collector.url();
    let arguments = ["--otlp-endpoint", &url, "--otlp-protocol", "http", "--trace-sample", ratio];
    let server = Server::on(&dir.path().join("data"), &arguments);
    for header in headers {
        assert_eq!(server.send(&within(header, None)).status, 200, "{header}");
    }
    assert!(server.stop());
    let spans = collector.spans();
    spans.iter().filter(|span| span.kind == SpanKind::Server as i32).map(|span| hex(&span.trace_id)).collect()
}

#[test]
fn a_caller_decides_whether_its_request_is_traced() {
    let own = traceparent("01");
    assert_eq!(traced("0", &[own.clone(), traceparent("00")]), BTreeSet::from([TRACE.to_owned()]));
    assert_eq!(traced("1", &[traceparent("00")]), BTreeSet::new());
}

#[test]
fn a_malformed_traceparent_counts_as_none() {
    let bad = ["00-nonsense".to_owned(), traceparent("01").to_uppercase(), "0".repeat(4_000)];
    assert_eq!(traced("0", &bad), BTreeSet::new());
    let own = traced("1", &bad);
    assert!(own.len() == bad.len() && !own.contains(TRACE), "{own:?}");
    let two = format!("{0}\r\nTraceparent: {0}", traceparent("01"));
    assert!(!traced("1", &[two]).contains(TRACE), "of two headers none is taken");
}

#[test]
fn requests_are_answered_without_a_collector_and_the_log_is_not_flooded() {
    let dir = keyless_dir();
    let log = dir.path().join("log");
    // Nothing listens at a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for protocol in ["grpc", "http"] {
        let url = format!("http://{free}");
        let arguments = ["--log-format", "json", "--otlp-endpoint", &url, "--otlp-protocol", protocol];
        let server = Server::logging_to(&log, &dir.path().join("data"), &arguments);
        for _ in 0..600 {
            assert_eq!(server.post("/v2/rerank", BODY).status, 200);
        }
        let began = Instant::now();
        assert!(server.stop());
        assert!(began.elapsed() < LONG, "the stop took {:?}", began.elapsed());
        let lines = std::fs::read_to_string(&log).unwrap();
        let told = lines.lines().filter(|line| line.contains("traces cannot be sent")).count();
        assert!((1..10).contains(&told), "{protocol}: {lines}");
    }
}

#[test]
fn a_collector_that_never_answers_holds_up_neither_requests_nor_the_stop() {
    let dir = keyless_dir();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    for protocol in ["grpc", "http"] {
        let arguments = ["--otlp-endpoint", &url, "--otlp-protocol", protocol];
        let server = Server::on(&dir.path().join("data"), &arguments);
        let began = Instant::now();
        for _ in 0..600 {
            assert_eq!(server.post("/v2/rerank", BODY).status, 200);
        }
        assert!(began.elapsed() < LONG, "600 requests took {:?}", began.elapsed());
        let began = Instant::now();
        assert!(server.stop());
        assert!(began.elapsed() < LONG, "the stop took {:?}", began.elapsed());
    }
}

#[test]
fn a_trace_holds_nothing_that_was_sent() {
    let (collector, dir) = (Collector::grpc(), tenants::data_dir());
    let guest = dir.path().join("nonsense.wasm");
    std::fs::write(&guest, tenants::component("nonsense")).unwrap();
    let server = Server::on(dir.path(), &["--otlp-endpoint", &collector.url(), "--otlp-protocol", "grpc"]);
    server.tenant(&["deploy", "acme", guest.to_str().unwrap()]);
    let key = server.tenant(&["key", "create", "acme"]);
    server.post_marked(&key, MARKER);
    let state = format!("{}\r\nTracestate: a={MARKER}\r\nBaggage: b={MARKER}", traceparent("01"));
    assert_eq!(server.send(&within(&state, Some(&key))).status, 200);
    assert!(server.stop());
    let (spans, everything) = (collector.spans(), collector.everything());
    let of = |status: &str| {
        spans.iter().find(|span| attribute(&span.attributes, "http.response.status_code").as_deref() == Some(status))
    };
    for (status, kind, code) in [("422", "invalid-input", StatusCode::Unset), ("502", "guest", StatusCode::Error)] {
        let span = of(status).unwrap_or_else(|| panic!("no span has the status {status}: {spans:#?}"));
        has(span, &[("error.type", kind), ("assay.tenant", "acme")]);
        assert_eq!(span.status.as_ref().map_or(0, |status| status.code), code as i32);
    }
    assert!(of("401").is_none(), "a caller without a key has no trace");
    for secret in [MARKER, key.as_str()] {
        assert!(!everything.contains(secret), "{secret} is traced");
    }
}

#[test]
fn settings_come_from_the_command_line_the_environment_and_the_file() {
    let dir = keyless_dir();
    let data = dir.path().join("data");
    let serve = |arguments: &[&str]| finish(common::assay(&data).arg("serve").args(arguments));
    serve(&["--otlp-endpoint", "collector:4317"]).fails(2, &["otlp-endpoint", "http://127.0.0.1:4317"]);
    serve(&["--otlp-endpoint", "http://a:b@collector"]).fails(2, &["credentials", "OTEL_EXPORTER_OTLP_HEADERS"]);
    serve(&["--trace-sample", "10%"]).fails(2, &["trace-sample", "0.01"]);
    serve(&["--otlp-protocol", "thrift"]).fails(2, &["grpc", "http"]);
    let checked = |text: &str, environment: &[(&str, &str)]| {
        let file = dir.path().join("assay.toml");
        std::fs::write(&file, text).unwrap();
        finish(common::assay(&data).args(["config", "check"]).arg(&file).envs(environment.iter().copied()))
    };
    let file = "otlp-endpoint = \"http://collector:4318\"\ntrace-sample = 0.01\n";
    let printed = checked(file, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).succeeds().stdout;
    for part in ["http://collector:4318", "0.01", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        assert!(printed.contains(part), "no {part} in {printed}");
    }
    checked("trace-sample = 2.5\n", &[]).fails(2, &["trace-sample", "from 0"]);
    checked("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).succeeds();
}

/// A server whose environment names a collector, with headers that the collector wants.
#[test]
fn opentelemetrys_variables_are_obeyed() {
    let (collector, dir) = (Collector::http(), keyless_dir());
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector=open".to_owned()),
        ("OTEL_SERVICE_NAME", "ranking".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test".to_owned()),
        ("OTEL_TRACES_SAMPLER_ARG", "1".to_owned()),
    ];
    let server = Server::in_environment(&dir.path().join("data"), &environment);
    assert_eq!(server.post("/v2/rerank", BODY).status, 200);
    assert!(server.stop());
    let everything = collector.everything();
    for part in ["\"x-collector\": \"open\"", "ranking", "deployment.environment"] {
        assert!(everything.contains(part), "no {part} in {everything}");
    }
}
