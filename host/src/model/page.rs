//! What `assay model show` prints: all that was decided about a model.

use std::fmt;

use assay_kernels::Task;
use assay_kernels::architecture::Pooling;
use assay_kernels::checkpoint::{self, RankedLabel};
use serde::Serialize;
use serde_json::Value;

use super::error::ModelError;
use super::hugging_face;
use super::info::ModelTask;
use super::label::named;
use super::settings::{DefaultScores, ModelSettings};
use super::store::StoredModel;
use super::tokenizer::{TOKENIZER_FILE, TokenizerSummary, read_tokenizer};

/// The scores of a model whose files name no activation.
const NO_ACTIVATION: &str =
    "raw, as its files name no activation; for one label CrossEncoder then gives sigmoids, as --scores sigmoid does";

/// A model's page.
#[derive(Debug, Clone, Serialize)]
pub struct ModelPage {
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// Where its files come from.
    pub source: String,
    /// Where its adapter comes from.
    pub adapter: Option<String>,
    /// What its numbers mean.
    pub task: ModelTask,
    /// Its class or type, as its configuration has it.
    pub architecture: String,
    /// Its layers.
    pub layers: usize,
    /// Width of a layer.
    pub hidden_size: usize,
    /// Entries of its vocabulary.
    pub vocabulary_size: usize,
    /// Longest row in tokens.
    pub max_tokens: usize,
    /// Which states of the last layer a row's numbers are made of.
    pub pooling: &'static str,
    /// The types of its weights' numbers as they are stored.
    pub weights: Vec<String>,
    /// The names of its classifier's labels, by number, empty for one without a name. An embedding model has none.
    pub labels: Vec<String>,
    /// The parts of its tokenizer, with their settings.
    pub tokenizer: TokenizerSummary,
    /// What was decided when it was added.
    pub settings: ModelSettings,
    /// Bytes of every file.
    pub bytes: u64,
}

impl ModelPage {
    /// Reads the page of a model, without its weights.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn of(model: &StoredModel) -> Result<Self, ModelError> {
        let (manifest, settings) = (&model.manifest, model.settings()?);
        let architecture = model.architecture()?;
        let whole = checkpoint::read_adapted_config(model.dir(), model.adapter_dir().as_deref())?;
        let config = hugging_face::read(model.dir(), checkpoint::CONFIG_FILE)?.unwrap_or_default();
        let tokenizer: Value =
            serde_json::from_slice(&read_tokenizer(&model.dir().join(TOKENIZER_FILE))?).unwrap_or_default();
        let own_max = architecture.max_tokens;
        let class = config["architectures"][0].as_str().or(config["model_type"].as_str());
        Ok(Self {
            name: manifest.name.clone(),
            revision: manifest.revision.clone(),
            source: manifest.source.to_string(),
            adapter: manifest.adapter.as_ref().map(ToString::to_string),
            task: architecture.task().into(),
            architecture: class.unwrap_or_default().to_owned(),
            layers: architecture.layers.len(),
            hidden_size: architecture.hidden_size,
            vocabulary_size: architecture.vocab_size,
            pooling: match architecture.pooling {
                Pooling::First => "the first token",
                Pooling::Mean => "the mean of all tokens",
                Pooling::Last => "the last token",
            },
            weights: checkpoint::stored_types(model.dir())?,
            max_tokens: settings.max_tokens.map_or(own_max, |max| own_max.min(max as usize)),
            labels: match whole.task() {
                Task::CrossEncoder => {
                    let mut names = hugging_face::labels(&config);
                    names.resize(whole.outputs(), String::new());
                    names
                }
                Task::Embedding => Vec::new(),
            },
            tokenizer: TokenizerSummary::of(&tokenizer),
            settings,
            bytes: manifest.files.values().map(|file| file.bytes).sum(),
        })
    }
}

impl fmt::Display for ModelPage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(formatter, "{name:<13} {value}");
        line("model", &self.name)?;
        line("revision", &self.revision)?;
        line("source", &self.source)?;
        line("adapter", &self.adapter.as_deref().unwrap_or("none"))?;
        let task = match self.task {
            ModelTask::CrossEncoder => "cross-encoder",
            ModelTask::Embedding => "embedding",
        };
        line("task", &task)?;
        let Self { architecture, layers, hidden_size, vocabulary_size, .. } = self;
        let s = if *layers == 1 { "" } else { "s" };
        line(
            "architecture",
            &format_args!("{architecture:.100}, {layers} layer{s} of {hidden_size}, vocabulary of {vocabulary_size}"),
        )?;
        line("weights", &format_args!("{}, as stored", self.weights.join(" and ")))?;
        line("pooling", &self.pooling)?;
        line("rows", &format_args!("up to {} tokens", self.max_tokens))?;
        match self.labels.as_slice() {
            [] => {}
            [name] if name.is_empty() => line("labels", &"one, without a name")?,
            labels => line("labels", &named(labels, labels.len()))?,
        }
        if let Some(RankedLabel { label, minus }) = settings.label {
            match minus {
                Some(minus) => line("ranked by", &format_args!("label {label} minus label {minus}"))?,
                None => line("ranked by", &format_args!("label {label}"))?,
            }
        }
        if self.task == ModelTask::CrossEncoder {
            line("scores", &settings.scores.map_or(NO_ACTIVATION, DefaultScores::name))?;
            line("prompt", &format_args!("{:?}", settings.prompt.as_deref().unwrap_or_default()))?;
            line("cut from", &if settings.is_cut_left { "the left" } else { "the right" })?;
        }
        let TokenizerSummary { model, normalizer, pre_tokenizer, post_processor, added_tokens } = &self.tokenizer;
        line("tokenizer", model)?;
        line("normalizer", normalizer)?;
        line("pre-tokenizer", pre_tokenizer)?;
        line("pair", post_processor)?;
        line("added tokens", added_tokens)?;
        for change in &settings.tokenizer_changes {
            line("changed", change)?;
        }
        line("size", &format_args!("{} bytes", self.bytes))?;
        for note in &settings.notes {
            line("note", note)?;
        }
        Ok(())
    }
}
