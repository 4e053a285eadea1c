//! What people's model files say, and what `assay model add` makes of it: read, refused with the way out, or said.
//!
//! Expected scores are logits of sentence-transformers 6.2 (`CrossEncoder.predict` with `Identity`, transformers 5.24,
//! float32) for the same files, each pair by itself.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};

use assay::model::ModelStore;
use assay_guest::{Cut, PairEncoder, Rows};
use assay_kernels::PackedBatch;
use candle_core::{DType, Device, Tensor};
use common::tiny::Model;
use common::{Bench, Finished, finish};
use serde_json::{Value, json};

/// Most that a score may differ from the reference.
const TOLERANCE: f64 = 2e-5;

const QUERY: &str = "The Café of Every Acid";
const DOCUMENTS: [&str; 4] = [
    "air and light at the TIME",
    "naïve yeast gives black cells, so which transistor is current?",
    "udp",
    "the air is black and the light is in the air the air is black and the light is in the air the air is black and \
     the light is in the air the air is black and the light is in the air ",
];

/// A copy of a model of `testdata/`, without its `tokenizer_config.json`.
fn copy(bench: &Bench, model: &str, name: &str) -> PathBuf {
    let (from, to) = (testdata::model(model), bench.path(name));
    std::fs::create_dir_all(&to).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(to.join(file), std::fs::read(from.join(file)).unwrap()).unwrap();
    }
    to
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Sets fields of a JSON file, which need not be there.
fn set(path: &Path, fields: &Value) {
    let mut value = if path.exists() { read(path) } else { json!({}) };
    for (field, new) in fields.as_object().unwrap() {
        value[field] = new.clone();
    }
    std::fs::write(path, value.to_string()).unwrap();
}

fn bert(fields: &Value) -> Value {
    let mut config = json!({ "tokenizer_class": "BertTokenizer", "do_lower_case": true });
    for (field, new) in fields.as_object().unwrap() {
        config[field] = new.clone();
    }
    config
}

/// A class that takes `tokenizer.json` as it is.
fn generic(fields: &Value) -> Value {
    bert(&json!({ "tokenizer_class": "PreTrainedTokenizerFast" }))
        .as_object()
        .unwrap()
        .iter()
        .chain(fields.as_object().unwrap())
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Adds a directory, with options.
fn add(bench: &Bench, dir: &Path, options: &[&str]) -> Finished {
    finish(bench.assay().args(["model", "add"]).arg(dir).args(options))
}

/// Scores of documents, in their order, with options.
fn scores(bench: &Bench, model: &str, documents: &[&str], options: &[&str]) -> Vec<f64> {
    let mut args = vec!["--json", "--engine", "cpu", "--model", model, "--query", QUERY];
    args.extend(options);
    args.extend(documents);
    let hits = bench.rerank(&args).succeeds().lines()[0]["hits"].clone();
    let mut scores = vec![f64::NAN; documents.len()];
    for hit in hits.as_array().unwrap() {
        scores[hit["index"].as_u64().unwrap() as usize] = hit["score"].as_f64().unwrap();
    }
    scores
}

#[track_caller]
fn assert_near(name: &str, found: &[f64], expected: &[f64]) {
    let is_near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < TOLERANCE);
    assert!(is_near && found.len() == expected.len(), "{name}: {found:?}, expected {expected:?}");
}

/// A copy of a small BERT with this `tokenizer_config.json`, added.
fn add_copy(bench: &Bench, name: &str, config: &Value, change: impl FnOnce(&Path)) {
    let dir = copy(bench, "bert-hd32", name);
    if !config.is_null() {
        set(&dir.join("tokenizer_config.json"), config);
    }
    change(&dir);
    add(bench, &dir, &[]).succeeds();
}

/// Adds a small BERT with this `tokenizer_config.json` and compares the scores that the command gives.
#[track_caller]
fn assert_scores(bench: &Bench, name: &str, config: &Value, change: impl FnOnce(&Path), expected: [f64; 4]) {
    add_copy(bench, name, config, change);
    assert_near(name, &scores(bench, name, &DOCUMENTS, &["--scores", "raw"]), &expected);
}

/// The same without a guest, which each model would have to be prepared for: compares the scores of the rows that the
/// guests' code makes with the tokenizer in the store.
#[track_caller]
fn assert_rows(bench: &Bench, name: &str, config: &Value, change: impl FnOnce(&Path), expected: [f64; 4]) {
    add_copy(bench, name, config, change);
    assert_near(name, &row_scores(bench, name), &expected);
}

