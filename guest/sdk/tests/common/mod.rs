//! Small tokenizers of each kind that rerankers come with, texts to try them on, and the rows of `tokenizers` itself.
#![allow(dead_code, reason = "every test file is a crate and uses a part")]
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

pub(crate) mod charsmap;
pub(crate) mod kinds;

use assay_guest::{End, Error, Options, PairEncoder, PairError, Query, Rows, Truncation};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::{Encoding, Tokenizer};

/// Options of a request that says nothing.
pub(crate) const OPTIONS: Options = Options {
    max_tokens: None,
    truncation: Truncation::LongestFirst,
    cut_end: End::Right,
    max_document_tokens: None,
    max_query_tokens: None,
    label: None,
};

/// The message of an error that must be `invalid-input`.
pub(crate) fn invalid_input(error: Error) -> String {
    match error {
        Error::InvalidInput(message) => message,
        other => panic!("{other:?} instead of invalid-input"),
    }
}

/// A row as `tokenizers` describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) ids: Vec<u32>,
    pub(crate) type_ids: Vec<u32>,
}

/// BERT's tokenizer over a small vocabulary: every ASCII letter and digit as a piece, and some longer pieces. Its
/// settings for truncation and padding are absurd, to show that they are ignored.
pub(crate) fn bert_json(lowercase: bool) -> Vec<u8> {
    bert_json_with(lowercase, &template())
}

/// The same with another post-processor.
fn bert_json_with(lowercase: bool, post_processor: &Value) -> Vec<u8> {
    let mut entries: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).to_vec();
    for character in ('a'..='z').chain('A'..='Y').chain('0'..='8') {
        entries.push(character.to_string());
        entries.push(format!("##{character}"));
    }
    let longer = ["query", "##ing", "doc", "##ument", "un", "##aff", "##able", "東", "京", "ß", "я", "##я"];
    entries.extend(longer.map(String::from));
    entries.extend("!\"#$%&'()*+,-./:;<=>?@\\]^_`{|}—“".chars().map(String::from));
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": content == "[MASK]", "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let added: Vec<Value> = (0..5).map(|id| special(id, &entries[id])).collect();
    let vocabulary: serde_json::Map<String, Value> =
        entries.iter().enumerate().map(|(id, entry)| (entry.clone(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": {"direction": "Left", "max_length": 4, "strategy": "OnlyFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": post_processor,
        "decoder": null,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    });
    tokenizer.to_string().into_bytes()
}

/// RoBERTa's post-processor (four special tokens, no token type 1) over whole words.
pub(crate) fn roberta_json() -> Vec<u8> {
    whole_words_json(&json!({
        "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1],
        "trim_offsets": true, "add_prefix_space": true,
    }))
}

/// BERT's tokenizer with the older post-processor for BERT alone.
pub(crate) fn older_bert_json() -> Vec<u8> {
    bert_json_with(true, &json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}))
}

/// Two post-processors, one after the other.
pub(crate) fn sequence_json() -> Vec<u8> {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    bert_json_with(true, &json!({"type": "Sequence", "processors": [byte_level, template()]}))
}

/// No post-processor: the document follows the query directly.
pub(crate) fn bare_json() -> Vec<u8> {
    whole_words_json(&Value::Null)
}

fn whole_words_json(post_processor: &Value) -> Vec<u8> {
    let words = ["<unk>", "<s>", "</s>", "a", "query", "document", "un", "x", ".", "!?", "東京"];
    let vocabulary: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": post_processor,
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocabulary},
    });
    tokenizer.to_string().into_bytes()
}

pub(crate) fn template() -> Value {
    let special = |id: &str, type_id: u32| json!({"SpecialToken": {"id": id, "type_id": type_id}});
    let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    json!({
        "type": "TemplateProcessing",
        "single": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)],
        "pair": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0), sequence("B", 1), special("[SEP]", 1)],
        "special_tokens": {
            "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
        },
    })
}

/// The tokenizer as `tokenizers` loads it, without truncation and padding.
pub(crate) fn reference(json: &[u8]) -> Tokenizer {
    let mut tokenizer = Tokenizer::from_bytes(json).unwrap();
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).unwrap();
    tokenizer
}

