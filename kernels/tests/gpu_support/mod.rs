//! What the GPU tests share: the adapter, the goldens, and comparisons that say where two arrays part.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

#[path = "../common/mod.rs"]
pub(crate) mod common;

use std::path::Path;
use std::sync::Arc;

use assay_kernels::gpu::layout::Storage;
use assay_kernels::gpu::opened::OpenDevice;
use assay_kernels::gpu::{AdapterError, AdapterSelection, GpuDevice, GpuEngine, GpuError, GpuOptions, KernelFamily};
use assay_kernels::{Engine, Model, PackedBatch, Precision, checkpoint};

/// Absolute tolerance of an f32 engine's logits against the float64 reference.
pub(crate) const F32_TOLERANCE: f64 = 1e-4;
/// The same for f16 storage.
pub(crate) const F16_TOLERANCE: f64 = 2e-2;

/// The absolute tolerance of an engine's logits.
pub(crate) fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F16 => F16_TOLERANCE,
        _ => F32_TOLERANCE,
    }
}

/// A device to test single kernels on, software included, or the reason why there is none.
pub(crate) fn device() -> Option<OpenDevice> {
    found(OpenDevice::new(&AdapterSelection::Any))
}

/// A device to load models on, software included, or the reason why there is none.
pub(crate) fn shared_device() -> Option<Arc<GpuDevice>> {
    found(GpuDevice::open(&AdapterSelection::Any))
}

fn found<T>(opened: Result<T, GpuError>) -> Option<T> {
    match opened {
        Ok(opened) => Some(opened),
        Err(error @ GpuError::Adapter(AdapterError::NotFound { .. })) => skip(&error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

/// An engine to test on.
pub(crate) fn engine(model: Model, precision: Precision, max_batch_tokens: usize) -> Option<GpuEngine> {
    engine_of(model, precision, max_batch_tokens, None)
}

/// An engine to test on, with a family of kernels that need not be the adapter's own.
pub(crate) fn engine_of(
    model: Model,
    precision: Precision,
    max_batch_tokens: usize,
    family: Option<KernelFamily>,
) -> Option<GpuEngine> {
    let options = GpuOptions { precision, max_batch_tokens, family, ..GpuOptions::default() };
    Some(GpuEngine::load(&shared_device()?, model, &options).unwrap())
}

/// Skips a test, as there is no adapter.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    testdata::skip(testdata::Cause::NoAdapter, reason);
    None
}

/// A golden's rows and their logits.
pub(crate) struct Golden {
    pub(crate) batch: PackedBatch,
    pub(crate) logits: Vec<f64>,
}

/// Reads a golden file.
pub(crate) fn golden(path: &Path) -> Golden {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut ids, mut offsets, mut second_segment, mut logits) = (vec![], vec![0], vec![], vec![]);
    for case in json["cases"].as_array().unwrap() {
        // A family without token types has none in its goldens.
        let numbers = |field: &str| -> Vec<u32> {
            case[field].as_array().into_iter().flatten().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let (row, types) = (numbers("ids"), numbers("type_ids"));
        second_segment.push(types.iter().position(|&t| t == 1).unwrap_or(row.len()) as u32);
        ids.extend(row);
        offsets.push(ids.len() as u32);
        logits.extend(case["logits"].as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap()));
    }
    Golden { batch: PackedBatch::new(ids, offsets, second_segment).unwrap(), logits }
}

/// A model of `testdata/models` with its golden.
pub(crate) fn tiny(name: &str) -> Option<(Model, Golden)> {
    let dir = testdata::model(name);
    Some((checkpoint::load(&dir, None).unwrap(), golden(&dir.join("golden.json"))))
}

/// The default model.
pub(crate) fn default_model() -> Option<Model> {
    Some(checkpoint::load(&testdata::default_model()?, Some(&common::default_adapter())).unwrap())
}

/// The default model's goldens: of our own passages, and those beside this checkout, where they are.
pub(crate) fn default_goldens() -> Vec<Golden> {
    let more = testdata::beside_checkout("golden/default-model.json");
    [testdata::golden("passages.json")].into_iter().chain(more).map(|path| golden(&path)).collect()
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

/// The inverse of [`Storage::encode`].
pub(crate) fn decode(storage: Storage, bytes: &[u8]) -> Vec<f32> {
    match storage {
        Storage::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Storage::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}
