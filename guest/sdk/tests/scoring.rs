//! A request through the scorer, with a stand-in for the host's model.

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use assay_guest::{
    Activation, End, Error, Inference, ModelInfo, Options, Request, SETTING_LABEL, Scorer, Task, TokenRows, Truncation,
    hits, rank,
};
use common::{OPTIONS, bert_json, encoder, invalid_input};

/// Answers with each row's length, ten times that for each further label, and records the number of rows of each call.
struct LengthModel {
    outputs: usize,
    calls: RefCell<Vec<usize>>,
}

impl Inference for &LengthModel {
    fn run(&self, rows: &TokenRows) -> Result<Vec<f32>, Error> {
        assert_eq!(rows.offsets.len(), rows.second_segment.len() + 1);
        assert_eq!(rows.offsets[0], 0);
        self.calls.borrow_mut().push(rows.second_segment.len());
        let lengths = rows.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as f32);
        Ok(lengths.flat_map(|length| (0..self.outputs).map(move |label| length * 10_f32.powi(label as i32))).collect())
    }
}

fn model(outputs: usize) -> LengthModel {
    LengthModel { outputs, calls: RefCell::default() }
}

fn info(outputs: u32, task: Task) -> ModelInfo {
    ModelInfo { name: "length".into(), revision: "0".into(), task, max_tokens: 512, vocabulary_size: 200, outputs }
}

fn scorer(model: &LengthModel) -> Scorer<&LengthModel> {
    let info = info(model.outputs as u32, Task::CrossEncoder);
    Scorer::new(model, info, Rc::new(encoder(&bert_json(true))))
}

#[test]
fn documents_are_ranked_before_the_activation_rounds_their_scores() {
    let hits = hits(&[30.0, 40.0, 35.0, -1.0], Some(3), Activation::Sigmoid);
    let ranked: Vec<(u32, f32)> = hits.iter().map(|hit| (hit.index, hit.score)).collect();
    assert_eq!(ranked, [(1, 1.0), (2, 1.0), (0, 1.0)]);
}

#[test]
fn every_document_gets_the_score_of_its_own_row() {
    let model = model(1);
    let scores = scorer(&model).score("query", &["a a a", "a", "", "a a"], &OPTIONS).unwrap();
    assert_eq!(scores.logits, [7.0, 5.0, 4.0, 6.0]);
    assert_eq!((scores.usage.tokens, scores.usage.rows, scores.usage.truncated), (22, 4, 0));
    assert_eq!(*model.calls.borrow(), [4]);
    let hits: Vec<u32> = rank(&scores.logits, Some(2)).iter().map(|hit| hit.index).collect();
    assert_eq!(hits, [0, 3]);
}

#[test]
fn without_documents_the_model_is_not_called() {
    let model = model(1);
    let scores = scorer(&model).score::<&str>("query", &[], &OPTIONS).unwrap();
    assert!(scores.logits.is_empty() && model.calls.borrow().is_empty());
    assert_eq!((scores.usage.tokens, scores.usage.rows), (0, 0));
    assert!(rank(&scores.logits, None).is_empty());
}

#[test]
fn cut_rows_are_counted() {
    let model = model(1);
    let options = Options { max_tokens: Some(6), ..OPTIONS };
    let scores = scorer(&model).score("query", &["a a a", "a", "a a"], &options).unwrap();
    assert_eq!(scores.logits, [6.0, 5.0, 6.0]);
    assert_eq!(scores.usage.truncated, 1);
}

#[test]
fn rows_are_never_longer_than_the_model_allows() {
    let model = model(1);
    let options = Options { max_tokens: Some(100_000), ..OPTIONS };
    let long = "a ".repeat(2000);
    let scores = scorer(&model).score("query", &[long], &options).unwrap();
    assert_eq!(scores.logits, [512.0]);
}

#[test]
fn a_pair_that_may_not_be_cut_is_refused_with_its_length_and_the_limit() {
    let model = model(1);
    let options = Options { max_tokens: Some(6), truncation: Truncation::None, ..OPTIONS };
    let error = scorer(&model).score("query", &["a", "a a a"], &options).unwrap_err();
    assert_eq!(
        invalid_input(error),
        "document 1: the pair has 7 tokens, more than the 6 allowed, and is not to be cut"
    );
    assert!(model.calls.borrow().is_empty());
}

