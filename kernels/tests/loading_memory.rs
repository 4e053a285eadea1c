//! What loading a large model takes: little more than its file, and its word table stays in the file's precision.
//!
//! Peaks are a process's own, so each load runs in a process of its own: this program again, for one test of it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod large_models;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use assay_kernels::{CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, Engine, Precision, checkpoint};
use large_models::{Shape, Stored, status, write};
use serde_json::json;

/// Names the directory to load, for the process that loads.
const MODEL: &str = "ASSAY_LOADING_MODEL";

/// Loads the models of real sizes too; they take 2.3 GB below the system's directory for temporary files.
const LARGE: &str = "ASSAY_LOADING_LARGE";

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
