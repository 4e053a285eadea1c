//! Pairs of a request file, tokenised as the guests do it, and the files of the model that scores them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use assay::model::ModelStore;
use assay_kernels::{PackedBatch, Row};
use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

/// Which model to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Where models are kept [default: the user's data directory]
    #[arg(long, env = "ASSAY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A model of the store, or a directory with config.json, model.safetensors and tokenizer.json [default: the
    /// store's default]
    #[arg(long, value_name = "NAME|DIR")]
    model: Option<String>,
    /// Directory with a LoRA adapter to merge over the model in a directory
    #[arg(long, requires = "model", value_name = "DIR")]
    adapter: Option<PathBuf>,
}

/// Where a model's files lie.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    pub(crate) dir: PathBuf,
    pub(crate) adapter: Option<PathBuf>,
}

impl ModelArgs {
    /// The files of the model that is meant.
    ///
    /// # Errors
    /// There is no such model.
    pub(crate) fn files(&self) -> anyhow::Result<ModelFiles> {
        if let Some(dir) = self.model.as_ref().map(PathBuf::from).filter(|dir| dir.is_dir()) {
            return Ok(ModelFiles { dir, adapter: self.adapter.clone() });
        }
        let data_dir = crate::cmd::data_dir(self.data_dir.clone())?;
        let stored = ModelStore::new(&data_dir).open(self.model.as_deref())?;
        Ok(ModelFiles { dir: stored.dir().to_owned(), adapter: stored.adapter_dir() })
    }
}

/// One line of a request file.
#[derive(Debug, Deserialize)]
struct Request {
    query: String,
    documents: Vec<String>,
}

/// The first `limit` (query, document) pairs of a file of requests, one JSON object a line.
pub(crate) fn read(path: &Path, limit: usize) -> anyhow::Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let request: Request = serde_json::from_str(line)
            .with_context(|| format!("{}, line {}: not a request", path.display(), number + 1))?;
        for document in request.documents {
            if pairs.len() == limit {
                return Ok(pairs);
            }
            pairs.push((request.query.clone(), document));
        }
    }
    Ok(pairs)
}

/// Tokenises pairs, longest first truncated, and packs them into one batch.
pub(crate) fn tokenise(model_dir: &Path, max_tokens: usize, pairs: &[(String, String)]) -> anyhow::Result<PackedBatch> {
    let mut tokenizer = Tokenizer::from_file(model_dir.join("tokenizer.json")).map_err(|error| anyhow!(error))?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(Some(TruncationParams {
            direction: TruncationDirection::Right,
            max_length: max_tokens,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        }))
        .map_err(|error| anyhow!(error))?;
    let mut batch = PackedBatch::default();
    for (query, document) in pairs {
        let encoding = tokenizer.encode((query.as_str(), document.as_str()), true).map_err(|error| anyhow!(error))?;
        let ids = encoding.get_ids();
        let second_segment = encoding.get_type_ids().iter().position(|&kind| kind == 1).unwrap_or(ids.len());
        batch.push(Row { ids, second_segment })?;
    }
    Ok(batch)
}
