//! What `assay rerank` answers.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::process::Stdio;

use common::Bench;
use serde_json::{Value, json};

fn indexes(line: &Value) -> Vec<u64> {
    line["hits"].as_array().unwrap().iter().map(|hit| hit["index"].as_u64().unwrap()).collect()
}

fn scores(line: &Value) -> Vec<f64> {
    line["hits"].as_array().unwrap().iter().map(|hit| hit["score"].as_f64().unwrap()).collect()
}

const DOCUMENTS: [&str; 4] = ["blue sky", "red sun", "green sea moon", "moon"];

#[test]
fn every_document_is_ranked_best_first_with_its_cost_and_its_times() {
    let bench = Bench::new();
    let line =
        bench.rerank(&[&["--json", "--query", "blue"], DOCUMENTS.as_slice()].concat()).succeeds().lines().remove(0);
    assert_eq!(line["model"], "tiny");
    let mut ranked = indexes(&line);
    assert!(scores(&line).is_sorted_by(|a, b| a >= b), "{line}");
    ranked.sort_unstable();
    assert_eq!(ranked, [0, 1, 2, 3]);
    // [CLS] blue [SEP] … [SEP], with 2 + 2 + 3 + 1 words.
    assert_eq!(line["usage"], json!({ "tokens": 4 * 4 + 8, "rows": 4, "truncated": 0 }));
    let times = &line["timings_ms"];
    let [guest, queue, inference, total] =
        ["guest", "queue", "inference", "total"].map(|key| times[key].as_f64().unwrap());
    assert!(total > 0.0 && (guest + queue + inference - total).abs() < 0.01, "{times}");
}

#[test]
fn equal_documents_keep_their_order_and_top_n_cuts_the_rest() {
    let bench = Bench::new();
    let args = ["--json", "--query", "sea", "--top-n", "3", "moon", "moon", "moon", "moon"];
    assert_eq!(indexes(&bench.rerank(&args).succeeds().lines()[0]), [0, 1, 2]);
}

#[test]
fn documents_come_from_arguments_files_and_standard_input_alike() {
    let bench = Bench::new();
    let expected = bench.rerank(&[&["--json", "--query", "blue"], DOCUMENTS.as_slice()].concat()).succeeds().lines();
    let strings: String = DOCUMENTS.map(|text| json!(text).to_string() + "\n").concat();
    let objects: String = DOCUMENTS.map(|text| json!({ "text": text, "url": "u" }).to_string() + "\n\n").concat();
    let plain = DOCUMENTS.join("\r\n");
    for (name, content) in [("strings.jsonl", &strings), ("objects.jsonl", &objects), ("plain.txt", &plain)] {
        let file = bench.file(name, content);
        let lines =
            bench.rerank(&["--json", "--query", "blue", "--documents", file.to_str().unwrap()]).succeeds().lines();
        assert_eq!(lines[0]["hits"], expected[0]["hits"], "{name}");
    }
    let mut command = bench.assay();
    command.args(["rerank", "--json", "--query", "blue", "--documents", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(strings.as_bytes()).unwrap();
    let line: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(line["hits"], expected[0]["hits"]);
}

#[test]
fn requests_are_answered_one_line_each_in_order() {
    let bench = Bench::new();
    let request =
        |query: &str, documents: &[&str]| json!({ "query": query, "documents": documents, "id": 1 }).to_string();
    let requests = [request("red", &DOCUMENTS), request("blue", &[]), request("sea", &["moon"]), request("", &[""])];
    let file = bench.file("requests.jsonl", requests.join("\n"));
    let lines = bench.rerank(&["--json", "--requests", file.to_str().unwrap()]).succeeds().lines();
    let counts: Vec<usize> = lines.iter().map(|line| indexes(line).len()).collect();
    assert_eq!(counts, [4, 0, 1, 1]);
    assert_eq!(lines[1]["usage"], json!({ "tokens": 0, "rows": 0, "truncated": 0 }));
}

#[test]
fn sigmoid_scores_lie_between_0_and_1_in_the_same_order() {
    let bench = Bench::new();
    let args = [&["--json", "--query", "blue"], DOCUMENTS.as_slice()].concat();
    let raw = bench.rerank(&args).succeeds().lines().remove(0);
    let sigmoid = bench.rerank(&[&["--scores", "sigmoid"], args.as_slice()].concat()).succeeds().lines().remove(0);
    assert_eq!(indexes(&raw), indexes(&sigmoid));
    for (raw, sigmoid) in scores(&raw).into_iter().zip(scores(&sigmoid)) {
        assert!((1.0 / (1.0 + (-raw).exp()) - sigmoid).abs() < 1e-6, "{raw} {sigmoid}");
    }
}

#[test]
fn a_pair_that_is_too_long_is_cut_or_refused_as_asked() {
    let bench = Bench::new();
    let long = "moon ".repeat(40);
    let cut = bench.rerank(&["--json", "--query", "sea", &long]).succeeds().lines().remove(0);
    assert_eq!(cut["usage"], json!({ "tokens": common::tiny::MAX_TOKENS, "rows": 1, "truncated": 1 }));
    bench.rerank(&["--truncation", "none", "--query", "sea", "moon", &long]).fails(2, &["document 1"]);
    bench.rerank(&["--truncation", "document-only", "--query", &long, "moon"]).fails(2, &["query"]);
}

#[test]
fn a_terminal_gets_a_table_that_no_document_can_spoil() {
    let bench = Bench::new();
    let text = bench.rerank(&["--query", "blue", "sky \u{1b}[31m", "sea\nmoon"]).succeeds().stdout;
    assert!(text.starts_with("blue\nrank  score"), "{text}");
    assert!(text.contains("sea moon") && !text.contains('\u{1b}'), "{text}");
    assert!(text.contains("tiny · cpu"), "{text}");
}

#[test]
fn one_thread_and_two_give_the_same_scores() {
    let bench = Bench::new();
    let args = [&["--json", "--query", "blue"], DOCUMENTS.as_slice()].concat();
    let hits = |threads: &str| {
        bench.rerank(&[&["--threads", threads], args.as_slice()].concat()).succeeds().lines()[0]["hits"].clone()
    };
    assert_eq!(hits("1"), hits("2"));
}

#[test]
fn settings_reach_the_guest_and_a_requests_own_come_first() {
    let bench = Bench::new();
    let rows = r#"{"query":"blue","documents":["blue sky sun moon sea"],"settings":{"max-document-tokens":"2"}}"#;
    let file =
        bench.file("own.jsonl", format!("{rows}\n{}\n", r#"{"query":"blue","documents":["blue sky sun moon sea"]}"#));
    let args = ["--json", "--set", "max-document-tokens=1", "--requests", file.to_str().unwrap()];
    let lines = bench.rerank(&args).succeeds().lines();
    // [CLS] blue [SEP] … [SEP]
    assert_eq!([&lines[0]["usage"]["tokens"], &lines[1]["usage"]["tokens"]], [&json!(4 + 2), &json!(4 + 1)]);
    bench.rerank(&["--query", "q", "--set", "x", "d"]).fails(2, &["--set", "NAME=VALUE"]);
    bench.rerank(&["--query", "q", "--set", "max-query-tokens=0", "d"]).fails(2, &["max-query-tokens"]);
}
