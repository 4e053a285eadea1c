//! The shape of a BERT encoder, read once from `config.json` and checked there.

use serde::Deserialize;

/// Dimensions above this are refused: no BERT in use comes near, and a hostile `config.json` must not make the host
/// reserve memory for a model that cannot exist.
const MAX_DIMENSION: usize = 1 << 20;

/// What a model computes for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// One logit per label, from the pooled first token.
    CrossEncoder,
    /// The mean of the last hidden states, scaled to unit length.
    Embedding,
}

/// A BERT encoder's dimensions, in the names that its `config.json` uses.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
    /// Rows of the word embedding table.
    pub vocab_size: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Longest row in tokens.
    pub max_position_embeddings: usize,
    /// Token types: 1 or 2.
    pub type_vocab_size: usize,
    /// Added to the variance in LayerNorm.
    pub layer_norm_eps: f64,
    /// What the head computes.
    pub task: Task,
    /// Numbers per row: labels, or `hidden_size` for embeddings.
    pub outputs: usize,
}

/// Why a `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not the JSON that it should be.
    #[error("config.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// An architecture that no engine implements.
    #[error(
        "unsupported architecture {architecture}: supported are BertForSequenceClassification, and BertModel with or without an adapter"
    )]
    Architecture {
        /// As the file names it.
        architecture: String,
    },
    /// A BERT variant that would be computed wrongly.
    #[error("config.json: {field} is {value}, supported is {supported}")]
    Unsupported {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        supported: &'static str,
    },
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "default_layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "default_hidden_act")]
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    id2label: Option<serde_json::Map<String, serde_json::Value>>,
    num_labels: Option<usize>,
}

fn two() -> usize {
    2
}

fn default_layer_norm_eps() -> f64 {
    1e-12
}

fn default_hidden_act() -> String {
    "gelu".to_owned()
}

impl BertConfig {
    /// Reads `config.json`. A `BertModel` is an [embedding](Task::Embedding) model until an adapter gives it a head.
    ///
    /// # Errors
    /// The JSON is broken, the architecture is not BERT, or a field has a value that no engine implements.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        let value: serde_json::Value = serde_json::from_slice(bytes)?;
        // The architecture is named first: another family's file would otherwise fail on some field it lacks.
        let architecture =
            value["architectures"][0].as_str().or(value["model_type"].as_str()).unwrap_or("(none named)");
        let task = match architecture {
            "BertForSequenceClassification" => Task::CrossEncoder,
            "BertModel" => Task::Embedding,
            other => return Err(ConfigError::Architecture { architecture: other.to_owned() }),
        };
        let raw: RawConfig = serde_json::from_value(value)?;
        raw.check()?;
        let labels = raw.id2label.as_ref().map(serde_json::Map::len).or(raw.num_labels).unwrap_or(2);
        let config = Self {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: raw.num_attention_heads,
            intermediate_size: raw.intermediate_size,
            max_position_embeddings: raw.max_position_embeddings,
            type_vocab_size: raw.type_vocab_size,
            layer_norm_eps: raw.layer_norm_eps,
            task,
            outputs: match task {
                Task::CrossEncoder => labels,
                Task::Embedding => raw.hidden_size,
            },
        };
        config.check()?;
        Ok(config)
    }

    /// Width of one attention head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    fn check(&self) -> Result<(), ConfigError> {
        let dimensions = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("number of labels", self.outputs),
        ];
        for (field, value) in dimensions {
            if value == 0 || value > MAX_DIMENSION {
                return Err(ConfigError::Unsupported { field, value: value.to_string(), supported: "1 to 1048576" });
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(ConfigError::Unsupported {
                field: "hidden_size",
                value: self.hidden_size.to_string(),
                supported: "a multiple of num_attention_heads",
            });
        }
        if !(1..=2).contains(&self.type_vocab_size) {
            return Err(ConfigError::Unsupported {
                field: "type_vocab_size",
                value: self.type_vocab_size.to_string(),
                supported: "1 or 2",
            });
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return Err(ConfigError::Unsupported {
                field: "layer_norm_eps",
                value: self.layer_norm_eps.to_string(),
                supported: "between 0 and 1",
            });
        }
        Ok(())
    }
}

