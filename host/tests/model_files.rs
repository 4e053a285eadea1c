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
    let stored = ModelStore::new(&bench.path("data")).open(Some(name)).unwrap();
    let encoder = PairEncoder::from_json(&std::fs::read(stored.dir().join("tokenizer.json")).unwrap()).unwrap();
    let model = stored.load().unwrap();
    let mut query = encoder.query(QUERY, model.architecture.max_tokens, Cut::LongestFirst).unwrap();
    let mut rows = Rows::default();
    for document in DOCUMENTS {
        query.push_pair(document, &mut rows).unwrap();
    }
    let batch = PackedBatch::new(rows.ids, rows.offsets, rows.second_segment).unwrap();
    assert_near(name, &assay_kernels::reference::forward(&model, &batch), &expected);
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
    assert_rows(&bench, "unlimited", &bert(&json!({ "model_max_length": 1e30 })), nothing, PLAIN);
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
    for name in ["modernbert-cls", "modernbert-mean", "ettin", "deberta-v3", "gte", "gte-new", "jina-v2"] {
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