/// The scores of the documents, from the rows that the guests' code makes with the tokenizer in the store.
fn row_scores(bench: &Bench, name: &str) -> Vec<f64> {
    let stored = ModelStore::new(&bench.path("data")).open(Some(name)).unwrap();
    let encoder = PairEncoder::from_json(&std::fs::read(stored.dir().join("tokenizer.json")).unwrap()).unwrap();
    let model = stored.load().unwrap();
    let mut query = encoder.query(QUERY, model.architecture.max_tokens, Cut::LongestFirst).unwrap();
    let mut rows = Rows::default();
    for document in DOCUMENTS {
        query.push_pair(document, &mut rows).unwrap();
    }
    let batch = PackedBatch::new(rows.ids, rows.offsets, rows.second_segment).unwrap();
    assay_kernels::reference::forward(&model, &batch)
}

fn show(bench: &Bench, model: &str) -> Value {
    finish(bench.assay().args(["model", "show", model, "--json"])).succeeds().lines().remove(0)
}

/// Scores of BERT's tokenizer for the small model.
const PLAIN: [f64; 4] = [-0.464457, -1.112280, -1.445379, -1.465569];
/// The same with case and accents.
const CASED: [f64; 4] = [-0.286343, -1.486783, 0.153329, -1.761737];
/// The same as plain without token types.
const WITHOUT_TYPES: [f64; 4] = [1.024646, 1.330167, 0.505790, 1.169608];
/// The same as plain, with rows of at most 16 tokens.
const SHORT: [f64; 4] = [-1.112565, -0.786965, -1.445379, -1.359720];

/// The same as plain, with "light of the " before the query.
const PROMPTED: [f64; 4] = [-0.360697, -0.951327, -0.456694, -0.820301];

fn nothing(_: &Path) {}

fn change_tokenizer(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("tokenizer.json");
    let mut tokenizer = read(&path);
    change(&mut tokenizer);
    std::fs::write(path, tokenizer.to_string()).unwrap();
}

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

/// Writes what sentence-transformers 6 saves for a cross-encoder, with these settings.
fn save_as_cross_encoder(dir: &Path, settings: &Value, transformer: &Value) {
    let mut saved = json!({ "model_type": "CrossEncoder", "__version__": { "sentence_transformers": "6.2.0" } });
    saved.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    set(&dir.join("config_sentence_transformers.json"), &saved);
    let class = "sentence_transformers.base.modules.transformer.Transformer";
    let modules = json!([{ "idx": 0, "name": "0", "path": "", "type": class }]);
    std::fs::write(dir.join("modules.json"), modules.to_string()).unwrap();
    set(&dir.join("sentence_bert_config.json"), transformer);
}

