//! A checkpoint that loads is one that can be computed: everything else is refused, and the message says which file and
//! which tensor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use assay_kernels::checkpoint::{self, CheckpointError};
use assay_kernels::weights::{Linear, NormWeights};
use assay_kernels::{Model, Task};
use candle_core::{DType, Device, Tensor};
use common::{Shape, random_weights};

const SHAPE: Shape = Shape { heads: 2, head_dim: 4, intermediate: 12, layers: 2, outputs: 3, task: Task::CrossEncoder };

type Tensors = HashMap<String, Tensor>;

/// A directory that is removed with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("assay-checkpoint-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A small cross-encoder as Hugging Face stores it, its tensors changed by `change`.
    fn with_model(name: &str, change: impl FnOnce(&mut Tensors)) -> Self {
        let dir = Self::new(name);
        let weights = random_weights(SHAPE, 1);
        dir.write_config("BertForSequenceClassification");
        let mut tensors = tensors(&weights);
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, dir.0.join(checkpoint::WEIGHTS_FILE)).unwrap();
        dir
    }

    fn write_config(&self, architecture: &str) {
        let config = serde_json::json!({
            "architectures": [architecture], "model_type": "bert", "vocab_size": 100, "hidden_size": 8,
            "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
            "max_position_embeddings": 600, "type_vocab_size": 2, "hidden_act": "gelu",
            "id2label": {"0": "a", "1": "b", "2": "c"},
        });
        std::fs::write(self.0.join(checkpoint::CONFIG_FILE), config.to_string()).unwrap();
    }

    /// A LoRA adapter with rank-2 updates of the named modules, `[8, 8]` each.
    fn with_adapter(name: &str, modules: &[&str], settings: &serde_json::Value) -> Self {
        let dir = Self::new(name);
        let mut config = serde_json::json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4 });
        for (field, value) in settings.as_object().unwrap() {
            config[field] = value.clone();
        }
        std::fs::write(dir.0.join(checkpoint::ADAPTER_CONFIG_FILE), config.to_string()).unwrap();
        let mut tensors = Tensors::new();
        for module in modules {
            for (side, shape) in [("A", (2, 8)), ("B", (8, 2))] {
                let values = Tensor::full(0.5f32, shape, &Device::Cpu).unwrap();
                tensors.insert(format!("base_model.model.{module}.lora_{side}.weight"), values);
            }
        }
        candle_core::safetensors::save(&tensors, dir.0.join(checkpoint::ADAPTER_WEIGHTS_FILE)).unwrap();
        dir
    }

    fn weights_file(&self) -> PathBuf {
        self.0.join(checkpoint::WEIGHTS_FILE)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tensors(model: &Model) -> Tensors {
    let mut tensors = Tensors::new();
    let mut put = |name: String, values: &[f32], shape: &[usize]| {
        tensors.insert(name, Tensor::from_slice(values, shape, &Device::Cpu).unwrap());
    };
    let (hidden, weights) = (model.architecture.hidden_size, &model.weights);
    let tables = &weights.embeddings;
    for (name, table) in [("word", &tables.word), ("position", &tables.position), ("token_type", &tables.token_type)] {
        put(format!("bert.embeddings.{name}_embeddings.weight"), table, &[table.len() / hidden, hidden]);
    }
    let mut norms: Vec<(String, &NormWeights)> =
        vec![("bert.embeddings.LayerNorm".to_owned(), tables.norm.as_ref().unwrap())];
    let mut linears: Vec<(String, &Linear)> = Vec::new();
    for (index, layer) in weights.layers.iter().enumerate() {
        let prefix = format!("bert.encoder.layer.{index}");
        norms.push((format!("{prefix}.attention.output.LayerNorm"), layer.attention_norm.as_ref().unwrap()));
        norms.push((format!("{prefix}.output.LayerNorm"), &layer.output_norm));
        linears.push((format!("{prefix}.attention.self.query"), &layer.query));
        linears.push((format!("{prefix}.attention.self.key"), &layer.key));
        linears.push((format!("{prefix}.attention.self.value"), &layer.value));
        linears.push((format!("{prefix}.attention.output.dense"), &layer.attention_output));
        linears.push((format!("{prefix}.intermediate.dense"), &layer.intermediate));
        linears.push((format!("{prefix}.output.dense"), &layer.output));
    }
    if let Some(head) = &weights.head {
        linears.push(("bert.pooler.dense".to_owned(), head.dense.as_ref().unwrap()));
        linears.push(("classifier".to_owned(), &head.classifier));
    }
    for (name, norm) in norms {
        put(format!("{name}.weight"), &norm.weight, &[hidden]);
        put(format!("{name}.bias"), norm.bias.as_ref().unwrap(), &[hidden]);
    }
    for (name, linear) in linears {
        let outputs = linear.outputs();
        put(format!("{name}.weight"), &linear.weight, &[outputs, linear.inputs]);
        put(format!("{name}.bias"), linear.bias.as_ref().unwrap(), &[outputs]);
    }
    tensors
}

fn refusal(dir: &Path, adapter: Option<&Path>) -> CheckpointError {
    checkpoint::load(dir, adapter).expect_err("the checkpoint is refused")
}

#[test]
fn a_whole_checkpoint_comes_back_as_it_was_saved() {
    let dir = Dir::with_model("whole", |_| {});
    let (loaded, saved) = (checkpoint::load(&dir.0, None).unwrap(), random_weights(SHAPE, 1));
    assert_eq!(loaded, saved);
}

#[test]
fn tensorflows_names_of_layer_norm_are_read() {
    let dir = Dir::with_model("gamma", |tensors| {
        for name in tensors.keys().cloned().collect::<Vec<_>>() {
            let renamed =
                name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            let tensor = tensors.remove(&name).unwrap();
            tensors.insert(renamed, tensor);
        }
    });
    assert_eq!(checkpoint::load(&dir.0, None).unwrap(), random_weights(SHAPE, 1));
}

#[test]
fn f16_and_bf16_are_widened() {
    for (dtype, relative) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
        let dir = Dir::with_model(&format!("{dtype:?}"), |tensors| {
            for tensor in tensors.values_mut() {
                *tensor = tensor.to_dtype(dtype).unwrap();
            }
        });
        let (loaded, saved) = (checkpoint::load(&dir.0, None).unwrap(), random_weights(SHAPE, 1));
        for (loaded, saved) in loaded.weights.layers[1].output.weight.iter().zip(&saved.weights.layers[1].output.weight)
        {
            assert!((loaded - saved).abs() <= relative * saved.abs() + 1e-6, "{dtype:?}: {loaded} for {saved}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let dir = Dir::with_model("missing-file", |_| {});
    std::fs::remove_file(dir.weights_file()).unwrap();
    let error = refusal(&dir.0, None);
    assert!(matches!(&error, CheckpointError::Io { path, .. } if *path == dir.weights_file()), "{error}");
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let dir = Dir::with_model("truncated", |_| {});
    let whole = std::fs::read(dir.weights_file()).unwrap();
    for length in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(dir.weights_file(), &whole[..length]).unwrap();
        let error = refusal(&dir.0, None);
        assert!(matches!(error, CheckpointError::Format { .. }), "{length} bytes: {error}");
    }
}

#[test]
fn a_header_that_lies_about_its_length_is_refused() {
    let dir = Dir::with_model("lying", |_| {});
    let mut bytes = std::fs::read(dir.weights_file()).unwrap();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(dir.weights_file(), bytes).unwrap();
    assert!(matches!(refusal(&dir.0, None), CheckpointError::Format { .. }));
}

#[test]
fn a_missing_tensor_is_named() {
    let name = "bert.encoder.layer.1.output.dense.bias";
    let dir = Dir::with_model("missing-tensor", |tensors| {
        tensors.remove(name);
    });
    let error = refusal(&dir.0, None);
    assert!(matches!(&error, CheckpointError::Missing { name: found, .. } if found == name), "{error}");
    let alike = "40 tensors, such as bert.encoder.layer.0.attention.output.dense.bias, ";
    assert!(error.to_string().contains(alike), "{error} lacks {alike}");
}

#[test]
fn a_tensor_that_no_module_asks_for_is_ignored_whatever_its_type() {
    let dir = Dir::with_model("unasked", |tensors| {
        let ids = Tensor::zeros((1, 600), DType::I64, &Device::Cpu).unwrap();
        tensors.insert("bert.embeddings.position_ids".to_owned(), ids);
        let damaged = Tensor::full(f32::NAN, 3, &Device::Cpu).unwrap();
        tensors.insert("cls.predictions.bias".to_owned(), damaged);
    });
    assert_eq!(checkpoint::load(&dir.0, None).unwrap(), random_weights(SHAPE, 1));
}

#[test]
fn a_configuration_of_absurd_size_is_not_read() {
    let dir = Dir::with_model("large-config", |_| {});
    let file = std::fs::File::options().write(true).open(dir.0.join(checkpoint::CONFIG_FILE)).unwrap();
    file.set_len(checkpoint::MAX_CONFIG_BYTES + 1).unwrap();
    assert!(matches!(refusal(&dir.0, None), CheckpointError::TooLarge { .. }));
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let name = "bert.encoder.layer.0.attention.self.key.weight";
    let dir = Dir::with_model("shape", |tensors| {
        tensors.insert(name.to_owned(), Tensor::zeros((8, 9), DType::F32, &Device::Cpu).unwrap());
    });
    let error = refusal(&dir.0, None);
    assert!(error.to_string().contains("has shape [8, 9], the configuration asks for [8, 8]"), "{error}");
}

#[test]
fn a_tensor_of_integers_is_refused() {
    let dir = Dir::with_model("type", |tensors| {
        let zeros = Tensor::zeros(8, DType::I64, &Device::Cpu).unwrap();
        tensors.insert("bert.encoder.layer.0.output.dense.bias".to_owned(), zeros);
    });
    let error = refusal(&dir.0, None);
    assert!(matches!(&error, CheckpointError::Type { found, .. } if found == "I64"), "{error}");
}

#[test]
fn not_a_number_is_found_where_it_is() {
    for value in [f32::NAN, f32::INFINITY] {
        let dir = Dir::with_model(&format!("not-finite-{value}"), |tensors| {
            let values = [0.0, 1.0, 2.0, value, 4.0, 5.0, 6.0, 7.0];
            let tensor = Tensor::from_slice(&values, 8, &Device::Cpu).unwrap();
            tensors.insert("bert.pooler.dense.bias".to_owned(), tensor);
        });
        let error = refusal(&dir.0, None);
        assert!(matches!(error, CheckpointError::NotFinite { index: 3, .. }), "{error}");
    }
}

#[test]
fn an_adapter_is_merged_by_its_formula() {
    let dir = Dir::with_model("base", |_| {});
    let module = "bert.encoder.layer.1.attention.self.value";
    let adapter = Dir::with_adapter("adapter", &[module], &serde_json::json!({}));
    let merged = checkpoint::load(&dir.0, Some(&adapter.0)).unwrap();
    let mut expected = random_weights(SHAPE, 1);
    // alpha / r · B · A = 4 / 2 · (0.5 · 0.5 · 2 ranks).
    expected.weights.layers[1].value.weight.iter_mut().for_each(|weight| *weight += 1.0);
    assert_eq!(merged, expected);
}

#[test]
fn an_adapter_for_another_model_is_refused() {
    let dir = Dir::with_model("base-of-another", |_| {});
    for module in ["bert.encoder.layer.2.attention.self.value", "roberta.encoder.layer.0.attention.self.value"] {
        let adapter = Dir::with_adapter("of-another", &[module], &serde_json::json!({}));
        let error = refusal(&dir.0, Some(&adapter.0));
        assert!(error.to_string().contains("the adapter was made for another one"), "{error}");
    }
    // A layer that exists, of another width.
    let adapter = Dir::with_adapter("of-another-width", &["bert.encoder.layer.0.output.dense"], &serde_json::json!({}));
    let error = refusal(&dir.0, Some(&adapter.0));
    assert!(matches!(error, CheckpointError::Shape { .. }), "{error}");
}

#[test]
fn adapters_that_would_be_merged_wrongly_are_refused() {
    let dir = Dir::with_model("base-of-kinds", |_| {});
    let cases = [
        (serde_json::json!({ "peft_type": "IA3" }), "peft_type IA3"),
        (serde_json::json!({ "use_dora": true }), "use_dora"),
        (serde_json::json!({ "fan_in_fan_out": true }), "fan_in_fan_out"),
        (serde_json::json!({ "bias": "all" }), "bias"),
        (serde_json::json!({ "rank_pattern": { "key": 4 } }), "rank_pattern"),
        (serde_json::json!({ "r": 0 }), "r 0"),
        (serde_json::json!({ "r": 3 }), "has shape [2, 8]"),
    ];
    for (settings, expected) in cases {
        let adapter = Dir::with_adapter("kind", &["bert.encoder.layer.0.attention.self.value"], &settings);
        let error = refusal(&dir.0, Some(&adapter.0)).to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}

#[test]
fn the_default_adapter_turns_a_bare_encoder_into_a_cross_encoder() {
    let Some(dir) = testdata::default_model() else { return };
    let bare = checkpoint::load(&dir, None).unwrap();
    let bare = bare.architecture;
    assert_eq!((bare.task(), bare.outputs()), (Task::Embedding, bare.hidden_size));
    let adapted = checkpoint::load(&dir, Some(&common::default_adapter())).unwrap();
    assert_eq!((adapted.architecture.task(), adapted.architecture.outputs()), (Task::CrossEncoder, 1));
}