pub(crate) fn encoder(json: &[u8]) -> PairEncoder {
    PairEncoder::from_json(json).unwrap()
}

/// A tokenizer of each kind, as an encoder and as the reference.
pub(crate) struct Kinds(Vec<(PairEncoder, Tokenizer)>);

impl Kinds {
    pub(crate) const COUNT: usize = 9;

    pub(crate) fn new() -> Self {
        let mut jsons =
            vec![bert_json(true), bert_json(false), older_bert_json(), sequence_json(), roberta_json(), bare_json()];
        let flat = kinds::flat_kinds().into_iter().filter(|(name, _)| ["gpt2-spaces", "qwen", "xlmr"].contains(name));
        jsons.extend(flat.map(|(_, json)| json.to_string().into_bytes()));
        assert_eq!(jsons.len(), Self::COUNT);
        Self(jsons.iter().map(|json| (encoder(json), reference(json))).collect())
    }

    pub(crate) fn get(&self, kind: usize) -> (&PairEncoder, &Tokenizer) {
        let (encoder, reference) = &self.0[kind];
        (encoder, reference)
    }
}

/// A pair as `tokenizers` encodes it.
pub(crate) fn reference_row(tokenizer: &Tokenizer, query: &str, document: &str) -> Result<Row, tokenizers::Error> {
    Ok(reference_of(&tokenizer.encode((query, document), true)?))
}

/// A pair of `tokenizers` as a row.
pub(crate) fn reference_of(pair: &Encoding) -> Row {
    Row { ids: pair.get_ids().to_vec(), type_ids: pair.get_type_ids().to_vec() }
}

/// A pair as our encoder pushes it, and whether it was cut. A row goes before it, to show that rows stay apart.
pub(crate) fn our_row(query: &mut Query<'_>, document: &str) -> Result<(Row, bool), PairError> {
    let mut rows = Rows::default();
    query.push_pair("a", &mut rows)?;
    let first = rows.clone();
    let was_cut = query.push_pair(document, &mut rows)?;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows.ids[..first.ids.len()], first.ids);
    assert_eq!(rows.offsets, [0, first.ids.len() as u32, rows.ids.len() as u32]);
    let ids = rows.ids[first.ids.len()..].to_vec();
    let second_segment = rows.second_segment[1] as usize;
    let type_ids = (0..ids.len()).map(|index| u32::from(index >= second_segment)).collect();
    Ok((Row { ids, type_ids }, was_cut))
}

/// Texts of characters and words that tokenizers treat in special ways.
pub(crate) fn text(max_fragments: usize) -> impl Strategy<Value = String> {
    let fragments: Vec<String> = [
        "a",
        "query",
        "Query",
        "querying",
        "document",
        "unaffable",
        "unaffableZ",
        "doc9",
        "x",
        "zzz",
        ".",
        "!?",
        "[",
        "]",
        "[SEP]",
        "[CLS]",
        "[MASK]",
        " [MASK] ",
        "[sep]",
        "<s>",
        "</s>",
        "##ing",
        "#",
        "é",
        "e\u{301}",
        "\u{301}",
        "İ",
        "ß",
        "ſ",
        "東京",
        "東",
        "я",
        "ﷺ",
        "👩\u{200d}💻",
        "\u{200b}",
        "\u{a0}",
        "\u{3000}",
        "\u{2028}",
        "\u{fffd}",
        "\u{feff}",
        "\0",
        "\u{1}",
        "\u{b}",
        "\u{c}",
        "\u{7f}",
        "\u{85}",
        "\t",
        "\n",
        "\r\n",
        "—",
        "“",
        "½",
        "Å",
        "가",
    ]
    .map(String::from)
    .into_iter()
    .chain(["a".repeat(100), "a".repeat(101), "é".repeat(100), "я".repeat(101)])
    .collect();
    let space = prop_oneof![2 => Just(" "), 1 => Just(""), 1 => Just("  ")];
    let fragment = prop_oneof![
        8 => proptest::sample::select(fragments),
        1 => any::<char>().prop_map(String::from),
        1 => "[ -~]{1,8}",
    ];
    proptest::collection::vec((fragment, space), 0..=max_fragments)
        .prop_map(|parts| parts.into_iter().flat_map(|(fragment, space)| [fragment, space.to_owned()]).collect())
}
