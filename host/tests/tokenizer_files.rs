//! What the files of people's tokenizers say, and what `assay model add` makes of it: followed as transformers does, or
//! refused with the cause.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use assay::model::ModelStore;
use common::model_files::{
    CASED, PLAIN, SHORT, WITHOUT_TYPES, add, assert_near, assert_rows, assert_scores, bert, change_tokenizer, copy,
    generic, nothing, read, row_scores, scores, set, show,
};
use common::tiny::Model;
use common::{Bench, Finished, finish};
use serde_json::{Value, json};

#[test]
fn a_cased_model_is_tokenised_as_its_tokenizer_config_says() {
    let bench = Bench::new();
    assert_rows(&bench, "plain", &bert(&json!({})), nothing, PLAIN);
    assert_scores(&bench, "cased", &bert(&json!({ "do_lower_case": false })), nothing, CASED);
    let electra = json!({ "tokenizer_class": "ElectraTokenizer", "do_lower_case": false });
    assert_rows(&bench, "electra", &electra, nothing, CASED);
    let accents = [-0.643848, -1.645188, -0.549169, -1.797111];
    assert_rows(&bench, "accents", &bert(&json!({ "strip_accents": false })), nothing, accents);
    // Without a configuration, the class of the model's type lower-cases, whatever the file says.
    let cased = |dir: &Path| change_tokenizer(dir, |it| it["normalizer"]["lowercase"] = json!(false));
    assert_rows(&bench, "no-configuration", &json!(null), cased, PLAIN);
    let generic_cased = [1.067538, 1.513763, 1.339848, 1.676816];
    assert_rows(&bench, "generic-cased", &generic(&json!({})), cased, generic_cased);

    let chinese = copy(&bench, "bert-hd32", "chinese");
    set(&chinese.join("tokenizer_config.json"), &bert(&json!({ "tokenize_chinese_chars": false })));
    add(&bench, &chinese, &[]).succeeds();
    let found = scores(&bench, "chinese", &["光 and 空 light空", "udp"], &["--scores", "raw"]);
    assert_near("chinese", &found, &[-0.782382, -1.445379]);
}

#[test]
fn token_types_are_given_as_the_tokenizers_class_does() {
    let bench = Bench::new();
    let names = json!({ "model_input_names": ["input_ids", "attention_mask"] });
    assert_rows(&bench, "no-types", &bert(&names), nothing, WITHOUT_TYPES);
    assert_rows(&bench, "generic", &generic(&json!({})), nothing, WITHOUT_TYPES);
    let distil = json!({ "tokenizer_class": "DistilBertTokenizer" });
    assert_rows(&bench, "distil", &distil, nothing, WITHOUT_TYPES);
    let names = json!({ "model_input_names": ["input_ids", "token_type_ids", "attention_mask"] });
    assert_rows(&bench, "generic-types", &generic(&names), nothing, PLAIN);
}

#[test]
fn what_a_class_builds_itself_is_not_taken_from_the_file() {
    let bench = Bench::new();
    let without = |part: &'static str| move |dir: &Path| change_tokenizer(dir, |it| it[part] = json!(null));
    assert_rows(&bench, "no-template", &bert(&json!({})), without("post_processor"), PLAIN);
    assert_rows(&bench, "no-split", &bert(&json!({})), without("pre_tokenizer"), PLAIN);
    assert_rows(&bench, "no-normalizer", &bert(&json!({})), without("normalizer"), PLAIN);
    assert_rows(
        &bench,
        "generic-no-template",
        &generic(&json!({})),
        without("post_processor"),
        [2.151236, 2.235605, 2.692414, 1.537321],
    );
}

#[test]
fn what_makes_transformers_read_or_rank_something_else_is_refused() {
    let bench = Bench::new();
    let with = |name: &str, field: &str, value: Value| {
        let dir = copy(&bench, "bert-hd32", name);
        let mut config = bert(&json!({}));
        config[field] = value;
        set(&dir.join("tokenizer_config.json"), &config);
        dir
    };
    for (field, value, expected) in [
        ("chat_template", json!("{{ messages }}"), "it has a chat_template"),
        ("fast_tokenizer_files", json!(["tokenizer.json", "tokenizer.5.0.0.json"]), "fast_tokenizer_files names other"),
        ("mask_token", Value::Null, "mask_token is null"),
    ] {
        add(&bench, &with(field, field, value), &[]).fails(2, &["tokenizer_config.json", expected]);
    }
    let dir = with("beside", "extra_special_tokens", json!(["a"]));
    set(&dir.join("special_tokens_map.json"), &json!({ "additional_special_tokens": ["b"] }));
    add(&bench, &dir, &[]).fails(2, &["extra_special_tokens and additional_special_tokens name other tokens"]);
    let dir = with("jinja", "unk_token", json!("[UNK]"));
    std::fs::write(dir.join("chat_template.jinja"), "{{ messages }}").unwrap();
    add(&bench, &dir, &[]).fails(2, &["chat_template.jinja: it is there"]);
}