#[test]
fn a_model_that_sentence_transformers_saved_is_used_as_it_says() {
    let bench = Bench::new();
    let prompt = json!({ "prompts": { "q": "light of the ", "d": "x" }, "default_prompt_name": "q" });
    let with_prompt = |dir: &Path| save_as_cross_encoder(dir, &prompt, &json!({}));
    assert_scores(&bench, "prompt", &bert(&json!({})), with_prompt, PROMPTED);
    assert_eq!(show(&bench, "prompt")["settings"]["prompt"], "light of the ");
    let dropped = bench.path("prompt");
    add(&bench, &dropped, &["--name", "no-prompt", "--prompt", ""]).succeeds();
    assert_near("no-prompt", &scores(&bench, "no-prompt", &DOCUMENTS, &["--scores", "raw"]), &PLAIN);

    // The files of an embedding model say nothing about a cross-encoder.
    let of_other = |dir: &Path| {
        set(&dir.join("config_sentence_transformers.json"), &prompt);
        set(&dir.join("sentence_bert_config.json"), &json!({ "max_seq_length": 16 }));
    };
    assert_rows(&bench, "of-another", &bert(&json!({})), of_other, PLAIN);

    let longest = json!({ "max_seq_length": 16, "do_lower_case": false });
    let shortened = |dir: &Path| save_as_cross_encoder(dir, &json!({}), &longest);
    assert_scores(&bench, "shortened", &bert(&json!({ "model_max_length": 100 })), shortened, SHORT);

    let lowered = |dir: &Path| {
        change_tokenizer(dir, |it| it["normalizer"]["lowercase"] = json!(false));
        save_as_cross_encoder(dir, &json!({}), &json!({ "do_lower_case": true }));
    };
    let expected = [0.962682, 1.480519, 1.092880, 1.658259];
    assert_rows(&bench, "lowered", &generic(&json!({})), lowered, expected);

    // Earlier names of the file.
    let older = |dir: &Path| {
        save_as_cross_encoder(dir, &json!({}), &json!({}));
        set(&dir.join("sentence_roberta_config.json"), &json!({ "max_seq_length": 16 }));
    };
    assert_scores(&bench, "older", &bert(&json!({})), older, SHORT);
    assert_eq!(show(&bench, "older")["max_tokens"], 16);
    // What changes scores and is not followed is refused by name.
    for (number, field) in [
        json!({ "processing_kwargs": { "text": { "max_length": 16 } } }),
        json!({ "processor_kwargs": { "model_max_length": 16 } }),
        json!({ "config_args": { "hidden_act": "relu" } }),
        json!({ "modality_config": { "text": { "method": "forward", "method_output_name": "hidden" } } }),
        json!({ "a_later_field": 1 }),
    ]
    .iter()
    .enumerate()
    {
        let dir = copy(&bench, "bert-hd32", &format!("kwargs-{number}"));
        save_as_cross_encoder(&dir, &json!({}), field);
        let name = field.as_object().unwrap().keys().next().unwrap();
        add(&bench, &dir, &[]).fails(2, &["sentence_bert_config.json", name, "which is not followed"]);
    }
    let saved_now = json!({
        "transformer_task": "sequence-classification", "module_output_name": "scores", "processing_kwargs": {},
        "modality_config": { "text": { "method": "forward", "method_output_name": "logits" } },
    });
    let as_now = |dir: &Path| save_as_cross_encoder(dir, &json!({}), &saved_now);
    assert_rows(&bench, "as-now", &bert(&json!({})), as_now, PLAIN);

    let dir = copy(&bench, "bert-hd32", "two-modules");
    save_as_cross_encoder(&dir, &json!({}), &json!({}));
    let modules = |classes: &[(&str, &str)]| {
        let listed: Vec<Value> =
            classes.iter().map(|(class, path)| json!({ "type": format!("a.{class}"), "path": path })).collect();
        std::fs::write(dir.join("modules.json"), Value::from(listed).to_string()).unwrap();
    };
    modules(&[("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]);
    add(&bench, &dir, &[]).fails(2, &["modules.json: its modules are Transformer, Pooling, Normalize"]);
    modules(&[("Transformer", ""), ("Pooling", "../elsewhere"), ("Dense", "2_Dense")]);
    add(&bench, &dir, &[]).fails(2, &["../elsewhere is not the name of a module's folder"]);
    save_as_cross_encoder(&dir, &json!({ "default_prompt_name": "none" }), &json!({}));
    add(&bench, &dir, &[]).fails(2, &["its default_prompt_name is none, and its prompts have no such one"]);
}

/// A LoRA adapter for the small BERT that changes nothing: its second factor is zero.
fn write_adapter(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"] });
    set(&dir.join("adapter_config.json"), &config);
    let query = "base_model.model.bert.encoder.layer.0.attention.self.query";
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let tensors = std::collections::HashMap::from([
        (format!("{query}.lora_A.weight"), zeros((2, 64))),
        (format!("{query}.lora_B.weight"), zeros((64, 2))),
    ]);
    candle_core::safetensors::save(&tensors, dir.join("adapter_model.safetensors")).unwrap();
}

#[test]
fn what_was_saved_with_an_adapter_counts_as_for_cross_encoder() {
    let bench = Bench::new();
    let base = copy(&bench, "bert-hd32", "base");
    set(&base.join("tokenizer_config.json"), &bert(&json!({})));
    let adapter = bench.path("adapter");
    let add_both = |name: &str| add(&bench, &base, &["--name", name, "--adapter", adapter.to_str().unwrap()]);
    write_adapter(&adapter);
    add_both("alone").succeeds();
    assert_near("alone", &scores(&bench, "alone", &DOCUMENTS, &[]), &PLAIN);

    let sigmoid = "torch.nn.modules.activation.Sigmoid";
    let prompt = json!({ "prompts": { "q": "light of the " }, "default_prompt_name": "q", "activation_fn": sigmoid });
    save_as_cross_encoder(&adapter, &prompt, &json!({}));
    add_both("saved").succeeds();
    let sigmoids: Vec<f64> = PROMPTED.iter().map(|score| 1.0 / (1.0 + (-score).exp())).collect();
    assert_near("saved", &scores(&bench, "saved", &DOCUMENTS, &[]), &sigmoids);

    set(&adapter.join("tokenizer_config.json"), &bert(&json!({ "do_lower_case": false })));
    add_both("none").fails(2, &["adapter/tokenizer_config.json", "tokenizer.json is missing beside it"]);
    std::fs::copy(base.join("tokenizer.json"), adapter.join("tokenizer.json")).unwrap();
    add_both("cased").succeeds();
    let cased = scores(&bench, "cased", &DOCUMENTS, &["--scores", "raw"]);
    add(&bench, &base, &["--name", "prompted", "--prompt", "light of the "]).succeeds();
    set(&base.join("tokenizer_config.json"), &bert(&json!({ "do_lower_case": false })));
    add(&bench, &base, &["--name", "base-cased", "--prompt", "light of the "]).succeeds();
    assert_near("cased", &cased, &scores(&bench, "base-cased", &DOCUMENTS, &["--scores", "raw"]));
}

#[test]
fn a_head_in_modules_of_its_own_is_computed_and_kept() {
    let bench = Bench::new();
    let dir = testdata::model("ettin");
    add(&bench, &dir, &[]).succeeds();
    let expected = [0.770994, 1.022248, 2.777714, 0.679461];
    assert_near("ettin", &scores(&bench, "ettin", &DOCUMENTS, &[]), &expected);

    let part = copy(&bench, "ettin", "without-a-norm");
    for file in ["modules.json", "config_sentence_transformers.json"] {
        std::fs::copy(dir.join(file), part.join(file)).unwrap();
    }
    for folder in ["1_Pooling", "2_Dense", "4_Dense"] {
        std::fs::create_dir(part.join(folder)).unwrap();
        for file in std::fs::read_dir(dir.join(folder)).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), part.join(folder).join(file.file_name())).unwrap();
        }
    }
    add(&bench, &part, &[]).fails(2, &["3_LayerNorm/model.safetensors"]);
}