#[test]
fn a_limit_below_the_special_tokens_is_refused() {
    let options = Options { max_tokens: Some(2), ..OPTIONS };
    let error = scorer(&model(1)).score("query", &["a"], &options).unwrap_err();
    assert_eq!(invalid_input(error), "a pair may have 2 tokens, but its special tokens alone take 3");
}

#[test]
fn many_documents_take_several_calls_and_come_back_in_order() {
    let model = model(1);
    let documents: Vec<String> = (0..5000).map(|index| "a ".repeat(1 + index % 600)).collect();
    let scores = scorer(&model).score("query", &documents, &OPTIONS).unwrap();
    assert!(model.calls.borrow().len() > 1);
    assert_eq!(model.calls.borrow().iter().sum::<usize>(), documents.len());
    for (index, &score) in scores.logits.iter().enumerate() {
        assert_eq!(score, (5 + index % 600).min(512) as f32, "document {index}");
    }
    assert_eq!(scores.usage.tokens, scores.logits.iter().map(|&score| score as u64).sum::<u64>());
    assert_eq!(scores.usage.rows, 5000);
}

#[test]
fn a_model_with_several_labels_needs_the_setting_for_one() {
    let model = model(3);
    let error = scorer(&model).score("query", &["a"], &OPTIONS).unwrap_err();
    let message = invalid_input(error);
    assert!(message.contains("3 labels") && message.contains(SETTING_LABEL), "{message}");
    let options = Options { label: Some(2), ..OPTIONS };
    let scores = scorer(&model).score("query", &["a", "a a"], &options).unwrap();
    assert_eq!(scores.logits, [500.0, 600.0]);
    let options = Options { label: Some(3), ..OPTIONS };
    assert!(scorer(&model).score("query", &["a"], &options).is_err());
}

#[test]
fn an_embedding_model_is_refused() {
    let model = model(1);
    let info = info(384, Task::Embedding);
    let scorer = Scorer::new(&model, info, Rc::new(encoder(&bert_json(true))));
    let message = invalid_input(scorer.score("query", &["a"], &OPTIONS).unwrap_err());
    assert!(message.contains("not a cross-encoder"), "{message}");
}

#[test]
fn a_wrong_number_of_outputs_is_an_internal_error() {
    let model = model(2);
    let info = info(1, Task::CrossEncoder);
    let scorer = Scorer::new(&model, info, Rc::new(encoder(&bert_json(true))));
    let error = scorer.score("query", &["a"], &OPTIONS).unwrap_err();
    assert!(matches!(error, Error::Internal(_)), "{error:?}");
}

#[test]
fn an_error_of_the_host_is_passed_on() {
    struct Overloaded;
    impl Inference for Overloaded {
        fn run(&self, _: &TokenRows) -> Result<Vec<f32>, Error> {
            Err(Error::Overloaded(7))
        }
    }
    let info = info(1, Task::CrossEncoder);
    let scorer = Scorer::new(Overloaded, info, Rc::new(encoder(&bert_json(true))));
    let error = scorer.score("query", &["a"], &OPTIONS).unwrap_err();
    assert!(matches!(error, Error::Overloaded(7)), "{error:?}");
}

#[test]
fn settings_with_a_meaning_are_read_and_a_wrong_value_is_refused_by_the_settings_name() {
    let with = |name: &str, value: &str| Request {
        query: "q".into(),
        documents: Vec::new(),
        top_n: None,
        max_tokens: None,
        truncation: Truncation::LongestFirst,
        activation: Activation::None,
        settings: vec![(name.into(), value.into())],
    };
    assert_eq!(Options::of(&with("truncation-direction", "left")).unwrap().cut_end, End::Left);
    assert_eq!(Options::of(&with("truncation-direction", "right")).unwrap().cut_end, End::Right);
    assert_eq!(Options::of(&with("max-document-tokens", "7")).unwrap().max_document_tokens, Some(7));
    assert_eq!(Options::of(&with("max-query-tokens", "7")).unwrap().max_query_tokens, Some(7));
    assert!(Options::of(&with("a setting of the tenant's own", "?")).is_ok());
    for name in ["truncation-direction", "max-document-tokens", "max-query-tokens", "label"] {
        assert!(invalid_input(Options::of(&with(name, "?")).unwrap_err()).contains(name));
    }
    assert!(Options::of(&with("max-document-tokens", "0")).is_err());
}
