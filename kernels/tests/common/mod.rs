//! What the tests of this crate share: golden files, and small models made up on the spot.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assay_kernels::weights::{Linear, Module, NormWeights, Source};
use assay_kernels::{
    Architecture, CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, Engine, Model, PackedBatch, Precision, Row, Task,
    Weights, families,
};
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

/// The architecture of a made-up model with 100 words, two token types and rows of up to 600 tokens.
pub(crate) fn architecture(shape: Shape) -> Architecture {
    let Shape { heads, head_dim, intermediate, layers, outputs, task } = shape;
    let mut config = serde_json::json!({
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 100, "hidden_size": heads * head_dim,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": intermediate,
        "max_position_embeddings": 600, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    });
    if task == Task::CrossEncoder {
        config["architectures"] = serde_json::json!(["BertForSequenceClassification"]);
        config["num_labels"] = serde_json::json!(outputs);
    }
    families::read_config(config.to_string().as_bytes()).expect("the configuration is one that is supported")
}

/// A made-up model of the architecture that most tests use.
pub(crate) fn random_weights(shape: Shape, seed: u64) -> Model {
    random_model(architecture(shape), seed)
}

/// A model of random weights.
pub(crate) fn random_model(architecture: Architecture, seed: u64) -> Model {
    let Ok(weights) = Weights::collect(&architecture, &mut Random::new(seed));
    Model { architecture, weights }
}

impl Source for Random {
    type Error = Infallible;

    fn table(&mut self, module: Module, rows: usize, width: usize) -> Result<Vec<f32>, Infallible> {
        Ok(self.values(rows * width, if module == Module::Word { 1.0 } else { 0.5 }))
    }

    fn linear(&mut self, _: Module, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, Infallible> {
        let weight = self.values(outputs * inputs, (3.0 / inputs as f32).sqrt());
        Ok(Linear { weight: weight.into(), bias: bias.then(|| self.values(outputs, 0.2)), inputs })
    }

    fn norm(&mut self, _: Module, width: usize, bias: bool) -> Result<NormWeights, Infallible> {
        let weight = self.values(width, 0.3).iter().map(|value| 1.0 + value).collect();
        Ok(NormWeights { weight, bias: bias.then(|| self.values(width, 0.2)) })
    }
}

/// This processor with so many compute threads; all that the process may use for 0.
pub(crate) fn processor(threads: usize) -> Arc<CpuDevice> {
    let options = CpuDeviceOptions { threads: NonZeroUsize::new(threads), ..CpuDeviceOptions::default() };
    CpuDevice::new(options).expect("threads can be started")
}

/// An engine with a processor of its own.
pub(crate) fn cpu_engine(model: Model, threads: usize, precision: Precision) -> CpuEngine {
    let options = CpuOptions { precision, ..CpuOptions::default() };
    CpuEngine::load(&processor(threads), model, options).expect("the engine computes such models")
}

/// Checks the rows and computes them.
pub(crate) fn run(engine: &mut dyn Engine, rows: &PackedBatch) -> Vec<f32> {
    let mut outputs = Vec::new();
    let batch = rows.clone().check(&engine.shape()).expect("the rows fit the model");
    engine.run(&batch, &mut outputs).expect("the engine computes");
    outputs
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

/// Absolute tolerance of an f32 engine's outputs of [`uniform_rows`]; one chain over all tokens is up to six times as far
/// off.
pub(crate) const UNIFORM_TOLERANCE: f64 = 5e-6;

/// Rows of the given lengths of one token over and over: every term of a sum over a row's tokens is much alike, so that a
/// long chain of additions in f32 would round the same way each time.
pub(crate) fn uniform_rows(lengths: &[usize]) -> PackedBatch {
    let mut batch = PackedBatch::default();
    for &length in lengths {
        batch.push(Row { ids: &vec![7; length], second_segment: length }).expect("rows are well-formed");
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
