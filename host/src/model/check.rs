//! Checks whether a directory is a complete model that can be computed, and decides what its files leave open. Reads
//! everything, changes nothing.

use std::path::{Path, PathBuf};

use assay_kernels::checkpoint::{self, RankedLabel};
use assay_kernels::gpu::{self, GpuEngine};
use assay_kernels::{Architecture, CpuEngine, Task};

use super::error::{ModelError, TokenizerFault};
use super::hugging_face::{self, Described};
use super::settings::{DefaultScores, ModelSettings};
use super::tokenizer::{self, Decided, TOKENIZER_FILE};

/// The files of an adapter.
pub(super) const ADAPTER_FILES: [&str; 2] = [checkpoint::ADAPTER_CONFIG_FILE, checkpoint::ADAPTER_WEIGHTS_FILE];

/// Files from which `transformers` makes a `tokenizer.json`.
const OTHER_TOKENIZERS: [&str; 6] =
    ["vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer_config.json"];

/// What the person who adds a model chose.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// The label to rank by: a number, a name, or `A-B` for the difference of two numbers.
    pub label: Option<String>,
    /// How scores are given by default, in place of what the model's files say.
    pub scores: Option<DefaultScores>,
    /// Text before every query, in place of what the model's files say.
    pub prompt: Option<String>,
}

/// A model that can be computed, and what was decided about it.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) settings: ModelSettings,
    /// The tokenizer to store, if not the directory's own.
    pub(super) tokenizer: Option<Vec<u8>>,
    /// Whether requests can be ranked by it without more settings.
    pub(super) can_rank: bool,
}

/// Checks that every tensor is present, finite and of the right shape, that the tokenizer works and its ids are in the
/// model's vocabulary, and that nothing about the model would be computed otherwise than its files say.
pub(super) fn check_model(dir: &Path, adapter: Option<&Path>, choices: &Choices) -> Result<Checked, ModelError> {
    check_files(dir, adapter)?;
    // Cheap checks first: a wrong architecture is reported before any weights are read.
    let architecture = checkpoint::read_adapted_config(dir, adapter)?;
    check_parts(dir, &architecture)?;
    check_usable_here(dir, &architecture)?;
    let task = architecture.task();
    let described = hugging_face::describe(dir, task)?;
    let tokenizer = tokenizer::decide(dir, &described, &architecture)?;
    let mut model = checkpoint::load(dir, adapter)?;
    let labels = model.architecture.outputs();
    let label = choices.label.as_deref().map(|label| label_of(label, &described.labels, labels)).transpose()?;
    let settings = ModelSettings {
        max_tokens: max_tokens(&described, &tokenizer, &architecture),
        scores: choices.scores.or(described.scores),
        prompt: choices.prompt.clone().or(described.prompt.clone()).filter(|prompt| !prompt.is_empty()),
        is_cut_left: tokenizer.is_cut_left,
        label,
        notes: notes(&described, &tokenizer, task, labels, label.is_some()),
        tokenizer_changes: tokenizer.changes,
    };
    settings.apply(dir, &mut model)?;
    if let Some(max_tokens) = settings.max_tokens.filter(|&max| max as usize <= tokenizer.special_tokens) {
        let fault = TokenizerFault::NoRoom { max_tokens, special_tokens: tokenizer.special_tokens };
        return Err(ModelError::Tokenizer { path: dir.join(TOKENIZER_FILE), fault });
    }
    let can_rank = task == Task::CrossEncoder && model.architecture.outputs() == 1;
    Ok(Checked { settings, tokenizer: tokenizer.file, can_rank })
}

/// Checks the files of a revision in the store.
pub(super) fn check_stored(dir: &Path, adapter: Option<&Path>, settings: &ModelSettings) -> Result<(), ModelError> {
    let architecture = checkpoint::read_adapted_config(dir, adapter)?;
    check_parts(dir, &architecture)?;
    tokenizer::check(dir, architecture.vocab_size)?;
    settings.apply(dir, &mut checkpoint::load(dir, adapter)?)
}

/// The model's files, by name.
pub(super) fn model_files(dir: &Path) -> Result<Vec<String>, ModelError> {
    let mut files = vec![checkpoint::CONFIG_FILE.to_owned(), TOKENIZER_FILE.to_owned()];
    files.extend(checkpoint::weight_files(dir)?);
    files.extend(checkpoint::head_files(dir)?);
    Ok(files)
}

