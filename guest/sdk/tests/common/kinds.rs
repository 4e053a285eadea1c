//! BPE and Unigram tokenizers in all the forms that rerankers come with, over small vocabularies made of the
//! documentation of this project.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};

use super::charsmap::charsmap;
use super::template;

/// What the vocabularies are made of.
const TEXT: &str = concat!(
    include_str!("../../../../README.md"),
    include_str!("../../../../docs/models.md"),
    include_str!("../../../../docs/security.md"),
    "東京 京都 東京都 Zürich naïve café é ü ß я это это не так 각각 가나다 ١٢٣ 👩\u{200d}💻 👩\u{200d}💻\n",
);

const QWEN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Entries before those of the text, in both kinds.
const SPECIAL: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

/// A tokenizer of each form, by a name.
pub(crate) fn flat_kinds() -> Vec<(&'static str, Value)> {
    let (bpe, gemma, unigram) = (bpe(), gemma(), unigram());
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let split = |pattern: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes]})
    };
    let roberta = json!({
        "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true, "add_prefix_space": false,
    });
    let mut spaced = byte_level.clone();
    spaced["add_prefix_space"] = json!(true);
    let nfc = json!({"type": "NFC"});
    let mut ignoring = bpe.clone();
    ignoring["ignore_merges"] = json!(true);
    let pairs = ignoring["merges"].as_array().unwrap().iter();
    let pairs = pairs.map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
    ignoring["merges"] = std::iter::once("#version: 0.2".to_owned()).chain(pairs).collect();
    // Ids in another order than the entries, with gaps.
    let mut sparse = bpe.clone();
    let ids = sparse["vocab"].as_object_mut().unwrap().values_mut().zip(0..);
    ids.for_each(|(id, place)| *id = json!((place * 7919) % 100_003));
    let mut spaces: Vec<Value> = (2..=24).rev().map(|count| added(&" ".repeat(count), false, true)).collect();
    spaces.push(added("|||IP_ADDRESS|||", false, true));
    spaces.push(added("e\u{301}t", false, true));
    let mut tab = added("\t", false, false);
    (tab["lstrip"], tab["rstrip"]) = (json!(true), json!(true));
    spaces.push(tab);

    let to_marks = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let after_spaces = json!({
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false,
    });
    let line_ends = [added("\n", false, false), added("\n\n", false, false), added("▁▁▁", false, false)];
    // Joins words, so that a text cannot be cut at marks.
    let mut joining = gemma.clone();
    joining["vocab"]["e▁"] = json!(joining["vocab"].as_object().unwrap().len());
    joining["merges"].as_array_mut().unwrap().insert(0, json!(["e", "▁"]));
    let mut ignoring_gemma = gemma.clone();
    ignoring_gemma["ignore_merges"] = json!(true);

    let map = json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(charsmap())});
    let runs = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "});
    let quotes = json!({"type": "Replace", "pattern": {"String": "``"}, "content": "\""});
    let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    let strip_right = json!({"type": "Strip", "strip_left": false, "strip_right": true});
    let several = |parts: &[&Value]| json!({"type": "Sequence", "normalizers": parts});
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let words = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace("always", true)]});
    let unmarked =
        json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace("never", true)]});
    let older = json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true});
    let mut bytes = unigram.clone();
    bytes["byte_fallback"] = json!(true);
    let pieces = bytes["vocab"].as_array_mut().unwrap();
    pieces.extend((0..=255).map(|byte| json!([format!("<0x{byte:02X}>"), -20.0])));
    let normalized = [added("e\u{301}t", false, true), added("``", true, true), added("TM", false, true)];

    vec![
        ("gpt2", file(&Value::Null, &byte_level, &roberta, &bpe, &[])),
        ("gpt2-spaced", file(&Value::Null, &spaced, &roberta, &bpe, &[])),
        ("gpt2-spaces", file(&nfc, &byte_level, &template(), &bpe, &spaces)),
        ("qwen", file(&nfc, &split(QWEN), &byte_level, &sparse, &[added("<|im_end|>", true, false)])),
        ("llama", file(&Value::Null, &split(LLAMA), &roberta, &ignoring, &[])),
        ("gemma", file(&to_marks, &after_spaces, &template(), &gemma, &line_ends)),
        ("gemma-joining", file(&to_marks, &Value::Null, &template(), &joining, &normalized)),
        ("gemma-spaces", file(&Value::Null, &after_spaces, &roberta, &ignoring_gemma, &line_ends)),
        ("xlmr", file(&map, &words, &roberta, &unigram, &[])),
        ("xlmr-newer", file(&several(&[&map, &runs]), &metaspace("always", true), &roberta, &unigram, &normalized)),
        ("deberta", file(&several(&[&strip, &map, &runs]), &older, &template(), &unigram, &[])),
        ("first", file(&Value::Null, &metaspace("first", true), &roberta, &unigram, &[])),
        ("whole", file(&several(&[&quotes, &strip_right, &map]), &metaspace("always", false), &roberta, &unigram, &[])),
        ("bytes", file(&nfc, &unmarked, &roberta, &bytes, &normalized)),
    ]
}

