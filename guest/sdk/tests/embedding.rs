//! Texts alone in their rows, and documents ranked by an embedding model's vectors.

mod common;

use std::rc::Rc;

use assay_guest::{
    Cut, End, Error, Inference, ModelInfo, Options, PairError, Prefixes, Rows, Scorer, Task, TextLimits, TokenRows,
    Truncation,
};
use common::{Kinds, OPTIONS, bert_json, encoder, invalid_input, reference_of, text};
use proptest::prelude::*;

/// A vector with the row's length, without special tokens, beside a one.
struct Lengths;

impl Inference for Lengths {
    fn run(&self, rows: &TokenRows) -> Result<Vec<f32>, Error> {
        let lengths = rows.offsets.windows(2).map(|row| (row[1] - row[0] - 2) as f32);
        // No row has a second segment.
        assert!(rows.offsets.windows(2).zip(&rows.second_segment).all(|(row, &second)| second == row[1] - row[0]));
        Ok(lengths.flat_map(|length| [length, 1.0]).collect())
    }
}

fn scorer(task: Task) -> Scorer<Lengths> {
    let info =
        ModelInfo { name: "m".into(), revision: "0".into(), task, max_tokens: 12, vocabulary_size: 200, outputs: 2 };
    Scorer::new(Lengths, info, Rc::new(encoder(&bert_json(true))))
}

#[test]
fn a_document_has_the_cosine_of_its_vector_and_the_querys() {
    let scorer = scorer(Task::Embedding);
    let scores = scorer.cosines("a", &["a", "a a a", ""], &OPTIONS, Prefixes::default()).unwrap();
    let expected = [1.0, 4.0 / 20_f32.sqrt(), 1.0 / 2_f32.sqrt()];
    assert!(scores.logits.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{scores:?}");
    assert_eq!((scores.usage.rows, scores.usage.tokens, scores.usage.truncated), (4, 2 * 4 + 5, 0));
    let prefixes = Prefixes { query: "a a ", document: "" };
    assert_eq!(scorer.cosines("a", &["a a a"], &OPTIONS, prefixes).unwrap().logits, [1.0]);
    assert!(scorer.cosines::<&str>("a", &[], &OPTIONS, prefixes).unwrap().logits.is_empty());
}

#[test]
fn a_text_that_does_not_fit_is_cut_and_counted_or_refused() {
    let scorer = scorer(Task::Embedding);
    let (short, long) = ("a", "a ".repeat(11));
    let cosines = |query: &str, document: &str, truncation: Truncation| {
        scorer.cosines(query, &[document], &Options { truncation, ..OPTIONS }, Prefixes::default())
    };
    for truncation in [Truncation::LongestFirst, Truncation::DocumentOnly] {
        assert_eq!(cosines(short, &long, truncation).unwrap().usage.truncated, 1);
    }
    assert_eq!(cosines(&long, short, Truncation::LongestFirst).unwrap().usage.truncated, 1);
    for (query, document, truncation) in
        [(&*long, short, Truncation::DocumentOnly), (&long, short, Truncation::None), (short, &long, Truncation::None)]
    {
        let message = invalid_input(cosines(query, document, truncation).unwrap_err());
        assert!(message.contains("13 tokens, more than the 12 allowed"), "{message}");
    }
}

#[test]
fn a_model_that_computes_no_embeddings_and_a_label_are_refused() {
    let cosines = |task: Task, label: Option<u32>| {
        scorer(task).cosines("a", &["a"], &Options { label, ..OPTIONS }, Prefixes::default())
    };
    assert!(invalid_input(cosines(Task::CrossEncoder, None).unwrap_err()).contains("is a cross-encoder"));
    assert!(invalid_input(cosines(Task::Embedding, Some(0)).unwrap_err()).contains("label"));
}

#[test]
fn a_text_alone_is_the_row_of_tokenizers() {
    let kinds = Kinds::new();
    let inputs = (text(20), 0..Kinds::COUNT);
    proptest!(ProptestConfig::with_cases(2000), |((text, kind) in inputs)| {
        let (encoder, reference) = kinds.get(kind);
        let expected = reference_of(&reference.encode(text.as_str(), true).unwrap());
        let limits = TextLimits { max_tokens: 1 << 20, text_tokens: None, cut: Cut::Nothing, end: End::Right };
        let mut rows = Rows::default();
        match encoder.push_text(&text, &limits, &mut rows) {
            Ok(was_cut) => {
                prop_assert!(!was_cut);
                prop_assert_eq!(rows.ids, expected.ids);
            }
            Err(PairError::NoSingle) => prop_assert!(expected.type_ids.iter().any(|&type_id| type_id != 0)),
            Err(error) => prop_assert!(false, "{error}"),
        }
    });
}
