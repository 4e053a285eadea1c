//! Real text through the real guest: scores against float64 logits of PyTorch, and ranking quality.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

const EMBEDDED: &str = "assay/minilm-l6-debian";
const TOLERANCE: f64 = 1e-4;

/// Each case is a request of its own, so that a difference names its case.
fn check(cases: &[Value], truncation: &str) {
    let requests: Vec<Value> =
        cases.iter().map(|case| json!({ "query": case["query"], "documents": [case["document"]] })).collect();
    let flags = ["--model", EMBEDDED, "--truncation", truncation];
    let answers = rerank(&common::test_data(), &flags, &requests);
    let mut worst = 0f64;
    for (case, answer) in cases.iter().zip(&answers) {
        let expected = case["logits"][0].as_f64().unwrap();
        let difference = (answer["hits"][0]["score"].as_f64().unwrap() - expected).abs();
        assert!(difference <= TOLERANCE, "{difference:e} off {expected} for {case}");
        assert_eq!(answer["usage"]["tokens"], case["ids"].as_array().unwrap().len(), "{case}");
        worst = worst.max(difference);
    }
    eprintln!("{} cases, largest difference {worst:.1e}", cases.len());
}

/// Scores requests with one process and gives each request's answer.
fn rerank(data_dir: &Path, flags: &[&str], requests: &[Value]) -> Vec<Value> {
    let mut child = common::assay(data_dir)
        .arg("rerank")
        .args(flags)
        .args(["--json", "--requests", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines: String = requests.iter().map(|request| request.to_string() + "\n").collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), requests.len());
    answers
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn scores_of_our_own_passages_equal_pytorchs() {
    let golden = read(&common::root().join("testdata/golden/passages.json"));
    let cases = golden["cases"].as_array().unwrap();
    for (truncation, flag) in [("longest_first", "longest-first"), ("only_second", "document-only")] {
        let cases: Vec<Value> = cases.iter().filter(|case| case["truncation"] == truncation).cloned().collect();
        assert!(!cases.is_empty());
        check(&cases, flag);
    }
}

#[test]
fn scores_of_the_reference_pairs_equal_pytorchs() {
    let Some(golden) = common::shared("golden/default-model.json") else { return };
    check(read(&golden)["cases"].as_array().unwrap(), "longest-first");
}

#[test]
fn the_default_model_ranks_the_right_document_as_high_as_it_was_trained_to() {
    let Some(quality) = common::shared("workload/quality.jsonl") else { return };
    let text = std::fs::read_to_string(quality).unwrap();
    let requests: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answers = rerank(&common::test_data(), &["--model", EMBEDDED], &requests);
    let reciprocal_ranks = requests.iter().zip(&answers).map(|(request, answer)| {
        let hits = answer["hits"].as_array().unwrap();
        let relevant = request["relevant"].as_array().unwrap();
        let rank = hits.iter().position(|hit| relevant.contains(&hit["index"])).unwrap() + 1;
        1.0 / rank as f64
    });
    let mean = reciprocal_ranks.sum::<f64>() / requests.len() as f64;
    eprintln!("mean reciprocal rank {mean:.4} over {} requests", requests.len());
    assert!((mean - 0.835).abs() <= 0.005, "{mean}");
}

#[test]
fn the_hubs_model_gives_its_known_logits() {
    let dir = tempfile::tempdir().unwrap();
    let name = "cross-encoder/ms-marco-MiniLM-L-6-v2";
    let pulled = common::finish(common::assay(dir.path()).args(["model", "pull", name]));
    if pulled.code != Some(0) {
        eprintln!("skipped: {}", pulled.stderr.trim());
        return;
    }
    let documents = [
        "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
        "Berlin is well known for its museums.",
    ];
    let request = json!({ "query": "How many people live in Berlin?", "documents": documents });
    let answers = rerank(dir.path(), &["--model", name], &[request]);
    let scores: Vec<f64> = (0..2).map(|hit| answers[0]["hits"][hit]["score"].as_f64().unwrap()).collect();
    assert!((scores[0] - 8.607).abs() <= 1e-3 && (scores[1] + 4.320).abs() <= 1e-3, "{scores:?}");
}
