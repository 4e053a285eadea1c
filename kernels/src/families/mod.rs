//! Families of encoders: turn a `config.json` and a checkpoint's tensor names into an [`Architecture`] and its weights.
//!
//! A family is one file: what its configuration means, and the names of its tensors. [`FAMILIES`] lists them all. A
//! configuration is matched by `model_type` and class, never by its numbers: an unlisted class may compute something
//! else with the same tensors. Nothing outside this folder names a family.

mod bert;
mod check;
mod config;
mod deberta;
mod distilbert;
mod electra;
mod gte;
mod modernbert;
mod names;
mod roberta;
mod stand_in;

use crate::architecture::{Architecture, Head, Pooling};
use config::labels;
pub(crate) use names::{Intermediate, Names, QueryKeyValue};
pub use stand_in::{stand_in, stand_in_architecture, stand_in_tensors};

/// Every supported family.
const FAMILIES: &[Family] = &[
    bert::FAMILY,
    roberta::FAMILY,
    roberta::JINA,
    distilbert::FAMILY,
    electra::FAMILY,
    modernbert::FAMILY,
    deberta::FAMILY,
    gte::FAMILY,
    gte::OWN_CODE_FAMILY,
];

/// Suffix of a classifier's class, after [`Kind::class`].
const CLASSIFIER: &str = "ForSequenceClassification";

/// Suffix of a bare encoder's class.
const ENCODER: &str = "Model";

/// Most characters of a file's text in a message.
const MAX_SHOWN_CHARS: usize = 100;

/// A family of encoders.
#[derive(Debug)]
pub(crate) struct Family {
    /// The names of its models.
    pub(crate) kinds: &'static [Kind],
    /// Makes the architecture from a configuration: a classifier with the given number of labels, or the bare encoder.
    pub(crate) architecture: fn(&serde_json::Value, Option<usize>) -> Result<Architecture, ConfigError>,
    /// The names of its tensors.
    pub(crate) names: Names,
}

/// A name under which a family's models are published.
#[derive(Debug)]
pub(crate) struct Kind {
    /// `model_type` in `config.json`.
    pub(crate) model_type: &'static str,
    /// Prefix of its classes in `architectures`.
    pub(crate) class: &'static str,
    /// The code that its files may name.
    pub(crate) code: Code,
}

/// Which code a model's files may name in `auto_map`. None of it runs: it tells what the tensors mean.
#[derive(Debug)]
pub(crate) enum Code {
    /// None.
    None,
    /// This.
    Known(&'static OwnCode),
    /// This, or none.
    KnownOrNone(&'static OwnCode),
}

/// Code that is known to compute a family.
#[derive(Debug)]
pub(crate) struct OwnCode {
    /// Where it is, if not in the model's own repository.
    pub(crate) repositories: &'static [&'static str],
    /// How its modules and classes begin.
    pub(crate) classes: &'static [&'static str],
}

impl Kind {
    /// A name without code of its own.
    pub(crate) const fn new(model_type: &'static str, class: &'static str) -> Self {
        Self { model_type, class, code: Code::None }
    }
}

impl Code {
    /// Whether a configuration's `auto_map` names what is allowed.
    fn allows(&self, auto_map: &serde_json::Value) -> bool {
        let (known, is_optional) = match self {
            Self::None => (None, true),
            Self::Known(known) => (Some(known), false),
            Self::KnownOrNone(known) => (Some(known), true),
        };
        let names = match auto_map {
            serde_json::Value::Null => return is_optional,
            serde_json::Value::Object(map) if map.is_empty() => return is_optional,
            serde_json::Value::Object(map) => map.values(),
            _ => return false,
        };
        known.is_some_and(|known| names.into_iter().all(|name| name.as_str().is_some_and(|name| known.has(name))))
    }
}

impl OwnCode {
    /// Whether it has a class, `[OWNER/NAME--]MODULE.CLASS`.
    fn has(&self, class: &str) -> bool {
        let (repository, class) = class.split_once("--").map_or((None, class), |(at, class)| (Some(at), class));
        repository.is_none_or(|repository| self.repositories.contains(&repository))
            && self.classes.iter().any(|known| class.starts_with(known))
    }
}

/// Why a `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not valid JSON, or a field has the wrong type.
    #[error("config.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// An architecture that no family describes.
    #[error("unsupported architecture {architecture}: supported are {}", supported())]
    Architecture {
        /// As the file names it.
        architecture: String,
    },
    /// An unsupported variant.
    #[error("{field} is {value}, supported is {supported}")]
    Unsupported {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        supported: &'static str,
    },
}

/// A `config.json` whose family is known.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) family: &'static Family,
    value: serde_json::Value,
    /// Labels of the classifier; `None` for a bare encoder.
    labels: Option<usize>,
    /// Whether the file names neither a class nor labels.
    has_unknown_head: bool,
}

/// Reads a `config.json`. A bare encoder is an embedding model until an adapter gives it a head.
///
/// # Errors
/// The JSON is broken, no family describes the model, or a field has an unsupported value.
pub fn read_config(bytes: &[u8]) -> Result<Architecture, ConfigError> {
    Config::parse(bytes)?.architecture(None, None)
}

