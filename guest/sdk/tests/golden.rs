//! The ids and token types that PyTorch's side of the world feeds the models, case by case.
//!
//! Golden files hold `{max_length, truncation, cases: [{query, document, ids, type_ids}]}`; a case may have a truncation of its own, and those of models without token types leave `type_ids` out. The repository's own file must be there, and its tokenizer comes with the model that `cargo xtask test` fetches; what lies beside the repository, in `shared/golden`, is used where it is.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::fs;
use std::path::{Path, PathBuf};

use assay_guest::{Cut, PairEncoder, Rows};
use serde_json::Value;

/// BERT's own length; the small models' files do not repeat it.
const MAX_LENGTH: u64 = 512;

#[test]
fn passages_of_the_default_model_tokenise_as_recorded() {
    let golden = repository().join("testdata/golden/passages.json");
    assert!(golden.is_file(), "{} is missing", golden.display());
    let models = repository().join("target/test-data/models/assay--minilm-l6-debian");
    match fs::read_dir(&models).ok().and_then(|revisions| {
        revisions.filter_map(Result::ok).map(|entry| entry.path().join("tokenizer.json")).find(|path| path.is_file())
    }) {
        Some(tokenizer) => check(&golden, &tokenizer),
        None => println!("skipped: no tokenizer in {}; `cargo xtask test` fetches it", models.display()),
    }
}

#[test]
fn every_shared_golden_case_tokenises_as_recorded() {
    let shared = repository().join("../shared/golden");
    // Both models have BERT's uncased vocabulary, and so has this one.
    let bert = std::env::var_os("ASSAY_GOLDEN_TOKENIZER")
        .map_or_else(|| shared.join("tiny-bert-hd32/tokenizer.json"), PathBuf::from);
    let mut files: Vec<(PathBuf, PathBuf)> =
        ["default-model.json", "minilm-seeded-head.json"].map(|name| (shared.join(name), bert.clone())).into();
    for name in ["bert-hd32", "bert-hd64", "bert-3labels", "electra", "distilbert", "modernbert", "xlm-roberta"] {
        let model = shared.join(format!("tiny-{name}"));
        files.push((model.join("golden.json"), model.join("tokenizer.json")));
    }
    for (golden, tokenizer) in files {
        match golden.is_file() && tokenizer.is_file() {
            true => check(&golden, &tokenizer),
            false => println!("skipped: {} or its tokenizer is not there", golden.display()),
        }
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn check(golden: &Path, tokenizer: &Path) {
    let file: Value = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    let encoder = PairEncoder::from_json(&fs::read(tokenizer).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(!cases.is_empty(), "{} has no cases", golden.display());
    for (index, case) in cases.iter().enumerate() {
        let max_length = case["max_length"].as_u64().or(file["max_length"].as_u64()).unwrap_or(MAX_LENGTH);
        let cut = match case["truncation"].as_str().or(file["truncation"].as_str()) {
            None | Some("longest_first") => Cut::LongestFirst,
            Some("only_second") => Cut::DocumentOnly,
            Some(other) => panic!("{}: truncation {other}", golden.display()),
        };
        let text = |name: &str| case[name].as_str().unwrap();
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
    println!("{}: {} cases", golden.display(), cases.len());
}
