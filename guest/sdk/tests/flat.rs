//! For any text, BPE and Unigram tokenizers in flat tables give the ids that `tokenizers` gives.
//!
//! `ASSAY_TOKENIZER_TEXTS=100000` tries so many texts with each tokenizer. `ASSAY_TOKENIZER_FILES` names a folder: each
//! `tokenizer.json` below it is tried too, with the lines of all `.txt` files there beside the hostile texts.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

mod common;

use std::path::{Path, PathBuf};

use assay_guest::{Cut, PairEncoder};
use common::kinds::flat_kinds;
use common::{Row, encoder, our_row, reference, reference_row, text};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// Texts for each tokenizer, unless the environment says.
const TEXTS: u32 = 600;

fn texts() -> u32 {
    std::env::var("ASSAY_TOKENIZER_TEXTS").map_or(TEXTS, |texts| texts.parse().unwrap())
}

fn bytes(json: &Value) -> Vec<u8> {
    json.to_string().into_bytes()
}

fn our_ids(encoder: &PairEncoder, document: &str) -> Row {
    our_row(&mut encoder.query("a", usize::MAX, Cut::Nothing).unwrap(), document).unwrap().0
}

/// What such tokenizers treat in special ways, beside what all do.
fn hostile_text() -> impl Strategy<Value = String> {
    let fragments = [
        "<s>",
        "</s>",
        " <mask>",
        "  <mask> ",
        "<r>",
        "<r> \n",
        "<|im_end|>",
        "<|im_",
        "<unk>",
        "un<s>affable",
        "<0x41>",
        "|||IP_ADDRESS|||",
        "▁",
        "▁▁",
        "a▁b",
        "▁the",
        "``",
        "'s",
        "'S",
        "'ſ",
        "'ll",
        "don't",
        "1234567",
        "٣٤",
        "½",
        "²",
        "\u{1100}\u{1161}\u{11a8}",
        "가\u{11a8}",
        "각",
        "\u{1100}",
        "e\u{301}",
        "o\u{302}\u{301}",
        "e\u{301}t",
        "é",
        "क\u{94d}\u{200d}ष",
        "กำ",
        "🇩🇪🇫",
        "👩\u{200d}👩\u{200d}👧",
        "☎\u{fe0f}",
        "ﬁ",
        "™",
        "Å",
        "ｱ\u{ff9e}",
        "\u{344}",
        "\u{600}1",
        "\r\n",
        "\r",
        "\n\n",
        " \n ",
        "\u{2028}",
        "\u{a0}",
        "\u{3000}",
        "\u{ad}",
        "\u{200b}",
        "\u{fffd}",
        "the",
        " the",
        "model",
        "tokenizer",
        "    ",
        "\t\t",
        "x\u{308}",
        "1\u{301}",
        "\r\u{301}",
        "\n\u{308}",
        "e\u{301}\r\n",
    ];
    let part = prop_oneof![
        10 => proptest::sample::select(fragments.to_vec()).prop_map(str::to_owned),
        2 => (1_usize..60).prop_map(|count| " ".repeat(count)),
        6 => text(3),
        2 => any::<char>().prop_map(String::from),
        2 => "[ -~]{1,20}",
        1 => "\\PC{1,8}",
        1 => ("[a-cé東 ]{1,3}", 1_usize..120).prop_map(|(part, count)| part.repeat(count)),
    ];
    let long = ("[a-zé東1 '▁]{1,9}", 1_000_usize..10_000).prop_map(|(part, bytes)| part.repeat(bytes / part.len() + 1));
    prop_oneof![
        300 => proptest::collection::vec(part, 0..16).prop_map(|parts| parts.concat()),
        1 => long,
    ]
}

fn check(name: &str, encoder: &PairEncoder, reference: &Tokenizer, document: &str) {
    let expected = reference_row(reference, "a", document).unwrap();
    let ours = our_ids(encoder, document);
    assert_eq!(ours, expected, "{name}: {document:?}");
}

