//! Callers that are slow, many, strangers, or gone: what each may take, and that others are answered all the while.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use assay::http::{ConnectionLimits, Deadlines};
use assay::tenant::TenantLimits;
use common::server::{Answer, Server, post, read_all};
use common::service::{BODY, Service, Setting, until};
use common::tenants;

/// A deadline that tests wait for.
const SHORT: Duration = Duration::from_millis(200);

/// Reads one answer of a connection that stays open: its head and as many bytes as that says.
fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let length = Answer::parse(&bytes).header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Answer::parse(&[bytes, body].concat())
}

#[test]
fn half_heads_on_every_connection_do_not_keep_a_caller_out() {
    let service =
        Service::start(Setting { connections: ConnectionLimits { total: 8, per_address: 8 }, ..Setting::default() });
    let mut slow: Vec<TcpStream> = (0..40).map(|_| service.connect()).collect();
    for stream in &mut slow {
        // The oldest are closed already.
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nX-A: ");
    }
    assert_eq!(service.send(&service.good()).status, 200);
}

#[test]
fn a_head_that_does_not_end_is_closed() {
    let deadlines = Deadlines { head: SHORT, ..Deadlines::default() };
    let service = Service::start(Setting { deadlines, ..Setting::default() });
    let mut stream = service.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nX-A: ").unwrap();
    assert_eq!(read_all(&mut stream), b"");
}

#[test]
fn a_connection_without_requests_is_closed() {
    let deadlines = Deadlines { idle: SHORT, ..Deadlines::default() };
    let service = Service::start(Setting { deadlines, ..Setting::default() });
    let mut stream = service.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
    assert_eq!(read_all(&mut stream), b"");
}

#[test]
fn a_connection_takes_one_request_after_the_other() {
    let service = Service::start(Setting::default());
    let mut stream = service.connect();
    let request = String::from_utf8(service.good()).unwrap().replace("Connection: close\r\n", "");
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
    }
    // An error that was found in the body leaves the connection open too.
    let bad = request.replace("\"query\"", "\"kuery\"");
    stream.write_all(bad.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).status, 422);
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
}

#[test]
fn a_body_that_does_not_come_is_given_up_and_its_place_with_it() {
    let deadlines = Deadlines { body_gap: SHORT, ..Deadlines::default() };
    let service = Service::start(Setting { deadlines, ..Setting::default() });
    let mut stream = service.half();
    let answer = Answer::parse(&read_all(&mut stream));
    answer.refused(408, &["the body did not arrive"]);
    until("giving the permit back", || service.running() == 0);
}

#[test]
fn a_body_in_small_pieces_is_given_up_too() {
    let deadlines = Deadlines { body: SHORT, ..Deadlines::default() };
    let service = Service::start(Setting { deadlines, ..Setting::default() });
    let mut stream = service.connect();
    let head = format!(
        "POST /v1/rerank HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000\r\n\r\n",
        service.key
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let answer = std::thread::spawn(move || read_answer(&mut reader).status);
    until("the answer", || {
        let _ = stream.write_all(b" ");
        answer.is_finished()
    });
    assert_eq!(answer.join().unwrap(), 408);
}

#[test]
fn no_body_is_read_without_a_key() {
    let service = Service::start(Setting::default());
    let expecting = |key: &str| {
        format!(
            "POST /v1/rerank HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n",
            BODY.len()
        )
    };
    let mut stream = service.connect();
    stream.write_all(expecting("assay_guess").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).status, 401);
    let mut stream = service.connect();
    stream.write_all(expecting(&service.key).as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).status, 100);
    stream.write_all(BODY).unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
}

#[test]
fn a_large_body_without_a_key_gets_its_401() {
    let service = Service::start(Setting::default());
    let answer = service.send(&post("/v1/rerank", Some("assay_guess"), &vec![b' '; 8 << 20]));
    answer.refused(401, &["no valid API key"]);
    assert_eq!((answer.header("www-authenticate"), answer.header("connection")), (Some("Bearer"), Some("close")));
}

#[test]
fn a_tenant_at_its_limit_gets_retry_after_before_its_body_is_read() {
    let limits = TenantLimits { max_concurrent_requests: 1, max_waiting_requests: 0, ..TenantLimits::default() };
    let service = Service::start(Setting { limits, ..Setting::default() });
    let mut first = service.half();
    until("the first request's permit", || service.running() == 1);
    let mut second = service.connect();
    let request = service.good();
    second.write_all(&request[..request.len() - BODY.len()]).unwrap();
    let refused = Answer::parse(&read_all(&mut second));
    refused.refused(429, &["max_concurrent_requests is limited to 1"]);
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    first.write_all(b"}").unwrap();
    assert_eq!(Answer::parse(&read_all(&mut first)).status, 200);
    assert_eq!(service.send(&request).status, 200);
}

#[test]
fn a_caller_who_waits_for_its_turn_is_answered() {
    let limits = TenantLimits { max_concurrent_requests: 1, max_waiting_requests: 4, ..TenantLimits::default() };
    let service = Service::start(Setting { limits, ..Setting::default() });
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(|| service.send(&service.good()).status)).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(statuses, [200; 4]);
}