impl Config {
    /// Finds the family.
    ///
    /// # Errors
    /// The JSON is broken, or no family describes the model.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let value: serde_json::Value = serde_json::from_slice(bytes)?;
        let class = class(&value)?;
        let model_type = value["model_type"].as_str();
        if model_type.is_none() && !value["model_type"].is_null() {
            let value = shown(&value["model_type"].to_string());
            return Err(ConfigError::Unsupported { field: "model_type", value, supported: "a name" });
        }
        // Prefer the class: it says more than the type.
        let named = || shown(class.or(model_type).unwrap_or("(none named)"));
        let kinds = FAMILIES.iter().flat_map(|family| family.kinds.iter().map(move |kind| (family, kind)));
        let found = kinds.filter_map(|(family, kind)| {
            let ending = class.map_or(Some(""), |class| class.strip_prefix(kind.class))?;
            let of_type = model_type.map_or(class.is_some(), |model_type| model_type == kind.model_type);
            let ending = match ending {
                "" => Some(None),
                CLASSIFIER => Some(Some(true)),
                ENCODER => Some(Some(false)),
                _ => None,
            }?;
            (of_type && (class.is_none() == ending.is_none())).then_some((family, &kind.code, ending))
        });
        let mut found = found.peekable();
        if found.peek().is_none() {
            return Err(ConfigError::Architecture { architecture: named() });
        }
        let Some((family, _, is_classifier)) = found.find(|(_, code, _)| code.allows(&value["auto_map"])) else {
            return Err(own_code(&value));
        };
        let explicit = labels(&value);
        let labels = match is_classifier {
            Some(true) => Some(explicit.unwrap_or(config::DEFAULT_LABELS)),
            Some(false) => None,
            None => explicit,
        };
        let has_unknown_head = is_classifier.is_none() && explicit.is_none();
        Ok(Self { family, value, labels, has_unknown_head })
    }

    /// Whether the file does not say if the model has a head: then its weights do.
    pub(crate) fn has_unknown_head(&self) -> bool {
        self.has_unknown_head
    }

    /// Sets the labels of the classifier that the weights have.
    pub(crate) fn set_labels(&mut self, labels: Option<usize>) {
        self.labels = labels;
    }

    /// The architecture of the configuration; with `adapter_labels`, of the classifier that an adapter makes of it;
    /// with
    /// `head`, of the bare encoder and a head of its own.
    ///
    /// # Errors
    /// A field is missing or has an unsupported value.
    pub(crate) fn architecture(
        &self,
        adapter_labels: Option<usize>,
        head: Option<(Pooling, Head)>,
    ) -> Result<Architecture, ConfigError> {
        if self.value["is_causal"] == true {
            return Err(config::unsupported("is_causal", true, "false: tokens attend to all others of their row"));
        }
        let mut architecture = (self.family.architecture)(&self.value, adapter_labels.or(self.labels))?;
        if let Some(head) = head {
            if architecture.head != Head::Embedding {
                let (value, supported) = ("a classifier", "a bare encoder: the modules beside it have a head too");
                return Err(config::unsupported("architectures", value, supported));
            }
            (architecture.pooling, architecture.head) = head;
        }
        check::check(&architecture)?;
        Ok(architecture)
    }
}

/// The one class in `architectures`; `None` if the field is missing, null or empty.
fn class(value: &serde_json::Value) -> Result<Option<&str>, ConfigError> {
    let unsupported = |value: String| {
        Err(ConfigError::Unsupported { field: "architectures", value: shown(&value), supported: "a list of one class" })
    };
    match &value["architectures"] {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::Array(classes) => match classes.as_slice() {
            [] => Ok(None),
            [serde_json::Value::String(class)] => Ok(Some(class)),
            _ => unsupported(value["architectures"].to_string()),
        },
        other => unsupported(other.to_string()),
    }
}

/// The error for a model with unknown code of its own.
fn own_code(value: &serde_json::Value) -> ConfigError {
    ConfigError::Unsupported {
        field: "auto_map",
        value: shown(&value["auto_map"].to_string()),
        supported: "none, or that of GTE and jina-reranker-v2: other code may compute something else",
    }
}

/// Every supported class, for messages.
fn supported() -> String {
    let kinds = FAMILIES.iter().flat_map(|family| family.kinds);
    let mut classes: Vec<&str> = kinds.map(|kind| kind.class).collect();
    classes.sort_unstable();
    classes.dedup();
    let classes: Vec<String> =
        classes.into_iter().map(|class| format!("{class}{CLASSIFIER} and {class}{ENCODER}")).collect();
    classes.join(", ")
}