#[test]
fn models_of_every_layout_rank_by_the_logits_of_their_goldens() {
    let bench = Bench::new();
    for name in ["modernbert-cls", "deberta-v3", "gte-new", "jina-v2"] {
        let dir = testdata::model(name);
        add(&bench, &dir, &[]).succeeds();
        let golden = read(&dir.join("golden.json"));
        let query = "why is the sky blue";
        let cases: Vec<&Value> =
            golden["cases"].as_array().unwrap().iter().filter(|case| case["query"] == query).collect();
        let documents: Vec<&str> = cases.iter().map(|case| case["document"].as_str().unwrap()).collect();
        let expected: Vec<f64> = cases.iter().map(|case| case["logits"][0].as_f64().unwrap()).collect();
        assert_eq!(documents.len(), 2);
        let mut args = vec!["--json", "--engine", "cpu", "--model", name, "--query", query, "--scores", "raw"];
        args.extend(&documents);
        let hits = bench.rerank(&args).succeeds().lines()[0]["hits"].clone();
        for hit in hits.as_array().unwrap() {
            let expected = expected[hit["index"].as_u64().unwrap() as usize];
            let score = hit["score"].as_f64().unwrap();
            assert!((score - expected).abs() < 1e-4, "{name}: {score}, expected {expected}");
        }
    }
}

