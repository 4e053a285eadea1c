//! Reads a model from a Hugging Face directory: `config.json`, `model.safetensors` or its shards, the folders of
//! sentence-transformers' modules, and optionally a LoRA adapter.
//!
//! The model's [family](crate::families) names its tensors. Every needed tensor is looked up by name and checked for
//! shape, type and finiteness, so a checkpoint that loads can be computed. Other tensors are ignored. Stored f16 and
//! bf16 stay so in matrices and in the word table, and are widened to f32 elsewhere. Tensors are read one at a time:
//! the files are never held whole.

mod adapter_config;
mod files;
mod lora;
mod modules;
mod ranked_label;
mod tensors;
mod wrappers;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::architecture::Architecture;
use crate::families::{Config, ConfigError, Intermediate, Names, QueryKeyValue};
use crate::weights::{LayerModule, Linear, Model, Module, NormWeights, Source, Table, Weights};
use lora::{Adapter, Matrix};
use modules::ModulesHead;
use tensors::Tensors;

pub use files::{read as read_file, weight_files};
pub use modules::{MODULES_FILE, SENTENCE_TRANSFORMERS_FILE, head_files, module_class, module_folders};
pub use ranked_label::{LabelError, RankedLabel};

/// Most runs of adjacent layers in a message.
const MAX_RUNS: usize = 4;

