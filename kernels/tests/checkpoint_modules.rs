//! A head in modules of sentence-transformers: what would compute something else is refused by its name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use assay_kernels::architecture::{Activation, Dense, Head, Pooling};
use assay_kernels::checkpoint;
use serde_json::{Value, json};

/// A directory that is removed with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("assay-modules-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A copy of the tiny model with modules, some fields of one of its files changed.
fn changed(file: &str, changes: &Value) -> Dir {
    let dir = Dir::new();
    copy(&testdata::model("ettin"), &dir.0);
    let path = dir.0.join(file);
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    match changes {
        Value::Object(fields) => fields.iter().for_each(|(field, new)| value[field] = new.clone()),
        other => value = other.clone(),
    }
    std::fs::write(&path, value.to_string()).unwrap();
    dir
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// The list of modules, after the Transformer.
fn listed(rest: &[(&str, &str)]) -> Value {
    let modules = [("Transformer", "")].iter().chain(rest);
    modules.map(|(class, path)| json!({ "type": format!("sentence_transformers.{class}"), "path": path })).collect()
}

#[test]
fn the_modules_make_the_head_and_its_pooling() {
    let architecture = checkpoint::read_config(&testdata::model("ettin")).unwrap();
    let Head::Classifier { dense: Some(dense), labels: 1, bias: true } = architecture.head else {
        panic!("{:?}", architecture.head)
    };
    assert_eq!((architecture.pooling, dense.activation, dense.bias), (Pooling::First, Some(Activation::Gelu), false));
    assert!(dense.norm.unwrap().bias);
    let files = checkpoint::head_files(&testdata::model("ettin")).unwrap();
    assert!(files.contains(&"3_LayerNorm/model.safetensors".to_owned()) && files.len() == 9, "{files:?}");
    assert!(checkpoint::head_files(&testdata::model("bert-embedding")).unwrap().is_empty());

    let without = changed("modules.json", &listed(&[("Pooling", "1_Pooling"), ("Dense", "4_Dense")]));
    let model = checkpoint::load(&without.0, None).unwrap();
    assert_eq!(model.architecture.head, Head::Classifier { dense: None, labels: 1, bias: true });

    let old = changed("1_Pooling/config.json", &json!({ "pooling_mode": null, "pooling_mode_mean_tokens": true }));
    assert_eq!(checkpoint::read_config(&old.0).unwrap().pooling, Pooling::Mean);

    // Files that name no activation get the library's default.
    let default = changed("2_Dense/config.json", &json!({ "activation_function": null, "bias": false }));
    let head = checkpoint::read_config(&default.0).unwrap().head;
    let is_tanh = |dense: Dense| dense.activation == Some(Activation::Tanh);
    assert!(matches!(head, Head::Classifier { dense: Some(dense), .. } if is_tanh(dense)), "{head:?}");
}

#[test]
fn modules_that_compute_something_else_are_refused_by_name() {
    let gelu = "torch.nn.modules.activation.GELU";
    let cases = [
        ("modules.json", listed(&[("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]), "Pooling, Normalize"),
        ("modules.json", listed(&[("Pooling", "1_Pooling"), ("Dense", "../4_Dense")]), "../4_Dense is not the name"),
        ("modules.json", listed(&[("Pooling", "1_Pooling"), ("Dense", "")]), "its Dense has no folder"),
        ("modules.json", json!("none"), "is not a list of at most 16 modules"),
        ("modules.json", listed(&[("Pooling", "1_Pooling"); 40]), "is not a list of at most 16 modules"),
        ("1_Pooling/config.json", json!({ "pooling_mode": "max" }), "its pooling is max, supported are cls and mean"),
        ("1_Pooling/config.json", json!({ "pooling_mode": ["cls", "mean"] }), "its pooling is [\"cls\",\"mean\"]"),
        ("2_Dense/config.json", json!({ "activation_function": "my.Own" }), "a Dense has the activation my.Own"),
        ("2_Dense/config.json", json!({ "use_residual": true }), "use_residual"),
        ("2_Dense/config.json", json!({ "module_output_name": "other" }), "makes other of sentence_embedding"),
        ("4_Dense/config.json", json!({ "module_input_name": "other" }), "makes scores of other"),
        ("4_Dense/config.json", json!({ "module_output_name": "sentence_embedding" }), "the last one scores"),
        ("2_Dense/config.json", json!({ "out_features": 16 }), "a Dense has 32 inputs and 16 outputs"),
        ("1_Pooling/config.json", json!({ "include_prompt": false }), "include_prompt false, supported is true"),
        ("3_LayerNorm/config.json", json!({ "a_later_field": 1 }), "its LayerNorm has a_later_field 1"),
        ("4_Dense/config.json", json!({ "activation_function": gelu }), "its last Dense has the activation gelu"),
        ("4_Dense/config.json", json!({ "out_features": -1 }), "its last Dense has no out_features"),
        ("4_Dense/config.json", json!({ "out_features": 1u64 << 40 }), "number of labels is"),
        (
            "4_Dense/config.json",
            json!({ "out_features": 2 }),
            "4_Dense/model.safetensors: tensor linear.weight has shape",
        ),
        (
            "config.json",
            json!({ "architectures": ["ModernBertForSequenceClassification"] }),
            "architectures is a classifier, supported is a bare encoder",
        ),
    ];
    for (file, changes, expected) in cases {
        let dir = changed(file, &changes);
        let message = checkpoint::load(&dir.0, None).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn a_missing_or_damaged_file_of_a_module_is_named() {
    let dir = changed("1_Pooling/config.json", &json!({}));
    std::fs::write(dir.0.join("3_LayerNorm/config.json"), "{").unwrap();
    let message = checkpoint::load(&dir.0, None).unwrap_err().to_string();
    assert!(message.contains("3_LayerNorm/config.json: cannot be read"), "{message}");

    let dir = changed("1_Pooling/config.json", &json!({}));
    std::fs::remove_file(dir.0.join("3_LayerNorm/model.safetensors")).unwrap();
    let message = checkpoint::load(&dir.0, None).unwrap_err().to_string();
    assert!(message.contains("3_LayerNorm/model.safetensors"), "{message}");
}