#[test]
fn fields_of_the_older_map_of_special_tokens_are_over_the_configurations() {
    let bench = Bench::new();
    let over = |fields: Value| move |dir: &Path| set(&dir.join("special_tokens_map.json"), &fields);
    assert_rows(&bench, "cased", &bert(&json!({})), over(json!({ "do_lower_case": false })), CASED);
    assert_scores(&bench, "short", &bert(&json!({})), over(json!({ "model_max_length": 16 })), SHORT);
}

#[test]
fn long_texts_are_cut_where_and_at_the_side_that_the_files_say() {
    let bench = Bench::new();
    let limit = json!({ "model_max_length": 16 });
    assert_scores(&bench, "max", &bert(&limit), nothing, SHORT);
    assert_eq!(show(&bench, "max")["max_tokens"], 16);
    let left = json!({ "model_max_length": 16, "truncation_side": "left" });
    assert_scores(&bench, "left", &bert(&left), nothing, [-0.961129, -1.208408, -1.445379, -0.372896]);
    let truncation = json!({ "direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0 });
    let in_file = |dir: &Path| change_tokenizer(dir, |it| it["truncation"] = truncation);
    let expected = [0.823186, 0.122805, 0.505790, 0.930392];
    assert_scores(&bench, "left-in-file", &generic(&limit), in_file, expected);
    assert_scores(&bench, "max-len", &bert(&json!({ "max_len": 16 })), nothing, SHORT);
    assert_rows(&bench, "unlimited", &bert(&json!({ "model_max_length": 1e30 })), nothing, PLAIN);
}

#[test]
fn tokens_that_a_file_adds_over_the_vocabulary_are_cut_out_of_texts() {
    let bench = Bench::new();
    // The letter "a", which would otherwise be a part of words.
    let special = [-1.426466, -2.034641, -0.990441, -0.637485];
    let plain = [-1.526833, -2.497167, -0.158609, -0.611986];
    let extra = bert(&json!({ "additional_special_tokens": ["a"] }));
    assert_rows(&bench, "extra", &extra, nothing, special);
    let flags = json!({ "content": "a", "lstrip": true, "normalized": false, "rstrip": false, "special": false });
    let decoder = bert(&json!({ "added_tokens_decoder": { "15": flags } }));
    assert_rows(&bench, "decoder", &decoder, nothing, special);
    let role = bert(&json!({ "bos_token": "a" }));
    assert_rows(&bench, "role", &role, nothing, special);
    let map = |dir: &Path| set(&dir.join("special_tokens_map.json"), &json!({ "additional_special_tokens": ["a"] }));
    assert_rows(&bench, "map", &bert(&json!({})), map, special);
    let added = |dir: &Path| set(&dir.join("added_tokens.json"), &json!({ "a": 15 }));
    assert_rows(&bench, "added", &bert(&json!({})), added, plain);
    let page = finish(bench.assay().args(["model", "show", "extra"])).succeeds().stdout;
    assert!(page.contains("cut out around: a of additional_special_tokens in tokenizer_config.json"), "{page}");
    // With a decoder the older files do not count.
    let both = |dir: &Path| {
        map(dir);
        set(&dir.join("tokenizer_config.json"), &json!({ "added_tokens_decoder": {} }));
    };
    assert_rows(&bench, "both", &bert(&json!({})), both, PLAIN);
    let dir = copy(&bench, "bert-hd32", "none");
    set(&dir.join("tokenizer_config.json"), &bert(&json!({ "added_tokens_decoder": {} })));
    let changed = json!([{ "id": 15, "content": "a", "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": false }]);
    change_tokenizer(&dir, |it| it["added_tokens"] = changed);
    add(&bench, &dir, &[]).fails(2, &["added_tokens_decoder lacks the token a"]);
}

#[test]
fn classes_that_build_their_tokenizer_anew_do_so_here_too() {
    let bench = Bench::new();
    let lower = |it: &mut Value| it["normalizer"] = json!({ "type": "Lowercase" });
    let without_separator = |it: &mut Value| drop(it["post_processor"]["pair"].as_array_mut().unwrap().remove(2));
    let dropout = |it: &mut Value| {
        if it["model"]["type"] == "BPE" {
            it["model"]["dropout"] = json!(0.5);
        }
    };
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let changes: [Change<'_>; 4] =
        [("own", &|_| {}), ("lower", &lower), ("separator", &without_separator), ("dropout", &dropout)];
    let prefix = |wanted: bool| json!({ "add_prefix_space": wanted });
    for (model, class, expected, (other, expected_other)) in [
        (
            "roberta",
            "RobertaTokenizer",
            [-2.008141, -2.180145, -2.126433, -1.822483],
            (prefix(true), [-2.019186, -2.140567, -2.207523, -1.813803]),
        ),
        (
            "xlm-roberta",
            "XLMRobertaTokenizer",
            [2.295147, 2.47201, 2.604479, 2.206158],
            (prefix(false), [2.164423, 2.459121, 2.125057, 2.48328]),
        ),
        (
            "camembert",
            "CamembertTokenizerFast",
            [-0.014882, 0.896876, 1.99854, 0.124906],
            (prefix(false), [0.520875, 1.610559, 0.707259, 0.408943]),
        ),
    ] {
        let check = |name: &str, config: &Value, change: &dyn Fn(&mut Value), expected: [f64; 4]| {
            let name = format!("{model}-{name}");
            let dir = copy(&bench, model, &name);
            set(&dir.join("tokenizer_config.json"), &json!({ "tokenizer_class": class }));
            set(&dir.join("tokenizer_config.json"), config);
            change_tokenizer(&dir, change);
            let labels = if model == "roberta" { &["--label", "0"][..] } else { &[] };
            add(&bench, &dir, labels).succeeds();
            assert_near(&name, &row_scores(&bench, &name), &expected);
        };
        for (name, change) in changes {
            check(name, &json!({}), change, expected);
        }
        check("prefix", &other, &|_| {}, expected_other);
    }
    // A special token of the class that the vocabulary lacks gets the next id, if the model has a row for it.
    let dir = copy(&bench, "xlm-roberta", "mask");
    set(&dir.join("tokenizer_config.json"), &json!({ "tokenizer_class": "XLMRobertaTokenizer" }));
    change_tokenizer(&dir, |it| drop(it["model"]["vocab"].as_array_mut().unwrap().pop()));
    add(&bench, &dir, &[]).succeeds();
    let stored = ModelStore::new(&bench.path("data")).open(Some("mask")).unwrap();
    let added = read(&stored.dir().join("tokenizer.json"))["added_tokens"].as_array().unwrap().clone();
    let mask: Vec<&Value> = added.iter().filter(|token| token["content"] == "<mask>").map(|it| &it["id"]).collect();
    assert_eq!(mask, [199]);
    let refused = |model: &str, class: &str, said: &str| {
        let dir = copy(&bench, model, "refused");
        set(&dir.join("tokenizer_config.json"), &json!({ "tokenizer_class": class }));
        add(&bench, &dir, &[]).fails(2, &[said, "PreTrainedTokenizerFast"]);
    };
    refused("xlm-roberta", "T5Tokenizer", "tokenizer_class is T5Tokenizer, which may tokenise otherwise");
    refused("bert-hd32", "ConvBertTokenizer", "tokenizer_class is ConvBertTokenizer");
    refused("bert-hd32", "RobertaTokenizer", "has a model of the type WordPiece");
}

#[test]
fn debertas_tokenizer_is_kept_and_what_another_version_makes_of_it_is_said() {
    let bench = Bench::new();
    let config = json!({ "tokenizer_class": "DebertaV2Tokenizer", "cls_token": "<s>", "sep_token": "</s>" });
    let model = |name: &str, config: &Value, change: &dyn Fn(&mut Value)| {
        let dir = copy(&bench, "deberta-v3", name);
        set(&dir.join("tokenizer_config.json"), config);
        change_tokenizer(&dir, change);
        dir
    };
    let note = "transformers 5 builds another normalizer";
    let kept = add(&bench, &model("kept", &config, &|_| {}), &[]).succeeds();
    assert!(kept.stderr.contains(note) || kept.stdout.contains(note), "{}", kept.stderr);
    let page = finish(bench.assay().args(["model", "show", "kept"])).succeeds().stdout;
    assert!(page.contains(note), "{page}");

    // As transformers 5 saves it.
    let saved = |it: &mut Value| {
        it["normalizer"] = json!({ "type": "Sequence", "normalizers": [
            { "type": "Replace", "pattern": { "Regex": r"\s{2,}|[\n\r\t]" }, "content": " " }, { "type": "NFC" },
            { "type": "Strip", "strip_left": false, "strip_right": true },
        ]});
        it["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true },
        ]});
        it["post_processor"] = json!({
            "type": "BertProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2],
        });
    };
    add(&bench, &model("saved", &config, &saved), &[]).succeeds();
    let page = finish(bench.assay().args(["model", "show", "saved"])).succeeds().stdout;
    assert!(!page.contains("transformers 5 builds another"), "{page}");

    for (field, part) in [("do_lower_case", "Lowercase"), ("split_by_punct", "Punctuation")] {
        let mut config = config.clone();
        config[field] = json!(true);
        let said = format!("{field} is true, and tokenizer.json has no \"{part}\"");
        add(&bench, &model(field, &config, &saved), &[]).fails(2, &[&said]);
    }
}

/// Adds the tiny model with its tokenizer changed.
fn add_tokenizer(bench: &Bench, config: &Value, change: impl FnOnce(&mut Value)) -> Finished {
    let mut model = Model::default();
    change(&mut model.tokenizer);
    let dir = bench.path("changed");
    model.write(&dir);
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    add(bench, &dir, &[])
}

#[test]
fn a_tokenizer_that_would_fail_later_is_refused_with_the_cause() {
    let bench = Bench::new();
    let as_it_is = generic(&json!({}));
    let refused = |config: &Value, change: &dyn Fn(&mut Value), part: &str| {
        add_tokenizer(&bench, config, change).fails(2, &["changed/tokenizer", part]);
    };
    refused(&as_it_is, &|it| it["pre_tokenizer"] = json!({ "type": "NoSuchPreTokenizer" }), "cannot be used");
    refused(&as_it_is, &|it| it["model"]["vocab"]["red"] = json!(-1), "cannot be used");
    refused(&as_it_is, &|it| it["model"]["vocab"]["red"] = json!(1.5), "cannot be used");
    let far = json!({ "type": "BertProcessing", "sep": ["[SEP]", 99999], "cls": ["[CLS]", 2] });
    refused(&as_it_is, &|it| it["post_processor"] = far.clone(), "token ids up to 99999");
    let unknown = |it: &mut Value| {
        it["model"]["vocab"].as_object_mut().unwrap().remove("[UNK]");
        it["added_tokens"].as_array_mut().unwrap().retain(|token| token["content"] != "[UNK]");
    };
    refused(&as_it_is, &unknown, "rare characters");
    refused(&bert(&json!({})), &unknown, "has no [UNK], which BertTokenizer needs");
    let large: Vec<Value> = (0..20).map(|id| json!([format!("▁{id}"), -1.0])).collect();
    refused(&as_it_is, &|it| it["model"] = json!({ "type": "Unigram", "unk_id": 0, "vocab": large }), "up to 19");
    refused(
        &bert(&json!({})),
        &|it| it["model"] = json!({ "type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]] }),
        "set tokenizer_class to PreTrainedTokenizerFast",
    );
    refused(&bert(&json!({ "split_special_tokens": true })), &|_| {}, "split_special_tokens is true");
    let padded = json!({ "strategy": { "Fixed": 1u64 << 40 }, "direction": "Right", "pad_to_multiple_of": null,
                         "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]" });
    refused(&as_it_is, &|it| it["padding"] = padded.clone(), "the number 1099511627776");
    let replace = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "a".repeat(40) });
    let expand = json!({ "type": "Sequence", "normalizers": vec![replace; 10] });
    refused(&as_it_is, &|it| it["normalizer"] = expand.clone(), "may lengthen a text");
    let added = json!({ "added_tokens_decoder": { "12": { "content": "[EXTRA]" } } });
    refused(&bert(&added), &|_| {}, "[EXTRA], which tokenizer.json lacks");
    refused(&bert(&json!({ "model_max_length": 3 })), &|_| {}, "rows of at most 3 tokens");
    let bare = add_tokenizer(&bench, &as_it_is, |it| it["post_processor"] = json!(null)).succeeds();
    assert!(bare.stderr.contains("no special tokens around a pair"), "{}", bare.stderr);
    let left = add_tokenizer(&bench, &bert(&json!({ "padding_side": "left" })), |_| {}).succeeds();
    assert!(left.stderr.contains("padding_side is left"), "{}", left.stderr);
}
