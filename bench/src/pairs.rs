//! Pairs of a request file, tokenised as by the standard guest, and the files of the model that scores them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use assay::model::ModelStore;
use assay::rerank::Request;
use assay_bench::load::{NativeTokenizer, read_requests};
use assay_kernels::PackedBatch;

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

/// Where a model's files are.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    pub(crate) dir: PathBuf,
    pub(crate) adapter: Option<PathBuf>,
}

impl ModelArgs {
    /// The files of the selected model.
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

/// The first `limit` (query, document) pairs of a file of requests.
///
/// # Errors
/// The file cannot be read, or its lines are not requests.
pub(crate) fn read(path: &Path, limit: usize) -> anyhow::Result<Vec<(String, String)>> {
    let requests = read_requests(path)?.into_iter();
    let pairs = requests.flat_map(|Request { query, documents, .. }| {
        documents.into_iter().map(move |document| (query.clone(), document))
    });
    Ok(pairs.take(limit).collect())
}

/// Tokenises pairs as the standard guest does, and packs them into one batch.
///
/// # Errors
/// The standard guest cannot use the model's tokenizer.
pub(crate) fn tokenise(model_dir: &Path, max_tokens: usize, pairs: &[(String, String)]) -> anyhow::Result<PackedBatch> {
    let path = model_dir.join("tokenizer.json");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let tokenizer = NativeTokenizer::new(&bytes, max_tokens)?;
    let mut batch = PackedBatch::default();
    for (query, document) in pairs {
        let request = Request { query: query.clone(), documents: vec![document.clone()], ..Default::default() };
        for row in tokenizer.rows(&request)?.batch.iter() {
            batch.push(row)?;
        }
    }
    Ok(batch)
}
