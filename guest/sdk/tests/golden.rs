//! The ids and token types that PyTorch's side of the world feeds the models, case by case.
//!
//! Golden files hold `{max_length, truncation, cases: [{query, document, ids, type_ids}]}`; those of models without token types leave `type_ids` out. What is in the repository must be there; what lies beside it, in `shared/golden`, is used where it is.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::fs;
use std::path::{Path, PathBuf};

use assay_guest::{Cut, PairEncoder, Rows};
use serde_json::Value;

/// BERT's own length; the small models' files do not repeat it.
const MAX_LENGTH: u64 = 512;

#[test]
fn passages_of_the_default_model_tokenise_as_recorded() {
    let golden = repository().join("testdata/golden");
    check(&golden.join("passages.json"), &golden.join("tokenizer.json"));
}

#[test]
fn every_shared_golden_case_tokenises_as_recorded() {
    let shared = repository().join("../shared/golden");
    // Both models have BERT's uncased vocabulary, and so has this one.
    let bert = std::env::var_os("ASSAY_GOLDEN_TOKENIZER")
        .map_or_else(|| shared.join("tiny-bert-hd32/tokenizer.json"), PathBuf::from);
    for name in ["default-model.json", "minilm-seeded-head.json"] {
        check(&shared.join(name), &bert);
    }
    for name in ["bert-hd32", "bert-hd64", "bert-3labels", "electra", "distilbert", "modernbert", "xlm-roberta"] {
        let model = shared.join(format!("tiny-{name}"));
        check(&model.join("golden.json"), &model.join("tokenizer.json"));
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn check(golden: &Path, tokenizer: &Path) {
    let (Ok(cases), Ok(tokenizer)) = (fs::read(golden), fs::read(tokenizer)) else {
        println!("skipped: {} or its tokenizer is not there", golden.display());
        return;
    };
    let file: Value = serde_json::from_slice(&cases).unwrap();
    let cut = match file["truncation"].as_str() {
        None | Some("longest_first") => Cut::LongestFirst,
        Some("only_second") => Cut::DocumentOnly,
        Some(other) => panic!("{}: truncation {other}", golden.display()),
    };
    let encoder = PairEncoder::from_json(&tokenizer).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(!cases.is_empty(), "{} has no cases", golden.display());
    for (index, case) in cases.iter().enumerate() {
        let max_length = case["max_length"].as_u64().or(file["max_length"].as_u64()).unwrap_or(MAX_LENGTH);
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
