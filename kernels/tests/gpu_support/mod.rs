//! What the GPU tests share: the adapter, the goldens, and comparisons that say where two arrays part.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};

use assay_kernels::gpu::ops::Target;
use assay_kernels::gpu::{AdapterSelection, GpuDevice, GpuEngine, GpuOptions, Precision};
use assay_kernels::{Engine, Model, PackedBatch, Task, checkpoint, reference};
use common::{Shape, random_rows, random_weights};

/// Absolute tolerance of an f32 engine's logits against the float64 reference.
pub(crate) const F32_TOLERANCE: f64 = 1e-4;
/// The same for f16 storage.
pub(crate) const F16_TOLERANCE: f64 = 2e-2;

/// A device to test on, software included, or the reason why there is none.
pub(crate) fn device() -> Option<GpuDevice> {
    match GpuDevice::open(&AdapterSelection::Any) {
        Ok(device) => {
            eprintln!("on {}", device.description());
            Some(device)
        }
        Err(error) => skip(&error.to_string()),
    }
}

/// An engine to test on.
pub(crate) fn engine(weights: Model, precision: Precision, max_batch_tokens: usize) -> Option<GpuEngine> {
    engine_of(weights, precision, max_batch_tokens, None)
}

/// An engine to test on, with a family of kernels that need not be the adapter's own.
pub(crate) fn engine_of(
    weights: Model,
    precision: Precision,
    max_batch_tokens: usize,
    target: Option<Target>,
) -> Option<GpuEngine> {
    let options =
        GpuOptions { adapter: AdapterSelection::Any, precision, max_batch_tokens, target, ..GpuOptions::default() };
    match GpuEngine::new(weights, options) {
        Ok(engine) => Some(engine),
        Err(error @ assay_kernels::gpu::GpuError::NoAdapter { .. }) => skip(&error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

/// Says why a test does nothing.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    eprintln!("skipped: {reason}");
    None
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A golden's rows and their logits.
pub(crate) struct Golden {
    pub(crate) batch: PackedBatch,
    pub(crate) logits: Vec<f64>,
}

/// Reads a golden file, where there is one.
fn golden(path: &Path) -> Option<Golden> {
    let Ok(bytes) = std::fs::read(path) else {
        return skip(&format!("{} is not there", path.display()));
    };
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let (mut ids, mut offsets, mut second_segment, mut logits) = (vec![], vec![0], vec![], vec![]);
    for case in json["cases"].as_array().unwrap() {
        let numbers = |field: &str| -> Vec<u32> {
            case[field].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let (row, types) = (numbers("ids"), numbers("type_ids"));
        second_segment.push(types.iter().position(|&t| t == 1).unwrap_or(types.len()) as u32);
        ids.extend(row);
        offsets.push(ids.len() as u32);
        logits.extend(case["logits"].as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap()));
    }
    Some(Golden { batch: PackedBatch::new(ids, offsets, second_segment).unwrap(), logits })
}

/// A tiny model with its golden; where the folder of them is not beside this checkout, a made-up model of the same shape
/// with the reference's numbers.
pub(crate) fn tiny(name: &str) -> Option<(Model, Golden)> {
    let dir = root().join("../shared/golden").join(name);
    if dir.exists() {
        return Some((checkpoint::load(&dir, None).unwrap(), golden(&dir.join("golden.json"))?));
    }
    eprintln!("{name}: made up, because {} is not there", dir.display());
    let (heads, head_dim, intermediate, layers, outputs) = match name {
        "tiny-bert-hd32" => (2, 32, 160, 3, 1),
        "tiny-bert-hd64" => (2, 64, 256, 2, 1),
        "tiny-bert-3labels" => (3, 16, 100, 2, 3),
        other => return skip(&format!("no model is made up for {other}")),
    };
    let task = Task::CrossEncoder;
    let weights = random_weights(Shape { heads, head_dim, intermediate, layers, outputs, task }, 1);
    let batch = random_rows(&[1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 96, 127, 128, 129, 511, 512, 40, 5], 2);
    let logits = reference::forward(&weights, &batch);
    Some((weights, Golden { batch, logits }))
}

/// The default model, where its backbone is named by `ASSAY_MINILM_DIR` (a Hugging Face directory).
pub(crate) fn default_model() -> Option<Model> {
    let Ok(dir) = std::env::var("ASSAY_MINILM_DIR") else {
        return skip("set ASSAY_MINILM_DIR to a directory with the MiniLM-L6 backbone");
    };
    Some(checkpoint::load(Path::new(&dir), Some(&root().join("models/default"))).unwrap())
}

/// The default model's goldens: of our own passages, and those beside this checkout, where they are.
pub(crate) fn default_goldens() -> Vec<Golden> {
    let paths = ["testdata/golden/passages.json", "../shared/golden/default-model.json"];
    paths.iter().filter_map(|path| golden(&root().join(path))).collect()
}

/// Runs a batch in pieces that fit the engine.
pub(crate) fn run(engine: &mut GpuEngine, batch: &PackedBatch) -> Vec<f32> {
    let mut outputs = Vec::new();
    let mut piece = PackedBatch::default();
    for row in batch.iter() {
        if piece.tokens() + row.ids.len() > engine.max_batch_tokens() {
            outputs.extend(common::run(engine, &piece));
            piece.clear();
        }
        piece.push(row).unwrap();
    }
    outputs.extend(common::run(engine, &piece));
    outputs
}

/// Largest absolute difference, for a message; panics with index, values and tolerance where it is too large.
pub(crate) fn assert_close(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) -> f64 {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths");
    let mut worst = 0.0f64;
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - expected).abs();
        assert!(error <= tolerance, "{what}[{index}]: {actual}, expected {expected}, tolerance {tolerance}");
        worst = worst.max(error);
    }
    eprintln!("{what}: largest difference {worst:.2e}, tolerance {tolerance:.0e}");
    worst
}

/// Reproducible numbers in −1 to 1 (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    pub(crate) fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}