/// Refuses a directory without the files of a model, naming what is there instead.
fn check_files(dir: &Path, adapter: Option<&Path>) -> Result<(), ModelError> {
    let is_there = |path: PathBuf| path.symlink_metadata().is_ok();
    std::fs::metadata(dir).map_err(ModelError::io(dir))?;
    if !is_there(dir.join(checkpoint::CONFIG_FILE)) {
        if is_there(dir.join(checkpoint::ADAPTER_CONFIG_FILE)) {
            let message = "is an adapter's: add its base model, and this directory with --adapter".to_owned();
            return Err(ModelError::Described { path: dir.join(checkpoint::ADAPTER_CONFIG_FILE), message });
        }
        return Err(ModelError::NotAModel { dir: dir.to_owned(), file: checkpoint::CONFIG_FILE });
    }
    if !is_there(dir.join(TOKENIZER_FILE)) {
        let way_out = match OTHER_TOKENIZERS.iter().any(|file| is_there(dir.join(file))) {
            true => {
                "; make it with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), which needs the \
                 package sentencepiece for a .model file"
            }
            false => "",
        };
        return Err(ModelError::NoTokenizer { dir: dir.to_owned(), way_out });
    }
    match checkpoint::weight_files(dir) {
        Err(checkpoint::CheckpointError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(ModelError::NotAModel { dir: dir.to_owned(), file: checkpoint::WEIGHTS_FILE });
        }
        files => drop(files?),
    }
    let Some(adapter) = adapter else { return Ok(()) };
    std::fs::metadata(adapter).map_err(ModelError::io(adapter))?;
    for file in ADAPTER_FILES {
        if is_there(adapter.join(file)) {
            continue;
        }
        if is_there(adapter.join("adapter_model.bin")) {
            let message = "loading a pickle can run code, so it is not read: load it with PEFT and save it with \
                           save_pretrained(DIR), which writes adapter_model.safetensors"
                .to_owned();
            return Err(ModelError::Described { path: adapter.join("adapter_model.bin"), message });
        }
        return Err(ModelError::NotAModel { dir: adapter.to_owned(), file });
    }
    Ok(())
}

/// Refuses a model that no engine computes, by the part that the processor's engine lacks.
fn check_parts(dir: &Path, architecture: &Architecture) -> Result<(), ModelError> {
    match (CpuEngine::supports(architecture), GpuEngine::supports(architecture)) {
        (Err(lacking), Err(_)) => Err(ModelError::Unsupported { path: dir.join(checkpoint::CONFIG_FILE), lacking }),
        _ => Ok(()),
    }
}

/// Refuses a model that only the GPU engine computes where there is no GPU: it would be here and of no use.
fn check_usable_here(dir: &Path, architecture: &Architecture) -> Result<(), ModelError> {
    match CpuEngine::supports(architecture) {
        Err(lacking) if gpu::auto().adapter.is_none() => Err(ModelError::Described {
            path: dir.join(checkpoint::CONFIG_FILE),
            message: format!("{lacking}; the gpu engine computes it, and this machine has no GPU"),
        }),
        _ => Ok(()),
    }
}

/// The longest row, if the files ask for a shorter one than the model's.
fn max_tokens(described: &Described, tokenizer: &Decided, architecture: &Architecture) -> Option<u32> {
    // sentence-transformers' own takes the place of the tokenizer's.
    let max = described.max_tokens.filter(|&max| max > 0).or(tokenizer.max_tokens)?;
    ((max as usize) < architecture.max_tokens).then_some(max)
}

fn notes(described: &Described, tokenizer: &Decided, task: Task, labels: usize, has_label: bool) -> Vec<String> {
    let mut notes = described.notes.clone();
    if !described.has_class {
        notes.push(format!(
            "config.json names no class in `architectures`: taken for {} by model_type and weights",
            match task {
                Task::CrossEncoder => "a cross-encoder",
                Task::Embedding => "an embedding model",
            }
        ));
    }
    if task == Task::Embedding {
        notes.push("it computes embeddings: it cannot rank by itself and does not become the default".to_owned());
    }
    if labels > 1 && task == Task::CrossEncoder && !has_label {
        notes.push(format!(
            "it has {labels} labels ({}): choose one to rank by, with `assay rerank --label N` or by adding it again \
             with --label",
            named(&described.labels, labels)
        ));
    }
    notes.extend(tokenizer.notes.iter().cloned());
    notes
}

/// The label that a person means: a number, a name, or the difference of two numbers.
fn label_of(text: &str, names: &[String], labels: usize) -> Result<RankedLabel, ModelError> {
    let no_label = || ModelError::NoLabel { label: text.to_owned(), labels: named(names, labels) };
    let number = |text: &str| text.parse().ok().filter(|&label: &usize| label < labels);
    let by_name = |text: &str| names.iter().take(labels).position(|name| name.eq_ignore_ascii_case(text));
    if let Some(label) = number(text).or_else(|| by_name(text)) {
        return Ok(RankedLabel { label, minus: None });
    }
    let (label, minus) = text.split_once('-').ok_or_else(no_label)?;
    let (label, minus) = (number(label).ok_or_else(no_label)?, number(minus).ok_or_else(no_label)?);
    Ok(RankedLabel { label, minus: Some(minus) })
}

/// Labels by number and name, for messages.
pub(super) fn named(names: &[String], labels: usize) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = (0..labels.min(SHOWN))
        .map(|label| match names.get(label) {
            Some(name) => format!("{label} {name:.40}"),
            None => label.to_string(),
        })
        .collect();
    format!("{}{}", shown.join(", "), if labels > SHOWN { ", …" } else { "" })
}
