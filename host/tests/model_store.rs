//! What `assay model` takes in, keeps, refuses and lists.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use assay::model::{Change, ModelError, ModelStore, Source};
use candle_core::{DType, Device, Tensor};
use common::tiny::{MAX_TOKENS, Model, Shape};
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
fn a_model_that_was_added_by_mistake_is_removed() {
    let bench = Bench::new();
    add_damaged(&bench, "second", |_| {}).succeeds();
    let remove = |name: &str| finish(bench.assay().args(["model", "remove", name]));
    remove("tiny").fails(2, &["tiny is the default model", "assay model default OTHER"]);
    remove("third").fails(2, &["no model third"]);
    let removed = remove("second").succeeds();
    assert!(removed.stderr.contains("removed 1 item, "), "{}", removed.stderr);
    assert_eq!(list(&bench).len(), 1);
    bench.rerank(&["--model", "second", "--query", "red", "sun"]).fails(2, &["no model second"]);
    // What a killed removal leaves is no model, and stands in no way.
    add_damaged(&bench, "second", |_| {}).succeeds();
    let models = bench.path("data/models");
    std::fs::create_dir_all(models.join(".dropping-second/0123456789abcdef")).unwrap();
    assert_eq!(list(&bench).len(), 2);
    remove("second").succeeds();
    assert!(!models.join(".dropping-second").exists());
    add_damaged(&bench, "second", |_| {}).succeeds();
    finish(bench.assay().args(["model", "verify"])).succeeds();
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
fn a_directory_without_a_model_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    bench.add(&bench.path("nowhere")).fails(2, &["nowhere"]);
    std::fs::create_dir(bench.path("hollow")).unwrap();
    bench.add(&bench.path("hollow")).fails(2, &["is not a model: it has no config.json"]);
    bench.add(&bench.path("tiny/config.json")).fails(2, &["config.json is a file", "name the directory"]);
    add_damaged(&bench, "gpt", |model| model.config["architectures"] = json!(["GPT2LMHeadModel"]))
        .fails(2, &["unsupported architecture GPT2LMHeadModel", "BertForSequenceClassification"]);
    add_damaged(&bench, "mish", |model| model.config["hidden_act"] = json!("mish"))
        .fails(2, &["mish/config.json: ", "hidden_act is mish, supported is gelu"]);
    add_damaged(&bench, "heads", |model| model.config["num_attention_heads"] = json!(3))
        .fails(2, &["num_attention_heads is 3", "hidden_size must be a multiple of num_attention_heads"]);
    add_damaged(&bench, "zero", |model| model.config["hidden_size"] = json!(0)).fails(2, &["hidden size is 0"]);
    add_damaged(&bench, "huge", |model| model.config["vocab_size"] = json!(1u64 << 40)).fails(2, &["vocab"]);
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
    assert_eq!(left, 3, "the model, the default and the lock, and nothing half-done");
}

#[test]
fn layers_that_the_configuration_leaves_out_or_the_weights_lack_are_named() {
    let bench = Bench::new();
    // `layers` in the place of layer 0, the only one; `asked` by the configuration.
    let add = |name: &str, layers: &[usize], asked: usize| {
        add_damaged(&bench, name, |model| {
            let (of_layer, mut tensors): (HashMap<_, _>, HashMap<_, _>) =
                std::mem::take(&mut model.tensors).into_iter().partition(|(name, _)| name.contains(".layer.0."));
            for layer in layers {
                let number = format!(".layer.{layer}.");
                tensors.extend(of_layer.iter().map(|(name, it)| (name.replace(".layer.0.", &number), it.clone())));
            }
            model.tensors = tensors;
            model.config["num_hidden_layers"] = json!(asked);
        })
    };
    let added = add("deep", &[0, 1, 2, 5], 1).succeeds();
    let note = "asks for layers 0 to 0: what its weights have of 1 to 2 and 5 is left out";
    assert!(added.stderr.contains(note), "{}", added.stderr);
    assert!(!add("whole", &[0, 1, 2], 3).succeeds().stderr.contains("left out"));
    add("shallow", &[0, 1], 3).fails(2, &["config.json: it asks for layers 0 to 2, and the weights have 0 to 1"]);
    add("gap", &[0, 2], 3).fails(2, &["and the weights have 0 and 2"]);
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

    // A manifest that has lost the adapter's name would rank without it.
    let stored = bench.path("data/models/adapted");
    let manifest = stored.join(std::fs::read_to_string(stored.join("current")).unwrap()).join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"adapter\":", "\"cdapter\":")).unwrap();
    let expected = ["manifest.json", "adapter", "bring the model in again"];
    bench.rerank(&["--model", "adapted", "--query", "red", "sun"]).fails(1, &expected);
    finish(bench.assay().args(["model", "verify", "adapted"])).fails(1, &expected);
    add("adapted").succeeds();
    assert_eq!(hits("adapted"), hits("by-hand"));

    write_adapter(&adapter, &json!({ "use_dora": true }), &low_rank);
    add("dora").fails(2, &["use_dora is set", "merge the adapter with PEFT"]);
    write_adapter(&adapter, &json!({ "peft_type": "IA3" }), &low_rank);
    add("ia3").fails(2, &["peft_type IA3 is not supported"]);
    write_adapter(&adapter, &json!({}), &[("bert.layer.9.lora_A.weight", ones((1, 8)))]);
    add("other").fails(2, &["fits nothing in the model"]);
    write_adapter(&adapter, &json!({ "r": 2 }), &low_rank);
    add("rank").fails(2, &["lora_A.weight has shape [1, 8], the configuration asks for [2, 8]"]);
}

