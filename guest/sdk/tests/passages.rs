//! Documents as passages: every token is in one, and passages overlap as they are asked to.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

mod common;

use assay_guest::{Cut, End, PairError, Passages, Pushed, Rows};
use common::{bert_json, encoder};
use proptest::prelude::*;

/// The document parts of the rows: what is between the second segment's begin and the last special token.
fn passages(rows: &Rows) -> Vec<Vec<u32>> {
    let row = |row: usize| &rows.ids[rows.offsets[row] as usize..rows.offsets[row + 1] as usize];
    let document = |at: usize| {
        let row = row(at);
        row[rows.second_segment[at] as usize..row.len() - 1].to_vec()
    };
    (0..rows.len()).map(document).collect()
}

fn pushed(document: &str, max_tokens: usize, passages: Passages) -> (Pushed, Rows) {
    let encoder = encoder(&bert_json(true));
    let mut rows = Rows::default();
    let mut query = encoder.query("q", max_tokens, Cut::LongestFirst).unwrap();
    let pushed = query.push_passages(document, &passages, &mut rows).unwrap();
    (pushed, rows)
}

/// The document's tokens, in one row.
fn whole(document: &str) -> Vec<u32> {
    let encoder = encoder(&bert_json(true));
    let mut rows = Rows::default();
    encoder.query("q", 1 << 20, Cut::Nothing).unwrap().push_pair(document, &mut rows).unwrap();
    passages(&rows).remove(0)
}

/// Words of one token each, no two neighbours alike.
fn words(count: usize) -> String {
    (0..count).map(|word| format!("{} ", (b'a' + (word % 7) as u8) as char)).collect()
}

#[test]
fn a_short_document_is_one_passage_and_so_is_an_empty_one() {
    for document in ["a", ""] {
        let (pushed, rows) = pushed(document, 64, Passages { tokens: 8, overlap: 2, most: 9 });
        assert_eq!(pushed, Pushed { passages: 1, is_cut: false });
        assert_eq!(passages(&rows), [whole(document)]);
    }
}

#[test]
fn passages_begin_where_the_overlap_says() {
    let (pushed, rows) = pushed(&words(10), 64, Passages { tokens: 4, overlap: 1, most: 9 });
    let all = whole(&words(10));
    assert_eq!(pushed, Pushed { passages: 3, is_cut: false });
    assert_eq!(passages(&rows), [&all[0..4], &all[3..7], &all[6..10]]);
}

#[test]
fn a_document_beyond_the_most_passages_is_cut_and_says_so_or_is_refused() {
    let (pushed, rows) = pushed(&words(40), 64, Passages { tokens: 8, overlap: 0, most: 2 });
    assert_eq!((pushed, rows.len()), (Pushed { passages: 2, is_cut: true }, 2));
    let encoder = encoder(&bert_json(true));
    let mut rows = Rows::default();
    let mut query = encoder.query("q", 64, Cut::Nothing).unwrap();
    let passages = Passages { tokens: 8, overlap: 0, most: 4 };
    let error = query.push_passages(&words(33), &passages, &mut rows).unwrap_err();
    assert!(matches!(error, PairError::TooManyPassages { tokens: 33, most: 4 }), "{error}");
    assert!(rows.is_empty());
    let fits = query.push_passages(&words(32), &passages, &mut rows).unwrap();
    assert_eq!(fits, Pushed { passages: 4, is_cut: false });
}

#[test]
fn a_document_with_a_limit_of_its_own_is_cut_before_it_becomes_passages() {
    let encoder = encoder(&bert_json(true));
    let all = whole(&words(10));
    for (end, kept) in [(End::Right, &all[..6]), (End::Left, &all[4..])] {
        let mut rows = Rows::default();
        let mut query = encoder.query("q", 64, Cut::Nothing).unwrap();
        query.cut_from(end);
        query.limit_sides(None, Some(6));
        let pushed = query.push_passages(&words(10), &Passages { tokens: 3, overlap: 0, most: 9 }, &mut rows).unwrap();
        assert_eq!(pushed, Pushed { passages: 2, is_cut: true }, "{end:?}");
        assert_eq!(passages(&rows).concat(), kept, "{end:?}");
    }
}

proptest! {
    #[test]
    fn passages_have_every_token_of_a_document_and_overlap_as_asked(
        words in 0_usize..200, tokens in 1_u32..40, overlap in 0_u32..40, max_tokens in 6_usize..64,
    ) {
        let overlap = overlap.min(tokens - 1);
        let document = self::words(words);
        let (pushed, rows) = pushed(&document, max_tokens, Passages { tokens, overlap, most: u32::MAX });
        let (found, whole) = (passages(&rows), whole(&document));
        prop_assert_eq!(pushed, Pushed { passages: found.len(), is_cut: false });
        let longest = found.iter().map(Vec::len).max().unwrap_or_default();
        prop_assert!(longest <= tokens as usize);
        prop_assert!(rows.offsets.windows(2).all(|row| row[1] - row[0] <= max_tokens as u32));
        // Laid end to end without what they share, they are the document.
        let step = longest.saturating_sub(overlap as usize * longest / tokens as usize).max(1);
        let mut joined = found[0].clone();
        for (number, passage) in found.iter().enumerate().skip(1) {
            let begin = number * step;
            prop_assert!(begin <= joined.len(), "a gap before passage {}", number);
            prop_assert_eq!(&joined[begin..], &passage[..joined.len() - begin]);
            joined.extend(&passage[joined.len() - begin..]);
        }
        prop_assert_eq!(joined, whole);
    }
}
