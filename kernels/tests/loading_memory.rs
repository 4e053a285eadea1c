//! What loading a large model takes: little more than its file, and its word table stays in the file's precision.
//!
//! Peaks are a process's own, so each load runs in a process of its own: this program again, for one test of it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use assay_kernels::{CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, Engine, Precision, checkpoint};
use serde_json::json;

/// Names the directory to load, for the process that loads.
const MODEL: &str = "ASSAY_LOADING_MODEL";

/// Loads the models of real sizes too; they take 2.3 GB below the system's directory for temporary files.
const LARGE: &str = "ASSAY_LOADING_LARGE";

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stored {
    F32,
    F16,
}

/// A shape of XLM-RoBERTa.
#[derive(Debug, Clone, Copy)]
struct Shape {
    layers: usize,
    hidden: usize,
    words: usize,
    stored: Stored,
}

/// Writes a model with random numbers, and returns its file's bytes.
fn write(dir: &Path, shape: Shape) -> u64 {
    let Shape { layers, hidden, words, stored } = shape;
    let inner = 4 * hidden;
    let config = json!({
        "architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta", "vocab_size": words,
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": hidden / 64,
        "intermediate_size": inner, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1,
        "layer_norm_eps": 1e-5, "hidden_act": "gelu", "id2label": { "0": "LABEL_0" },
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors: Vec<(String, Vec<usize>)> = Vec::new();
    let mut linear = |name: String, outputs: usize, inputs: usize| {
        tensors.push((format!("{name}.weight"), vec![outputs, inputs]));
        tensors.push((format!("{name}.bias"), vec![outputs]));
    };
    for layer in 0..layers {
        let layer = format!("roberta.encoder.layer.{layer}");
        for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            linear(format!("{layer}.{part}"), hidden, hidden);
        }
        linear(format!("{layer}.intermediate.dense"), inner, hidden);
        linear(format!("{layer}.output.dense"), hidden, inner);
    }
    linear("classifier.dense".to_owned(), hidden, hidden);
    linear("classifier.out_proj".to_owned(), 1, hidden);
    let layer = |index: usize, part: &str| format!("roberta.encoder.layer.{index}.{part}.LayerNorm");
    let mut norms = vec!["roberta.embeddings.LayerNorm".to_owned()];
    norms.extend((0..layers).flat_map(|index| [layer(index, "attention.output"), layer(index, "output")]));
    for norm in norms {
        tensors.push((format!("{norm}.weight"), vec![hidden]));
        tensors.push((format!("{norm}.bias"), vec![hidden]));
    }
    for (table, rows) in [("word", words), ("position", 514), ("token_type", 1)] {
        tensors.push((format!("roberta.embeddings.{table}_embeddings.weight"), vec![rows, hidden]));
    }
    let (name, size) = if stored == Stored::F32 { ("F32", 4) } else { ("F16", 2) };
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (tensor, shape) in &tensors {
        let start = end;
        end += shape.iter().product::<usize>() * size;
        header.insert(tensor.clone(), json!({ "dtype": name, "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::Value::from(header).to_string();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(dir.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let mut seed = 1u32;
    for _ in 0..end / size {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Between 1/32 and 1/16 in either precision, of either sign.
        let (sign, fraction) = (seed >> 31, (seed >> 8) & 0x3ff);
        match stored {
            Stored::F32 => file.write_all(&(sign << 31 | 122 << 23 | fraction << 13).to_le_bytes()).unwrap(),
            Stored::F16 => file.write_all(&((sign << 15 | 10 << 10 | fraction) as u16).to_le_bytes()).unwrap(),
        }
    }
    file.flush().unwrap();
    (8 + header.len() + end) as u64
}

/// A line of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// What a process that loads says.
#[derive(Debug, serde::Deserialize)]
struct Loaded {
    /// Most memory that it had.
    peak: u64,
    /// Memory afterwards.
    rest: u64,
    /// The model's own, as the engine counts it.
    weights: u64,
}

/// Loads the model that the variable names; without it, there is nothing to do.
#[test]
fn a_process_that_loads() {
    let Some(dir) = std::env::var_os(MODEL) else { return };
    let device = CpuDevice::new(CpuDeviceOptions::default()).unwrap();
    let model = checkpoint::load(Path::new(&dir), None).unwrap();
    let options = CpuOptions { precision: Precision::F32, ..CpuOptions::default() };
    let engine = CpuEngine::load(&Arc::clone(&device), model, options).unwrap();
    let weights = engine.memory().weights_bytes;
    println!("loaded {}", json!({ "peak": status("VmHWM"), "rest": status("VmRSS"), "weights": weights }));
}

fn load(dir: &Path) -> Loaded {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_process_that_loads", "--nocapture"]).env(MODEL, dir);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let line = text.split_once("loaded ").unwrap().1;
    serde_json::Deserializer::from_str(line).into_iter().next().unwrap().unwrap()
}

/// Memory of a process that has loaded a model of a few megabytes: threads, buffers, the program itself.
fn overhead() -> u64 {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Shape { layers: 1, hidden: 64, words: 100, stored: Stored::F32 });
    load(dir.path()).peak
}

fn measure(shape: Shape) -> (u64, Loaded) {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), shape);
    let loaded = load(dir.path());
    println!("{shape:?}: a file of {} MB, {:?}", file / 1_000_000, loaded);
    (file, loaded)
}

#[test]
fn loading_takes_little_more_than_the_file_and_the_word_table_is_not_widened() {
    let overhead = overhead();
    let most = |bytes: u64| overhead + bytes * 13 / 10;
    // The word table is most of each model.
    for (stored, words) in [(Stored::F16, 200_000), (Stored::F32, 100_000)] {
        let (file, loaded) = measure(Shape { layers: 1, hidden: 256, words, stored });
        assert!(loaded.peak <= most(file), "{stored:?}: a file of {file} took {loaded:?} beside {overhead}");
        assert!(loaded.weights <= file * 11 / 10, "{stored:?}: {loaded:?}");
        assert!(loaded.rest <= most(file), "{stored:?}: {loaded:?}");
    }
    // Layers are most of this one. They are widened, and packed one by one.
    let (file, loaded) = measure(Shape { layers: 12, hidden: 512, words: 1_000, stored: Stored::F32 });
    assert!(loaded.peak <= most(file), "a file of {file} took {loaded:?} beside {overhead}");
}

#[test]
fn models_of_real_sizes_load_as_well() {
    if std::env::var_os(LARGE).is_none() {
        return;
    }
    let overhead = overhead();
    let (file, loaded) = measure(Shape { layers: 12, hidden: 768, words: 250_002, stored: Stored::F32 });
    assert!(loaded.peak <= overhead + file * 13 / 10, "a file of {file} took {loaded:?} beside {overhead}");
    // Half of this one's numbers are in layers, which are held in f32.
    let (file, loaded) = measure(Shape { layers: 24, hidden: 1_024, words: 250_002, stored: Stored::F16 });
    assert!(loaded.peak <= overhead + file * 17 / 10, "a file of {file} took {loaded:?} beside {overhead}");
}