fn file(normalizer: &Value, pre_tokenizer: &Value, post_processor: &Value, model: &Value, more: &[Value]) -> Value {
    let mut tokens: Vec<Value> = SPECIAL.iter().map(|content| added(content, true, false)).collect();
    tokens[4]["lstrip"] = json!(true);
    tokens.extend(["<r>", "[CLS]", "[SEP]"].map(|content| added(content, true, false)));
    tokens[5]["rstrip"] = json!(true);
    tokens.extend_from_slice(more);
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": null, "model": model,
    })
}

/// An added token. The vocabulary decides its id.
fn added(content: &str, special: bool, normalized: bool) -> Value {
    json!({
        "id": 0, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": normalized,
        "special": special,
    })
}

fn bpe() -> Value {
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(1500)
        .show_progress(false)
        .special_tokens(SPECIAL.map(|content| tokenizers::AddedToken::from(content, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let words = |text: &str| {
        let mut words = PreTokenizedString::from(text);
        ByteLevel::new(false, true, true).pre_tokenize(&mut words)?;
        let words = words.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Ok(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
    };
    trainer.feed(TEXT.lines(), words).unwrap();
    let mut bpe = BPE::default();
    trainer.train(&mut bpe).unwrap();
    serde_json::to_value(&bpe).unwrap()
}

/// Of characters, with entries for the bytes of those that are rare in the text.
fn gemma() -> Value {
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let special = SPECIAL.map(str::to_owned).into_iter().chain(bytes);
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(1800)
        .limit_alphabet(80)
        .show_progress(false)
        .special_tokens(special.map(|content| tokenizers::AddedToken::from(content, true)).collect())
        .build();
    let words = |line: &str| Ok(line.split(' ').map(|word| format!("▁▁▁▁{word}")).collect());
    trainer.feed(TEXT.lines(), words).unwrap();
    let mut bpe = BPE::default();
    trainer.train(&mut bpe).unwrap();
    let mut model = serde_json::to_value(&bpe).unwrap();
    for (field, value) in [("byte_fallback", json!(true)), ("fuse_unk", json!(true)), ("unk_token", json!("<unk>"))] {
        model[field] = value;
    }
    model
}

/// The parts of words that are often there. Scores are rounded, so that sums are often equal.
fn unigram() -> Value {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for word in TEXT.split_whitespace() {
        let word: Vec<char> = format!("▁{word}").chars().collect();
        for start in 0..word.len() {
            for end in start + 1..=word.len().min(start + 8) {
                *counts.entry(word[start..end].iter().collect()).or_default() += 1;
            }
        }
    }
    let pieces = counts.into_iter().filter(|(piece, count)| *count > 8 || !piece.is_ascii());
    let pieces = pieces.map(|(piece, count)| json!([piece, (f64::from(count).ln() * 4.0).round() / 4.0 - 14.0]));
    let special = SPECIAL.map(|content| json!([content, 0.0]));
    json!({
        "type": "Unigram", "unk_id": 3, "byte_fallback": false,
        "vocab": special.into_iter().chain(pieces).collect::<Vec<_>>(),
    })
}
