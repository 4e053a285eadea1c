//! What the tests of people's model files share: copies of small models with other files, and their reference scores.
//!
//! Expected scores are logits of sentence-transformers 6.2 (`CrossEncoder.predict` with `Identity`, transformers 5.24,
//! float32) for the same files, each pair by itself.

use std::path::{Path, PathBuf};

use assay::model::ModelStore;
use assay_guest::{Cut, PairEncoder, Rows};
use assay_kernels::PackedBatch;
use serde_json::{Value, json};

use super::{Bench, Finished, finish};

/// Most that a score may differ from the reference.
pub const TOLERANCE: f64 = 2e-5;

pub const QUERY: &str = "The Café of Every Acid";
pub const DOCUMENTS: [&str; 4] = [
    "air and light at the TIME",
    "naïve yeast gives black cells, so which transistor is current?",
    "udp",
    "the air is black and the light is in the air the air is black and the light is in the air the air is black and \
     the light is in the air the air is black and the light is in the air ",
];

/// A copy of a model of `testdata/`, without its `tokenizer_config.json`.
pub fn copy(bench: &Bench, model: &str, name: &str) -> PathBuf {
    let (from, to) = (testdata::model(model), bench.path(name));
    std::fs::create_dir_all(&to).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(to.join(file), std::fs::read(from.join(file)).unwrap()).unwrap();
    }
    to
}

pub fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Sets fields of a JSON file, which need not be there.
pub fn set(path: &Path, fields: &Value) {
    let mut value = if path.exists() { read(path) } else { json!({}) };
    for (field, new) in fields.as_object().unwrap() {
        value[field] = new.clone();
    }
    std::fs::write(path, value.to_string()).unwrap();
}

pub fn bert(fields: &Value) -> Value {
    let mut config = json!({ "tokenizer_class": "BertTokenizer", "do_lower_case": true });
    for (field, new) in fields.as_object().unwrap() {
        config[field] = new.clone();
    }
    config
}

/// A class that takes `tokenizer.json` as it is.
pub fn generic(fields: &Value) -> Value {
    bert(&json!({ "tokenizer_class": "PreTrainedTokenizerFast" }))
        .as_object()
        .unwrap()
        .iter()
        .chain(fields.as_object().unwrap())
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Adds a directory, with options.
pub fn add(bench: &Bench, dir: &Path, options: &[&str]) -> Finished {
    finish(bench.assay().args(["model", "add"]).arg(dir).args(options))
}

/// Scores of documents, in their order, with options.
pub fn scores(bench: &Bench, model: &str, documents: &[&str], options: &[&str]) -> Vec<f64> {
    let mut args = vec!["--json", "--engine", "cpu", "--model", model, "--query", QUERY];
    args.extend(options);
    args.extend(documents);
    let hits = bench.rerank(&args).succeeds().lines()[0]["hits"].clone();
    let mut scores = vec![f64::NAN; documents.len()];
    for hit in hits.as_array().unwrap() {
        scores[hit["index"].as_u64().unwrap() as usize] = hit["score"].as_f64().unwrap();
    }
    scores
}

#[track_caller]
pub fn assert_near(name: &str, found: &[f64], expected: &[f64]) {
    let is_near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < TOLERANCE);
    assert!(is_near && found.len() == expected.len(), "{name}: {found:?}, expected {expected:?}");
}

/// A copy of a small BERT with this `tokenizer_config.json`, added.
pub fn add_copy(bench: &Bench, name: &str, config: &Value, change: impl FnOnce(&Path)) {
    let dir = copy(bench, "bert-hd32", name);
    if !config.is_null() {
        set(&dir.join("tokenizer_config.json"), config);
    }
    change(&dir);
    add(bench, &dir, &[]).succeeds();
}

/// Adds a small BERT with this `tokenizer_config.json` and compares the scores that the command gives.
#[track_caller]
pub fn assert_scores(bench: &Bench, name: &str, config: &Value, change: impl FnOnce(&Path), expected: [f64; 4]) {
    add_copy(bench, name, config, change);
    assert_near(name, &scores(bench, name, &DOCUMENTS, &["--scores", "raw"]), &expected);
}

/// The same without a guest, which each model would have to be prepared for: compares the scores of the rows that the
/// guests' code makes with the tokenizer in the store.
#[track_caller]
pub fn assert_rows(bench: &Bench, name: &str, config: &Value, change: impl FnOnce(&Path), expected: [f64; 4]) {
    add_copy(bench, name, config, change);
    assert_near(name, &row_scores(bench, name), &expected);
}

/// The scores of the documents, from the rows that the guests' code makes with the tokenizer in the store.
pub fn row_scores(bench: &Bench, name: &str) -> Vec<f64> {
    let stored = ModelStore::new(&bench.path("data")).open(Some(name)).unwrap();
    let encoder = PairEncoder::from_json(&std::fs::read(stored.dir().join("tokenizer.json")).unwrap()).unwrap();
    let model = stored.load().unwrap();
    let mut query = encoder.query(QUERY, model.architecture.max_tokens, Cut::LongestFirst).unwrap();
    let mut rows = Rows::default();
    for document in DOCUMENTS {
        query.push_pair(document, &mut rows).unwrap();
    }
    let batch = PackedBatch::new(rows.ids, rows.offsets, rows.second_segment).unwrap();
    assay_kernels::reference::forward(&model, &batch)
}

pub fn show(bench: &Bench, model: &str) -> Value {
    finish(bench.assay().args(["model", "show", model, "--json"])).succeeds().lines().remove(0)
}

/// Scores of BERT's tokenizer for the small model.
pub const PLAIN: [f64; 4] = [-0.464457, -1.112280, -1.445379, -1.465569];
/// The same with case and accents.
pub const CASED: [f64; 4] = [-0.286343, -1.486783, 0.153329, -1.761737];
/// The same as plain without token types.
pub const WITHOUT_TYPES: [f64; 4] = [1.024646, 1.330167, 0.505790, 1.169608];
/// The same as plain, with rows of at most 16 tokens.
pub const SHORT: [f64; 4] = [-1.112565, -0.786965, -1.445379, -1.359720];

/// The same as plain, with "light of the " before the query.
pub const PROMPTED: [f64; 4] = [-0.360697, -0.951327, -0.456694, -0.820301];

pub fn nothing(_: &Path) {}

pub fn change_tokenizer(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("tokenizer.json");
    let mut tokenizer = read(&path);
    change(&mut tokenizer);
    std::fs::write(path, tokenizer.to_string()).unwrap();
}
