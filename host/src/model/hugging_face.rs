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

/// sentence-transformers' settings of the module `Transformer`, by their names then and now; the first one counts.
pub(super) const TRANSFORMER_FILES: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Special tokens by their roles, in a file of earlier versions of transformers.
pub(super) const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";

/// Added tokens by their ids, in a file of earlier versions of transformers.
pub(super) const ADDED_TOKENS_FILE: &str = "added_tokens.json";

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
    /// Whether a `CrossEncoder` saved the files, so that they say how it is used.
    pub(super) is_saved: bool,
    /// Whether texts are lower-cased before the tokenizer gets them.
    pub(super) is_lowercased: bool,
    /// What people should know.
    pub(super) notes: Vec<String>,
}

/// Whether a directory was saved by sentence-transformers, so that its files say how the model is used.
pub(super) fn is_saved(dir: &Path) -> bool {
    [SENTENCE_TRANSFORMERS_FILE, MODULES_FILE].iter().all(|file| dir.join(file).symlink_metadata().is_ok())
}

/// Reads the configuration of the model in `dir`, and sentence-transformers' files in `settings_dir`.
pub(super) fn describe(dir: &Path, settings_dir: &Path, task: Task) -> Result<Described, ModelError> {
    let config = read(dir, checkpoint::CONFIG_FILE)?.unwrap_or_default();
    let mut described = Described {
        model_type: config["model_type"].as_str().unwrap_or_default().to_owned(),
        tokenizer_class: config["tokenizer_class"].as_str().map(str::to_owned),
        has_class: config["architectures"].as_array().is_some_and(|classes| !classes.is_empty()),
        labels: labels(&config),
        ..Described::default()
    };
    if config["quantization_config"].is_object() {
        let note = "its quantization_config is not followed: weights are computed as they are stored";
        described.notes.push(note.to_owned());
    }
    let saved = check_modules(settings_dir, dir, &mut described, task)?;
    if task == Task::Embedding {
        return Ok(described);
    }
    let names = [
        &saved["activation_fn"],
        &config["sentence_transformers"]["activation_fn"],
        &config["sbert_ce_default_activation_function"],
    ];
    if let Some(name) = names.into_iter().find_map(Value::as_str) {
        let computed = scores(name);
        described.scores = computed.or(Some(DefaultScores::Raw));
        if computed.is_none() {
            // Of two labels, the softmax's second part is the sigmoid of their difference.
            let way_out = match described.labels.len() {
                2 if name.ends_with("Softmax") => {
                    "; added with --label 1-0 --scores sigmoid, they are the softmax's part of label 1"
                }
                _ => ", or sigmoids with --scores sigmoid",
            };
            described.notes.push(format!("its activation {name:.100} is not computed here: scores are raw{way_out}"));
        }
    }
    described.prompt = prompt(settings_dir, &saved)?;
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
fn check_modules(dir: &Path, model_dir: &Path, described: &mut Described, task: Task) -> Result<Value, ModelError> {
    let saved = read(dir, SENTENCE_TRANSFORMERS_FILE)?.unwrap_or_default();
    let modules = read(dir, MODULES_FILE)?.unwrap_or_default();
    let Some(modules) = modules.as_array().filter(|_| saved["model_type"] == "CrossEncoder") else {
        return Ok(Value::Null);
    };
    let classes: Vec<&str> = modules.iter().map(checkpoint::module_class).collect();
    if classes.first() != Some(&"Transformer") || task == Task::Embedding {
        return Err(ModelError::Described {
            path: dir.join(MODULES_FILE),
            message: format!(
                "its modules are {:.200}; supported are a Transformer alone, whose class in config.json has the head, \
                 or one without a head and the modules of the head",
                classes.join(", ")
            ),
        });
    }
    if modules[0]["path"].as_str().is_some_and(|path| !path.is_empty()) {
        return Err(ModelError::Described {
            path: dir.join(MODULES_FILE),
            message: format!("has its Transformer in the folder {:.100}: add that folder", modules[0]["path"]),
        });
    }
    if classes.len() > 1 && dir != model_dir {
        return Err(ModelError::Described {
            path: dir.join(MODULES_FILE),
            message: "has a head in modules beside an adapter, which is not read: merge the adapter with PEFT \
                      (merge_and_unload) and save the whole CrossEncoder"
                .to_owned(),
        });
    }
    let mut transformer = Value::Null;
    for file in TRANSFORMER_FILES {
        transformer = read(dir, file)?.unwrap_or_default();
        if transformer.as_object().is_some_and(|fields| !fields.is_empty()) {
            check_transformer(&transformer, classes.len() > 1)
                .map_err(|message| ModelError::Described { path: dir.join(file), message })?;
            break;
        }
    }
    described.max_tokens = transformer["max_seq_length"].as_u64().and_then(|max| u32::try_from(max).ok());
    described.is_lowercased = transformer["do_lower_case"] == true;
    for arguments in ["model_args", "model_kwargs"].map(|field| &transformer[field]) {
        for precision in ["dtype", "torch_dtype"].iter().filter_map(|field| arguments[field].as_str()) {
            if !["auto", "float32", "torch.float32"].contains(&precision) {
                described.notes.push(format!(
                    "its files ask for weights in {precision:.40}: they are used as they are stored, so CrossEncoder's \
                     scores differ by that rounding"
                ));
            }
        }
    }
    described.is_saved = true;
    Ok(saved)
}

/// Refuses settings of the module `Transformer` that change what is computed and are not followed. A field of a later
/// version is never passed over.
fn check_transformer(fields: &Value, is_bare: bool) -> Result<(), String> {
    /// Fields that are read, and those that change nothing for a pair of texts.
    const KNOWN: [&str; 3] = ["unpad_inputs", "query_length", "document_length"];
    /// Arguments of loading that change no number, or only its digits.
    const INERT_ARGUMENTS: [&str; 4] = ["dtype", "torch_dtype", "attn_implementation", "trust_remote_code"];
    // With the head in the class of config.json, or in modules of its own.
    let (task, output, method_output) = match is_bare {
        false => ("sequence-classification", "scores", "logits"),
        true => ("feature-extraction", "token_embeddings", "last_hidden_state"),
    };
    for (field, value) in fields.as_object().into_iter().flatten() {
        let is_plain = match field.as_str() {
            "max_seq_length" => value.as_u64().is_some_and(|max| max > 0 && u32::try_from(max).is_ok()),
            "do_lower_case" => value.is_boolean(),
            "transformer_task" => value == task,
            "module_output_name" => value == output,
            "modality_config" => {
                value["text"] == serde_json::json!({ "method": "forward", "method_output_name": method_output })
            }
            "model_args" | "model_kwargs" => value
                .as_object()
                .is_some_and(|arguments| arguments.keys().all(|name| INERT_ARGUMENTS.contains(&name.as_str()))),
            field => KNOWN.contains(&field),
        };
        let is_off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(values) => values.is_empty(),
            Value::Object(fields) => fields.values().all(|value| value == &serde_json::json!({}) || value.is_null()),
            _ => false,
        };
        if !is_plain && !is_off {
            return Err(format!(
                "{field:.60} is {:.100}, which is not followed: remove it if scores do not depend on it",
                value.to_string()
            ));
        }
    }
    Ok(())
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
