//! What each dialect's clients send and get: the shapes of answers and errors.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::server::{Answer, Server};
use common::tiny;
use serde_json::{Value, json};

const DOCUMENTS: [&str; 3] = ["red moon", "blue sky", "green sea"];

fn server() -> Server {
    Server::keyless(&[])
}

fn post(server: &Server, path: &str, body: &Value) -> Answer {
    server.post(path, body.to_string())
}

/// The ranking of an answer: positions, and scores under a name.
fn ranking(results: &Value, score: &str) -> Vec<(u64, f32)> {
    let results = results.as_array().unwrap_or_else(|| panic!("{results}"));
    results.iter().map(|hit| (hit["index"].as_u64().unwrap(), hit[score].as_f64().unwrap() as f32)).collect()
}

fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

#[test]
fn all_dialects_give_the_same_ranking() {
    let server = server();
    let texts = json!({ "query": "blue", "texts": DOCUMENTS });
    let documents = json!({ "query": "blue", "documents": DOCUMENTS });
    let expected = ranking(&post(&server, "/rerank", &texts).ok(), "score");
    assert_eq!(expected.len(), 3);
    assert!(expected.is_sorted_by(|left, right| left.1 >= right.1), "{expected:?}");
    for path in ["/rerank", "/v1/rerank", "/v2/rerank", "/api/v1/rerank", "/jina/v1/rerank", "/vllm/rerank"] {
        let answer = post(&server, path, &documents).ok();
        assert_eq!(ranking(&answer["results"], "relevance_score"), expected, "{path}: {answer}");
    }
    for path in ["/reranking", "/v1/reranking", "/v2/rerank", "/tei/rerank"] {
        assert_eq!(ranking(&post(&server, path, &texts).ok(), "score"), expected, "{path}");
    }
    // llama-server gives logits.
    let raw = ranking(&post(&server, "/v1/reranking", &documents).ok()["results"], "relevance_score");
    let activated: Vec<(u64, f32)> = raw.iter().map(|&(index, logit)| (index, sigmoid(logit))).collect();
    assert_eq!(activated, expected);
    assert_ne!(raw, expected);
    let asked = json!({ "query": "blue", "texts": DOCUMENTS, "raw_scores": true });
    assert_eq!(ranking(&post(&server, "/rerank", &asked).ok(), "score"), raw);
}

#[test]
fn cohere_gets_an_id_billed_units_and_documents_as_objects() {
    let server = server();
    let body = json!({ "query": "blue", "documents": DOCUMENTS, "return_documents": true, "top_n": 2, "model": "rerank-v3.5" });
    for (path, version) in [("/v1/rerank", "1"), ("/v2/rerank", "2")] {
        let answer = post(&server, path, &body).ok();
        assert_eq!(answer["id"].as_str().unwrap().len(), 36, "{answer}");
        assert_eq!(answer["meta"]["api_version"]["version"], version);
        assert_eq!(answer["meta"]["billed_units"]["search_units"], 1);
        assert!(answer["meta"]["tokens"]["input_tokens"].as_u64().unwrap() > 9, "{answer}");
        assert_eq!(answer["model"], "tiny");
        assert!(answer["meta"]["warnings"][0].as_str().unwrap().contains("rerank-v3.5 is not here: tiny answered"));
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        for hit in results {
            assert_eq!(hit["document"]["text"], DOCUMENTS[hit["index"].as_u64().unwrap() as usize]);
        }
    }
    let answer = post(&server, "/v2/rerank", &json!({ "query": "blue", "documents": DOCUMENTS })).ok();
    assert!(answer["results"][0].get("document").is_none() && answer["meta"].get("warnings").is_none(), "{answer}");
    let error = post(&server, "/v2/rerank", &json!({ "documents": DOCUMENTS })).refused(422, &[]);
    assert_eq!(error, json!({ "message": "`query` is required, and is missing" }));
}

#[test]
fn jina_gets_usage_and_documents_unless_it_declines_them() {
    let server = server();
    let mut body = json!({ "query": "blue", "documents": DOCUMENTS, "model": "jina-reranker-v2-base-multilingual" });
    let answer = post(&server, "/v1/rerank", &body).ok();
    assert!(answer["results"][0]["document"]["text"].is_string(), "{answer}");
    assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 9);
    assert_eq!((&answer["model"], &answer["object"]), (&json!("tiny"), &json!("list")));
    body["return_documents"] = json!(false);
    assert!(post(&server, "/v1/rerank", &body).ok()["results"][0].get("document").is_none());
    body["top_n"] = json!(0);
    let error = post(&server, "/v1/rerank", &body).refused(422, &[]);
    assert_eq!(error, json!({ "detail": "`top_n` must be at least 1, and is 0" }));
}