#[test]
fn a_request_whose_caller_has_gone_is_ended() {
    let service = Service::start(Setting { guest: tenants::component("trigger"), ..Setting::default() });
    let mut stream = service.connect();
    let attack = br#"{"query":"ATTACK spin","documents":["d"]}"#;
    stream.write_all(&post("/v1/rerank", Some(&service.key), attack)).unwrap();
    until("the request's start", || service.running() == 1);
    drop(stream);
    until("the request's end", || service.running() == 0);
}

#[test]
fn a_caller_that_does_not_read_its_answer_is_disconnected() {
    let deadlines = Deadlines { write: SHORT, ..Deadlines::default() };
    let limits = TenantLimits { max_text_bytes: 1 << 30, max_request_bytes: 1 << 30, ..TenantLimits::default() };
    let service = Service::start(Setting { deadlines, limits, ..Setting::default() });
    // Fields beside the text are given back, and cost nothing to rank.
    let body = format!(
        r#"{{"query":"q","documents":[{{"text":"t","rest":"{}"}}],"return_documents":true}}"#,
        "x".repeat(16 << 20)
    );
    let mut stream = service.connect();
    stream.write_all(&post("/v1/rerank", Some(&service.key), body.as_bytes())).unwrap();
    let mut some = [0; 1024];
    stream.read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200"));
    // Its tenant's permit is held while it could read on, and no longer.
    until("giving the permit back", || service.running() == 0);
    let rest = read_all(&mut stream);
    assert!(rest.len() < body.len(), "all {} bytes came", rest.len());
}

#[test]
fn a_caller_that_reads_its_large_answer_gets_it_whole() {
    let limits = TenantLimits { max_request_bytes: 1 << 30, ..TenantLimits::default() };
    let service = Service::start(Setting { limits, ..Setting::default() });
    let rest = "x".repeat(4 << 20);
    let body = format!(r#"{{"query":"q","documents":[{{"text":"t","rest":"{rest}"}}],"return_documents":true}}"#);
    let answer = service.send(&post("/v1/rerank", Some(&service.key), body.as_bytes()));
    assert_eq!(answer.ok()["results"][0]["document"]["rest"].as_str().unwrap(), rest);
}

#[test]
fn an_address_whose_connections_are_all_busy_is_told_why_it_gets_no_more() {
    let connections = ConnectionLimits { total: 8, per_address: 1 };
    let service = Service::start(Setting { connections, ..Setting::default() });
    let mut busy = service.half();
    until("the first request's permit", || service.running() == 1);
    let mut second = service.connect();
    let told = Answer::parse(&read_all(&mut second));
    told.refused(503, &["too many connections from this address"]);
    busy.write_all(b"}").unwrap();
    assert_eq!(Answer::parse(&read_all(&mut busy)).status, 200);
    until("room for the next", || {
        let mut stream = service.connect();
        let _ = stream.write_all(&service.good());
        read_all(&mut stream).starts_with(b"HTTP/1.1 200")
    });
}

#[test]
fn a_connection_beyond_the_bound_waits_for_its_turn() {
    let connections = ConnectionLimits { total: 1, per_address: 1 };
    let service = Service::start(Setting {
        connections: ConnectionLimits { per_address: 2, ..connections },
        ..Setting::default()
    });
    let mut busy = service.half();
    until("the first request's permit", || service.running() == 1);
    let mut second = service.connect();
    second.write_all(&service.good()).unwrap();
    busy.write_all(b"}").unwrap();
    assert_eq!(Answer::parse(&read_all(&mut busy)).status, 200);
    assert_eq!(Answer::parse(&read_all(&mut second)).status, 200);
}

#[test]
fn a_server_that_is_asked_to_stop_answers_what_is_in_work_and_refuses_the_rest() {
    let mut service = Service::start(Setting::default());
    let mut in_work = service.half();
    let mut idle = service.connect();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut idle).status, 200);
    until("the first request's permit", || service.running() == 1);
    service.drain();
    assert_eq!(read_all(&mut idle), b"", "a connection without a request is closed");
    let refused = service.send(&service.good());
    refused.refused(503, &["shutting down"]);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(service.send(b"GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").status, 503);
    assert_eq!(service.send(b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").status, 200);
    in_work.write_all(b"}").unwrap();
    assert_eq!(Answer::parse(&read_all(&mut in_work)).status, 200);
    service.ended();
}

#[test]
fn a_server_that_is_asked_to_stop_ends_when_its_time_is_over() {
    let mut service = Service::start(Setting { drain_time: SHORT, ..Setting::default() });
    let mut half_body = service.half();
    let mut half_head = service.connect();
    half_head.write_all(b"GET /he").unwrap();
    until("the first request's permit", || service.running() == 1);
    service.drain();
    service.ended();
    assert_eq!((read_all(&mut half_body), read_all(&mut half_head)), (Vec::new(), Vec::new()));
}

#[test]
fn the_second_signal_ends_a_server_at_once() {
    let server = Server::keyless(&["--drain-seconds", "3600"]);
    let mut half_body = server.connect();
    half_body
        .write_all(b"POST /v1/rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    assert_eq!(read_answer(&mut half_body).status, 100);
    server.signal();
    until("draining", || server.get("/ready").status == 503);
    server.signal();
    assert!(!server.ended(), "ended as if it had drained");
}
