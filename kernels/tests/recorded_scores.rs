//! The f32 engine computes the very bits that were recorded in `testdata/scores/cpu.json`: no score changes by
//! accident.
//!
//! A recording belongs to one instruction set, whose order of sums and rounding it has. Where a change of bits is meant,
//! `cargo test --release -p assay-kernels --test recorded_scores -- --ignored` records anew what this machine can run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use assay_kernels::{
    CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, InstructionSet, Model, PackedBatch, Task, checkpoint,
};
use common::{Shape, default_adapter, golden, pack, random_rows, random_weights};
use serde::{Deserialize, Serialize};
use testdata::Cause;

/// Lengths at which tiles and vectors begin and end, and the longest rows of the models in use.
const LENGTHS: [usize; 7] = [1, 2, 17, 64, 100, 511, 512];

/// Numbers of a recording that are written out; the digest covers the others.
const MAX_VALUES: usize = 32;

/// Made-up models: of heads of 16, 32, 64 and odd numbers, with one label and with several, and of embeddings.
const MODELS: [(&str, Shape); 6] = [
    ("minilm-like", Shape { heads: 12, head_dim: 32, intermediate: 1536, layers: 2, outputs: 1, task: CROSS_ENCODER }),
    ("heads-of-16", Shape { heads: 3, head_dim: 16, intermediate: 100, layers: 2, outputs: 3, task: CROSS_ENCODER }),
    ("heads-of-64", Shape { heads: 2, head_dim: 64, intermediate: 256, layers: 3, outputs: 1, task: CROSS_ENCODER }),
    ("odd-widths", Shape { heads: 13, head_dim: 31, intermediate: 801, layers: 2, outputs: 3, task: CROSS_ENCODER }),
    ("one-odd-head", Shape { heads: 1, head_dim: 7, intermediate: 5, layers: 1, outputs: 1, task: CROSS_ENCODER }),
    ("embeddings", Shape { heads: 4, head_dim: 32, intermediate: 450, layers: 2, outputs: 0, task: Task::Embedding }),
];

const CROSS_ENCODER: Task = Task::CrossEncoder;

/// The default model over the rows of `testdata/golden/passages.json`.
const DEFAULT_MODEL: &str = "default-model";

/// A batch's numbers, by model and instruction set.
type Recordings = BTreeMap<String, BTreeMap<String, Recording>>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Recording {
    /// How many numbers there are.
    count: usize,
    /// FNV-1a over the bits of all of them, in hexadecimal.
    digest: String,
    /// The bits of the first ones, in hexadecimal.
    first: Vec<String>,
}

impl Recording {
    fn of(outputs: &[f32]) -> Self {
        let bytes = outputs.iter().flat_map(|value| value.to_bits().to_le_bytes());
        let digest = bytes
            .fold(0xcbf2_9ce4_8422_2325, |digest: u64, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let first = outputs.iter().take(MAX_VALUES).map(|value| format!("{:08x}", value.to_bits())).collect();
        Self { count: outputs.len(), digest: format!("{digest:016x}"), first }
    }
}

fn file() -> PathBuf {
    testdata::root().join("testdata/scores/cpu.json")
}

fn recordings() -> Recordings {
    serde_json::from_slice(&std::fs::read(file()).unwrap()).unwrap()
}

/// A device of two threads for each instruction set that this processor has.
fn devices() -> Vec<Arc<CpuDevice>> {
    let available = InstructionSet::ALL.into_iter().filter(|set| set.is_available());
    let options = |set| CpuDeviceOptions { threads: NonZeroUsize::new(2), instruction_set: Some(set) };
    available.map(|set| CpuDevice::new(options(set)).unwrap()).collect()
}

fn compute(device: &Arc<CpuDevice>, model: &Model, rows: &PackedBatch) -> Recording {
    let mut engine = CpuEngine::load(device, model.clone(), CpuOptions::default()).unwrap();
    Recording::of(&common::run(&mut engine, rows))
}

/// The default model and its rows, where it is on this machine.
fn default_model() -> Option<(Model, PackedBatch)> {
    let weights = checkpoint::load(&testdata::default_model()?, Some(&default_adapter())).unwrap();
    Some((weights, pack(&golden(&testdata::golden("passages.json")).cases)))
}

/// Compares on every instruction set that has a recording; one that this processor lacks is skipped by name.
fn check(devices: &[Arc<CpuDevice>], name: &str, model: &Model, rows: &PackedBatch) {
    let recordings = recordings();
    let recorded = recordings.get(name).unwrap_or_else(|| panic!("{name} is not recorded"));
    for set in InstructionSet::ALL {
        let device = devices.iter().find(|device| device.instruction_set() == set);
        match (device, recorded.get(set.name())) {
            (Some(device), Some(recorded)) => {
                assert_eq!(&compute(device, model, rows), recorded, "{name}, {}", set.name());
            }
            (Some(_), None) => {
                testdata::skip(Cause::NotSetUp, &format!("{name} is not recorded for {}", set.name()));
            }
            (None, Some(_)) => testdata::skip(Cause::NoInstructions, &format!("scores for {}", set.name())),
            (None, None) => {}
        }
    }
}

#[test]
fn made_up_models_have_their_recorded_bits_one_after_the_other_on_one_device() {
    let devices = devices();
    for (seed, (name, shape)) in (1..).zip(MODELS) {
        check(&devices, name, &random_weights(shape, seed), &random_rows(&LENGTHS, seed));
    }
}

#[test]
fn the_default_model_has_its_recorded_bits() {
    let Some((model, rows)) = default_model() else { return };
    check(&devices(), DEFAULT_MODEL, &model, &rows);
}

#[test]
#[ignore = "overwrites the recorded scores: only for a change of bits that is meant"]
fn record() {
    let mut recordings = if file().exists() { recordings() } else { Recordings::new() };
    let devices = devices();
    let mut put = |name: &str, model: &Model, rows: &PackedBatch| {
        let recorded = recordings.entry(name.to_owned()).or_default();
        for device in &devices {
            recorded.insert(device.instruction_set().name().to_owned(), compute(device, model, rows));
        }
    };
    for (seed, (name, shape)) in (1..).zip(MODELS) {
        put(name, &random_weights(shape, seed), &random_rows(&LENGTHS, seed));
    }
    if let Some((model, rows)) = default_model() {
        put(DEFAULT_MODEL, &model, &rows);
    }
    std::fs::create_dir_all(file().parent().unwrap()).unwrap();
    std::fs::write(file(), serde_json::to_string_pretty(&recordings).unwrap() + "\n").unwrap();
}