#[test]
fn infinity_gets_documents_as_plain_strings_and_errors_of_its_framework() {
    let server = server();
    let mut body = json!({ "query": "blue", "documents": DOCUMENTS, "return_documents": true, "raw_scores": false, "model": "default/not-specified" });
    let answer = post(&server, "/rerank", &body).ok();
    assert_eq!(answer["object"], "rerank");
    assert!(answer["id"].as_str().unwrap().starts_with("infinity-"), "{answer}");
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 9);
    let first = &answer["results"][0];
    assert_eq!(first["document"], DOCUMENTS[first["index"].as_u64().unwrap() as usize]);
    body["top_n"] = json!(-1);
    let error = post(&server, "/rerank", &body).refused(422, &["top_n"]);
    assert_eq!(error["detail"][0]["loc"], json!(["body", "top_n"]));
    body["top_n"] = json!(null);
    body["model"] = json!("BAAI/bge-reranker-base");
    let error = post(&server, "/rerank", &body).refused(400, &["BAAI/bge-reranker-base", "tiny"]);
    assert_eq!((&error["error"]["code"], &error["error"]["param"]), (&json!(400), &json!("model")));
}

#[test]
fn text_embeddings_inference_gets_an_array_with_the_rest_in_headers() {
    let server = server();
    let body = json!({ "query": "blue", "texts": DOCUMENTS, "return_text": true, "truncate": false, "truncation_direction": "Right", "top_n": 2 });
    let answer = post(&server, "/rerank", &body);
    let ranks = answer.ok();
    assert_eq!(ranks.as_array().unwrap().len(), 2);
    assert_eq!(ranks[0]["text"], DOCUMENTS[ranks[0]["index"].as_u64().unwrap() as usize]);
    for header in [
        "x-compute-tokens",
        "x-compute-characters",
        "x-total-time",
        "x-tokenization-time",
        "x-queue-time",
        "x-inference-time",
    ] {
        assert!(answer.header(header).unwrap().parse::<f64>().unwrap() >= 0.0, "{header}");
    }
    assert_eq!((answer.header("x-model"), answer.header("x-truncated-documents")), (Some("tiny"), Some("0")));
    let error = post(&server, "/rerank", &json!({ "query": "blue", "texts": [] })).refused(400, &["texts"]);
    assert_eq!(error["error_type"], "Empty");
    let error = post(&server, "/rerank", &json!({ "query": "blue", "texts": [3] })).refused(422, &["texts[0]"]);
    assert_eq!(error["error_type"], "Validation");
}

#[test]
fn vllm_gets_every_document_and_its_own_error_body() {
    let server = server();
    let body = json!({ "query": "blue", "documents": DOCUMENTS, "top_n": 0, "truncate_prompt_tokens": -1, "priority": 0, "user": "me" });
    let answer = post(&server, "/vllm/v1/rerank", &body).ok();
    assert_eq!(answer["results"].as_array().unwrap().len(), 3);
    assert!(answer["results"][2]["document"]["text"].is_string(), "{answer}");
    assert!(answer["id"].as_str().unwrap().starts_with("rerank-"));
    let error = post(&server, "/vllm/rerank", &json!({ "query": "blue", "documents": DOCUMENTS, "model": "other" }));
    assert_eq!(error.refused(404, &["other", "tiny"])["error"]["type"], "NotFoundError");
}

#[test]
fn llama_server_clients_name_any_model_and_are_told_which_one_served() {
    let server = server();
    let body = json!({ "query": "blue", "documents": DOCUMENTS, "model": "gpt-3.5-turbo", "top_n": 1 });
    let answer = post(&server, "/v1/reranking", &body).ok();
    assert_eq!((&answer["model"], &answer["object"]), (&json!("tiny"), &json!("list")));
    assert_eq!(answer["results"].as_array().unwrap().len(), 1);
    let error = post(&server, "/reranking", &json!({ "query": "blue", "documents": [] })).refused(400, &["documents"]);
    assert_eq!((&error["error"]["code"], &error["error"]["type"]), (&json!(400), &json!("invalid_request_error")));
}