fn check_hostile(name: &str, encoder: &PairEncoder, reference: &Tokenizer) {
    let mut runner = TestRunner::new(Config { cases: texts(), failure_persistence: None, ..Config::default() });
    let checked = runner.run(&hostile_text(), |text| {
        let expected = reference_row(reference, "a", &text).unwrap();
        prop_assert_eq!(our_ids(encoder, &text), expected);
        Ok(())
    });
    if let Err(error) = checked {
        panic!("{name}: {error}");
    }
}

#[test]
fn any_text_becomes_the_ids_of_tokenizers() {
    for (name, json) in flat_kinds() {
        let (encoder, reference) = (encoder(&bytes(&json)), reference(&bytes(&json)));
        assert!(encoder.is_flat(), "{name} is left to the crate");
        check_hostile(name, &encoder, &reference);
    }
}

/// Each character within a word, before one and alone, so that the ids show how it is normalised and where it is cut.
#[test]
fn every_character_becomes_the_ids_of_tokenizers() {
    // Without the many ideographs that are all alike.
    let codes = (0..0x3500).chain(0xa000..0xac80).chain(0xd780..0x1_3000).chain(0x1_6000..0x1_7000);
    let codes = codes.chain(0x1_b000..0x2_0000).chain(0x2_f800..0x2_fa20).chain(0xe_0000..0xe_0200);
    let characters: Vec<char> = codes.filter_map(char::from_u32).collect();
    // One of each pattern and of each normaliser; all if the environment asks for more texts.
    let chosen = |name: &str| texts() > TEXTS || ["gpt2-spaces", "qwen", "gemma", "xlmr"].contains(&name);
    for (name, json) in flat_kinds().into_iter().filter(|(name, _)| chosen(name)) {
        let (encoder, reference) = (encoder(&bytes(&json)), reference(&bytes(&json)));
        for some in characters.chunks(256) {
            let document: String = some.iter().map(|c| format!("a{c}b {c}a {c} e{c}\u{301} ")).collect();
            check(name, &encoder, &reference, &document);
        }
    }
}

#[test]
fn an_owned_file_gives_the_same_tokenizer() {
    for (name, json) in flat_kinds() {
        let encoder = PairEncoder::from_owned_json(bytes(&json)).unwrap();
        assert!(encoder.is_flat());
        check(name, &encoder, &reference(&bytes(&json)), "the tokenizer 東京 <mask>é");
    }
}

