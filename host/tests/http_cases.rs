//! Requests that people really send, and what is right for each.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::server::{Answer, Server};
use common::tiny;
use serde_json::{Value, json};

fn server() -> Server {
    Server::keyless(&[])
}

/// Posts a body to `/v1/rerank`: two documents, and what else there is.
fn with(server: &Server, fields: &Value) -> Answer {
    let mut body = json!({ "query": "blue", "documents": ["sky", "sea", "sun"] });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    server.post("/v1/rerank", body.to_string())
}

fn count(answer: &Answer) -> usize {
    answer.ok()["results"].as_array().unwrap().len()
}

// H1
#[test]
fn options_that_a_client_library_leaves_unset_are_null() {
    let server = server();
    let unset = json!({ "return_documents": null, "top_n": null, "rank_fields": null, "max_chunks_per_doc": null, "model": null });
    let answer = with(&server, &unset);
    assert_eq!(count(&answer), 3);
    assert!(answer.ok()["results"][0].get("document").is_none());
}

// H1
#[test]
fn a_top_n_that_was_computed_as_a_float_is_a_number_all_the_same() {
    let server = server();
    assert_eq!(count(&with(&server, &json!({ "top_n": 2.0 }))), 2);
    assert_eq!(count(&with(&server, &json!({ "top_n": 1e300 }))), 3);
    assert_eq!(count(&with(&server, &json!({ "top_n": u64::MAX }))), 3);
    with(&server, &json!({ "top_n": 2.5 })).refused(422, &["`top_n`", "whole number", "2.5"]);
}

// H1
#[test]
fn a_string_where_a_number_or_a_boolean_belongs_is_named() {
    let server = server();
    with(&server, &json!({ "top_n": "2" })).refused(422, &["`top_n` must be a whole number, and is a string"]);
    with(&server, &json!({ "return_documents": "true" })).refused(422, &["`return_documents` must be true or false"]);
    with(&server, &json!({ "query": 3 })).refused(422, &["`query` must be a string, and is a number"]);
    with(&server, &json!({ "documents": "one" })).refused(422, &["`documents` must be an array"]);
}

// H2
#[test]
fn a_top_n_of_nothing_is_refused_where_the_dialect_refuses_it() {
    let server = server();
    for top_n in [0, -1] {
        for path in ["/rerank", "/v1/rerank", "/v2/rerank", "/jina/rerank"] {
            let body = json!({ "query": "q", "documents": ["d"], "top_n": top_n });
            server.post(path, body.to_string()).refused(422, &["`top_n` must be at least 1"]);
        }
    }
    // In vLLM 0 is the default, and means all.
    let all = server.post("/vllm/rerank", json!({ "query": "q", "documents": ["d", "e"], "top_n": 0 }).to_string());
    assert_eq!(count(&all), 2);
}

