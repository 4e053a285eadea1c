//! A checkpoint that loads is one that can be computed: everything else is refused, and the message says which file and
//! which tensor. One file: all cases change the same small checkpoint.

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
    let word = tables.word.numbers(0..tables.word.len());
    for (name, table) in [("word", &*word), ("position", &tables.position), ("token_type", &tables.token_type)] {
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
        put(format!("{name}.weight"), &linear.weight.all(), &[outputs, linear.inputs]);
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
fn f16_and_bf16_are_kept_as_they_are_stored() {
    for (dtype, relative) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
        let dir = Dir::with_model(&format!("{dtype:?}"), |tensors| {
            for tensor in tensors.values_mut() {
                *tensor = tensor.to_dtype(dtype).unwrap();
            }
        });
        let (loaded, saved) = (checkpoint::load(&dir.0, None).unwrap(), random_weights(SHAPE, 1));
        let (loaded, saved) = (&loaded.weights.layers[1].output.weight, &saved.weights.layers[1].output.weight);
        assert_eq!(2 * loaded.bytes(), saved.bytes(), "{dtype:?}: it is kept as it is stored");
        for (loaded, saved) in loaded.all().iter().zip(saved.all().iter()) {
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
    let weight = &mut expected.weights.layers[1].value.weight;
    *weight = weight.all().iter().map(|weight| weight + 1.0).collect::<Vec<_>>().into();
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
        (serde_json::json!({ "use_dora": true }), "it has no bert.encoder.layer.0.attention.self.value.lora_magnitude"),
        (serde_json::json!({ "lora_bias": true }), "it has no bert.encoder.layer.0.attention.self.value.lora_B.bias"),
        (serde_json::json!({ "bias": "all" }), "which bias in its configuration says it replaces"),
        (serde_json::json!({ "rank_pattern": { "value": 4 } }), "has shape [2, 8], the configuration asks for [4, 8]"),
        (serde_json::json!({ "use_qalora": true }), "use_qalora is true, which is not supported"),
        (serde_json::json!({ "target_parameters": ["a"] }), "target_parameters is [\"a\"]"),
        (serde_json::json!({ "a_field_of_later_days": 0.5 }), "a_field_of_later_days is 0.5"),
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
fn an_adapter_of_a_changed_base_is_refused_with_the_way_out() {
    let dir = Dir::with_model("base-of-pissa", |_| {});
    let module = "bert.encoder.layer.0.attention.self.value";
    for name in ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "PiSSA"] {
        let adapter = Dir::with_adapter("pissa", &[module], &serde_json::json!({ "init_lora_weights": name }));
        let message = refusal(&dir.0, Some(&adapter.0)).to_string();
        assert!(message.contains("path_initial_model_for_weight_conversion"), "{message}");
    }
    for name in ["loftq", "of_later_days"] {
        let adapter = Dir::with_adapter("loftq", &[module], &serde_json::json!({ "init_lora_weights": name }));
        let message = refusal(&dir.0, Some(&adapter.0)).to_string();
        assert!(message.contains("merge the adapter with PEFT"), "{message}");
    }
    for plain in ["gaussian", "orthogonal", "eva", "mica"].map(serde_json::Value::from).into_iter().chain([
        true.into(),
        false.into(),
        serde_json::Value::Null,
    ]) {
        let adapter = Dir::with_adapter("plain", &[module], &serde_json::json!({ "init_lora_weights": plain }));
        checkpoint::load(&dir.0, Some(&adapter.0)).unwrap();
    }
}

#[test]
fn an_adapter_without_the_head_that_it_promises_is_refused() {
    let dir = Dir::with_model("base-of-headless", |_| {});
    let module = "bert.encoder.layer.0.attention.self.value";
    let settings = serde_json::json!({ "modules_to_save": ["classifier", "score"] });
    let adapter = Dir::with_adapter("headless", &[module], &settings);
    let message = refusal(&dir.0, Some(&adapter.0)).to_string();
    assert!(message.contains("it has no classifier.weight, which modules_to_save"), "{message}");
}

#[test]
fn an_adapter_that_fits_nothing_is_refused_with_the_cause() {
    let dir = Dir::with_model("base-of-causes", |_| {});
    let cases = [
        ("classifier.modules_to_save.default", "save_pretrained(DIR)"),
        ("bert.encoder.layer.2.output.dense", "is for layer 2, and the model's layers are 0 to 1"),
        ("encoder.layer.0.attention.self.value", "was trained over the bare encoder"),
        ("bert.pooler.other", "the adapter was made for another one"),
    ];
    for (module, expected) in cases {
        let adapter = Dir::with_adapter("cause", &[module], &serde_json::json!({}));
        let message = refusal(&dir.0, Some(&adapter.0)).to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

/// Saves tensors of an adapter, whose names PEFT's prefix precedes, beside its configuration.
fn save_adapter(name: &str, settings: &serde_json::Value, tensors: &[(&str, Tensor)]) -> Dir {
    let dir = Dir::with_adapter(name, &[], settings);
    let tensors: Tensors =
        tensors.iter().map(|(name, tensor)| (format!("base_model.model.{name}"), tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, dir.0.join(checkpoint::ADAPTER_WEIGHTS_FILE)).unwrap();
    dir
}

#[test]
fn magnitudes_biases_and_tables_of_an_adapter_are_merged() {
    let dir = Dir::with_model("base-of-dora", |_| {});
    let half = |shape: &[usize]| Tensor::full(0.5f32, shape, &Device::Cpu).unwrap();
    let value = "bert.encoder.layer.1.attention.self.value";
    let name = |part: &str| format!("{value}.{part}");
    let low_rank = [(name("lora_A.weight"), half(&[2, 8])), (name("lora_B.weight"), half(&[8, 2]))];
    let low_rank: Vec<(&str, Tensor)> = low_rank.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();

    // Every row of W + 2 · B · A gets the length 3.
    let magnitude = (name("lora_magnitude_vector"), Tensor::full(3f32, 8, &Device::Cpu).unwrap());
    let tensors = [low_rank.as_slice(), &[(magnitude.0.as_str(), magnitude.1)]].concat();
    let adapter = save_adapter("dora", &serde_json::json!({ "use_dora": true }), &tensors);
    let merged = checkpoint::load(&dir.0, Some(&adapter.0)).unwrap();
    let base = random_weights(SHAPE, 1);
    let (merged, base_weight) =
        (merged.weights.layers[1].value.weight.all(), base.weights.layers[1].value.weight.all());
    for (merged, base) in merged.chunks(8).zip(base_weight.chunks(8)) {
        let raised: Vec<f64> = base.iter().map(|&weight| f64::from(weight) + 1.0).collect();
        let length = raised.iter().map(|weight| weight * weight).sum::<f64>().sqrt();
        for (merged, raised) in merged.iter().zip(raised) {
            assert!((f64::from(*merged) - 3.0 * raised / length).abs() < 1e-6);
        }
    }

    let update_bias = name("lora_B.bias");
    let tensors = [low_rank.as_slice(), &[(update_bias.as_str(), half(&[8]))]].concat();
    let adapter = save_adapter("lora-bias", &serde_json::json!({ "lora_bias": true }), &tensors);
    let merged = checkpoint::load(&dir.0, Some(&adapter.0)).unwrap();
    assert_eq!(merged.weights.layers[1].value.bias_of(3), base.weights.layers[1].value.bias_of(3) + 1.0);

    let table = "bert.embeddings.token_type_embeddings";
    let table = [format!("{table}.lora_embedding_A"), format!("{table}.lora_embedding_B")];
    let tensors = [(table[0].as_str(), half(&[2, 2])), (table[1].as_str(), half(&[8, 2]))];
    let adapter = save_adapter("table", &serde_json::json!({}), &tensors);
    let merged = checkpoint::load(&dir.0, Some(&adapter.0)).unwrap();
    let raised: Vec<f32> = base.weights.embeddings.token_type.iter().map(|weight| weight + 1.0).collect();
    assert_eq!(merged.weights.embeddings.token_type, raised);
}

#[test]
fn biases_that_peft_saves_three_times_are_read_once() {
    let dir = Dir::with_model("base-of-biases", |_| {});
    let mut tensors: Vec<(String, Tensor)> = tensors(&random_weights(SHAPE, 1))
        .into_iter()
        .filter(|(name, _)| name.ends_with(".bias") || name == "classifier.weight")
        .map(|(name, tensor)| (name, (tensor + 1.0).unwrap()))
        .collect();
    for copy in ["classifier.modules_to_save.bias", "classifier.original_module.bias"] {
        tensors.push((copy.to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap()));
    }
    let tensors: Vec<(&str, Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let settings = serde_json::json!({ "bias": "all", "modules_to_save": ["classifier"] });
    let adapter = save_adapter("biases", &settings, &tensors);
    let (merged, base) = (checkpoint::load(&dir.0, Some(&adapter.0)).unwrap(), random_weights(SHAPE, 1));
    let classifier = |model: &Model| model.weights.head.as_ref().unwrap().classifier.bias_of(1);
    assert_eq!(classifier(&merged), classifier(&base) + 1.0);
}

#[test]
fn shards_are_read_as_one_file() {
    let dir = Dir::with_model("sharded", |_| {});
    let mut whole = tensors(&random_weights(SHAPE, 1));
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let names: Vec<String> = whole.keys().filter(|name| name.contains("layer.1")).cloned().collect();
    let moved: Tensors = names.iter().map(|name| (name.clone(), whole.remove(name).unwrap())).collect();
    let place = |tensors: &Tensors, file: &str| tensors.keys().map(|name| (name.clone(), file.into())).collect();
    let mut map: serde_json::Map<String, serde_json::Value> = place(&whole, first);
    map.extend::<serde_json::Map<_, _>>(place(&moved, second));
    candle_core::safetensors::save(&whole, dir.0.join(first)).unwrap();
    candle_core::safetensors::save(&moved, dir.0.join(second)).unwrap();
    std::fs::remove_file(dir.weights_file()).unwrap();
    let write = |map: &serde_json::Value| {
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        std::fs::write(dir.0.join(checkpoint::INDEX_FILE), index.to_string()).unwrap();
    };
    write(&map.into());
    assert_eq!(checkpoint::load(&dir.0, None).unwrap(), random_weights(SHAPE, 1));
    assert_eq!(checkpoint::weight_files(&dir.0).unwrap(), [checkpoint::INDEX_FILE, first, second]);
    for hostile in ["../model.safetensors", "config.json", "/etc/passwd"] {
        write(&serde_json::json!({ "classifier.weight": hostile }));
        let error = refusal(&dir.0, None);
        assert!(matches!(error, CheckpointError::Index { .. }), "{error}");
    }
    write(&serde_json::json!({ "classifier.weight": "model-00003-of-00003.safetensors" }));
    assert!(refusal(&dir.0, None).to_string().contains("model-00003-of-00003.safetensors"));
}

#[test]
fn what_stands_in_the_place_of_weights_is_named() {
    let dir = Dir::with_model("replaced", |_| {});
    std::fs::write(dir.weights_file(), "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n").unwrap();
    let message = refusal(&dir.0, None).to_string();
    assert!(message.contains("git lfs pull"), "{message}");
    std::fs::remove_file(dir.weights_file()).unwrap();
    std::fs::write(dir.0.join("pytorch_model.bin"), "PK").unwrap();
    let message = refusal(&dir.0, None).to_string();
    assert!(message.contains("but pytorch_model.bin") && message.contains("save_pretrained"), "{message}");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../../blobs/4d7a", dir.weights_file()).unwrap();
        let message = refusal(&dir.0, None).to_string();
        assert!(message.contains("is a link to ../../blobs/4d7a, which is not there"), "{message}");
    }
}

#[test]
fn names_that_training_code_wrapped_are_read() {
    for prefix in ["_orig_mod.", "module.", "model.", "module._orig_mod."] {
        let dir = Dir::with_model("wrapped", |tensors| {
            *tensors = tensors.drain().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
        });
        assert_eq!(checkpoint::load(&dir.0, None).unwrap(), random_weights(SHAPE, 1), "{prefix}");
    }
    let dir = Dir::with_model("wrapped-otherwise", |tensors| {
        *tensors = tensors.drain().map(|(name, tensor)| (format!("student.{name}"), tensor)).collect();
    });
    let message = refusal(&dir.0, None).to_string();
    assert!(message.contains("such as student.bert.embeddings.word_embeddings.weight"), "{message}");
}

#[test]
fn a_configuration_without_a_class_is_decided_by_its_weights() {
    let dir = Dir::with_model("classless", |_| {});
    let write = |fields: serde_json::Value| {
        let mut config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.0.join(checkpoint::CONFIG_FILE)).unwrap()).unwrap();
        for (field, value) in fields.as_object().unwrap() {
            config[field] = value.clone();
        }
        std::fs::write(dir.0.join(checkpoint::CONFIG_FILE), config.to_string()).unwrap();
    };
    for none in [serde_json::json!(null), serde_json::json!([])] {
        write(serde_json::json!({ "architectures": none, "id2label": null }));
        let architecture = checkpoint::read_config(&dir.0).unwrap();
        assert_eq!((architecture.task(), architecture.outputs()), (Task::CrossEncoder, 3));
    }
    let mut bare = tensors(&random_weights(SHAPE, 1));
    bare.retain(|name, _| !name.starts_with("classifier"));
    candle_core::safetensors::save(&bare, dir.weights_file()).unwrap();
    assert_eq!(checkpoint::read_config(&dir.0).unwrap().task(), Task::Embedding);
}

#[test]
fn one_of_several_labels_can_be_ranked_by_and_the_difference_of_two() {
    let whole = random_weights(SHAPE, 1);
    let classifier = whole.weights.head.as_ref().unwrap().classifier.clone();
    let narrowed = |label, minus| {
        let mut model = whole.clone();
        checkpoint::RankedLabel { label, minus }.apply(&mut model).map(|()| model)
    };
    let model = narrowed(2, None).unwrap();
    assert_eq!(model.architecture.outputs(), 1);
    let weights = classifier.weight.all();
    assert_eq!(model.weights.head.unwrap().classifier.weight.all()[..], weights[16..]);
    let head = narrowed(2, Some(0)).unwrap().weights.head.unwrap().classifier;
    assert_eq!(head.weight.number(3), weights[19] - weights[3]);
    assert_eq!(head.bias_of(0), classifier.bias_of(2) - classifier.bias_of(0));
    assert!(narrowed(3, None).unwrap_err().to_string().contains("the labels are 0 to 2"));
    assert!(narrowed(0, Some(3)).is_err());
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