#[test]
fn scores_have_the_activation_that_the_files_name() {
    let bench = Bench::new();
    let sigmoids = [0.385929, 0.247446, 0.190714, 0.187617];
    let (identity, sigmoid) = ("torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid");
    let add = |name: &str, config: &Value| {
        let dir = copy(&bench, "bert-hd32", name);
        set(&dir.join("config.json"), config);
        add(&bench, &dir, &[]).succeeds().stderr
    };
    add("old", &json!({ "sbert_ce_default_activation_function": identity }));
    assert_near("old", &scores(&bench, "old", &DOCUMENTS, &[]), &PLAIN);
    add("new", &json!({ "sentence_transformers": { "activation_fn": sigmoid } }));
    assert_near("new", &scores(&bench, "new", &DOCUMENTS, &[]), &sigmoids);
    assert_near("new, raw", &scores(&bench, "new", &DOCUMENTS, &["--scores", "raw"]), &PLAIN);
    let said = add("tanh", &json!({ "sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh" }));
    assert!(said.contains("its activation torch.nn.modules.activation.Tanh is not computed here"), "{said}");
    let page = finish(bench.assay().args(["model", "show", "tanh"])).succeeds().stdout;
    assert!(page.contains("scores        raw\n"), "{page}");
    let page = finish(bench.assay().args(["model", "show", "tiny"])).succeeds().stdout;
    assert!(page.contains("scores        raw, as its files name no activation; for one label CrossEncoder"), "{page}");

    let dir = copy(&bench, "bert-hd32", "saved");
    set(&dir.join("config.json"), &json!({ "sbert_ce_default_activation_function": identity }));
    save_as_cross_encoder(&dir, &json!({ "activation_fn": sigmoid }), &json!({}));
    self::add(&bench, &dir, &[]).succeeds();
    assert_near("saved", &scores(&bench, "saved", &DOCUMENTS, &[]), &sigmoids);
    let list = finish(bench.assay().args(["model", "list"])).succeeds().stdout;
    assert!(list.lines().any(|line| line.contains("saved") && line.contains("sigmoid")), "{list}");
}

#[test]
fn a_model_of_several_labels_is_ranked_by_the_label_that_one_chooses() {
    let bench = Bench::new();
    let dir = copy(&bench, "bert-hd16-3labels", "nli");
    let config = json!({ "id2label": { "0": "contradiction", "1": "entailment", "2": "neutral" } });
    set(&dir.join("config.json"), &config);
    let added = add(&bench, &dir, &[]).succeeds();
    assert!(added.stderr.contains("it has 3 labels (0 contradiction, 1 entailment, 2 neutral)"), "{}", added.stderr);
    bench.rerank(&["--model", "nli", "--query", QUERY, "air"]).fails(2, &["has 3 labels", "label"]);
    let by = |label: &str| scores(&bench, "nli", &DOCUMENTS, &["--label", label]);
    let (contradiction, entailment) = (by("0"), by("1"));
    assert_ne!(contradiction, entailment);
    for (name, label) in [("by-name", "Entailment"), ("by-number", "1")] {
        add(&bench, &dir, &["--name", name, "--label", label]).succeeds();
        assert_near(name, &scores(&bench, name, &DOCUMENTS, &[]), &entailment);
        assert_eq!(show(&bench, name)["settings"]["label"], json!({ "label": 1 }));
    }
    add(&bench, &dir, &["--name", "difference", "--label", "1-0"]).succeeds();
    let difference: Vec<f64> = entailment.iter().zip(contradiction).map(|(one, zero)| one - zero).collect();
    assert_near("difference", &scores(&bench, "difference", &DOCUMENTS, &[]), &difference);
    for label in ["3", "relevant", "1-", "1-3", "-1"] {
        add(&bench, &dir, &["--name", "none", &format!("--label={label}")]).fails(2, &["there is no label"]);
    }
    finish(bench.assay().args(["model", "verify"])).succeeds();
}