// H3
#[test]
fn documents_with_fields_are_ranked_by_them_and_given_back_as_sent() {
    let server = server();
    let documents = r#"[{"title":"sky","body":"blue","id":7},{"body": "moon",  "title":"red", "id":8}]"#;
    let body =
        format!(r#"{{"query":"blue","documents":{documents},"rank_fields":["title","body"],"return_documents":true}}"#);
    let answer = server.post("/v1/rerank", &body);
    let results = answer.ok()["results"].clone();
    for hit in results.as_array().unwrap() {
        let sent = serde_json::from_str::<Value>(documents).unwrap()[hit["index"].as_u64().unwrap() as usize].clone();
        assert_eq!(hit["document"], sent);
    }
    // The same texts as plain documents have the same scores.
    let plain = server.post("/v1/rerank", r#"{"query":"blue","documents":["sky\nblue","red\nmoon"]}"#).ok();
    let scores = |results: &Value| -> Vec<Value> {
        results.as_array().unwrap().iter().map(|hit| hit["relevance_score"].clone()).collect()
    };
    assert_eq!(scores(&results), scores(&plain["results"]));

    let answer = with(&server, &json!({ "documents": [{ "text": "sky", "id": 1 }], "return_documents": true })).ok();
    assert_eq!(answer["results"][0]["document"], json!({ "text": "sky", "id": 1 }));
    let untitled = json!({ "documents": ["sky", { "title": "sea" }] });
    with(&server, &untitled).refused(422, &["`documents[1].text` is missing", "rank_fields"]);
    let other = json!({ "documents": [{ "title": "sea" }], "rank_fields": ["body"] });
    with(&server, &other).refused(422, &["`documents[0]` has none of the `rank_fields`: body"]);
    let nested = json!({ "documents": [{ "title": ["sea"] }], "rank_fields": ["title"] });
    with(&server, &nested).refused(422, &["`documents[0].title`", "an array"]);
}

// H4
#[test]
fn one_bad_document_among_many_is_named_by_its_index() {
    let server = server();
    for (bad, kind) in
        [(json!(null), "null"), (json!(3), "a number"), (json!(["x"]), "an array"), (json!(true), "a boolean")]
    {
        let mut documents = vec![json!("sky"); 500];
        documents[321] = bad;
        with(&server, &json!({ "documents": documents })).refused(422, &["`documents[321]`", kind]);
    }
}

// H5
#[test]
fn a_field_is_honoured_or_refused_by_its_name() {
    let server = server();
    with(&server, &json!({ "model": "no-such-model" })).refused(404, &["no-such-model", "tiny"]);
    assert_eq!(with(&server, &json!({ "model": "tiny" })).ok()["model"], "tiny");
    assert_eq!(count(&with(&server, &json!({ "priority": 0 }))), 3);
    with(&server, &json!({ "priority": 3 })).refused(422, &["`priority`"]);
    with(&server, &json!({ "truncation_direction": "Up" })).refused(422, &["`truncation_direction`", "Left"]);
    with(&server, &json!({ "topn": 3 })).refused(422, &["`topn` is not known", "top_n"]);
    with(&server, &json!({ "relevant_spans": { "mode": "enabled" } })).refused(422, &["`relevant_spans`"]);
    for spans in [json!({ "mode": "on" }), json!({ "enabled": true })] {
        with(&server, &json!({ "relevant_spans": spans })).refused(422, &["`relevant_spans`", "disabled"]);
    }
    assert_eq!(count(&with(&server, &json!({ "relevant_spans": { "mode": "disabled" } }))), 3);
    // Two names of one thing must say the same.
    for (fields, second) in [
        (json!({ "return_documents": true, "return_text": 5 }), "return_text"),
        (json!({ "return_documents": false, "return_text": true }), "return_text"),
        (json!({ "truncate": false, "truncation": true }), "truncation"),
        (json!({ "truncation_direction": "left", "truncation_side": "right" }), "truncation_side"),
        (json!({ "raw_scores": true, "use_activation": true }), "use_activation"),
    ] {
        with(&server, &fields).refused(422, &[&format!("`{second}`")]);
    }
    assert_eq!(count(&with(&server, &json!({ "raw_scores": true, "activation": false }))), 3);
    with(&server, &json!({ "texts": ["a"] })).refused(422, &["`texts`", "leave one of them out"]);
    let twice = r#"{"query":"q","documents":["d"],"query":"r"}"#;
    server.post("/v1/rerank", twice).refused(422, &["`query` is given twice"]);
}

// H5
#[test]
fn texts_are_cut_where_the_caller_says() {
    let server = server();
    let scored = |fields: Value| {
        let mut body = json!({ "query": "blue sea", "raw_scores": true, "top_n": 1 });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = server.post("/v1/rerank", body.to_string());
        let score = answer.ok()["results"][0]["relevance_score"].as_f64().unwrap();
        (score, answer.header("x-truncated-documents").unwrap().to_owned())
    };
    let whole = |query: &str, document: &str| scored(json!({ "query": query, "documents": [document] })).0;
    let long = ["sky"; 30].join(" ") + " sun";
    for (fields, score) in [
        (json!({ "documents": ["sun sky"], "max_tokens_per_doc": 1 }), whole("blue sea", "sun")),
        (json!({ "documents": ["sun"], "max_tokens_per_query": 1 }), whole("blue", "sun")),
        // A pair has at most 16 tokens, of which 3 are special and 2 the query's.
        (json!({ "documents": [long], "truncation_direction": "Left" }), whole("blue sea", &long[30 * 4 - 40..])),
        (
            json!({ "documents": ["sun sky"], "max_tokens_per_doc": 1, "truncation_side": "left" }),
            whole("blue sea", "sky"),
        ),
    ] {
        assert_eq!(scored(fields.clone()), (score, "1".to_owned()), "{fields}");
    }
    // A pair of the tiny model never has so many tokens.
    let uncut = json!({ "documents": ["sun sky"], "max_tokens_per_doc": 4096, "truncation_direction": "right" });
    assert_eq!(scored(uncut), (whole("blue sea", "sun sky"), "0".to_owned()));
}

#[test]
fn a_tenant_over_its_tokens_a_second_is_told_that_limit() {
    let dir = tempfile::tempdir().unwrap();
    let limits = dir.path().join("limits.toml");
    std::fs::write(&limits, "max_tokens_per_s = 1\nburst_tokens = 20\n").unwrap();
    let server = server();
    server.tenant(&["deploy", "acme", "--limits", limits.to_str().unwrap()]);
    let key = server.tenant(&["key", "create", "acme"]);
    let ask = || server.post_as(&key, "/v1/rerank", r#"{"query":"q","documents":["sky","sea","sun"]}"#);
    let refused = (0..8).map(|_| ask()).find(|answer| answer.status != 200).unwrap();
    refused.refused(429, &["max_tokens_per_s is limited to 1"]);
    assert!(refused.header("retry-after").is_some());
}

// H5
#[test]
fn a_guest_that_cannot_cut_refuses_the_field_by_name() {
    let server = server();
    server.tenant(&["deploy", "acme", common::component("remembers").to_str().unwrap()]);
    let key = server.tenant(&["key", "create", "acme"]);
    let post =
        |fields: &str| server.post_as(&key, "/v1/rerank", format!(r#"{{"query":"q","documents":["d"]{fields}}}"#));
    post("").ok();
    post(r#","max_tokens_per_doc":5"#).refused(422, &["`max_tokens_per_doc`", "max-document-tokens"]);
    post(r#","truncation_direction":"Left""#).refused(422, &["`truncation_direction`", "truncation-direction"]);
}

// H6, H7
#[test]
fn paths_of_every_server_are_served_and_others_are_told_what_exists() {
    let server = server();
    let texts = r#"{"query":"q","texts":["d"]}"#;
    assert!(server.post("/rerank", texts).ok().is_array());
    for path in [
        "/rerank",
        "/rerank/",
        "/v1/rerank/",
        "//v1/rerank",
        "/v2/rerank",
        "/reranking",
        "/v1/reranking",
        "/api/v1/rerank",
    ] {
        assert_eq!(count(&server.post(path, r#"{"query":"q","documents":["d"]}"#)), 1, "{path}");
    }
    assert_eq!(server.get("/v1/models").status, 200);
    let error = server.get("/v3/rerank").refused(404, &["/v2/rerank", "/predict"]);
    assert_eq!(error["message"], error["detail"]);
    let answer = server.get("/v1/rerank");
    answer.refused(405, &["/v1/rerank takes POST, not GET"]);
    assert_eq!(answer.header("allow"), Some("POST"));
    server.post("/health", "{}").refused(405, &["GET"]);
}

// H8
#[test]
fn text_cut_within_an_emoji_is_ranked() {
    let server = server();
    let body = r#"{"query":"blue \ud83d","documents":["sky \ud83d","\ude00 sea","sun"],"return_documents":true}"#;
    let answer = server.post("/v1/rerank", body).ok();
    let first = answer["results"].as_array().unwrap().iter().find(|hit| hit["index"] == 0).unwrap();
    assert_eq!(first["document"]["text"], "sky \u{FFFD}");
}

// H8
#[test]
fn a_byte_order_mark_before_the_body_is_skipped() {
    let body = b"\xEF\xBB\xBF{\"query\":\"q\",\"documents\":[\"d\"]}";
    let server = server();
    assert_eq!(count(&server.post("/v1/rerank", body)), 1);
    server.post("/v1/rerank", b"\xFF\xFE{\0}\0").refused(400, &["UTF-16"]);
    server.post("/v1/rerank", b"{\"query\":\"\xC3\"}").refused(400, &["byte 10 is not UTF-8"]);
    server.post("/v1/rerank", "{").refused(400, &["not a JSON object", "line 1"]);
    server.post("/v1/rerank", "[1]").refused(400, &["must be a JSON object"]);
}

// H8
#[test]
fn an_empty_query_is_refused_by_cohere_and_ranked_by_the_others() {
    let server = server();
    let body = r#"{"query":"","documents":["d"]}"#;
    for path in ["/v1/rerank", "/v2/rerank", "/jina/rerank"] {
        server.post(path, body).refused(422, &["`query` must not be empty"]);
    }
    for path in ["/rerank", "/reranking", "/vllm/rerank"] {
        assert_eq!(count(&server.post(path, body)), 1, "{path}");
    }
}

/// A server with a model whose rows have up to 512 tokens.
fn server_with_long_rows() -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    tiny::Model::new(tiny::Shape { vocab_size: 12, max_tokens: 512 }, 4).write(&dir.path().join("long"));
    let data_dir = dir.path().join("data");
    common::finish(common::assay(&data_dir).args(["model", "add"]).arg(dir.path().join("long"))).succeeds();
    (Server::on(&data_dir, &[]), dir)
}

fn long_documents(count: usize) -> String {
    let document = "red green blue sky sea sun moon ".repeat(80);
    json!({ "query": "blue sky", "documents": vec![document; count] }).to_string()
}

// H9
#[test]
fn a_thousand_documents_of_the_longest_rows_are_ranked_at_the_default_limits() {
    let (server, _dir) = server_with_long_rows();
    let answer = server.post("/v1/rerank", long_documents(1_000));
    assert_eq!(count(&answer), 1_000);
    assert_eq!(answer.ok()["usage"]["total_tokens"], 512_000);
}

// H11
#[test]
fn eight_callers_who_have_the_host_to_themselves_wait_and_are_not_refused() {
    let (server, _dir) = server_with_long_rows();
    let body = long_documents(128);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let calls = || (0..3).map(|_| server.post("/v1/rerank", &body).status).collect::<Vec<u16>>();
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(calls)).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(statuses, [200; 24]);
}

// H10
#[test]
fn a_body_that_is_too_large_gets_413() {
    let server = server();
    let body = vec![b' '; 40 << 20];
    server.post("/v1/rerank", &body).refused(413, &["max_request_bytes", "41943040"]);
    // The same without a length in advance.
    let mut request = b"POST /v1/rerank HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    request.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
    request.extend_from_slice(&body);
    server.send(&request).refused(413, &["max_request_bytes"]);
}

// H12
#[test]
fn documents_that_are_cut_are_counted_in_the_answer() {
    let server = server();
    let long = "sky ".repeat(3_000);
    let documents = json!({ "query": "blue", "documents": [long, "sea"] }).to_string();
    let answer = server.post("/v1/rerank", &documents);
    let said = answer.ok();
    assert_eq!(said["usage"]["truncated_documents"], 1);
    assert_eq!(said["meta"]["warnings"], json!(["1 document was cut, or the query beside it"]));
    assert_eq!(answer.header("x-truncated-documents"), Some("1"));
    let uncut = json!({ "query": "blue", "texts": [long], "truncate": false }).to_string();
    server.post("/rerank", uncut).refused(422, &["document 0"]);
}

#[test]
fn settings_reach_the_tenants_own_logic() {
    let server = server();
    assert_eq!(count(&with(&server, &json!({ "settings": { "label": 0 } }))), 3);
    with(&server, &json!({ "settings": { "label": 7 } })).refused(422, &["setting label is 7"]);
    with(&server, &json!({ "settings": { "label": [] } })).refused(422, &["`settings.label`"]);
}

#[test]
fn a_limit_names_itself_and_what_was_asked_for() {
    let server = server();
    let many = json!({ "documents": vec!["d"; 1_001] });
    let message = "max_documents is limited to 1000, the request has 1001";
    assert_eq!(with(&server, &many).refused(413, &[])["message"], message);
    let long = json!({ "documents": ["d", "x".repeat((1 << 20) + 1)] });
    with(&server, &long).refused(413, &["max_text_bytes of documents[1]", "1048576"]);
}
