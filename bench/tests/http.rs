//! The HTTP driver against a small service in this process.

use std::time::Duration;

use assay::rerank::Request;
use assay_bench::driver::{Driver, HttpDriver, Stages};
use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

/// Answers like Cohere's service: one key is good, one is over its limit, and the query "nonsense" gets a bad answer.
async fn rerank(headers: HeaderMap, Json(body): Json<Value>) -> Response {
    match headers.get("authorization").and_then(|value| value.to_str().ok()) {
        Some("Bearer good") => {}
        Some("Bearer busy") => return (StatusCode::TOO_MANY_REQUESTS, "come back later").into_response(),
        _ => return StatusCode::UNAUTHORIZED.into_response(),
    }
    if body["query"] == "nonsense" {
        return "{}".into_response();
    }
    let count = body["documents"].as_array().map_or(0, Vec::len);
    let results: Vec<Value> = (0..count).map(|index| json!({"index": index, "relevance_score": 0.5})).collect();
    let times = [("x-queue-time", "3"), ("x-inference-time", "12.5"), ("x-total-time", "20.5")];
    (times, Json(json!({"id": "x", "results": results, "usage": {"total_tokens": 77}}))).into_response()
}

async fn service() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its number");
    let app = axum::Router::new().route("/v1/rerank", post(rerank));
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}/")
}

fn request(query: &str) -> Request {
    Request { query: query.to_owned(), documents: vec!["a".to_owned(), "b".to_owned()], ..Default::default() }
}

#[tokio::test]
async fn a_request_is_answered_with_its_counts_and_stages() {
    let driver = HttpDriver::new(&service().await, vec!["good".to_owned()]).unwrap();
    // A tenant without a key of its own uses the last one.
    for tenant in [0, 5] {
        let reply = driver.call(tenant, &request("q")).await.unwrap();
        assert_eq!((reply.pairs, reply.tokens), (2, Some(77)));
        let stages = Stages {
            guest: Duration::from_millis(5),
            queue: Duration::from_millis(3),
            inference: Duration::from_micros(12_500),
        };
        assert_eq!(reply.stages, Some(stages));
    }
}

#[tokio::test]
async fn failures_have_a_kind() {
    let url = service().await;
    let keys = ["busy", "wrong", "good"].map(str::to_owned).to_vec();
    let driver = HttpDriver::new(&url, keys).unwrap();
    let kind = async |tenant: usize, query: &str| driver.call(tenant, &request(query)).await.unwrap_err().kind;
    assert_eq!(kind(0, "q").await, "overloaded");
    assert_eq!(kind(1, "q").await, "HTTP 401");
    assert_eq!(kind(2, "nonsense").await, "malformed answer");
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = HttpDriver::new(&format!("http://{unused}"), Vec::new()).unwrap();
    assert_eq!(unreachable.call(0, &request("q")).await.unwrap_err().kind, "cannot connect");
    assert!(HttpDriver::new("no url", Vec::new()).is_err());
}