/// Each of these changes means something that flat tables cannot do, or that the crate decides.
#[test]
fn a_file_that_is_not_known_in_full_is_left_to_the_crate() {
    let kinds = flat_kinds();
    let changes: &[(&str, &str, Value)] = &[
        ("gpt2", "/normalizer", json!({"type": "Lowercase"})),
        ("gpt2", "/pre_tokenizer", json!({"type": "Whitespace"})),
        ("gpt2", "/pre_tokenizer/use_regex", json!(false)),
        ("gpt2", "/model/end_of_word_suffix", json!("x")),
        ("gpt2", "/model/dropout", json!(1.0)),
        ("gpt2", "/added_tokens/0/single_word", json!(true)),
        ("gpt2", "/model/vocab/!", json!(6)),
        ("qwen", "/pre_tokenizer/pretokenizers/0/invert", json!(true)),
        ("qwen", "/pre_tokenizer/pretokenizers/0/behavior", json!("Removed")),
        ("qwen", "/pre_tokenizer/pretokenizers/0/pattern", json!({"Regex": r"\p{L}+"})),
        ("qwen", "/pre_tokenizer/pretokenizers/0/pattern", json!({"String": " "})),
        ("qwen", "/pre_tokenizer/pretokenizers/1/use_regex", json!(true)),
        ("qwen", "/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true)),
        ("gemma", "/pre_tokenizer/pattern", json!({"String": "a"})),
        ("gemma", "/pre_tokenizer/behavior", json!("MergedWithNext")),
        ("gemma", "/pre_tokenizer", json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})),
        ("gemma", "/model/byte_fallback", json!(false)),
        ("gemma", "/model/vocab/<0x00>", json!(6)),
        ("xlmr", "/normalizer", json!({"type": "NFKC"})),
        ("xlmr", "/normalizer", json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": " "})),
        ("xlmr", "/normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": " "})),
        ("xlmr", "/pre_tokenizer/pretokenizers/1/prepend_scheme", json!("first")),
        ("xlmr-newer", "/pre_tokenizer/prepend_scheme", json!("first")),
        ("xlmr", "/pre_tokenizer/pretokenizers/0", json!({"type": "Whitespace"})),
        ("first", "/normalizer", json!({"type": "NFC"})),
        ("first", "/added_tokens/0/normalized", json!(true)),
    ];
    for (name, place, value) in changes {
        let mut json = kinds.iter().find(|(kind, _)| kind == name).unwrap().1.clone();
        *json.pointer_mut(place).unwrap() = value.clone();
        let encoder = encoder(&bytes(&json));
        assert!(!encoder.is_flat(), "{name} with {value} at {place}");
        if *value != json!(1.0) {
            check(name, &encoder, &reference(&bytes(&json)), "the Tokenizer's  東京 ");
        }
    }
}

/// What the crate refuses is refused with its words.
#[test]
fn a_file_that_tokenizers_refuses_is_refused() {
    let kinds = flat_kinds();
    let changes: &[(&str, &str, Value)] = &[
        ("gpt2", "/version", json!("2.0")),
        ("gpt2", "/decoder", json!({"type": "none"})),
        ("gpt2", "/truncation", json!({})),
        ("gpt2", "/padding", json!(7)),
        ("gpt2", "/added_tokens/0", json!({"content": "<s>"})),
        ("gpt2", "/model/merges/0", json!(["no", "entry"])),
        ("gpt2", "/model/merges/0", json!(["a", "b", "c"])),
        ("xlmr", "/model/vocab/0", json!(["<s>"])),
        ("xlmr", "/model/unk_id", json!(1_000_000)),
    ];
    for (name, place, value) in changes {
        let mut json = kinds.iter().find(|(kind, _)| kind == name).unwrap().1.clone();
        *json.pointer_mut(place).unwrap() = value.clone();
        assert!(Tokenizer::from_bytes(bytes(&json)).is_err(), "tokenizers takes {name} with {value} at {place}");
        let refused = PairEncoder::from_json(&bytes(&json)).unwrap_err().to_string();
        assert!(refused.contains("tokenizer.json cannot be read"), "{refused}");
    }
}

#[test]
fn files_that_the_environment_names_give_the_ids_of_tokenizers() {
    let Some(folder) = std::env::var_os("ASSAY_TOKENIZER_FILES") else { return };
    let (mut files, mut lines) = (Vec::new(), Vec::new());
    collect(Path::new(&folder), &mut files, &mut lines);
    assert!(!files.is_empty(), "{} has no tokenizer.json", Path::new(&folder).display());
    for file in files {
        let json = std::fs::read(&file).unwrap();
        let name = file.display().to_string();
        let (encoder, reference) = (encoder(&json), reference(&json));
        println!("{name}: {}", if encoder.is_flat() { "flat tables" } else { "left to the crate" });
        check_hostile(&name, &encoder, &reference);
        let most = texts() as usize;
        lines.iter().take(most).for_each(|line| check(&name, &encoder, &reference, line));
        println!("{name}: {} hostile texts and {} lines are equal", texts(), lines.len().min(most));
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>, lines: &mut Vec<String>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files, lines);
        } else if path.ends_with("tokenizer.json") {
            files.push(path);
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            lines.extend(std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned));
        }
    }
}
