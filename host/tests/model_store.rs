//! What `assay model` takes in, refuses, lists and finds damaged.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::tiny::Model;
use common::{Bench, finish};
use serde_json::{Value, json};

/// Adds a model that `damage` has changed.
fn add_damaged(bench: &Bench, name: &str, damage: impl FnOnce(&mut Model)) -> common::Finished {
    let mut model = Model::default();
    damage(&mut model);
    model.write(&bench.path(name));
    bench.add(&bench.path(name))
}

fn list(bench: &Bench) -> Vec<Value> {
    finish(bench.assay().args(["model", "list", "--json"])).succeeds().lines()
}

fn change_byte(path: &Path, from_end: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let place = bytes.len() - from_end;
    bytes[place] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_first_model_is_the_default_until_another_is_chosen() {
    let bench = Bench::new();
    add_damaged(&bench, "second", |_| {}).succeeds();
    let defaults =
        |bench: &Bench| list(bench).iter().map(|line| line["default"].as_bool().unwrap()).collect::<Vec<_>>();
    assert_eq!(defaults(&bench), [false, true], "second, tiny");
    finish(bench.assay().args(["model", "default", "second"])).succeeds();
    assert_eq!(defaults(&bench), [true, false]);
    finish(bench.assay().args(["model", "default", "third"])).fails(2, &["no model third"]);
    assert_eq!(defaults(&bench), [true, false]);
}

#[test]
fn the_list_says_where_a_model_came_from() {
    let bench = Bench::new();
    let text = finish(bench.assay().args(["model", "list"])).succeeds().stdout;
    assert!(text.contains("*  tiny   cross-encoder  1×8"), "{text}");
    assert!(text.contains("directory /"), "{text}");
    let manifest = &list(&bench)[0]["manifest"];
    assert_eq!(manifest["files"].as_object().unwrap().len(), 3);
    assert_eq!(manifest["revision"].as_str().unwrap().len(), 64);
}

#[test]
fn what_is_not_a_model_is_refused_and_leaves_nothing_behind() {
    let bench = Bench::new();
    bench.add(&bench.path("nowhere")).fails(2, &["nowhere"]);
    std::fs::create_dir(bench.path("hollow")).unwrap();
    bench.add(&bench.path("hollow")).fails(2, &["is not a model: it has no config.json"]);
    add_damaged(&bench, "gpt", |model| model.config["architectures"] = json!(["GPT2LMHeadModel"]))
        .fails(2, &["unsupported architecture GPT2LMHeadModel", "BertForSequenceClassification"]);
    add_damaged(&bench, "tanh", |model| model.config["hidden_act"] = json!("gelu_new"))
        .fails(2, &["hidden_act is gelu_new"]);
    add_damaged(&bench, "heads", |model| model.config["num_attention_heads"] = json!(3))
        .fails(2, &["hidden_size is 8, supported is a multiple of num_attention_heads"]);
    add_damaged(&bench, "zero", |model| model.config["hidden_size"] = json!(0)).fails(2, &["hidden_size is 0"]);
    add_damaged(&bench, "huge", |model| model.config["vocab_size"] = json!(1u64 << 40)).fails(2, &["vocab_size"]);
    add_damaged(&bench, "less", |model| drop(model.tensors.remove("classifier.bias")))
        .fails(2, &["tensor classifier.bias is missing"]);
    add_damaged(&bench, "shape", |model| {
        model.tensors.insert("classifier.bias".to_owned(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
    })
    .fails(2, &["classifier.bias has shape [2], the configuration asks for [1]"]);
    add_damaged(&bench, "nan", |model| {
        model.tensors.insert("classifier.bias".to_owned(), Tensor::new(&[f32::NAN], &Device::Cpu).unwrap());
    })
    .fails(2, &["classifier.bias holds NaN at element 0"]);
    add_damaged(&bench, "type", |model| {
        model.tensors.insert("classifier.bias".to_owned(), Tensor::new(&[1i64], &Device::Cpu).unwrap());
    })
    .fails(2, &["classifier.bias is stored as I64"]);
    assert_eq!(list(&bench).len(), 1);
    let left = std::fs::read_dir(bench.path("data/models")).unwrap().count();
    assert_eq!(left, 2, "the model and the default, and nothing half-done");
}

#[test]
fn another_models_tokenizer_is_refused() {
    let bench = Bench::new();
    add_damaged(&bench, "large", |model| model.tokenizer["model"]["vocab"]["extra"] = json!(12))
        .fails(2, &["token ids up to 12, the model's vocabulary has 12 entries"]);
    add_damaged(&bench, "added", |model| model.tokenizer["added_tokens"][0]["id"] = json!(99))
        .fails(2, &["token ids up to 99"]);
    add_damaged(&bench, "none", |model| model.tokenizer = json!({})).fails(2, &["it has no vocabulary"]);
}

#[test]
fn a_damaged_weights_file_is_refused_or_found() {
    let bench = Bench::new();
    let whole = bench.path("tiny/model.safetensors");
    let bytes = std::fs::read(&whole).unwrap();
    for (name, damaged) in [
        ("cut", bytes[..bytes.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("header", [b"\xff\xff\xff\xff\xff\xff\xff\x7f", &bytes[8..]].concat()),
        ("longer", [bytes.as_slice(), b"more"].concat()),
    ] {
        Model::default().write(&bench.path(name));
        std::fs::write(bench.path(name).join("model.safetensors"), damaged).unwrap();
        bench.add(&bench.path(name)).fails(2, &["is not a whole safetensors file"]);
    }
    // One bit of one weight: nothing about the number shows it, its hash does.
    let verify = || finish(bench.assay().args(["model", "verify"]));
    verify().succeeds();
    let stored = std::path::absolute(bench.path("data/models/tiny")).unwrap();
    let current = std::fs::read_to_string(stored.join("current")).unwrap();
    let weights = stored.join(current).join("model.safetensors");
    change_byte(&weights, 5);
    verify().fails(1, &["model.safetensors", "SHA-256 is", "bring the model in again"]);
    change_byte(&weights, 5);
    verify().succeeds();
    std::fs::write(&weights, &bytes[..100]).unwrap();
    verify().fails(1, &["has 100 bytes, had"]);
    bench.rerank(&["--query", "q", "d"]).fails(2, &["is not a whole safetensors file"]);
    bench.add(&bench.path("tiny")).succeeds();
    verify().succeeds();
}

#[test]
fn weights_stored_in_half_precision_score_almost_the_same() {
    let bench = Bench::new();
    let score = |model: &str| {
        let line = bench.rerank(&["--json", "--model", model, "--query", "red", "sun"]).succeeds().lines().remove(0);
        line["hits"][0]["score"].as_f64().unwrap()
    };
    for dtype in [DType::F16, DType::BF16] {
        let name = dtype.as_str();
        add_damaged(&bench, name, |model| {
            model.tensors.values_mut().for_each(|tensor| *tensor = tensor.to_dtype(dtype).unwrap());
        })
        .succeeds();
        assert!((score(name) - score("tiny")).abs() < 2e-2, "{name}: {} {}", score(name), score("tiny"));
        assert_ne!(score(name), score("tiny"), "{name}");
    }
}

/// An adapter that adds `scale · B · A` to the classifier, all ones.
fn write_adapter(dir: &Path, settings: &Value, tensors: &[(&str, Tensor)]) {
    std::fs::create_dir_all(dir).unwrap();
    let mut config = json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 2.0, "bias": "none" });
    for (key, value) in settings.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let tensors = tensors.iter().map(|(name, tensor)| (format!("base_model.model.{name}"), tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, dir.join("adapter_model.safetensors")).unwrap();
}

#[test]
fn an_adapter_is_merged_and_one_for_another_model_is_refused() {
    let bench = Bench::new();
    let ones = |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let low_rank = [("classifier.lora_A.weight", ones((1, 8))), ("classifier.lora_B.weight", ones((1, 1)))];
    let adapter = bench.path("adapter");
    let add = |name: &str| {
        finish(bench.assay().args(["model", "add", "--name", name, "--adapter"]).arg(&adapter).arg(bench.path("tiny")))
    };
    write_adapter(&adapter, &json!({}), &low_rank);
    add("adapted").succeeds();
    // The same by hand: every weight of the classifier raised by alpha / r = 2.
    add_damaged(&bench, "by-hand", |model| {
        let classifier = &model.tensors["classifier.weight"];
        let raised = (classifier + 2.0).unwrap();
        model.tensors.insert("classifier.weight".to_owned(), raised);
    })
    .succeeds();
    let hits = |model: &str| {
        bench.rerank(&["--json", "--model", model, "--query", "red", "sun", "moon"]).succeeds().lines()[0]["hits"]
            .clone()
    };
    assert_eq!(hits("adapted"), hits("by-hand"));
    assert_ne!(hits("adapted"), hits("tiny"));

    write_adapter(&adapter, &json!({ "use_dora": true }), &low_rank);
    add("dora").fails(2, &["use_dora is set", "merge the adapter with PEFT"]);
    write_adapter(&adapter, &json!({ "peft_type": "IA3" }), &low_rank);
    add("ia3").fails(2, &["peft_type IA3 is not supported"]);
    write_adapter(&adapter, &json!({}), &[("bert.layer.9.lora_A.weight", ones((1, 8)))]);
    add("other").fails(2, &["fits nothing in the model"]);
    write_adapter(&adapter, &json!({ "r": 2 }), &low_rank);
    add("rank").fails(2, &["lora_A.weight has shape [1, 8], the configuration asks for [2, 8]"]);
}