/// Shortens a file's text to fit a message.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Task;

    /// A small model's configuration with some fields replaced; null removes one.
    fn with(changes: &serde_json::Value) -> Result<Architecture, ConfigError> {
        let mut json = serde_json::json!({
            "architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": 100,
            "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100,
            "max_position_embeddings": 64,
        });
        for (field, value) in changes.as_object().unwrap() {
            json[field] = value.clone();
        }
        read_config(json.to_string().as_bytes())
    }

    #[test]
    fn labels_are_counted() {
        let one = serde_json::json!({ "id2label": { "0": "LABEL_0" } });
        assert_eq!(with(&one).unwrap().outputs(), 1);
        assert_eq!(with(&serde_json::json!({ "num_labels": 5 })).unwrap().outputs(), 5);
        assert_eq!(with(&serde_json::json!({})).unwrap().outputs(), 2);
    }

    #[test]
    fn a_bare_encoder_is_an_embedding_model() {
        let architecture = with(&serde_json::json!({ "architectures": ["BertModel"] })).unwrap();
        assert_eq!((architecture.task(), architecture.outputs()), (Task::Embedding, 48));
    }

    #[test]
    fn a_supported_model_type_needs_no_class() {
        for none in [serde_json::json!(null), serde_json::json!([])] {
            let bare = with(&serde_json::json!({ "architectures": none })).unwrap();
            assert_eq!(bare.task(), Task::Embedding);
            let labels = with(&serde_json::json!({ "architectures": none, "num_labels": 1 })).unwrap();
            assert_eq!((labels.task(), labels.outputs()), (Task::CrossEncoder, 1));
        }
        let unknown = with(&serde_json::json!({ "architectures": null, "model_type": "mpnet" })).unwrap_err();
        let unknown = unknown.to_string();
        assert!(unknown.starts_with("unsupported architecture mpnet: supported are Bert"), "{unknown}");
        assert_eq!(unknown.matches("XLMRobertaForSequenceClassification").count(), 1, "{unknown}");
        assert!(read_config(b"{}").unwrap_err().to_string().contains("(none named)"));
        let numbered = with(&serde_json::json!({ "model_type": 5 })).unwrap_err();
        assert_eq!(numbered.to_string(), "model_type is 5, supported is a name");
    }

    #[test]
    fn other_architectures_are_refused_by_name() {
        for name in ["GPT2LMHeadModel", "BertForMaskedLM", "MPNetForSequenceClassification", "Model", ""] {
            // Their files lack fields of the families': the name must come first.
            let json = serde_json::json!({ "architectures": [name], "dim": 32 }).to_string();
            let error = read_config(json.as_bytes()).unwrap_err();
            assert!(matches!(&error, ConfigError::Architecture { architecture } if architecture == name), "{error}");
        }
    }

    #[test]
    fn a_misleading_type_or_class_is_refused() {
        let cases = [
            (serde_json::json!({ "model_type": "other" }), "unsupported architecture BertForSequenceClassification"),
            (serde_json::json!({ "architectures": ["BertModel", "BertModel"] }), "supported is a list of one class"),
            (serde_json::json!({ "architectures": "BertModel" }), "supported is a list of one class"),
            (serde_json::json!({ "architectures": [1] }), "supported is a list of one class"),
            (serde_json::json!({ "auto_map": { "AutoModel": "owner/name--modeling.Other" } }), "auto_map is"),
        ];
        for (changes, expected) in cases {
            let message = with(&changes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        assert!(with(&serde_json::json!({ "auto_map": {} })).is_ok());
    }

    #[test]
    fn a_message_shows_a_part_of_a_hostile_file() {
        let name = "é".repeat(10_000);
        let message = with(&serde_json::json!({ "architectures": [name] })).unwrap_err().to_string();
        assert!(message.len() < 2_000, "{} bytes", message.len());
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let cases = [
            (serde_json::json!({ "num_attention_heads": 5 }), "a multiple of num_attention_heads"),
            (serde_json::json!({ "num_attention_heads": 0 }), "a multiple of num_attention_heads"),
            (serde_json::json!({ "hidden_size": 3_000_000 }), "hidden size is 3000000"),
            (serde_json::json!({ "vocab_size": 0 }), "vocabulary size is 0"),
            (serde_json::json!({ "num_hidden_layers": 0 }), "num_hidden_layers is 0"),
            (serde_json::json!({ "num_hidden_layers": 1_000_000_000_000u64 }), "num_hidden_layers is 1000000000000"),
            (serde_json::json!({ "max_position_embeddings": 0 }), "longest row is 0"),
            (serde_json::json!({ "type_vocab_size": 3 }), "type_vocab_size is 3"),
            (serde_json::json!({ "layer_norm_eps": 0.0 }), "eps of a norm is 0"),
            (serde_json::json!({ "vocab_size": -1 }), "cannot be read"),
            (serde_json::json!({ "id2label": {} }), "number of labels is 0"),
            (serde_json::json!({ "is_causal": true }), "is_causal is true"),
        ];
        for (changes, expected) in cases {
            let message = with(&changes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn invalid_json_is_refused() {
        for bytes in [&b""[..], b"[1", b"null", b"[]", b"\xff\xfe"] {
            assert!(read_config(bytes).is_err(), "{bytes:?}");
        }
    }
}
