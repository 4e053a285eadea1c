//! What the tests of this crate share: golden files, and small models made up on the spot.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};

use assay_kernels::weights::{Embeddings, Head, Layer, LayerNorm, Linear};
use assay_kernels::{BertConfig, BertWeights, PackedBatch, Row, Task};
use serde::Deserialize;

/// One pair of a golden file, with the logits of a float64 PyTorch run.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) ids: Vec<u32>,
    /// Empty where the model has no token types.
    #[serde(default)]
    pub(crate) type_ids: Vec<u32>,
    pub(crate) logits: Vec<f64>,
}

impl Case {
    pub(crate) fn row(&self) -> Row<'_> {
        let second_segment = self.type_ids.iter().position(|&kind| kind == 1).unwrap_or(self.ids.len());
        Row { ids: &self.ids, second_segment }
    }
}

/// A golden file.
#[derive(Debug, Deserialize)]
pub(crate) struct Golden {
    pub(crate) cases: Vec<Case>,
    #[serde(default)]
    pub(crate) classifier_weight: Vec<f32>,
    #[serde(default)]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) classifier_bias: Vec<f32>,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(f32),
        Many(Vec<f32>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    })
}

pub(crate) fn golden(path: &Path) -> Golden {
    serde_json::from_slice(&std::fs::read(path).expect("the golden file is readable")).expect("the golden file is JSON")
}

/// Goldens of the default model: the repository's own, and one more where the reference material is beside the checkout.
pub(crate) fn default_goldens() -> Vec<Golden> {
    let more = testdata::beside_checkout("golden/default-model.json");
    [testdata::golden("passages.json")].into_iter().chain(more).map(|path| golden(&path)).collect()
}

/// The adapter that makes the default model's encoder a cross-encoder.
pub(crate) fn default_adapter() -> PathBuf {
    testdata::root().join("models/default")
}

/// Packs every case into one batch.
pub(crate) fn pack(cases: &[Case]) -> PackedBatch {
    let mut batch = PackedBatch::default();
    for case in cases {
        batch.push(case.row()).expect("golden rows are well-formed");
    }
    batch
}

/// Small deterministic generator (xorshift64*), so that made-up models are the same on every machine.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Uniform in -1 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound
    }

    fn values(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.unit() * scale).collect()
    }
}

/// A made-up model's shape: heads × `head_dim` wide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) outputs: usize,
    pub(crate) task: Task,
}

/// A model of random weights, with 100 words and rows of up to 600 tokens.
pub(crate) fn random_weights(shape: Shape, seed: u64) -> BertWeights {
    let mut random = Random::new(seed);
    let Shape { heads, head_dim, intermediate, layers, outputs, task } = shape;
    let hidden = heads * head_dim;
    let outputs = if task == Task::Embedding { hidden } else { outputs };
    let config = BertConfig {
        vocab_size: 100,
        hidden_size: hidden,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        intermediate_size: intermediate,
        max_position_embeddings: 600,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        task,
        outputs,
    };
    let linear = |random: &mut Random, outputs: usize, inputs: usize| Linear {
        weight: random.values(outputs * inputs, (3.0 / inputs as f32).sqrt()),
        bias: random.values(outputs, 0.2),
    };
    let norm = |random: &mut Random| LayerNorm {
        weight: random.values(hidden, 0.3).iter().map(|value| 1.0 + value).collect(),
        bias: random.values(hidden, 0.2),
    };
    let embeddings = Embeddings {
        word: random.values(config.vocab_size * hidden, 1.0),
        position: random.values(config.max_position_embeddings * hidden, 0.5),
        token_type: random.values(config.type_vocab_size * hidden, 0.5),
        norm: norm(&mut random),
    };
    let layers = (0..layers)
        .map(|_| Layer {
            query: linear(&mut random, hidden, hidden),
            key: linear(&mut random, hidden, hidden),
            value: linear(&mut random, hidden, hidden),
            attention_output: linear(&mut random, hidden, hidden),
            attention_norm: norm(&mut random),
            intermediate: linear(&mut random, intermediate, hidden),
            output: linear(&mut random, hidden, intermediate),
            output_norm: norm(&mut random),
        })
        .collect();
    let head = match task {
        Task::Embedding => Head::MeanEmbedding,
        Task::CrossEncoder => Head::CrossEncoder {
            pooler: linear(&mut random, hidden, hidden),
            classifier: linear(&mut random, outputs, hidden),
        },
    };
    BertWeights { config, embeddings, layers, head }
}

/// Rows of the given lengths with random ids.
pub(crate) fn random_rows(lengths: &[usize], seed: u64) -> PackedBatch {
    let mut random = Random::new(seed);
    let mut batch = PackedBatch::default();
    for &length in lengths {
        let ids: Vec<u32> = (0..length).map(|_| random.below(100) as u32).collect();
        let second_segment = random.below(length + 1);
        batch.push(Row { ids: &ids, second_segment }).expect("rows are well-formed");
    }
    batch
}

/// Largest absolute difference, and where.
pub(crate) fn worst(actual: &[f32], expected: &[f64]) -> (f64, usize) {
    assert_eq!(actual.len(), expected.len(), "as many numbers as expected");
    actual
        .iter()
        .zip(expected)
        .map(|(&actual, expected)| (f64::from(actual) - expected).abs())
        .enumerate()
        .map(|(index, error)| (if error.is_nan() { f64::INFINITY } else { error }, index))
        .fold((0.0, 0), |worst, next| if next.0 > worst.0 { next } else { worst })
}
