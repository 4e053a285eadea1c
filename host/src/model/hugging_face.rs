//! What the files of transformers and sentence-transformers say about how a model is used.
//!
//! Follows sentence-transformers' `CrossEncoder`, version 6.2. It reads `modules.json` and what belongs to it, prompts
//! included, only if `config_sentence_transformers.json` says that the files were saved by a `CrossEncoder`.

use std::path::Path;

use assay_kernels::{Task, checkpoint};
use serde_json::Value;

use super::error::ModelError;
use super::settings::DefaultScores;

/// How the tokenizer is used.
pub(super) const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// sentence-transformers' settings of a model, and the modules that it runs one after the other.
pub(super) use assay_kernels::checkpoint::{MODULES_FILE, SENTENCE_TRANSFORMERS_FILE};

/// sentence-transformers' settings of the module `Transformer`.
pub(super) const TRANSFORMER_FILE: &str = "sentence_bert_config.json";

/// Longest prompt.
const MAX_PROMPT_BYTES: usize = 16 << 10;

/// Most bytes of one of these files.
const MAX_BYTES: u64 = checkpoint::MAX_CONFIG_BYTES;

/// What a model's files say.
#[derive(Debug, Default)]
pub(super) struct Described {
    /// `model_type`.
    pub(super) model_type: String,
    /// `tokenizer_class` in `config.json`.
    pub(super) tokenizer_class: Option<String>,
    /// Whether `architectures` names a class.
    pub(super) has_class: bool,
    /// The labels' names, by number.
    pub(super) labels: Vec<String>,
    /// The activation, if the files name one.
    pub(super) scores: Option<DefaultScores>,
    /// Text before every query.
    pub(super) prompt: Option<String>,
    /// Longest row in tokens.
    pub(super) max_tokens: Option<u32>,
    /// Whether texts are lower-cased before the tokenizer gets them.
    pub(super) is_lowercased: bool,
    /// What people should know.
    pub(super) notes: Vec<String>,
}

/// Reads the files of the model in `dir`.
pub(super) fn describe(dir: &Path, task: Task) -> Result<Described, ModelError> {
    let config = read(dir, checkpoint::CONFIG_FILE)?.unwrap_or_default();
    let mut described = Described {
        model_type: config["model_type"].as_str().unwrap_or_default().to_owned(),
        tokenizer_class: config["tokenizer_class"].as_str().map(str::to_owned),
        has_class: config["architectures"].as_array().is_some_and(|classes| !classes.is_empty()),
        labels: labels(&config),
        ..Described::default()
    };
    let saved = check_modules(dir, &mut described, task)?;
    if task == Task::Embedding {
        return Ok(described);
    }
    let names = [
        &saved["activation_fn"],
        &config["sentence_transformers"]["activation_fn"],
        &config["sbert_ce_default_activation_function"],
    ];
    if let Some(name) = names.into_iter().find_map(Value::as_str) {
        described.scores = scores(name);
        if described.scores.is_none() {
            described.notes.push(format!(
                "its activation {name:.100} is not computed here: scores are raw, or sigmoids with --scores sigmoid"
            ));
        }
    }
    described.prompt = prompt(dir, &saved)?;
    Ok(described)
}

/// Reads a JSON file of the model; `None` if it is not there.
pub(super) fn read(dir: &Path, file: &str) -> Result<Option<Value>, ModelError> {
    let path = dir.join(file);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let bytes = checkpoint::read_file(&path, MAX_BYTES)?;
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(ModelError::Described { path, message: format!("cannot be read: {error}") }),
    }
}

/// Refuses a cross-encoder without a head, and reads the settings of its first module. Returns
/// `config_sentence_transformers.json` if it counts, otherwise null. The modules of the head are read with the weights.
fn check_modules(dir: &Path, described: &mut Described, task: Task) -> Result<Value, ModelError> {
    let saved = read(dir, SENTENCE_TRANSFORMERS_FILE)?.unwrap_or_default();
    let modules = read(dir, MODULES_FILE)?.unwrap_or_default();
    let Some(modules) = modules.as_array().filter(|_| saved["model_type"] == "CrossEncoder") else {
        return Ok(Value::Null);
    };
    let class = |module: &Value| {
        let name = module["type"].as_str().unwrap_or_default();
        name.rsplit('.').next().unwrap_or_default().to_owned()
    };
    let classes: Vec<String> = modules.iter().map(class).collect();
    if classes.first().is_none_or(|class| class != "Transformer") || task == Task::Embedding {
        return Err(ModelError::Described {
            path: dir.join(MODULES_FILE),
            message: format!(
                "its modules are {:.200}; supported are a Transformer alone, whose class in config.json has the head, \
                 or one without a head and the modules of the head",
                classes.join(", ")
            ),
        });
    }
    let transformer = read(dir, TRANSFORMER_FILE)?.unwrap_or_default();
    described.max_tokens = transformer["max_seq_length"].as_u64().and_then(|max| u32::try_from(max).ok());
    described.is_lowercased = transformer["do_lower_case"] == true;
    Ok(saved)
}

fn prompt(dir: &Path, saved: &Value) -> Result<Option<String>, ModelError> {
    let refused = |message: String| Err(ModelError::Described { path: dir.join(SENTENCE_TRANSFORMERS_FILE), message });
    let Some(name) = saved["default_prompt_name"].as_str() else { return Ok(None) };
    match saved["prompts"][name].as_str() {
        Some("") => Ok(None),
        Some(prompt) if prompt.len() > MAX_PROMPT_BYTES => {
            refused(format!("its prompt has {} bytes, the most is {MAX_PROMPT_BYTES}", prompt.len()))
        }
        Some(prompt) => Ok(Some(prompt.to_owned())),
        None => refused(format!("its default_prompt_name is {name:.100}, and its prompts have no such one")),
    }
}

fn scores(activation: &str) -> Option<DefaultScores> {
    match activation.rsplit('.').next()? {
        "Identity" => Some(DefaultScores::Raw),
        "Sigmoid" => Some(DefaultScores::Sigmoid),
        _ => None,
    }
}

/// The names in `id2label`, by number.
pub(super) fn labels(config: &Value) -> Vec<String> {
    let Some(names) = config["id2label"].as_object() else { return Vec::new() };
    (0..names.len())
        .map(|label| names.get(&label.to_string()).and_then(Value::as_str).unwrap_or_default().to_owned())
        .collect()
}