/// The model's shape.
pub const CONFIG_FILE: &str = "config.json";
/// The model's weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Says which of several files has which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The adapter's settings.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The adapter's weights.
pub const ADAPTER_WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Largest accepted weights, over all files. The largest encoders in use have 2.3 GB.
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
    /// A link to a file that is not there.
    #[error("{} is a link to {}, which is not there: fetch the model again", path.display(), target.display())]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// A directory, a device or a pipe in the place of a file.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// A file that stands for another one in a git repository.
    #[error("{} is a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The weights are in a format that is not read.
    #[error("{} has no {WEIGHTS_FILE}, but {found}: {way_out}", dir.display())]
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// The file that is there.
        found: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// The index of a sharded checkpoint is damaged.
    #[error("{} is not an index of safetensors files: {message}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A label to rank by that the model lacks.
    #[error("{}: {source}", path.display())]
    Label {
        /// The configuration.
        path: PathBuf,
        /// Why.
        source: LabelError,
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
    /// The weights lack layers that the configuration asks for.
    #[error("{}: it asks for layers 0 to {last}, and the weights have {there}", path.display())]
    Layers {
        /// The configuration.
        path: PathBuf,
        /// The last that it asks for.
        last: usize,
        /// Which are there.
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
    #[error("{}: tensor {name} is stored as {found}, supported are F32, F16 and BF16: save it so, as with model.float()", path.display())]
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
    /// The modules of sentence-transformers compute something that is not supported.
    #[error("{}: {message}", path.display())]
    Modules {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is supported.
        message: String,
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
    let base = encoder(dir, names)?;
    let adapter = adapter.map(|adapter| Adapter::new(adapter, names, base.is_bare())).transpose()?;
    let labels = adapter.as_ref().and_then(|adapter| adapter.outputs(names.classifier));
    let head = modules::read(dir)?;
    let head_tensors = head.as_ref().map(ModulesHead::tensors).transpose()?.unwrap_or_default();
    let architecture = architecture_of(&config, path.clone(), labels, head.as_ref())?;
    let (layers, asked) = (base.layers(&names.layers()), architecture.layers.len());
    // Weights without any layer are another family's: the first missing tensor says so.
    if !layers.is_empty() && (0..asked).any(|layer| !layers.contains(&layer)) {
        return Err(CheckpointError::Layers { path, last: asked - 1, there: listed(&layers) });
    }
    let mut loader = Loader { base, adapter, names, architecture: &architecture, head: head_tensors };
    let weights = Weights::collect(&architecture, &mut loader)?;
    if let Some(adapter) = &loader.adapter {
        adapter.check_all_used(architecture.layers.len())?;
    }
    Ok(Model { architecture, weights })
}

/// The types of the tensors in the files of a directory's weights, such as `f16`; reads headers alone.
///
/// # Errors
/// A file is missing or damaged.
pub fn stored_types(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    Ok(Tensors::open(&files::weight_paths(dir)?)?.types())
}

/// Which layers the files of a directory's weights have beyond those of `architecture`, which are left out; reads
/// headers alone.
///
/// # Errors
/// A file is missing or damaged.
pub fn layers_left_out(dir: &Path, architecture: &Architecture) -> Result<BTreeSet<usize>, CheckpointError> {
    let (_, config) = parse_config(dir)?;
    let names = &config.family.names;
    let mut layers = encoder(dir, names)?.layers(&names.layers());
    layers.retain(|&layer| layer >= architecture.layers.len());
    Ok(layers)
}

/// The files of a directory's weights.
fn encoder(dir: &Path, names: &Names) -> Result<Tensors, CheckpointError> {
    Ok(Tensors::open(&files::weight_paths(dir)?)?.of_encoder(names.prefix, &format!("{}.weight", names.word)))
}

/// Reads and checks `config.json` alone; of the weights only headers, and only if the configuration does not say
/// whether the model has a head.
///
/// # Errors
/// The file is missing or does not describe a model that can be computed.
pub fn read_config(dir: &Path) -> Result<Architecture, CheckpointError> {
    read_adapted_config(dir, None)
}

/// Reads and checks `config.json`, and the header of the adapter, which may give a bare encoder a head.
///
/// # Errors
/// A file is missing, or they do not describe a model that can be computed.
pub fn read_adapted_config(dir: &Path, adapter: Option<&Path>) -> Result<Architecture, CheckpointError> {
    let (path, config) = parse_config(dir)?;
    let labels = match adapter {
        None => None,
        Some(adapter) => {
            let classifier = lora::peft_name(&format!("{}.weight", config.family.names.classifier));
            files::shape_in(&adapter.join(ADAPTER_WEIGHTS_FILE), &classifier)?
        }
    };
    let labels = labels.and_then(|shape| shape.first().copied());
    architecture_of(&config, path, labels, modules::read(dir)?.as_ref())
}

fn architecture_of(
    config: &Config,
    path: PathBuf,
    adapter_labels: Option<usize>,
    head: Option<&ModulesHead>,
) -> Result<Architecture, CheckpointError> {
    let head = head.map(|head| (head.pooling, head.head));
    config.architecture(adapter_labels, head).map_err(|source| CheckpointError::Config { path, source })
}

fn parse_config(dir: &Path) -> Result<(PathBuf, Config), CheckpointError> {
    let (path, bytes) = files::read_config_file(dir)?;
    let mut config = match Config::parse(&bytes) {
        Ok(config) => config,
        Err(source) => return Err(CheckpointError::Config { path, source }),
    };
    if config.has_unknown_head() {
        let classifier = files::shape_of(dir, &format!("{}.weight", config.family.names.classifier))?;
        config.set_labels(classifier.and_then(|shape| shape.first().copied()));
    }
    Ok((path, config))
}

/// Layers for a message, by number from 0, such as `0 to 5 and 8`.
#[must_use]
pub fn listed(layers: &BTreeSet<usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &layer in layers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == layer => *last = layer,
            _ => runs.push((layer, layer)),
        }
    }
    let most = runs.len().min(MAX_RUNS);
    let run = |&(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    };
    let mut shown: Vec<String> = runs[..most].iter().map(run).collect();
    if most < runs.len() {
        shown.push("others".to_owned());
    }
    match shown.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
        None => "none".to_owned(),
    }
}

/// Takes a model's modules from its file, or from the adapter if that has them.
struct Loader<'a> {
    base: Tensors,
    adapter: Option<Adapter<'a>>,
    names: &'a Names,
    architecture: &'a Architecture,
    /// Parts of the head that have files of their own.
    head: Vec<(Module, Tensors)>,
}

