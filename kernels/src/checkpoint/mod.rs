//! Reads a model from a Hugging Face directory: `config.json`, `model.safetensors` and optionally a LoRA adapter.
//!
//! The model's [family](crate::families) names its tensors. Every needed tensor is looked up by name and checked for
//! shape, type and finiteness, so a checkpoint that loads can be computed. Other tensors are ignored. Stored f16 and
//! bf16 are widened to f32.

mod lora;
mod tensors;

use std::path::{Path, PathBuf};

use crate::architecture::Architecture;
use crate::families::{Config, ConfigError, Names, QueryKeyValue};
use crate::weights::{LayerModule, Linear, Model, Module, NormWeights, Source, Weights};
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

/// Largest accepted weights file. A file is held in memory while its tensors are widened; the largest encoders in use
/// have 2.3 GB.
pub const MAX_FILE_BYTES: u64 = 8 << 30;

/// Largest accepted configuration: room for thousands of named labels.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;

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
    /// A file is larger than [`MAX_FILE_BYTES`] or [`MAX_CONFIG_BYTES`].
    #[error("{} has {bytes} bytes, the most that is read is {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest accepted size.
        limit: u64,
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
    #[error("{}: tensor {name} is missing; the file has {there}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The number of tensors in the file, and the most similar names.
        there: String,
    },
    /// A tensor's shape differs from the model's configuration.
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
    /// A tensor has an unsupported type.
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
    /// The adapter is of an unsupported kind.
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
pub fn load(dir: &Path, adapter: Option<&Path>) -> Result<Model, CheckpointError> {
    let (path, config) = parse_config(dir)?;
    let names = &config.family.names;
    let adapter_bytes = adapter.map(|adapter| read(&adapter.join(ADAPTER_WEIGHTS_FILE), MAX_FILE_BYTES)).transpose()?;
    let adapter = match (adapter, &adapter_bytes) {
        (Some(adapter), Some(bytes)) => Some(Adapter::new(adapter, bytes)?),
        _ => None,
    };
    let labels = adapter.as_ref().and_then(|adapter| adapter.outputs(names.classifier));
    let architecture = config.architecture(labels).map_err(|source| CheckpointError::Config { path, source })?;
    let path = dir.join(WEIGHTS_FILE);
    let bytes = read(&path, MAX_FILE_BYTES)?;
    let base = Tensors::new(&path, &bytes)?.of_encoder(names.prefix, &format!("{}.weight", names.word));
    let mut loader = Loader { base, adapter, names, architecture: &architecture };
    let weights = Weights::collect(&architecture, &mut loader)?;
    if let Some(adapter) = &loader.adapter {
        adapter.check_all_used()?;
    }
    Ok(Model { architecture, weights })
}

/// Reads and checks `config.json` alone.
///
/// # Errors
/// The file is missing or does not describe a model that can be computed.
pub fn read_config(dir: &Path) -> Result<Architecture, CheckpointError> {
    let (path, config) = parse_config(dir)?;
    config.architecture(None).map_err(|source| CheckpointError::Config { path, source })
}

fn parse_config(dir: &Path) -> Result<(PathBuf, Config), CheckpointError> {
    let path = dir.join(CONFIG_FILE);
    match Config::parse(&read(&path, MAX_CONFIG_BYTES)?) {
        Ok(config) => Ok((path, config)),
        Err(source) => Err(CheckpointError::Config { path, source }),
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > limit {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    std::fs::read(path).map_err(io)
}

/// Takes a model's modules from its file, or from the adapter if that has them.
struct Loader<'a> {
    base: Tensors<'a>,
    adapter: Option<Adapter<'a>>,
    names: &'a Names,
    architecture: &'a Architecture,
}

impl Source for Loader<'_> {
    type Error = CheckpointError;

    fn table(&mut self, module: Module, rows: usize, width: usize) -> Result<Vec<f32>, CheckpointError> {
        self.tensor(&format!("{}.weight", self.names.of(module)), &[rows, width])
    }

    fn linear(&mut self, module: Module, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, CheckpointError> {
        let name = self.names.of(module);
        let Some((first, fused_outputs)) = self.place_in_fused(module) else {
            return self.whole_linear(&name, outputs, inputs, bias);
        };
        let mut fused = self.whole_linear(&name, fused_outputs, inputs, bias)?;
        let mine = first..first + outputs;
        let cut = |bias: Vec<f32>| bias[mine.clone()].to_vec();
        fused.bias = fused.bias.take().map(cut);
        Ok(Linear { weight: fused.weight[mine.start * inputs..mine.end * inputs].to_vec(), ..fused })
    }

    fn norm(&mut self, module: Module, width: usize, bias: bool) -> Result<NormWeights, CheckpointError> {
        let name = self.names.of(module);
        // Checkpoints converted from TensorFlow keep its names.
        let [weight_name, bias_name] =
            if self.base.has(&format!("{name}.gamma")) { ["gamma", "beta"] } else { ["weight", "bias"] };
        let weight = self.tensor(&format!("{name}.{weight_name}"), &[width])?;
        let bias = match bias {
            false => None,
            true => Some(self.tensor(&format!("{name}.{bias_name}"), &[width])?),
        };
        Ok(NormWeights { weight, bias })
    }
}

impl Loader<'_> {
    /// A fused projection: its first output in the stored tensor, and the number of outputs of that tensor.
    fn place_in_fused(&self, module: Module) -> Option<(usize, usize)> {
        let attention = &self.architecture.block.attention;
        let (query, key_value) = (attention.query_width(), attention.key_value_width());
        let QueryKeyValue::Fused(_) = self.names.query_key_value else { return None };
        let first = match module {
            Module::Layer(_, LayerModule::Query) => 0,
            Module::Layer(_, LayerModule::Key) => query,
            Module::Layer(_, LayerModule::Value) => query + key_value,
            _ => return None,
        };
        Some((first, query + 2 * key_value))
    }

    fn whole_linear(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, CheckpointError> {
        let mut weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        if let Some(adapter) = &self.adapter {
            adapter.merge(name, &mut weight, outputs, inputs)?;
        }
        let bias = match bias {
            false => None,
            true => Some(self.tensor(&format!("{name}.bias"), &[outputs])?),
        };
        Ok(Linear { weight, bias, inputs })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        match &self.adapter {
            Some(adapter) if adapter.replaces(name) => adapter.replacement(name, shape),
            _ => self.base.load(name, shape),
        }
    }
}
