//! What people's model files say, and what `assay model add` makes of it: read, refused with the way out, or said.
//! One file: all cases change copies of the same small models and share one way to add them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use assay::model::ModelStore;
use candle_core::{DType, Device, Tensor};
use common::model_files::{
    DOCUMENTS, PLAIN, PROMPTED, QUERY, SHORT, TOLERANCE, add, assert_near, assert_rows, assert_scores, bert,
    change_tokenizer, copy, generic, read, scores, set, show,
};
use common::tiny::Model;
use common::{Bench, finish};
use serde_json::{Value, json};

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
        json!({ "max_seq_length": 0 }),
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
        let listed = classes.iter().map(|(class, path)| match class.contains('.') {
            true => json!({ "type": class, "path": path }),
            false => json!({ "type": format!("sentence_transformers.models.{class}"), "path": path }),
        });
        let listed: Vec<Value> = listed.collect();
        std::fs::write(dir.join("modules.json"), Value::from(listed).to_string()).unwrap();
    };
    modules(&[("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]);
    add(&bench, &dir, &[]).fails(2, &["modules.json: its modules are Transformer, Pooling, Normalize"]);
    // A class of the same name may compute something else.
    modules(&[("other.Transformer", "")]);
    add(&bench, &dir, &[]).fails(2, &["modules.json: its modules are other.Transformer"]);
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
    assert!(list.contains("raw, 3 labels, none chosen "), "{list}");
    // A tenant may leave the choice to its callers.
    let mut deploy = bench.assay();
    deploy.args(["tenant", "deploy", "open", "--model", "nli"]).arg(common::component("standard"));
    let deployed = finish(&mut deploy).succeeds().stderr;
    assert!(deployed.contains("version 1 serves"), "{deployed}");
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
    add(&bench, &adapter, &[]).fails(2, &["add its base model"]);
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
    let page = finish(bench.assay().args(["model", "show", "nli", "--json"])).succeeds();
    assert_eq!(page.lines()[0]["labels"], json!(["LABEL_0", "LABEL_1", "LABEL_2"]));
    let page = finish(bench.assay().args(["model", "show", "nli"])).succeeds().stdout;
    for line in [
        "task          cross-encoder\n",
        "architecture  BertForSequenceClassification, ",
        "weights       f16, as stored\n",
        "pooling       the first token\n",
        "rows          up to 40 tokens\n",
        "labels        0 LABEL_0, 1 LABEL_1, 2 LABEL_2\n",
        "ranked by     label 2 minus label 0\n",
        "scores        sigmoid\n",
        "prompt        \"query: \"\n",
        "cut from      the left\n",
        "tokenizer     WordPiece (",
        "normalizer    BertNormalizer (clean_text true, handle_chinese_chars true, lowercase false)\n",
        "pre-tokenizer BertPreTokenizer\n",
        "pair          TemplateProcessing: [CLS] $A [SEP] $B:1 [SEP]:1\n",
        "added tokens  5\n",
        "changed       texts are not lower-cased, accents stay, as tokenizer_config.json",
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