impl RawConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let unsupported =
            |field, value: &str, supported| Err(ConfigError::Unsupported { field, value: value.to_owned(), supported });
        if self.architectures.len() > 1 {
            return unsupported("architectures", &self.architectures.join(", "), "a single one");
        }
        match self.model_type.as_deref() {
            None | Some("bert") => {}
            Some(other) => return unsupported("model_type", other, "bert"),
        }
        if self.hidden_act != "gelu" {
            return unsupported("hidden_act", &self.hidden_act, "gelu (the exact one, by erf)");
        }
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => return unsupported("position_embedding_type", other, "absolute"),
        }
        if self.is_decoder {
            return unsupported("is_decoder", "true", "false");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small cross-encoder's configuration with some fields replaced.
    fn config(changes: &serde_json::Value) -> Result<BertConfig, ConfigError> {
        let mut json = serde_json::json!({
            "architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": 100,
            "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100,
            "max_position_embeddings": 64,
        });
        for (field, value) in changes.as_object().unwrap() {
            json[field] = value.clone();
        }
        BertConfig::from_json(json.to_string().as_bytes())
    }

    #[test]
    fn what_a_file_leaves_out_has_berts_defaults() {
        let config = config(&serde_json::json!({})).unwrap();
        assert_eq!((config.type_vocab_size, config.layer_norm_eps, config.outputs), (2, 1e-12, 2));
        assert_eq!((config.task, config.head_dim()), (Task::CrossEncoder, 16));
    }

    #[test]
    fn labels_are_counted() {
        let one = serde_json::json!({ "id2label": { "0": "LABEL_0" } });
        assert_eq!(config(&one).unwrap().outputs, 1);
        assert_eq!(config(&serde_json::json!({ "num_labels": 5 })).unwrap().outputs, 5);
    }

    #[test]
    fn a_bare_encoder_is_an_embedding_model() {
        let config = config(&serde_json::json!({ "architectures": ["BertModel"] })).unwrap();
        assert_eq!((config.task, config.outputs), (Task::Embedding, 48));
    }

    #[test]
    fn other_architectures_are_refused_by_name() {
        for name in ["DistilBertForSequenceClassification", "XLMRobertaForSequenceClassification", "ModernBertModel"] {
            // Their files lack fields of BERT's: the name must come first.
            let json = serde_json::json!({ "architectures": [name], "dim": 32 }).to_string();
            let error = BertConfig::from_json(json.as_bytes()).unwrap_err();
            assert!(matches!(&error, ConfigError::Architecture { architecture } if architecture == name), "{error}");
        }
        let error = BertConfig::from_json(b"{}").unwrap_err();
        assert!(error.to_string().contains("(none named)"), "{error}");
    }

    #[test]
    fn values_that_would_be_computed_wrongly_are_refused_with_what_would_do() {
        let cases = [
            (serde_json::json!({ "hidden_act": "gelu_new" }), "hidden_act is gelu_new"),
            (serde_json::json!({ "hidden_act": "relu" }), "hidden_act is relu"),
            (serde_json::json!({ "position_embedding_type": "relative_key" }), "supported is absolute"),
            (serde_json::json!({ "is_decoder": true }), "is_decoder is true"),
            (serde_json::json!({ "model_type": "roberta" }), "model_type is roberta"),
            (serde_json::json!({ "num_attention_heads": 5 }), "a multiple of num_attention_heads"),
            (serde_json::json!({ "num_attention_heads": 0 }), "num_attention_heads is 0"),
            (serde_json::json!({ "hidden_size": 2_000_000 }), "hidden_size is 2000000"),
            (serde_json::json!({ "num_hidden_layers": 0 }), "num_hidden_layers is 0"),
            (serde_json::json!({ "type_vocab_size": 3 }), "type_vocab_size is 3"),
            (serde_json::json!({ "layer_norm_eps": 0.0 }), "layer_norm_eps is 0"),
            (serde_json::json!({ "vocab_size": -1 }), "cannot be read"),
            (serde_json::json!({ "id2label": {} }), "number of labels is 0"),
        ];
        for (changes, expected) in cases {
            let message = config(&changes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bytes in [&b""[..], b"[1", b"null", b"\xff\xfe"] {
            assert!(BertConfig::from_json(bytes).is_err(), "{bytes:?}");
        }
    }
}