/// A model like the tiny one, with other weights.
fn tiny(seed: u32) -> Model {
    Model::new(Shape { vocab_size: 12, max_tokens: MAX_TOKENS }, seed)
}

/// Adds a model to a store in this process.
fn add(store: &ModelStore, name: &str, model: &Model) -> Result<(String, Change), ModelError> {
    let made = tempfile::tempdir().unwrap();
    model.write(made.path());
    let source = Source::Directory { path: "made for a test".to_owned() };
    store.add(name, made.path(), source, None).map(|added| (added.model.manifest.revision, added.change))
}

/// Every file below a directory, with when it was written.
fn written(dir: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(written(&path));
        } else {
            found.insert(path.clone(), path.metadata().unwrap().modified().unwrap());
        }
    }
    found
}

#[test]
fn a_model_that_is_here_already_is_kept_and_another_revision_is_put_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path());
    let (first, change) = add(&store, "tiny", &tiny(1)).unwrap();
    assert_eq!(change, Change::Copied);
    let before = written(dir.path());
    assert_eq!(add(&store, "tiny", &tiny(1)).unwrap(), (first.clone(), Change::Kept));
    assert_eq!(written(dir.path()), before, "a file was written again");

    let (second, change) = add(&store, "tiny", &tiny(2)).unwrap();
    assert_eq!(change, Change::Copied);
    let opened = |name: &str| store.open(Some(name)).map(|model| model.manifest.revision);
    assert_eq!(opened("tiny").unwrap(), second);
    assert_eq!(opened(&format!("tiny@{first}")).unwrap(), first);
    assert_eq!(opened(&format!("tiny@{first:.6}")).unwrap(), first);
    assert!(matches!(opened("tiny@ffff0000"), Err(ModelError::UnknownRevision { .. })));
    assert_eq!(store.open_revision("tiny", &first).unwrap().manifest.revision, first);
    let other = format!("{first:.16}{}", "0".repeat(48));
    assert!(matches!(store.open_revision("tiny", &other), Err(ModelError::UnknownRevision { .. })));
    assert!(matches!(store.open_revision("other", &first), Err(ModelError::UnknownRevision { .. })));
    // The first becomes current again, and still nothing of it is written.
    assert_eq!(add(&store, "tiny", &tiny(1)).unwrap(), (first.clone(), Change::Kept));
    assert_eq!(opened("tiny").unwrap(), first);
    let listed: Vec<(String, bool)> =
        store.list().unwrap().into_iter().map(|it| (it.model.manifest.revision, it.is_current)).collect();
    assert_eq!(listed, [(first, true), (second, false)]);
}

#[test]
fn digits_that_begin_several_revisions_are_refused_with_the_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path());
    let (revision, _) = add(&store, "tiny", &tiny(1)).unwrap();
    let dir = store.open(None).unwrap().dir().to_owned();
    // Another revision that begins alike, made up: a real one would take too long to find.
    let other = format!("{revision:.8}{}", "0".repeat(56));
    let copy = dir.with_file_name(&other[..16]);
    std::fs::create_dir(&copy).unwrap();
    let manifest = std::fs::read_to_string(dir.join("manifest.json")).unwrap();
    std::fs::write(copy.join("manifest.json"), manifest.replace(&revision, &other)).unwrap();
    let error = store.open(Some(&format!("tiny@{revision:.8}"))).unwrap_err();
    assert!(matches!(&error, ModelError::AmbiguousRevision { revisions, .. } if revisions.len() == 2), "{error}");
    assert_eq!(store.open(Some(&format!("tiny@{revision:.16}"))).unwrap().manifest.revision, revision);
}

