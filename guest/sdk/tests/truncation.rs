//! A pair that does not fit is cut or refused exactly as by `tokenizers`.

mod common;

use assay_guest::{Cut, End, PairError, Rows};
use common::{Kinds, bare_json, bert_json, encoder, our_row, reference_of, reference_row, text};
use proptest::prelude::*;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

/// The same tokenizer with truncation.
#[allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]
fn truncating(reference: &Tokenizer, max_length: usize, strategy: TruncationStrategy) -> Tokenizer {
    truncating_from(TruncationDirection::Right, reference, max_length, strategy)
}

/// The same tokenizer with truncation at one end.
#[allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]
fn truncating_from(
    direction: TruncationDirection,
    reference: &Tokenizer,
    max_length: usize,
    strategy: TruncationStrategy,
) -> Tokenizer {
    let mut reference = reference.clone();
    let params = TruncationParams { direction, max_length, strategy, stride: 0 };
    reference.with_truncation(Some(params)).unwrap();
    reference
}

#[test]
fn a_limit_below_the_special_tokens_is_refused() {
    let encoder = encoder(&bert_json(true));
    for cut in [Cut::Nothing, Cut::LongestFirst, Cut::DocumentOnly] {
        let error = encoder.query("a", 2, cut).unwrap_err();
        assert!(matches!(error, PairError::NoRoom { max_tokens: 2, special_tokens: 3 }), "{error}");
        assert_eq!(error.to_string(), "a pair may have 2 tokens, but its special tokens alone take 3");
        assert!(encoder.query("a", 0, cut).is_err());
    }
}

#[test]
fn a_limit_of_the_special_tokens_leaves_empty_texts() {
    let encoder = encoder(&bert_json(true));
    let mut query = encoder.query("query", 3, Cut::LongestFirst).unwrap();
    let (row, was_cut) = our_row(&mut query, "document").unwrap();
    assert_eq!((row.ids, row.type_ids, was_cut), (vec![2, 3, 3], vec![0, 0, 1], true));
}

#[test]
fn a_pair_that_may_not_be_cut_is_refused_with_its_length_and_the_limit() {
    let encoder = encoder(&bert_json(true));
    let mut query = encoder.query("a a", 6, Cut::Nothing).unwrap();
    assert!(our_row(&mut query, "a").is_ok());
    let error = our_row(&mut query, "a a a").unwrap_err();
    assert!(matches!(error, PairError::TooLong { tokens: 8, max_tokens: 6 }), "{error}");
}

/// `tokenizers` then cuts the query too, but the contract allows only the document to be cut.
#[test]
fn document_only_refuses_a_query_that_leaves_no_room_for_the_document() {
    let encoder = encoder(&bert_json(true));
    for (query_text, max_tokens) in [("a a a", 6), ("a a a a", 6), ("a", 3)] {
        let mut query = encoder.query(query_text, max_tokens, Cut::DocumentOnly).unwrap();
        let error = our_row(&mut query, "a").unwrap_err();
        assert!(matches!(error, PairError::QueryTooLong { .. }), "{error}");
    }
}

#[test]
fn a_row_counts_as_cut_if_tokenising_stopped_early() {
    // Without special tokens, tokenising stops exactly at the limit.
    let encoder = encoder(&bare_json());
    let mut query = encoder.query("", 4, Cut::LongestFirst).unwrap();
    assert!(!our_row(&mut query, "a a a a").unwrap().1);
    assert!(our_row(&mut query, "a a a a a").unwrap().1);
    assert!(!our_row(&mut query, "a a a a  ").unwrap().1);
}

/// The reference counts whole texts; the header of `truncate.rs` names two releases that do not.
#[test]
fn longest_first_cuts_as_in_tokenizers() {
    let kinds = Kinds::new();
    let inputs = (text(30), text(30), 4_usize..60, 0..Kinds::COUNT);
    proptest!(ProptestConfig::with_cases(4000), |((query, document, max_tokens, kind) in inputs)| {
        let (encoder, reference) = kinds.get(kind);
        let whole = reference_row(reference, &query, &document).unwrap();
        let cutting = truncating(reference, max_tokens, TruncationStrategy::LongestFirst);
        let [first, mut second] = [&query, &document].map(|text| reference.encode(text.as_str(), false).unwrap());
        second.set_type_ids(vec![1; second.len()]);
        let expected = reference_of(&cutting.post_process(first, Some(second), true).unwrap());
        let mut paired = encoder.query(&query, max_tokens, Cut::LongestFirst).unwrap();
        let (row, was_cut) = our_row(&mut paired, &document).unwrap();
        prop_assert_eq!(was_cut, row != whole);
        prop_assert_eq!(row, expected);
    });
}

