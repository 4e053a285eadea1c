//! The ids and token types that PyTorch's side of the world feeds the models, case by case.
//!
//! Golden files hold `{max_length, truncation, cases: [{query, document, ids, type_ids}]}`. A case may have a truncation of
//! its own, cases of ids alone have no texts, and those of models without token types leave `type_ids` out. The default
//! model's tokenizer is what `cargo xtask test` fetches; the tiny models have their own.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::fs;
use std::path::Path;

use assay_guest::{Cut, PairEncoder, Rows};
use serde_json::Value;

/// BERT's own length; the small models' files do not repeat it.
const MAX_LENGTH: u64 = 512;

/// Families whose tokenizers the encoder computes.
const FAMILIES: [&str; 7] = ["bert", "electra", "distilbert", "modernbert", "xlm-roberta", "roberta", "camembert"];

#[test]
fn passages_of_the_default_model_tokenise_as_recorded() {
    let Some(model) = testdata::default_model() else { return };
    let tokenizer = model.join("tokenizer.json");
    check(&testdata::golden("passages.json"), &tokenizer);
    for name in ["default-model.json", "minilm-seeded-head.json"] {
        if let Some(golden) = testdata::beside_checkout(&format!("golden/{name}")) {
            check(&golden, &tokenizer);
        }
    }
}

#[test]
fn texts_of_the_tiny_models_tokenise_as_recorded() {
    for model in FAMILIES.iter().flat_map(|family| testdata::models(family)) {
        check(&model.join("golden.json"), &model.join("tokenizer.json"));
    }
}

fn check(golden: &Path, tokenizer: &Path) {
    let file: Value = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    let encoder = PairEncoder::from_json(&fs::read(tokenizer).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    let mut texts = 0;
    for (index, case) in cases.iter().enumerate().filter(|(_, case)| case["query"].is_string()) {
        let max_length = case["max_length"].as_u64().or(file["max_length"].as_u64()).unwrap_or(MAX_LENGTH);
        let cut = match case["truncation"].as_str().or(file["truncation"].as_str()) {
            None | Some("longest_first") => Cut::LongestFirst,
            Some("only_second") => Cut::DocumentOnly,
            Some(other) => panic!("{}: truncation {other}", golden.display()),
        };
        let text = |name: &str| case[name].as_str().unwrap();
        texts += 1;
        let mut rows = Rows::default();
        encoder
            .query(text("query"), max_length as usize, cut)
            .and_then(|mut query| query.push_pair(text("document"), &mut rows))
            .unwrap();
        let numbers = |name: &str| -> Option<Vec<u64>> {
            Some(case[name].as_array()?.iter().map(|number| number.as_u64().unwrap()).collect())
        };
        let ids: Vec<u64> = rows.ids.iter().copied().map(u64::from).collect();
        assert_eq!(Some(ids), numbers("ids"), "ids of case {index} of {}", golden.display());
        if let Some(expected) = numbers("type_ids") {
            let second_segment = rows.second_segment[0] as usize;
            let type_ids: Vec<u64> = (0..rows.ids.len()).map(|index| u64::from(index >= second_segment)).collect();
            assert_eq!(type_ids, expected, "type ids of case {index} of {}", golden.display());
        }
    }
    assert!(texts > 0, "{} has no texts", golden.display());
    println!("{}: {texts} texts", golden.display());
}