#[test]
fn a_request_may_name_the_label_that_was_chosen_and_no_other() {
    let bench = Bench::new();
    let dir = copy(&bench, "bert-hd16-3labels", "nli");
    let config = json!({ "id2label": { "0": "contradiction", "1": "entailment", "2": "neutral" } });
    set(&dir.join("config.json"), &config);
    add(&bench, &dir, &[]).succeeds();
    add(&bench, &dir, &["--name", "chosen", "--label", "neutral"]).succeeds();
    add(&bench, &dir, &["--name", "difference", "--label", "1-0"]).succeeds();
    let expected = scores(&bench, "nli", &DOCUMENTS, &["--label", "2"]);
    for label in ["neutral", "Neutral", "2"] {
        assert_near(label, &scores(&bench, "nli", &DOCUMENTS, &["--label", label]), &expected);
        assert_near(label, &scores(&bench, "chosen", &DOCUMENTS, &["--label", label]), &expected);
    }
    scores(&bench, "difference", &DOCUMENTS, &["--label", "1-0"]);
    let rerank =
        |model: &str, label: &str| bench.rerank(&["--model", model, "--label", label, "--query", QUERY, "air"]);
    let reason = "is not the label that was chosen when model chosen was added, 2 neutral";
    for label in ["0", "1", "entailment", "3", "nothing"] {
        rerank("chosen", label).fails(2, &["--label: ", reason, "under another name without --label"]);
    }
    rerank("difference", "1").fails(2, &["was added, 1 entailment minus 0 contradiction"]);
    rerank("nli", "3").fails(2, &["there is no label \"3\": model nli has 0 contradiction, 1 entailment, 2 neutral"]);
    rerank("nli", "1-0").fails(2, &["`assay model add --label`"]);
    // The setting of a request is the same, over HTTP too: the host reads it.
    let request = |label: &str| {
        let request = json!({ "query": QUERY, "documents": DOCUMENTS, "settings": { "label": label } });
        bench.file("requests.jsonl", request.to_string() + "\n")
    };
    let ask = |model: &str, label: &str| {
        let file = request(label);
        bench.rerank(&["--json", "--engine", "cpu", "--model", model, "--requests", file.to_str().unwrap()])
    };
    for (model, label) in [("nli", "neutral"), ("chosen", "neutral"), ("chosen", "2")] {
        let hits = ask(model, label).succeeds().lines()[0]["hits"].clone();
        let best = expected.iter().copied().fold(f64::MIN, f64::max);
        assert!((hits[0]["score"].as_f64().unwrap() - best).abs() < TOLERANCE, "{model} {label}: {hits}");
    }
    ask("chosen", "0").fails(2, &["line 1: ", "setting label: ", reason]);
    let none = bench.rerank(&["--model", "nli", "--query", QUERY, "air"]);
    none.fails(2, &["has 3 labels (0 contradiction, 1 entailment, 2 neutral): choose one with --label"]);
    let list = finish(bench.assay().args(["model", "list"])).succeeds().stdout;
    assert!(list.contains("raw, label 2 ") && list.contains("raw, label 1-0 "), "{list}");
}

#[test]
fn a_model_that_cannot_rank_never_takes_the_defaults_place() {
    let bench = Bench::new();
    let embedding = copy(&bench, "bert-embedding", "embedding");
    let nli = copy(&bench, "bert-hd16-3labels", "nli");
    add(&bench, &embedding, &[]).succeeds();
    add(&bench, &nli, &[]).succeeds();
    let default = |name: &str| finish(bench.assay().args(["model", "default", name]));
    default("embedding").fails(2, &["embedding cannot be the default model: it computes embeddings"]);
    default("nli").fails(2, &["nli cannot be the default model: it has 3 labels", "add it again with --label"]);
    for dir in [&embedding, &nli] {
        let said = ["tiny is the default model, and the one to add cannot be", "--name"];
        add(&bench, dir, &["--name", "tiny"]).fails(2, &said);
    }
    bench.rerank(&["--query", "red", "sun"]).succeeds();
    let added = add(&bench, &nli, &["--name", "tiny", "--label", "1"]).succeeds().stderr;
    assert!(added.contains("the default model is now tiny, revision "), "{added}");
    let again = add(&bench, &nli, &["--name", "tiny", "--label", "1"]).succeeds().stderr;
    assert!(!again.contains("the default model is now"), "{again}");
    bench.rerank(&["--query", "red", "sun"]).succeeds();
}

#[test]
fn the_label_is_part_of_the_revision() {
    let bench = Bench::new();
    let dir = copy(&bench, "bert-hd16-3labels", "nli");
    let revision = |label: &str| {
        add(&bench, &dir, &["--label", label]).succeeds();
        show(&bench, "nli")["revision"].clone()
    };
    let (first, second) = (revision("0"), revision("1"));
    assert_ne!(first, second);
    assert_eq!(revision("0"), first);
}

#[test]
fn the_first_model_that_can_rank_becomes_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench { dir };
    let embedding = copy(&bench, "bert-embedding", "embedding");
    let added = add(&bench, &embedding, &[]).succeeds();
    assert!(added.stderr.contains("cannot rank by itself and does not become the default"), "{}", added.stderr);
    add(&bench, &copy(&bench, "bert-hd16-3labels", "nli"), &[]).succeeds();
    assert_eq!(ModelStore::new(&bench.path("data")).default_name().unwrap(), None);
    add(&bench, &copy(&bench, "bert-hd32", "ranker"), &[]).succeeds();
    assert_eq!(ModelStore::new(&bench.path("data")).default_name().unwrap().as_deref(), Some("ranker"));
}

