//! Scores pairs with a model of the store, without the sandbox: the standard guest's code runs natively.
//!
//! `score DATA_DIR MODEL PAIRS.json`, where the file has a list of `[query, document]`, prints a JSON list with the
//! logits of each pair. `cargo xtask compare-cross-encoder --saves` uses it for hundreds of models, each of which would
//! otherwise compile a guest of its own.

use std::path::Path;

use anyhow::{Context, Result, bail};
use assay::device::{Device, DeviceOptions, EngineChoice};
use assay::model::ModelStore;
use assay::rerank::Request;
use assay_bench::load::NativeTokenizer;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data_dir, model, pairs] = &arguments[..] else { bail!("usage: score DATA_DIR MODEL PAIRS.json") };
    let pairs: Vec<(String, String)> =
        serde_json::from_slice(&std::fs::read(pairs).with_context(|| pairs.clone())?).context("the pairs")?;
    let stored = ModelStore::new(Path::new(data_dir)).open(Some(model))?;
    let device = Device::open(&DeviceOptions { choice: EngineChoice::Cpu, ..DeviceOptions::default() })?;
    let mut engine = device.engine(&stored)?;
    let shape = engine.shape();
    let tokenizer = std::fs::read(stored.dir().join("tokenizer.json")).context("tokenizer.json")?;
    // The tokenizer's own limit may be below what the model has positions for.
    let max_tokens = stored.settings()?.max_tokens.map_or(shape.max_tokens, |most| shape.max_tokens.min(most as usize));
    let tokenizer = NativeTokenizer::new(&tokenizer, max_tokens)?;
    let mut logits: Vec<Vec<f32>> = Vec::with_capacity(pairs.len());
    for (query, document) in pairs {
        let request = Request { query, documents: vec![document], ..Request::default() };
        let mut outputs = Vec::new();
        engine.run(&tokenizer.rows(&request)?.batch.check(&shape)?, &mut outputs)?;
        logits.push(outputs);
    }
    println!("{}", serde_json::to_string(&logits)?);
    Ok(())
}