impl Source for Loader<'_> {
    type Error = CheckpointError;

    fn table(&mut self, module: Module, rows: usize, width: usize) -> Result<Vec<f32>, CheckpointError> {
        let name = self.names.of(module);
        let mut table = self.tensor(&format!("{name}.weight"), &[rows, width])?;
        if let Some(adapter) = &self.adapter {
            adapter.merge_table(&name, &mut Matrix { weight: &mut table, outputs: rows, inputs: width })?;
        }
        Ok(table)
    }

    fn word_table(&mut self, rows: usize, width: usize) -> Result<Table, CheckpointError> {
        match self.adapter {
            // What an adapter makes of the table may need more bits.
            Some(_) => self.table(Module::Word, rows, width).map(Table::F32),
            None => self.base.load_table(&format!("{}.weight", self.names.of(Module::Word)), &[rows, width]),
        }
    }

    fn linear(&mut self, module: Module, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, CheckpointError> {
        if let Some(tensors) = self.of_head(module) {
            let weight = tensors.load_table("linear.weight", &[outputs, inputs])?;
            let bias = bias.then(|| tensors.load("linear.bias", &[outputs])).transpose()?;
            return Ok(Linear { weight, bias, inputs });
        }
        let name = self.names.of(module);
        if let Module::Layer(_, LayerModule::Intermediate) = module {
            return self.intermediate(&name, outputs, inputs, bias);
        }
        let Some((first, fused_outputs)) = self.place_in_fused(module) else {
            return self.whole_linear(&name, outputs, inputs, bias);
        };
        let mut fused = self.whole_linear(&name, fused_outputs, inputs, bias)?;
        let mine = first..first + outputs;
        let cut = |bias: Vec<f32>| bias[mine.clone()].to_vec();
        fused.bias = fused.bias.take().map(cut);
        Ok(Linear { weight: fused.weight.part(mine.start * inputs..mine.end * inputs), ..fused })
    }

    fn norm(&mut self, module: Module, width: usize, bias: bool) -> Result<NormWeights, CheckpointError> {
        if let Some(tensors) = self.of_head(module) {
            let weight = tensors.load("norm.weight", &[width])?;
            let bias = bias.then(|| tensors.load("norm.bias", &[width])).transpose()?;
            return Ok(NormWeights { weight, bias });
        }
        let name = self.names.of(module);
        let weight = self.norm_tensor(&name, ["weight", "gamma"], width)?;
        let bias = match bias {
            false => None,
            true => Some(self.norm_tensor(&name, ["bias", "beta"], width)?),
        };
        Ok(NormWeights { weight, bias })
    }
}

impl Loader<'_> {
    /// The file of a part of the head, if it has one of its own.
    fn of_head(&self, module: Module) -> Option<&Tensors> {
        self.head.iter().find(|(part, _)| *part == module).map(|(_, tensors)| tensors)
    }

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

    /// The first linear layer of a feed-forward part: what is activated, then the gate.
    fn intermediate(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, CheckpointError> {
        match self.names.intermediate {
            Intermediate::One(_) => self.whole_linear(name, outputs, inputs, bias),
            Intermediate::GateFirst(_) => {
                let mut linear = self.whole_linear(name, outputs, inputs, bias)?;
                linear.weight.rotate_left(outputs / 2 * inputs);
                if let Some(bias) = &mut linear.bias {
                    bias.rotate_left(outputs / 2);
                }
                Ok(linear)
            }
        }
    }

    fn whole_linear(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, CheckpointError> {
        let (weight_name, shape) = (format!("{name}.weight"), [outputs, inputs]);
        let weight = match &self.adapter {
            None => self.base.load_table(&weight_name, &shape)?,
            Some(adapter) => {
                let mut weight = self.tensor(&weight_name, &shape)?;
                adapter.merge(name, &mut Matrix { weight: &mut weight, outputs, inputs })?;
                Table::F32(weight)
            }
        };
        if !bias {
            return Ok(Linear { weight, bias: None, inputs });
        }
        let mut bias = self.tensor(&format!("{name}.bias"), &[outputs])?;
        if let Some(adapter) = &self.adapter {
            adapter.merge_bias(name, &mut bias)?;
        }
        Ok(Linear { weight, bias: Some(bias), inputs })
    }

    /// A norm's weight or bias. Checkpoints converted from TensorFlow keep its names.
    fn norm_tensor(&self, norm: &str, [name, older]: [&str; 2], width: usize) -> Result<Vec<f32>, CheckpointError> {
        let name = format!("{norm}.{name}");
        let replaced = self.adapter.as_ref().map(|adapter| adapter.replacement(&name, &[width])).transpose()?.flatten();
        let older = format!("{norm}.{older}");
        match replaced {
            Some(values) => Ok(values),
            None if self.base.has(&older) => self.base.load(&older, &[width]),
            None => self.base.load(&name, &[width]),
        }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let replaced = self.adapter.as_ref().map(|adapter| adapter.replacement(name, shape)).transpose()?.flatten();
        match replaced {
            Some(values) => Ok(values),
            None => self.base.load(name, shape),
        }
    }
}
