//! Checkpoints of random numbers in any size, and what memory this process has.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::json;

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stored {
    F32,
    F16,
}

/// A shape of XLM-RoBERTa.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) words: usize,
    pub(crate) stored: Stored,
}

/// Writes a model with random numbers, and returns its file's bytes.
pub(crate) fn write(dir: &Path, shape: Shape) -> u64 {
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
pub(crate) fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
