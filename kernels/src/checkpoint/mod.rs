//! Reads a model from a Hugging Face directory: `config.json` and `model.safetensors`, and a LoRA adapter over them.
//!
//! Every tensor that the model needs is looked up by name and checked for shape, type and finiteness on the way in;
//! a checkpoint that loads is one that can be computed. Stored f16 and bf16 are widened to f32.

mod lora;
mod tensors;

use std::path::{Path, PathBuf};

use crate::config::{BertConfig, ConfigError, Task};
use crate::weights::{BertWeights, Embeddings, Head, Layer, LayerNorm, Linear};
use lora::Adapter;
use tensors::Tensors;

/// The model's shape.
pub const CONFIG_FILE: &str = "config.json";
/// The model's weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The adapter's settings.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The adapter's weights.
pub const ADAPTER_WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Largest file that is read: a file is held in memory while its tensors are widened, and the largest BERT in use has
/// 1.3 GB.
pub const MAX_FILE_BYTES: u64 = 8 << 30;

/// Why a directory cannot be read as a model.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is missing or unreadable.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than [`MAX_FILE_BYTES`].
    #[error("{} has {bytes} bytes, the most that is read is {MAX_FILE_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// `config.json` does not describe a model that can be computed.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("{} is not a whole safetensors file: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        message: String,
    },
    /// A tensor that the model needs is missing.
    #[error("{}: tensor {name} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
    },
    /// A tensor has another shape than the model's configuration says.
    #[error("{}: tensor {name} has shape {found:?}, the configuration asks for {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// A tensor is stored in a type that is not read.
    #[error("{}: tensor {name} is stored as {found}, supported are F32, F16 and BF16", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor holds an infinity or a NaN.
    #[error("{}: tensor {name} holds {value} at element {index}: the file is damaged", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Where, counted in row-major order.
        index: usize,
        /// The value.
        value: f32,
    },
    /// The adapter is of a kind that is not merged.
    #[error("{}: {message}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is supported.
        message: String,
    },
}

/// Reads the model in `dir`, with the LoRA adapter in `adapter` merged into it.
///
/// # Errors
/// A file is missing, damaged, of an unsupported architecture, or its tensors do not fit its configuration.
pub fn load(dir: &Path, adapter: Option<&Path>) -> Result<BertWeights, CheckpointError> {
    let mut config = read_config(dir)?;
    let adapter_bytes = adapter.map(|adapter| read(&adapter.join(ADAPTER_WEIGHTS_FILE))).transpose()?;
    let adapter = match (adapter, &adapter_bytes) {
        (Some(adapter), Some(bytes)) => Some(Adapter::new(adapter, bytes)?),
        _ => None,
    };
    if let Some(labels) = adapter.as_ref().and_then(|adapter| adapter.labels()) {
        config.task = Task::CrossEncoder;
        config.outputs = labels;
    }
    let path = dir.join(WEIGHTS_FILE);
    let bytes = read(&path)?;
    let loader = Loader { base: Tensors::new(&path, &bytes)?, adapter, config: &config };
    let weights = loader.weights()?;
    if let Some(adapter) = &loader.adapter {
        adapter.check_all_used()?;
    }
    Ok(weights)
}

/// Reads and checks `config.json` alone.
///
/// # Errors
/// The file is missing or does not describe a model that can be computed.
pub fn read_config(dir: &Path) -> Result<BertConfig, CheckpointError> {
    let path = dir.join(CONFIG_FILE);
    let bytes = read(&path)?;
    BertConfig::from_json(&bytes).map_err(|source| CheckpointError::Config { path, source })
}

fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), bytes });
    }
    std::fs::read(path).map_err(io)
}

struct Loader<'a> {
    base: Tensors<'a>,
    adapter: Option<Adapter<'a>>,
    config: &'a BertConfig,
}

impl Loader<'_> {
    fn weights(&self) -> Result<BertWeights, CheckpointError> {
        let c = self.config;
        let embeddings = Embeddings {
            word: self.tensor("bert.embeddings.word_embeddings.weight", &[c.vocab_size, c.hidden_size])?,
            position: self
                .tensor("bert.embeddings.position_embeddings.weight", &[c.max_position_embeddings, c.hidden_size])?,
            token_type: self
                .tensor("bert.embeddings.token_type_embeddings.weight", &[c.type_vocab_size, c.hidden_size])?,
            norm: self.layer_norm("bert.embeddings.LayerNorm")?,
        };
        let layers = (0..c.num_hidden_layers).map(|index| self.layer(index)).collect::<Result<_, _>>()?;
        let head = match c.task {
            Task::Embedding => Head::MeanEmbedding,
            Task::CrossEncoder => Head::CrossEncoder {
                pooler: self.linear("bert.pooler.dense", c.hidden_size, c.hidden_size)?,
                classifier: self.linear("classifier", c.outputs, c.hidden_size)?,
            },
        };
        Ok(BertWeights { config: c.clone(), embeddings, layers, head })
    }

    fn layer(&self, index: usize) -> Result<Layer, CheckpointError> {
        let (hidden, intermediate) = (self.config.hidden_size, self.config.intermediate_size);
        let prefix = format!("bert.encoder.layer.{index}");
        Ok(Layer {
            query: self.linear(&format!("{prefix}.attention.self.query"), hidden, hidden)?,
            key: self.linear(&format!("{prefix}.attention.self.key"), hidden, hidden)?,
            value: self.linear(&format!("{prefix}.attention.self.value"), hidden, hidden)?,
            attention_output: self.linear(&format!("{prefix}.attention.output.dense"), hidden, hidden)?,
            attention_norm: self.layer_norm(&format!("{prefix}.attention.output.LayerNorm"))?,
            intermediate: self.linear(&format!("{prefix}.intermediate.dense"), intermediate, hidden)?,
            output: self.linear(&format!("{prefix}.output.dense"), hidden, intermediate)?,
            output_norm: self.layer_norm(&format!("{prefix}.output.LayerNorm"))?,
        })
    }

    fn linear(&self, module: &str, outputs: usize, inputs: usize) -> Result<Linear, CheckpointError> {
        let mut weight = self.tensor(&format!("{module}.weight"), &[outputs, inputs])?;
        if let Some(adapter) = &self.adapter {
            adapter.merge(module, &mut weight, outputs, inputs)?;
        }
        Ok(Linear { weight, bias: self.tensor(&format!("{module}.bias"), &[outputs])? })
    }

    fn layer_norm(&self, module: &str) -> Result<LayerNorm, CheckpointError> {
        let shape = [self.config.hidden_size];
        // Checkpoints converted from TensorFlow keep its names.
        let [weight, bias] =
            if self.base.has(&format!("{module}.gamma")) { ["gamma", "beta"] } else { ["weight", "bias"] };
        Ok(LayerNorm {
            weight: self.tensor(&format!("{module}.{weight}"), &shape)?,
            bias: self.tensor(&format!("{module}.{bias}"), &shape)?,
        })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        match &self.adapter {
            Some(adapter) if adapter.replaces(name) => adapter.replacement(name, shape),
            _ => self.base.load(name, shape),
        }
    }
}
