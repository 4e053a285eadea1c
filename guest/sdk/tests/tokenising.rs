//! For any text, a row has the ids and token types that `tokenizers` gives the pair.

mod common;

use assay_guest::{Cut, Query};
use common::{Kinds, Row, bert_json, encoder, older_bert_json, our_row, reference, reference_row, sequence_json, text};
use proptest::prelude::*;
use serde_json::{Value, json};

#[allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]
fn row(query: &mut Query<'_>, document: &str) -> Row {
    our_row(query, document).unwrap().0
}

#[test]
fn odd_texts_become_rows_as_in_tokenizers() {
    let texts = [
        "",
        " ",
        "\u{200b}",
        "query",
        "[SEP] injected [CLS]",
        "[MASK] [PAD] literal specials",
        "un[SEP]affable",
        "café naïve e\u{301} İstanbul",
        "Zürich 東京 — “quotes”…",
        "emoji 👩\u{200d}💻 test",
        "tab\tnewline\nnull\0ish \u{200b} zero\u{7f}width\u{b}feed",
        "don't stop-me, now!!",
        "\u{301}leading mark",
    ];
    let kinds = Kinds::new();
    for kind in 0..Kinds::COUNT {
        let (encoder, reference) = kinds.get(kind);
        for query in texts {
            let mut paired = encoder.query(query, 10_000, Cut::Nothing).unwrap();
            for document in texts {
                let expected = reference_row(reference, query, document).unwrap();
                assert_eq!(row(&mut paired, document), expected, "{query:?} with {document:?}");
            }
        }
    }
}

/// Compares with `tokenizers`, and with the length of a pair in case that is wrong.
#[test]
fn a_text_without_tokens_still_makes_a_pair() {
    let without_tokens =
        ["", " ", "\t\n \r\n", "\u{a0}\u{3000}", "\0", "\u{1}\u{7}\u{7f}", "\u{200b}\u{feff}", "\u{fffd}", "\u{301}"];
    for json in [bert_json(true), older_bert_json(), sequence_json()] {
        let (encoder, reference) = (encoder(&json), reference(&json));
        for (query, document) in
            without_tokens.iter().flat_map(|&empty| [("", empty), (empty, ""), (empty, "a"), ("a", empty)])
        {
            for cut in [Cut::Nothing, Cut::LongestFirst, Cut::DocumentOnly] {
                let mut paired = encoder.query(query, 512, cut).unwrap();
                let row = row(&mut paired, document);
                assert_eq!(row, reference_row(&reference, query, document).unwrap(), "{query:?} with {document:?}");
                let tokens = 3 + usize::from(query == "a") + usize::from(document == "a");
                assert_eq!(row.ids.len(), tokens, "{query:?} with {document:?}");
            }
        }
    }
}

#[test]
fn a_bert_pair_has_its_special_tokens_and_types() {
    let encoder = encoder(&bert_json(true));
    let mut query = encoder.query("Query", 512, Cut::LongestFirst).unwrap();
    let reference = reference(&bert_json(true));
    let id = |token: &str| reference.token_to_id(token).unwrap();
    let expected = Row {
        ids: ["[CLS]", "query", "[SEP]", "un", "##aff", "##able", "!", "[SEP]"].map(id).to_vec(),
        type_ids: vec![0, 0, 0, 1, 1, 1, 1, 1],
    };
    assert_eq!(our_row(&mut query, "UNAFFABLE!").unwrap(), (expected, false));
}

/// Puts each character inside a word, before one and alone, so that the ids show whether it is dropped, splits a word,
/// is a word or changes.
#[test]
fn every_character_is_tokenised_as_in_tokenizers() {
    let characters: Vec<char> = (0..0x3_0000).chain(0xe_0000..0xe_0200).filter_map(char::from_u32).collect();
    for lowercase in [true, false] {
        let json = bert_json(lowercase);
        let (encoder, reference) = (encoder(&json), reference(&json));
        let mut query = encoder.query("a", usize::MAX, Cut::Nothing).unwrap();
        for some in characters.chunks(64) {
            let document: String =
                some.iter().map(|character| format!("a{character}b {character}a {character} ")).collect();
            let expected = reference_row(&reference, "a", &document).unwrap();
            assert_eq!(row(&mut query, &document), expected, "from {:x} on", u32::from(some[0]));
        }
    }
}

#[test]
fn added_tokens_may_start_with_anything() {
    let mut json: Value = serde_json::from_slice(&bert_json(true)).unwrap();
    let first_id = json["model"]["vocab"].as_object().unwrap().len();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for (index, content) in ["b", " x", "é", "-c", "\u{1}d"].iter().enumerate() {
        let mut token = added[0].clone();
        token["content"] = json!(content);
        token["id"] = json!(first_id + index);
        added.push(token);
    }
    let json = json.to_string().into_bytes();
    let (encoder, reference) = (encoder(&json), reference(&json));
    let mut query = encoder.query("a", 512, Cut::Nothing).unwrap();
    for document in
        ["a", "abba", "a x", "a xa", "caé", "ça va é", "a-c", "a-a", "\u{1}d", "a\u{1}da", "ç-c", "ç x", "çba"]
    {
        let expected = reference_row(&reference, "a", document).unwrap();
        assert_eq!(row(&mut query, document), expected, "{document:?}");
    }
}

#[test]
fn pieces_may_be_of_any_length() {
    let mut json: Value = serde_json::from_slice(&bert_json(true)).unwrap();
    json["model"]["max_input_chars_per_word"] = json!(100_000);
    let entries = json["model"]["vocab"].as_object().unwrap().len();
    for (index, bytes) in [0, 1_024, 1_025, 50_000].into_iter().enumerate() {
        let mut json = json.clone();
        json["model"]["vocab"]["a".repeat(bytes)] = json!(entries + index);
        let json = json.to_string().into_bytes();
        let (encoder, reference) = (encoder(&json), reference(&json));
        let document = format!("{} {}b", "a".repeat(bytes), "a".repeat(bytes));
        let expected = reference_row(&reference, "a", &document).unwrap();
        assert_eq!(row(&mut encoder.query("a", 1_000_000, Cut::Nothing).unwrap(), &document), expected, "{bytes}");
    }
}

#[test]
fn any_pair_becomes_a_row_as_in_tokenizers() {
    let kinds = Kinds::new();
    proptest!(ProptestConfig::with_cases(3000), |(query in text(12), document in text(40), kind in 0..Kinds::COUNT)| {
        let (encoder, reference) = kinds.get(kind);
        let expected = reference_row(reference, &query, &document).unwrap();
        let mut paired = encoder.query(&query, 100_000, Cut::Nothing).unwrap();
        prop_assert_eq!(row(&mut paired, &document), expected);
    });
}
