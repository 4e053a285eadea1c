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
use large_models::{
    Shape, Sizes, Stored, bert, deberta, electra, gte, jina, modernbert, roberta_of, status, write, xlm_roberta,
};
use serde_json::{Value, json};

/// Names the directory to load, for the process that loads.
const MODEL: &str = "ASSAY_LOADING_MODEL";

/// Loads the models of real sizes too; the largest takes 2.3 GB below the system's directory for temporary files.
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
    write(dir.path(), &Shape { config: xlm_roberta(1, 64, 100), stored: Stored::F32 });
    load(dir.path()).peak
}

fn measure(name: &str, config: Value, stored: Stored) -> (u64, Loaded) {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), &Shape { config, stored });
    let loaded = load(dir.path());
    let [file_mb, peak, rest] = [file, loaded.peak, loaded.rest].map(|bytes| bytes / 1_000_000);
    println!("| {name}, {} | {file_mb} | {peak} | {rest} |", format!("{stored:?}").to_lowercase());
    (file, loaded)
}

#[test]
fn loading_takes_little_more_than_the_file_and_the_word_table_is_not_widened() {
    let overhead = overhead();
    let most = |bytes: u64| overhead + bytes * 13 / 10;
    // The word table is most of each model.
    for (stored, words) in [(Stored::F16, 200_000), (Stored::F32, 100_000)] {
        let (file, loaded) = measure("one narrow layer and many words", xlm_roberta(1, 256, words), stored);
        assert!(loaded.peak <= most(file), "{stored:?}: a file of {file} took {loaded:?} beside {overhead}");
        assert!(loaded.weights <= file * 11 / 10, "{stored:?}: {loaded:?}");
        assert!(loaded.rest <= most(file), "{stored:?}: {loaded:?}");
    }
    // Layers are most of this one. They are widened, and packed one by one.
    let (file, loaded) = measure("twelve layers and few words", xlm_roberta(12, 512, 1_000), Stored::F32);
    assert!(loaded.peak <= most(file), "a file of {file} took {loaded:?} beside {overhead}");
}

/// Shapes of models that people rerank with, in the precision of their files. All tensors are in it.
fn real_sizes() -> Vec<(&'static str, Value, Stored)> {
    let sizes = |layers, hidden, heads, inner, words| Sizes { layers, hidden, heads, inner, words };
    let base = |words| sizes(12, 768, 12, 3_072, words);
    let large = sizes(24, 1_024, 16, 4_096, 250_002);
    let modernbert = |layers, hidden, heads, inner| modernbert(&sizes(layers, hidden, heads, inner, 50_368));
    vec![
        ("ms-marco-MiniLM-L2-v2", bert(&sizes(2, 384, 12, 1_536, 30_522)), Stored::F32),
        ("ms-marco-MiniLM-L6-v2", bert(&sizes(6, 384, 12, 1_536, 30_522)), Stored::F32),
        ("ms-marco-electra-base", electra(&base(30_522)), Stored::F32),
        ("mmarco-mMiniLMv2-L12-H384-v1", roberta_of(&sizes(12, 384, 12, 1_536, 250_002), 514), Stored::F32),
        ("bge-reranker-base", roberta_of(&base(250_002), 514), Stored::F32),
        ("bge-reranker-large", roberta_of(&large, 514), Stored::F16),
        ("bge-reranker-v2-m3", roberta_of(&large, 8_194), Stored::F32),
        ("jina-reranker-v2-base-multilingual", jina(&base(250_002), 1_026), Stored::Bf16),
        ("gte-multilingual-reranker-base", gte(&base(250_048)), Stored::F16),
        ("gte-reranker-modernbert-base", modernbert(22, 768, 12, 1_152), Stored::F16),
        ("ettin-reranker-17m-v1", modernbert(7, 256, 4, 384), Stored::F32),
        ("ettin-reranker-32m-v1", modernbert(10, 384, 6, 576), Stored::F32),
        ("mxbai-rerank-xsmall-v1", deberta(&sizes(12, 384, 6, 1_536, 128_100)), Stored::F16),
        ("mxbai-rerank-base-v1", deberta(&base(128_100)), Stored::F16),
    ]
}

#[test]
fn models_of_real_sizes_load_as_well() {
    if std::env::var_os(LARGE).is_none() {
        return;
    }
    let overhead = overhead();
    println!("| shape | file | most | afterwards |\n| --- | ---: | ---: | ---: |");
    println!("| the program alone | | {} | |", overhead / 1_000_000);
    for (name, config, stored) in real_sizes() {
        let (file, loaded) = measure(name, config, stored);
        // Layers are held in f32. They are half of the numbers of some, and three quarters of others.
        let most = overhead + if stored == Stored::F32 { file * 13 / 10 } else { file * 2 };
        assert!(loaded.peak <= most, "{name}: a file of {file} took {loaded:?} beside {overhead}");
    }
}

#[test]
fn files_of_random_numbers_have_the_tensors_of_their_families() {
    let sizes = Sizes { layers: 2, hidden: 64, heads: 2, inner: 96, words: 100 };
    let configs = [
        ("bert", bert(&sizes)),
        ("electra", electra(&sizes)),
        ("roberta", roberta_of(&sizes, 130)),
        ("roberta", jina(&sizes, 130)),
        ("gte", gte(&sizes)),
        ("modernbert", modernbert(&sizes)),
        ("deberta-v2", deberta(&sizes)),
    ];
    for (family, config) in configs {
        for stored in [Stored::F32, Stored::F16, Stored::Bf16] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &Shape { config: config.clone(), stored });
            let model = checkpoint::load(dir.path(), None).unwrap();
            assert_eq!((model.architecture.family, model.architecture.layers.len()), (family, 2));
        }
    }
}
