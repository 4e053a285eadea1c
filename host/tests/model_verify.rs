//! `assay model verify --against` and `assay model check`: a model's scores beside those that somebody else gives.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::process::Command;

use assay::model::ModelStore;
use candle_core::{Device, Tensor};
use common::hub::{self, Hub};
use common::tiny::{Model, Shape};
use common::{Bench, finish, root};
use serde_json::{Value, json};

/// Texts of the tiny model's words, and of others.
const PAIRS: [(&str, &str); 5] = [
    ("blue sea", "moon sun"),
    ("blue sea", "sky"),
    ("red", "sun sea moon"),
    ("blue sea", "green"),
    ("red", "blue tree"),
];

/// The model's scores of [`PAIRS`], by `assay rerank`.
fn scores(bench: &Bench, options: &[&str]) -> Vec<f64> {
    let score = |&(query, document): &(&str, &str)| {
        let answer = bench.rerank(&[&["--json", "--query", query, document], options].concat()).succeeds();
        answer.lines()[0]["hits"][0]["score"].as_f64().unwrap()
    };
    PAIRS.iter().map(score).collect()
}

fn jsonl(scores: &[f64]) -> String {
    let line = |(&(query, document), score): (&(&str, &str), &f64)| {
        json!({ "id": 7, "query": query, "document": document, "score": score }).to_string()
    };
    PAIRS.iter().zip(scores).map(line).collect::<Vec<_>>().join("\n")
}

fn verify(bench: &Bench, file: &Path, options: &[&str]) -> Command {
    let mut command = bench.assay();
    command.args(["model", "verify", "tiny", "--against"]).arg(file).args(options);
    command
}

#[test]
fn a_models_own_scores_are_equal_and_one_changed_score_is_named() {
    let bench = Bench::new();
    let mut expected = scores(&bench, &[]);
    let file = bench.file("pairs.jsonl", jsonl(&expected));
    let equal = finish(&mut verify(&bench, &file, &["--within", "1e-6"])).succeeds().stdout;
    assert!(equal.contains("raw scores, compared with") && equal.contains("5 pairs: the largest"), "{equal}");
    assert!(equal.contains("the order is the same for 2 of 2 queries"), "{equal}");
    expected[2] += 0.25;
    let file = bench.file("pairs.jsonl", jsonl(&expected));
    let far = finish(&mut verify(&bench, &file, &[]));
    far.fails(3, &["a score differs by 0.25", "may differ by 0.001", "--within"]);
    // The farthest pair is the first in the table.
    assert!(far.stdout.lines().nth(3).unwrap().starts_with("3 "), "{}", far.stdout);
    finish(&mut verify(&bench, &file, &["--within", "0.26"])).succeeds();
}

#[test]
fn the_scale_of_the_scores_is_the_models_unless_it_is_said() {
    let bench = Bench::new();
    let file = bench.file("pairs.jsonl", jsonl(&scores(&bench, &["--scores", "sigmoid"])));
    finish(&mut verify(&bench, &file, &["--scores", "sigmoid", "--within", "1e-6"])).succeeds();
    let unsaid = finish(&mut verify(&bench, &file, &[]));
    unsaid.fails(3, &["a score differs", "with --scores sigmoid none differs by more than 0.00000"]);
    let of_sigmoids = bench.path("tiny");
    finish(bench.assay().args(["model", "add", "--scores", "sigmoid", "--name", "tiny"]).arg(of_sigmoids)).succeeds();
    finish(&mut verify(&bench, &file, &[])).succeeds();
}

#[test]
fn tables_with_other_names_are_read_and_the_outcome_is_json_on_request() {
    let bench = Bench::new();
    let mut expected = scores(&bench, &[]);
    // The two documents of one query change places.
    expected.swap(2, 4);
    let rows: Vec<String> =
        PAIRS.iter().zip(&expected).map(|((query, text), score)| format!("{query},{text},{score}")).collect();
    let file = bench.file("pairs.csv", format!("question,passage,logit\n{}", rows.join("\n")));
    let fields = ["--field", "query=question", "--field", "score=logit", "--within", "100", "--json"];
    let outcome = &finish(&mut verify(&bench, &file, &fields)).succeeds().lines()[0];
    assert_eq!(
        (&outcome["model"], &outcome["scores"], &outcome["is_within"]),
        (&json!("tiny"), &json!("raw"), &json!(true))
    );
    let comparison = &outcome["comparison"];
    assert_eq!(
        (&comparison["pairs"], &comparison["queries"], &comparison["queries_in_order"]),
        (&json!(5), &json!(2), &json!(1))
    );
    let difference = (expected[2] - expected[4]).abs();
    assert!((comparison["largest_difference"].as_f64().unwrap() - difference).abs() < 1e-6, "{comparison}");
    assert!((comparison["mean_difference"].as_f64().unwrap() - difference * 2.0 / 5.0).abs() < 1e-6, "{comparison}");
}