#[test]
fn a_configuration_without_a_class_is_taken_by_its_type_and_weights() {
    let bench = Bench::new();
    for (name, none) in [("null", json!(null)), ("empty", json!([]))] {
        let dir = copy(&bench, "bert-hd32", name);
        set(&dir.join("config.json"), &json!({ "architectures": none, "id2label": null, "num_labels": null }));
        let added = add(&bench, &dir, &[]).succeeds();
        assert!(added.stderr.contains("names no class in `architectures`"), "{}", added.stderr);
        assert_eq!(show(&bench, name)["task"], "cross-encoder");
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

#[test]
fn files_in_the_place_of_a_model_are_named_with_the_way_out() {
    let bench = Bench::new();
    let fresh = |name: &str| {
        let dir = bench.path(name);
        Model::default().write(&dir);
        dir
    };
    let dir = fresh("pickle");
    std::fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap();
    add(&bench, &dir, &[]).fails(2, &["pytorch_model.bin", "loading a pickle can run code", "save_pretrained"]);
    let dir = fresh("vocabulary");
    std::fs::rename(dir.join("tokenizer.json"), dir.join("vocab.txt")).unwrap();
    add(&bench, &dir, &[]).fails(2, &["it has no tokenizer.json", "AutoTokenizer.from_pretrained"]);
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        let dir = fresh("pointer");
        std::fs::write(dir.join(file), "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n").unwrap();
        add(&bench, &dir, &[]).fails(2, &[file, "git lfs pull"]);
        #[cfg(unix)]
        {
            std::fs::remove_file(dir.join(file)).unwrap();
            std::os::unix::fs::symlink("../../blobs/4d7a", dir.join(file)).unwrap();
            add(&bench, &dir, &[]).fails(2, &[file, "is a link to ../../blobs/4d7a, which is not there"]);
            std::fs::remove_file(dir.join(file)).unwrap();
        }
    }
    #[cfg(unix)]
    for (file, place) in
        [("model.safetensors", "/dev/zero"), ("tokenizer_config.json", "/dev/zero"), ("config.json", "/")]
    {
        let dir = fresh("device");
        let _ = std::fs::remove_file(dir.join(file));
        std::os::unix::fs::symlink(place, dir.join(file)).unwrap();
        add(&bench, &dir, &[]).fails(2, &[file, "is not a regular file"]);
        std::fs::remove_file(dir.join(file)).unwrap();
    }
    let adapter = bench.path("adapter");
    std::fs::create_dir(&adapter).unwrap();
    std::fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    std::fs::write(adapter.join("adapter_model.bin"), "PK").unwrap();
    let option = adapter.to_str().unwrap();
    add(&bench, &bench.path("tiny"), &["--adapter", option]).fails(2, &["adapter_model.bin", "save_pretrained"]);
    add(&bench, &adapter, &[]).fails(2, &["add its base model, and this directory with --adapter"]);
}

#[test]
fn a_model_in_shards_ranks_as_one_in_a_single_file() {
    let bench = Bench::new();
    let dir = bench.path("sharded");
    let model = Model::default();
    model.write(&dir);
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    let (mut map, mut shards) = (json!({}), [std::collections::HashMap::new(), std::collections::HashMap::new()]);
    for (index, (name, tensor)) in model.tensors.iter().enumerate() {
        map[name] = json!(format!("model-0000{}-of-00002.safetensors", index % 2 + 1));
        shards[index % 2].insert(name.clone(), tensor.clone());
    }
    for (index, tensors) in shards.iter().enumerate() {
        let file = dir.join(format!("model-0000{}-of-00002.safetensors", index + 1));
        candle_core::safetensors::save(tensors, file).unwrap();
    }
    set(&dir.join("model.safetensors.index.json"), &json!({ "metadata": {}, "weight_map": map }));
    add(&bench, &dir, &[]).succeeds();
    let documents = ["red sun", "blue moon"];
    assert_eq!(scores(&bench, "sharded", &documents, &[]), scores(&bench, "tiny", &documents, &[]));
    finish(bench.assay().args(["model", "verify"])).succeeds();
    // Which of two tensors of one name counts cannot be told.
    let name = shards[0].keys().next().unwrap().clone();
    let tensor = shards[0][&name].clone();
    shards[1].insert(name, tensor);
    candle_core::safetensors::save(&shards[1], dir.join("model-00002-of-00002.safetensors")).unwrap();
    add(&bench, &dir, &["--name", "twice"]).fails(2, &["is in ", "00001-of-00002.safetensors too"]);
}

#[test]
fn a_model_that_was_saved_from_torch_compile_ranks_the_same() {
    let bench = Bench::new();
    let mut model = Model::default();
    model.tensors = model.tensors.drain().map(|(name, tensor)| (format!("_orig_mod.{name}"), tensor)).collect();
    model.write(&bench.path("compiled"));
    add(&bench, &bench.path("compiled"), &[]).succeeds();
    let documents = ["red sun", "blue moon"];
    assert_eq!(scores(&bench, "compiled", &documents, &[]), scores(&bench, "tiny", &documents, &[]));
}

#[test]
fn a_model_saved_with_an_adapter_that_was_not_merged_is_refused_with_the_way_out() {
    let bench = Bench::new();
    let mut model = Model::default();
    model.tensors = model.tensors.drain().map(|(name, tensor)| (format!("base_model.model.{name}"), tensor)).collect();
    let query = "base_model.model.bert.encoder.layer.0.attention.self.query";
    let weight = model.tensors.remove(&format!("{query}.weight")).unwrap();
    model.tensors.insert(format!("{query}.base_layer.weight"), weight.clone());
    model.tensors.insert(format!("{query}.lora_A.default.weight"), weight);
    model.write(&bench.path("unmerged"));
    add(&bench, &bench.path("unmerged"), &[]).fails(2, &["merge_and_unload()", "--adapter"]);
}

#[test]
fn a_folder_of_a_hubs_cache_gives_the_repositorys_name() {
    let bench = Bench::new();
    let repository = bench.path("hub/models--owner--ranker");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = repository.join("snapshots").join(commit);
    Model::default().write(&snapshot);
    let names = || -> Vec<String> {
        let listed = ModelStore::new(&bench.path("data")).list().unwrap();
        listed.into_iter().map(|listed| listed.model.manifest.name).collect()
    };
    add(&bench, &snapshot, &[]).succeeds();
    assert_eq!(names(), ["owner/ranker", "tiny"]);
    add(&bench, &repository, &[]).succeeds();
    assert_eq!(names(), ["owner/ranker", "tiny"]);
    for folder in ["My Model (v2)", commit] {
        Model::default().write(&bench.path(folder));
        add(&bench, &bench.path(folder), &[]).fails(2, &["is not a model's name: choose one with --name"]);
        add(&bench, &bench.path(folder), &["--name", "chosen"]).succeeds();
    }
}

#[test]
fn a_models_page_shows_all_that_was_decided() {
    let bench = Bench::new();
    let dir = copy(&bench, "bert-hd16-3labels", "nli");
    let config = bert(&json!({ "do_lower_case": false, "model_max_length": 40, "truncation_side": "left" }));
    set(&dir.join("tokenizer_config.json"), &config);
    let options = ["--label", "2-0", "--scores", "sigmoid", "--prompt", "query: "];
    add(&bench, &dir, &options).succeeds();
    let page = finish(bench.assay().args(["model", "show", "nli"])).succeeds().stdout;
    for line in [
        "task          cross-encoder\n",
        "architecture  BertForSequenceClassification, ",
        "rows          up to 40 tokens\n",
        "labels        0 LABEL_0, 1 LABEL_1, 2 LABEL_2\n",
        "ranked by     label 2 minus label 0\n",
        "scores        sigmoid\n",
        "prompt        \"query: \"\n",
        "cut from      the left\n",
        "tokenizer     WordPiece, normalizer BertNormalizer, pre-tokenizer BertPreTokenizer, post-processor Template",
        "texts are not lower-cased, accents stay, as tokenizer_config.json",
        "adapter       none\n",
        "source        directory /",
    ] {
        assert!(page.contains(line), "no {line:?} in\n{page}");
    }
    let list = finish(bench.assay().args(["model", "list"])).succeeds().stdout;
    assert!(list.contains("sigmoid, prompt"), "{list}");
    finish(bench.assay().args(["model", "show"])).succeeds();
    finish(bench.assay().args(["model", "show", "nowhere"])).fails(2, &["no model nowhere"]);
}
