//! Checkpoints of random numbers in any size, and what memory this process has.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use assay_kernels::families;
use serde_json::{Value, json};

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stored {
    F32,
    F16,
    Bf16,
}

/// A model: its configuration, and how its numbers are stored.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) config: Value,
    pub(crate) stored: Stored,
}

/// Sizes that every family has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) inner: usize,
    pub(crate) words: usize,
}

impl Sizes {
    /// A configuration with these sizes, of one label, and `more` fields.
    fn of(&self, model_type: &str, class: &str, more: &Value) -> Value {
        let mut config = json!({
            "architectures": [format!("{class}ForSequenceClassification")], "model_type": model_type,
            "vocab_size": self.words, "hidden_size": self.hidden, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "intermediate_size": self.inner, "pad_token_id": 1,
            "id2label": { "0": "LABEL_0" },
        });
        for (field, value) in more.as_object().unwrap() {
            config[field] = value.clone();
        }
        config
    }
}

/// XLM-RoBERTa, with heads of 64 numbers and rows of 512 tokens.
pub(crate) fn xlm_roberta(layers: usize, hidden: usize, words: usize) -> Value {
    let sizes = Sizes { layers, hidden, heads: hidden / 64, inner: 4 * hidden, words };
    roberta_of(&sizes, 514)
}

/// XLM-RoBERTa with this many positions, two of them before the first token's.
pub(crate) fn roberta_of(sizes: &Sizes, positions: usize) -> Value {
    let more = json!({ "max_position_embeddings": positions, "type_vocab_size": 1, "layer_norm_eps": 1e-5 });
    sizes.of("xlm-roberta", "XLMRoberta", &more)
}

/// jina-reranker-v2.
pub(crate) fn jina(sizes: &Sizes, positions: usize) -> Value {
    let mut config = roberta_of(sizes, positions);
    config["auto_map"] = json!({ "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig" });
    config
}

/// BERT.
pub(crate) fn bert(sizes: &Sizes) -> Value {
    sizes.of("bert", "Bert", &json!({ "max_position_embeddings": 512, "type_vocab_size": 2 }))
}

/// ELECTRA.
pub(crate) fn electra(sizes: &Sizes) -> Value {
    let more = json!({ "max_position_embeddings": 512, "type_vocab_size": 2, "embedding_size": sizes.hidden });
    sizes.of("electra", "Electra", &more)
}

/// ModernBERT. The modules of ettin's heads have the sizes of the classifier.
pub(crate) fn modernbert(sizes: &Sizes) -> Value {
    sizes.of("modernbert", "ModernBert", &json!({ "max_position_embeddings": 8192 }))
}

/// DeBERTa-v3.
pub(crate) fn deberta(sizes: &Sizes) -> Value {
    let more = json!({
        "max_position_embeddings": 512, "relative_attention": true, "position_buckets": 256, "share_att_key": true,
        "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "position_biased_input": false,
        "type_vocab_size": 0, "pooler_hidden_size": sizes.hidden,
    });
    sizes.of("deberta-v2", "DebertaV2", &more)
}

/// GTE, as its authors' files have it.
pub(crate) fn gte(sizes: &Sizes) -> Value {
    let more = json!({
        "max_position_embeddings": 8192, "type_vocab_size": 1, "layer_norm_eps": 1e-12, "rope_theta": 20000,
        "rope_scaling": { "type": "ntk", "factor": 8.0 }, "position_embedding_type": "rope", "pack_qkv": true,
        "auto_map": { "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig" },
    });
    sizes.of("new", "New", &more)
}

/// Writes a model with random numbers, and returns its file's bytes.
pub(crate) fn write(dir: &Path, shape: &Shape) -> u64 {
    let config = shape.config.to_string();
    std::fs::write(dir.join("config.json"), &config).unwrap();
    let tensors = families::stand_in_tensors(config.as_bytes()).unwrap();
    let (name, size) = match shape.stored {
        Stored::F32 => ("F32", 4),
        Stored::F16 => ("F16", 2),
        Stored::Bf16 => ("BF16", 2),
    };
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (tensor, shape) in &tensors {
        let start = end;
        end += shape.iter().product::<usize>() * size;
        header.insert(tensor.clone(), json!({ "dtype": name, "shape": shape, "data_offsets": [start, end] }));
    }
    let header = Value::from(header).to_string();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(dir.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let mut seed = 1u32;
    for _ in 0..end / size {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Between 1/32 and 1/16 in any precision, of either sign.
        let (sign, fraction) = (seed >> 31, (seed >> 8) & 0x3ff);
        match shape.stored {
            Stored::F32 => file.write_all(&(sign << 31 | 122 << 23 | fraction << 13).to_le_bytes()).unwrap(),
            Stored::F16 => file.write_all(&((sign << 15 | 10 << 10 | fraction) as u16).to_le_bytes()).unwrap(),
            Stored::Bf16 => file.write_all(&((sign << 15 | 122 << 7 | fraction >> 3) as u16).to_le_bytes()).unwrap(),
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