#[test]
fn what_is_not_a_pair_with_a_score_is_refused_with_its_line() {
    let bench = Bench::new();
    let good = r#"{"query": "red", "text": "sun", "score": 1}"#;
    for (bad, said) in [
        (r#"{"query": "red", "text": "sun"}"#, "has no \"score\" but \"query\", \"text\""),
        (r#"{"query": "red", "score": 1}"#, "has no \"text\""),
        (r#"{"text": "sun", "score": 1}"#, "has no \"query\""),
        (r#"{"query": "red", "text": "sun", "score": "high"}"#, "is not a number"),
        (r#""sun""#, "a pair is an object or a row"),
    ] {
        let file = bench.file("pairs.jsonl", format!("{good}\n{bad}\n"));
        finish(&mut verify(&bench, &file, &[])).fails(2, &["pairs.jsonl, line 2", said]);
    }
    let file = bench.file("pairs.jsonl", "");
    finish(&mut verify(&bench, &file, &[])).fails(2, &["has no pairs"]);
    finish(&mut verify(&bench, &file, &["--field", "id=x"])).fails(2, &["--field id=… is of no use"]);
    finish(bench.assay().args(["model", "verify", "tiny", "--label", "1"])).fails(2, &["--against"]);
    bench.rerank(&["--query", "red", "sun", "--field", "score=x"]).fails(2, &["requests have no scores"]);
}

/// A known model, and the first two pairs of its card.
const KNOWN: &str = "cross-encoder/ms-marco-MiniLM-L6-v2";

fn card() -> Vec<Value> {
    let cards: Value = serde_json::from_slice(&std::fs::read(root().join("models/cards.json")).unwrap()).unwrap();
    let card = cards.as_array().unwrap().iter().find(|card| card["models"][0] == KNOWN).unwrap();
    card["pairs"].as_array().unwrap().clone()
}

/// A tiny model whose last layer gives the card's scores for the card's two pairs.
fn with_the_cards_scores(bench: &Bench) -> Model {
    let mut model = Model::new(Shape { vocab_size: 12, max_tokens: 128 }, 1);
    model.write(&bench.path("unfitted"));
    bench.add(&bench.path("unfitted")).succeeds();
    let [first, second] = <[Value; 2]>::try_from(card()).unwrap();
    let found = [&first, &second].map(|pair| {
        let (query, document) = (pair["query"].as_str().unwrap(), pair["document"].as_str().unwrap());
        let answer = bench.rerank(&["--json", "--model", "unfitted", "--query", query, document]).succeeds();
        answer.lines()[0]["hits"][0]["score"].as_f64().unwrap()
    });
    let wanted = [&first, &second].map(|pair| pair["score"].as_f64().unwrap());
    let factor = (wanted[0] - wanted[1]) / (found[0] - found[1]);
    let shift = wanted[0] - factor * found[0];
    for (name, shift) in [("classifier.weight", 0.0), ("classifier.bias", shift)] {
        let values: Vec<f32> = model.tensors[name].flatten_all().unwrap().to_vec1().unwrap();
        let values: Vec<f32> = values.iter().map(|value| (f64::from(*value) * factor + shift) as f32).collect();
        let shape = model.tensors[name].shape().clone();
        model.tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }
    model
}

#[test]
fn a_known_model_is_fetched_and_compared_with_its_card() {
    let bench = Bench::new();
    with_the_cards_scores(&bench).write(&bench.path("files"));
    let hub = Hub::start(bench.path("files"));
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
    let check = || {
        let mut command = hub::assay(&bench, &variables);
        command.args(["model", "check", KNOWN, "--within", "0.01"]);
        finish(&mut command)
    };
    let outcome = check().succeeds().stdout;
    assert!(outcome.contains(KNOWN) && outcome.contains("the model's card"), "{outcome}");
    assert!(outcome.contains("2 pairs: the largest") && outcome.contains("the same for 1 of 1 queries"), "{outcome}");
    assert!(!hub.tokens().is_empty());
    // It is here now: the hub is not asked again.
    check().succeeds();
    assert_eq!(hub.tokens(), []);
    let listed = ModelStore::new(&bench.path("data")).list().unwrap();
    assert!(listed.iter().any(|listed| listed.model.manifest.name == KNOWN));
}

#[test]
fn a_model_that_does_not_give_its_cards_scores_is_told_how_far_off_it_is() {
    let bench = Bench::new();
    Model::new(Shape { vocab_size: 12, max_tokens: 128 }, 1).write(&bench.path("files"));
    let hub = Hub::start(bench.path("files"));
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
    let far = finish(hub::assay(&bench, &variables).args(["model", "check", KNOWN]));
    far.fails(3, &["a score differs by", "may differ by 0.001"]);
    assert!(far.stdout.contains("8.607138") && far.stdout.contains("-4.320078"), "{}", far.stdout);
    let unknown = finish(hub::assay(&bench, &variables).args(["model", "check", "owner/other"]));
    unknown.fails(2, &["\"owner/other\" are not known here", KNOWN, "BAAI/bge-reranker-v2-m3", "--against FILE"]);
}
