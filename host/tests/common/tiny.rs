//! A BERT cross-encoder with one small layer, made on the spot: everything about it is right, until a test says
//! otherwise.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

const HIDDEN: usize = 8;
const INTERMEDIATE: usize = 16;
pub const MAX_TOKENS: usize = 16;
const WORDS: [&str; 12] =
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "sky", "sea", "sun", "moon"];

/// What of a model's size may differ.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Ids; those beyond the tokenizer's words have weights and no word.
    pub vocab_size: usize,
    pub max_tokens: usize,
}

/// The three files of the model, each open to damage.
pub struct Model {
    pub config: Value,
    pub tokenizer: Value,
    pub tensors: HashMap<String, Tensor>,
}

impl Default for Model {
    fn default() -> Self {
        Self::new(Shape { vocab_size: WORDS.len(), max_tokens: MAX_TOKENS }, 1)
    }
}

impl Model {
    /// A model whose weights the seed decides.
    pub fn new(shape: Shape, seed: u32) -> Self {
        let config = json!({
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            "vocab_size": shape.vocab_size,
            "hidden_size": HIDDEN,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": INTERMEDIATE,
            "max_position_embeddings": shape.max_tokens,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
            "id2label": { "0": "LABEL_0" },
        });
        Self { config, tokenizer: tokenizer(), tensors: tensors(shape, seed) }
    }

    /// Writes the model into a new directory.
    pub fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer.json"), self.tokenizer.to_string()).unwrap();
        candle_core::safetensors::save(&self.tensors, dir.join("model.safetensors")).unwrap();
    }
}

fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> =
        WORDS.iter().enumerate().map(|(id, &word)| (word.to_owned(), json!(id))).collect();
    let special = |token: &str| {
        let id = WORDS.iter().position(|&word| word == token).unwrap();
        json!({
            "id": id, "content": token, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let token = |id: &str, type_id: u32| json!({ "SpecialToken": { "id": id, "type_id": type_id } });
    let sequence = |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
    let template = |token: &str| {
        let id = WORDS.iter().position(|&word| word == token).unwrap();
        json!({ "id": token, "ids": [id], "tokens": [token] })
    };
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(special);
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": specials,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0)],
            "pair": [
                token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0), sequence("B", 1), token("[SEP]", 1),
            ],
            "special_tokens": { "[CLS]": template("[CLS]"), "[SEP]": template("[SEP]") },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary,
        },
    })
}

fn tensors(shape: Shape, mut seed: u32) -> HashMap<String, Tensor> {
    let mut tensors = HashMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        // A small generator is enough: all that matters is that no two scores are the same.
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect();
        tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    add("bert.embeddings.word_embeddings.weight", &[shape.vocab_size, HIDDEN]);
    add("bert.embeddings.position_embeddings.weight", &[shape.max_tokens, HIDDEN]);
    add("bert.embeddings.token_type_embeddings.weight", &[2, HIDDEN]);
    for norm in ["bert.embeddings", "bert.encoder.layer.0.attention.output", "bert.encoder.layer.0.output"] {
        add(&format!("{norm}.LayerNorm.weight"), &[HIDDEN]);
        add(&format!("{norm}.LayerNorm.bias"), &[HIDDEN]);
    }
    let linear = [
        ("bert.encoder.layer.0.attention.self.query", HIDDEN, HIDDEN),
        ("bert.encoder.layer.0.attention.self.key", HIDDEN, HIDDEN),
        ("bert.encoder.layer.0.attention.self.value", HIDDEN, HIDDEN),
        ("bert.encoder.layer.0.attention.output.dense", HIDDEN, HIDDEN),
        ("bert.encoder.layer.0.intermediate.dense", INTERMEDIATE, HIDDEN),
        ("bert.encoder.layer.0.output.dense", HIDDEN, INTERMEDIATE),
        ("bert.pooler.dense", HIDDEN, HIDDEN),
        ("classifier", 1, HIDDEN),
    ];
    for (module, outputs, inputs) in linear {
        add(&format!("{module}.weight"), &[outputs, inputs]);
        add(&format!("{module}.bias"), &[outputs]);
    }
    tensors
}
