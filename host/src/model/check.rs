//! Checks whether a directory is a complete model that can be computed, and decides what its files leave open. Reads
//! everything, changes nothing.

use std::path::{Path, PathBuf};

use assay_kernels::checkpoint;
use assay_kernels::gpu::{self, GpuEngine};
use assay_kernels::{Architecture, CpuEngine, Task};

use super::error::{ModelError, TokenizerFault};
use super::hugging_face::{self, Described};
use super::label::{self, named};
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
    /// Why requests cannot be ranked by it without more settings, if so.
    pub(super) cannot_rank: Option<String>,
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
    // As `CrossEncoder` does for an adapter's directory: what was saved with the adapter counts.
    let settings_dir = adapter.filter(|adapter| hugging_face::is_saved(adapter)).unwrap_or(dir);
    let described = hugging_face::describe(dir, settings_dir, task)?;
    let mut tokenizer = tokenizer::decide(tokenizer_dir(dir, adapter), &described, &architecture)?;
    if let Some(adapter) = adapter.filter(|&adapter| tokenizer_dir(dir, Some(adapter)) == adapter) {
        take_adapters_tokenizer(dir, adapter, &mut tokenizer)?;
    }
    let mut model = checkpoint::load(dir, adapter)?;
    let labels = model.architecture.outputs();
    let no_label =
        |label: &str| ModelError::NoLabel { label: label.to_owned(), labels: named(&described.labels, labels) };
    let label = match choices.label.as_deref() {
        Some(text) => Some(label::parse(text, &described.labels, labels).ok_or_else(|| no_label(text))?),
        None => None,
    };
    let settings = ModelSettings {
        max_tokens: max_tokens(&described, &tokenizer, &architecture),
        scores: choices.scores.or(described.scores),
        prompt: choices.prompt.clone().or(described.prompt.clone()).filter(|prompt| !prompt.is_empty()),
        is_cut_left: tokenizer.is_cut_left,
        label,
        notes: notes(dir, &described, &tokenizer, &model.architecture, label.is_some())?,
        tokenizer_changes: tokenizer.changes,
    };
    settings.apply(dir, &mut model)?;
    if let Some(max_tokens) = settings.max_tokens.filter(|&max| max as usize <= tokenizer.special_tokens) {
        let fault = TokenizerFault::NoRoom { max_tokens, special_tokens: tokenizer.special_tokens };
        return Err(ModelError::Tokenizer { path: dir.join(TOKENIZER_FILE), fault });
    }
    let cannot_rank = cannot_rank(&model.architecture, &described.labels);
    Ok(Checked { settings, tokenizer: tokenizer.file, cannot_rank })
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

/// Why requests cannot be ranked by a model without more settings, and what to do; `None` if they can.
pub(super) fn cannot_rank(architecture: &Architecture, names: &[String]) -> Option<String> {
    match (architecture.task(), architecture.outputs()) {
        (Task::Embedding, _) => Some("it computes embeddings".to_owned()),
        (Task::CrossEncoder, 1) => None,
        (Task::CrossEncoder, labels) => Some(format!(
            "it has {labels} labels ({}) and none was chosen: add it again with --label",
            named(names, labels)
        )),
    }
}

/// The directory whose tokenizer counts: the adapter's, if one was saved with it.
fn tokenizer_dir<'a>(dir: &'a Path, adapter: Option<&'a Path>) -> &'a Path {
    adapter.filter(|adapter| adapter.join(TOKENIZER_FILE).symlink_metadata().is_ok()).unwrap_or(dir)
}

/// Has the store keep the adapter's tokenizer, and says so if it is another than the model's own.
fn take_adapters_tokenizer(dir: &Path, adapter: &Path, tokenizer: &mut Decided) -> Result<(), ModelError> {
    let own = tokenizer::read_tokenizer(&adapter.join(TOKENIZER_FILE))?;
    if own != tokenizer::read_tokenizer(&dir.join(TOKENIZER_FILE))? {
        tokenizer.notes.push("its tokenizer is the one in the adapter's directory".to_owned());
        tokenizer.file.get_or_insert(own);
    }
    Ok(())
}

/// Refuses a directory without the files of a model, naming what is there instead.
fn check_files(dir: &Path, adapter: Option<&Path>) -> Result<(), ModelError> {
    let is_there = |path: PathBuf| path.symlink_metadata().is_ok();
    std::fs::metadata(dir).map_err(ModelError::io(dir))?;
    if !is_there(dir.join(checkpoint::CONFIG_FILE)) {
        if is_there(dir.join(checkpoint::ADAPTER_CONFIG_FILE)) {
            let base = hugging_face::read(dir, checkpoint::ADAPTER_CONFIG_FILE).ok().flatten();
            let base = base.and_then(|config| Some(config["base_model_name_or_path"].as_str()?.to_owned()));
            let base = base.map_or_else(String::new, |base| format!(", {base:.100},"));
            let message = format!("is an adapter's: add its base model{base} and this directory with --adapter");
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
    if !is_there(adapter.join(TOKENIZER_FILE))
        && let Some(other) = OTHER_TOKENIZERS.iter().find(|file| is_there(adapter.join(file)))
    {
        let message = format!(
            "is of a tokenizer that was saved with the adapter, and {TOKENIZER_FILE} is missing beside it: make it with \
             transformers, AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), or remove {other} to use the base \
             model's tokenizer"
        );
        return Err(ModelError::Described { path: adapter.join(other), message });
    }
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

fn notes(
    dir: &Path,
    described: &Described,
    tokenizer: &Decided,
    architecture: &Architecture,
    has_label: bool,
) -> Result<Vec<String>, ModelError> {
    let (task, labels, longest) = (architecture.task(), architecture.outputs(), architecture.max_tokens);
    let mut notes = described.notes.clone();
    let left_out = checkpoint::layers_left_out(dir, architecture)?;
    if !left_out.is_empty() {
        notes.push(format!(
            "its config.json asks for layers 0 to {}: what its weights have of {} is left out, as in transformers",
            architecture.layers.len() - 1,
            checkpoint::listed(&left_out)
        ));
    }
    if let Some(max) = described.max_tokens.filter(|&max| max as usize > longest) {
        notes.push(format!(
            "its files ask for rows of up to {max} tokens, and its config.json is for {longest}: longer ones are cut to \
             {longest}"
        ));
    }
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
    Ok(notes)
}