#[test]
fn pairs_are_scored_in_their_order() {
    let server = server();
    let of = |document: &str| {
        let answer = post(&server, "/rerank", &json!({ "query": "blue", "texts": [document] })).ok();
        answer[0]["score"].as_f64().unwrap()
    };
    let (sky, sea) = (of("sky"), of("sea"));
    let predict = |inputs: Value| post(&server, "/predict", &json!({ "inputs": inputs }));
    assert_eq!(predict(json!(["blue", "sky"])).ok(), json!([{ "score": sky, "label": "LABEL_0" }]));
    let batch = predict(json!([["blue", "sea"], ["red", "sky"], ["blue", "sky"]])).ok();
    assert_eq!((batch[0][0]["score"].as_f64(), batch[2][0]["score"].as_f64()), (Some(sea), Some(sky)));
    predict(json!("blue")).refused(422, &["inputs", "a pair of strings"]);
    predict(json!(["blue"])).refused(422, &["a query and a document"]);
    predict(json!([["blue", "sky"], ["red"]])).refused(422, &["inputs[1]"]);
    predict(json!([])).refused(400, &["inputs"]);

    let score = |body: Value| post(&server, "/v1/score", &body);
    let answer = score(json!({ "text_1": "blue", "text_2": ["sky", "sea"], "model": "tiny" })).ok();
    let scores = |answer: &Value| -> Vec<f64> {
        answer["data"].as_array().unwrap().iter().map(|entry| entry["score"].as_f64().unwrap()).collect()
    };
    assert_eq!(scores(&answer), [sky, sea]);
    assert_eq!((&answer["object"], &answer["data"][1]["index"]), (&json!("list"), &json!(1)));
    let answer = score(json!({ "queries": ["blue", "red", "blue"], "documents": ["sea", "sea", "sky"] })).ok();
    let answer = scores(&answer);
    assert_eq!((answer[0], answer[2]), (sea, sky));
    score(json!({ "text_1": ["a", "b"], "text_2": ["c"] })).refused(400, &["text_2", "2"]);
    score(json!({ "text_1": "a" })).refused(400, &["text_2"]);
}

#[test]
fn a_server_tells_what_it_is() {
    let server = server();
    let models = server.get("/v1/models").ok();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("tiny")));
    assert_eq!(server.get("/models").ok(), models);
    let info = server.get("/info").ok();
    assert_eq!((&info["model_id"], &info["max_input_length"]), (&json!("tiny"), &json!(16)));
    assert_eq!(info["model_type"]["reranker"]["id2label"]["0"], "LABEL_0");
    assert_eq!(server.get("/health").ok(), json!({ "status": "ok" }));
    assert_eq!(server.get("/ready").ok(), json!({ "status": "ready", "starting": 0, "serving": 0, "failed": 0 }));
    let head = server.send(b"HEAD /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("15"), 0));
    assert!(server.get("/").ok()["paths"].as_array().unwrap().iter().any(|path| path["path"] == "/v2/rerank"));
}

#[test]
fn the_service_describes_itself_to_programs_and_people() {
    let server = Server::keyless(&[]);
    let document = server.get("/openapi.json").ok();
    assert_eq!(document["openapi"], "3.1.0");
    let index = server.get("/").ok();
    let paths: Vec<&str> =
        index["paths"].as_array().unwrap().iter().map(|path| path["path"].as_str().unwrap()).collect();
    for path in &paths {
        assert!(document["paths"][path].is_object(), "{path} is not documented");
    }
    let rank = &document["paths"]["/v2/rerank"]["post"];
    let bodies = &rank["requestBody"]["content"]["application/json"]["schema"]["anyOf"];
    assert!(bodies[1]["properties"]["max_tokens_per_doc"]["description"].is_string(), "{bodies}");
    let answers = &rank["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"];
    // What the types say is what the answers have.
    let answer = server.post("/v2/rerank", r#"{"query":"blue","documents":["sky"],"return_documents":true}"#).ok();
    for field in answer.as_object().unwrap().keys() {
        assert!(answers[1]["properties"][field].is_object(), "{field} is not in {}", answers[1]);
    }
    for status in ["401", "413", "422", "429", "503"] {
        assert!(rank["responses"][status].is_object(), "{status} is not documented");
    }

    let page = server.get("/docs");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    let text = page.text();
    for part in paths.iter().chain(&["truncation_side", "text_1", "inputs"]) {
        assert!(text.contains(part), "no {part} in the page");
    }
    assert!(!text.contains("<script") && !text.contains("https://"), "the page loads something");
}

#[test]
fn vllm_gives_scores_as_the_models_files_say() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("raw");
    let mut files = tiny::Model::default();
    files.config["sentence_transformers"] = json!({ "activation_fn": "torch.nn.modules.linear.Identity" });
    files.write(&model);
    let server = Server::on(&dir.path().join("data"), &["--model", model.to_str().unwrap()]);
    let score = |path: &str, more: &str| {
        let body = format!(r#"{{"query":"blue","documents":["sky"]{more}}}"#);
        server.post(path, body).ok()["results"][0]["relevance_score"].as_f64().unwrap()
    };
    let logit = score("/v1/rerank", r#","raw_scores":true"#);
    assert_eq!(score("/vllm/rerank", ""), logit);
    let scored = server.post("/score", r#"{"text_1":"blue","text_2":"sky"}"#).ok();
    assert_eq!(scored["data"][0]["score"], logit);
    // The others' clients expect scores from 0 to 1, and vLLM's may ask for them.
    let sigmoid = score("/v1/rerank", "");
    assert!((sigmoid - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6, "{sigmoid} of {logit}");
    assert_eq!(score("/vllm/rerank", r#","use_activation":true"#), sigmoid);
}
