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
fn scores_equal_pytorchs() {
    let more = testdata::beside_checkout("golden/default-model.json");
    for path in [testdata::golden("passages.json")].into_iter().chain(more) {
        let golden = read(&path);
        let truncation = |case: &Value| case["truncation"].as_str().unwrap_or("longest_first").to_owned();
        for (name, flag) in [("longest_first", "longest-first"), ("only_second", "document-only")] {
            let cases = golden["cases"].as_array().unwrap().iter();
            check(&cases.filter(|case| truncation(case) == name).cloned().collect::<Vec<_>>(), flag);
        }
    }
}

/// The mean over requests of one divided by the rank of the first relevant document. Each request lists its relevant
/// documents in `relevant`.
fn mean_reciprocal_rank(requests: &[Value]) -> f64 {
    let flags = ["--model", EMBEDDED, "--keep-field", "relevant"];
    let answers = rerank(&common::test_data(), &flags, requests);
    let reciprocal_ranks = requests.iter().zip(&answers).map(|(request, answer)| {
        let hits = answer["hits"].as_array().unwrap();
        let relevant = request["relevant"].as_array().unwrap();
        let rank = hits.iter().position(|hit| relevant.contains(&hit["index"])).unwrap() + 1;
        1.0 / rank as f64
    });
    reciprocal_ranks.sum::<f64>() / requests.len() as f64
}

#[test]
fn the_default_model_ranks_a_passage_of_the_querys_subject_first() {
    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(testdata::root().join("examples").join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (queries, passages) = (lines("queries.jsonl"), lines("passages.jsonl"));
    // Query n is about passages 4n to 4n + 3.
    let request = |(index, query): (usize, &Value)| json!({ "query": query, "documents": passages, "relevant": [4 * index, 4 * index + 1, 4 * index + 2, 4 * index + 3] });
    let requests: Vec<Value> = queries.iter().enumerate().map(request).collect();
    assert!((mean_reciprocal_rank(&requests) - 1.0).abs() < 1e-9);

    if let Some(quality) = testdata::beside_checkout("workload/quality.jsonl") {
        let text = std::fs::read_to_string(quality).unwrap();
        let requests: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mean = mean_reciprocal_rank(&requests);
        eprintln!("mean reciprocal rank {mean:.4} over {} requests", requests.len());
        assert!((mean - 0.835).abs() <= 0.005, "{mean}");
    }
}

#[test]
fn the_hubs_model_gives_its_known_logits() {
    let dir = tempfile::tempdir().unwrap();
    let name = "cross-encoder/ms-marco-MiniLM-L-6-v2";
    let pulled = common::finish(common::assay(dir.path()).args(["model", "pull", name]));
    if pulled.code != Some(0) {
        return testdata::skip(testdata::Cause::NoHub, pulled.stderr.trim());
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