#[test]
fn processes_that_add_at_once_all_succeed_and_leave_whole_models() {
    let bench = Bench::new();
    for seed in 1..=2 {
        tiny(seed).write(&bench.path(&format!("made-{seed}")));
    }
    let add = |seed: u32, name: &str| {
        let mut command = bench.assay();
        command.args(["model", "add", "--name", name]).arg(bench.path(&format!("made-{seed}")));
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> =
        (0..12).map(|child| add(1 + child % 2, if child % 3 == 0 { "another" } else { "same" })).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let lines = list(&bench);
    assert_eq!(lines.len(), 5, "two models of two revisions each, and the first: {lines:?}");
    finish(bench.assay().args(["model", "verify"])).succeeds();
    let left = std::fs::read_dir(bench.path("data/models")).unwrap().count();
    assert_eq!(left, 5, "three models, the default and the lock");
}

#[test]
fn kill_9_at_any_instant_of_adding_leaves_the_old_revision_or_the_new_one() {
    let rounds: u32 = std::env::var("ASSAY_KILL_ROUNDS").map_or(16, |rounds| rounds.parse().unwrap());
    let bench = Bench::new();
    let store = ModelStore::new(&bench.path("data"));
    let add = |seed: u32| {
        tiny(seed).write(&bench.path("made"));
        let mut command = bench.assay();
        command.args(["model", "add", "--name", "tiny"]).arg(bench.path("made")).stderr(Stdio::null());
        command
    };
    let whole = {
        let started = Instant::now();
        assert!(add(100).status().unwrap().success());
        started.elapsed()
    };
    let mut killed = 0;
    for round in 0..rounds {
        let before = store.open(None).unwrap().manifest.revision;
        let mut child = add(101 + round).spawn().unwrap();
        // Not a wait for something to happen: the instant of the kill is what is being varied.
        std::thread::sleep(whole * 6 / 5 * round / rounds);
        // It may be done.
        let _ = child.kill();
        let is_done = child.wait().unwrap().success();
        killed += u32::from(!is_done);
        store.list().unwrap().iter().for_each(|listed| listed.model.verify().unwrap());
        let is_new = store.open(None).unwrap().manifest.revision != before;
        assert!(is_new || !is_done, "what was added is not there");
        assert!(add(101 + round).status().unwrap().success(), "a killed command is in the way of the next");
        assert_ne!(store.open(None).unwrap().manifest.revision, before);
    }
    println!("{rounds} commands of {} ms: {killed} were killed", Duration::as_millis(&whole));
}

#[test]
fn no_two_names_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path());
    add(&store, "a-/b", &tiny(1)).unwrap();
    add(&store, "Tiny", &tiny(1)).unwrap();
    for (name, taken) in [("a/-b", "a-/b"), ("A-/B", "a-/b"), ("tiny", "Tiny"), ("Tiny.", "Tiny")] {
        let error = add(&store, name, &tiny(2)).unwrap_err();
        assert!(matches!(&error, ModelError::NameTaken { taken_by, .. } if taken_by == taken), "{name}: {error}");
        assert!(matches!(store.open(Some(name)), Err(ModelError::Unknown { .. })), "{name}");
    }
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(add(&store, "Tiny", &tiny(2)).unwrap().1, Change::Copied);
}

#[test]
fn a_model_called_default_is_one_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path());
    let (revision, _) = add(&store, "default", &tiny(1)).unwrap();
    assert_eq!(store.default_name().unwrap().as_deref(), Some("default"));
    assert_eq!(store.open(None).unwrap().manifest.revision, revision);
    add(&store, "other", &tiny(2)).unwrap();
    store.set_default("other").unwrap();
    assert_eq!(store.open(Some("default")).unwrap().manifest.revision, revision);
    assert_eq!(store.list().unwrap().len(), 2);
}

#[test]
fn stores_of_earlier_programs_open() {
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    let store = ModelStore::new(dir.path());
    // An earlier program put a model of this name where the default's name belongs, and failed from then on.
    let (revision, _) = add(&store, "default", &tiny(1)).unwrap();
    std::fs::remove_file(models.join("default")).unwrap();
    std::fs::rename(models.join("default~"), models.join("default")).unwrap();
    assert!(matches!(store.open(None), Err(ModelError::Empty)));
    assert_eq!(store.open(Some("default")).unwrap().manifest.revision, revision);
    store.set_default("default").unwrap();
    assert_eq!(store.open(None).unwrap().manifest.revision, revision);

    // It also let two names share a directory, so that the second answered for the first.
    let (first, _) = add(&store, "a-/b", &tiny(1)).unwrap();
    let (second, _) = add(&store, "c", &tiny(2)).unwrap();
    let (from, to) = (models.join("c"), models.join("a---b"));
    let manifest = std::fs::read_to_string(from.join(format!("{second:.16}/manifest.json"))).unwrap();
    std::fs::write(from.join(format!("{second:.16}/manifest.json")), manifest.replace("\"c\"", "\"a/-b\"")).unwrap();
    std::fs::rename(from.join(format!("{second:.16}")), to.join(format!("{second:.16}"))).unwrap();
    std::fs::rename(from.join("current"), to.join("current")).unwrap();
    std::fs::remove_dir(from).unwrap();
    let opened = |name: &str| store.open(Some(name)).map(|model| model.manifest.revision);
    assert_eq!(opened("a/-b").unwrap(), second);
    assert!(matches!(opened("a-/b"), Err(ModelError::Unknown { .. })), "the second model answers for the first");
    assert_eq!(opened(&format!("a-/b@{first}")).unwrap(), first);
    assert_eq!(store.list().unwrap().len(), 3);
}