#[test]
fn cutting_from_the_left_keeps_the_last_tokens_as_in_tokenizers() {
    let kinds = Kinds::new();
    let inputs = (text(30), text(30), 4_usize..60, 0..Kinds::COUNT);
    proptest!(ProptestConfig::with_cases(2000), |((query, document, max_tokens, kind) in inputs)| {
        let (encoder, reference) = kinds.get(kind);
        let strategy = TruncationStrategy::LongestFirst;
        let cutting = truncating_from(TruncationDirection::Left, reference, max_tokens, strategy);
        let [first, mut second] = [&query, &document].map(|text| reference.encode(text.as_str(), false).unwrap());
        second.set_type_ids(vec![1; second.len()]);
        let expected = reference_of(&cutting.post_process(first, Some(second), true).unwrap());
        let mut paired = encoder.query(&query, max_tokens, Cut::LongestFirst).unwrap();
        paired.cut_from(End::Left);
        prop_assert_eq!(our_row(&mut paired, &document).unwrap().0, expected);
    });
}

#[test]
fn a_side_with_a_limit_of_its_own_is_cut_before_it_is_paired() {
    let encoder = encoder(&bert_json(true));
    for (end, query_ids, document_ids) in
        [(End::Right, vec![0, 1], vec![2, 3, 4]), (End::Left, vec![2, 3], vec![7, 8, 9])]
    {
        let letters = |from: usize, to: usize| {
            ('a'..='z').skip(from).take(to - from).map(|c| format!("{c} ")).collect::<String>()
        };
        let ids = |text: &str| {
            let mut query = encoder.query("", 100, Cut::Nothing).unwrap();
            let (row, _) = our_row(&mut query, text).unwrap();
            row.ids[2..row.ids.len() - 1].to_vec()
        };
        // Neither is too long for the row: only the limits cut.
        let mut query = encoder.query(&letters(0, 4), 100, Cut::Nothing).unwrap();
        query.cut_from(end);
        query.limit_sides(Some(2), Some(3));
        let (row, was_cut) = our_row(&mut query, &letters(2, 10)).unwrap();
        let pick = |places: &[usize]| {
            ids(&places.iter().map(|at| format!("{} ", (b'a' + *at as u8) as char)).collect::<String>())
        };
        let expected = [vec![2], pick(&query_ids), vec![3], pick(&document_ids), vec![3]].concat();
        assert_eq!((row.ids, was_cut), (expected, true), "{end:?}");
        // A text at its limit is whole.
        let mut query = encoder.query("a b", 100, Cut::Nothing).unwrap();
        query.cut_from(end);
        query.limit_sides(Some(2), Some(3));
        assert!(!our_row(&mut query, "a b c").unwrap().1, "{end:?}");
    }
}

#[test]
fn the_longer_of_two_texts_over_the_limit_keeps_the_odd_token() {
    let encoder = encoder(&bert_json(true));
    // The limit leaves room for 5 + 6 tokens.
    for (query, document, kept) in [(20, 30, (5, 6)), (30, 20, (6, 5)), (15, 14, (6, 5)), (20, 20, (5, 6))] {
        let mut paired = encoder.query(&"a ".repeat(query), 14, Cut::LongestFirst).unwrap();
        let (row, was_cut) = our_row(&mut paired, &"a ".repeat(document)).unwrap();
        let second = row.type_ids.iter().filter(|&&type_id| type_id == 1).count() - 1;
        assert_eq!((row.ids.len() - 3 - second, second), kept, "{query} and {document} tokens");
        assert!(was_cut);
    }
}

#[test]
fn document_only_cuts_as_in_tokenizers() {
    let kinds = Kinds::new();
    let inputs = (text(12), text(30), 5_usize..60, 0..Kinds::COUNT);
    proptest!(ProptestConfig::with_cases(4000), |((query, document, max_tokens, kind) in inputs)| {
        let (encoder, reference) = kinds.get(kind);
        let whole = reference_row(reference, &query, &document).unwrap();
        let cutting = truncating(reference, max_tokens, TruncationStrategy::OnlySecond);
        let expected = reference_row(&cutting, &query, &document);
        let mut paired = encoder.query(&query, max_tokens, Cut::DocumentOnly).unwrap();
        let mut rows = Rows::default();
        match (paired.push_pair(&document, &mut rows), expected) {
            (Ok(was_cut), Ok(expected)) => {
                prop_assert_eq!(was_cut, rows.ids != whole.ids);
                prop_assert_eq!(rows.ids, expected.ids);
            }
            (Err(PairError::QueryTooLong { .. }), Err(_)) => prop_assert!(rows.is_empty()),
            (ours, expected) => prop_assert!(false, "{ours:?} where tokenizers gives {expected:?}"),
        }
    });
}
