//! BERT (Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>), as Hugging Face's `BertForSequenceClassification` and
//! `BertModel` implement it: learned positions, two token types, norms after each part, a head with the pooler.

use serde::Deserialize;
use serde_json::Value;

use super::config::{activation, check_absolute_encoder, head_dim, plain_layers, token_types};
use super::{ConfigError, Family, Intermediate, Kind, Names, QueryKeyValue};
use crate::architecture::{
    Activation, Architecture, Attention, Block, Dense, Embeddings, Head, Mlp, MlpKind, Norm, NormKind, NormPlacement,
    Pooling, Positions,
};

pub(super) const FAMILY: Family = Family { kinds: &[Kind::new("bert", "Bert")], architecture, names: NAMES };

const NAMES: Names = Names { prefix: "bert.", dense: "bert.pooler.dense", classifier: "classifier", ..ENCODER_NAMES };

/// Names that other families share with BERT.
pub(super) const ENCODER_NAMES: Names = Names {
    prefix: "",
    word: "embeddings.word_embeddings",
    position: "embeddings.position_embeddings",
    token_type: "embeddings.token_type_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    projection: "",
    relative: "",
    relative_norm: "",
    layer: "encoder.layer.",
    query_key_value: QueryKeyValue::Separate(["attention.self.query", "attention.self.key", "attention.self.value"]),
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: Intermediate::One("intermediate.dense"),
    output: "output.dense",
    output_norm: "output.LayerNorm",
    final_norm: "",
    dense: "",
    dense_norm: "",
    classifier: "",
};

/// Fields of `config.json` that other families share with BERT.
#[derive(Debug, Deserialize)]
pub(super) struct BertConfig {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "default_type_vocab_size")]
    type_vocab_size: usize,
    #[serde(default = "default_layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "default_hidden_act")]
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

fn default_type_vocab_size() -> usize {
    2
}

pub(super) fn default_layer_norm_eps() -> f64 {
    1e-12
}

pub(super) fn default_hidden_act() -> String {
    "gelu".to_owned()
}

fn architecture(config: &Value, labels: Option<usize>) -> Result<Architecture, ConfigError> {
    BertConfig::deserialize(config)?.architecture("bert", Activation::Tanh, labels)
}

impl BertConfig {
    /// The encoder with embeddings as wide as its layers and positions from the table's first row on. Its classifier
    /// has a dense layer with `head_activation`.
    pub(super) fn architecture(
        &self,
        family: &'static str,
        head_activation: Activation,
        labels: Option<usize>,
    ) -> Result<Architecture, ConfigError> {
        check_absolute_encoder(self.position_embedding_type.as_deref(), self.is_decoder)?;
        let norm = Norm { kind: NormKind::Layer, eps: self.layer_norm_eps, bias: true };
        let heads = self.num_attention_heads;
        let head_dim = head_dim("num_attention_heads", self.hidden_size, heads)?;
        let (pooling, head) = classifier_or_mean(head_activation, labels);
        Ok(Architecture {
            family,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_tokens: self.max_position_embeddings,
            embeddings: Embeddings {
                width: self.hidden_size,
                positions: Positions::Learned { rows: self.max_position_embeddings, first: 0, padding_id: None },
                token_types: token_types(self.type_vocab_size)?,
                norm: Some(norm),
            },
            block: Block {
                norm,
                norm_placement: NormPlacement::After,
                attention: Attention::of_heads(heads, head_dim),
                mlp: Mlp {
                    intermediate_size: self.intermediate_size,
                    activation: activation("hidden_act", &self.hidden_act)?,
                    kind: MlpKind::Plain,
                    intermediate_bias: true,
                    output_bias: true,
                },
            },
            layers: plain_layers("num_hidden_layers", self.num_hidden_layers)?,
            final_norm: None,
            pooling,
            head,
        })
    }
}

/// A classifier over the first token with a dense layer, or embeddings by the mean of all tokens.
pub(super) fn classifier_or_mean(activation: Activation, labels: Option<usize>) -> (Pooling, Head) {
    match labels {
        None => (Pooling::Mean, Head::Embedding),
        Some(labels) => {
            let dense = Some(Dense { bias: true, activation: Some(activation), norm: None });
            (Pooling::First, Head::Classifier { dense, labels, bias: true })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::TokenTypes;

    fn config(changes: &Value) -> Result<Architecture, ConfigError> {
        let mut json = serde_json::json!({
            "architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": 100,
            "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100,
            "max_position_embeddings": 64,
        });
        for (field, value) in changes.as_object().unwrap() {
            json[field] = value.clone();
        }
        super::super::read_config(json.to_string().as_bytes())
    }

    #[test]
    fn missing_fields_have_berts_defaults() {
        let architecture = config(&serde_json::json!({})).unwrap();
        assert_eq!(architecture.embeddings.token_types, TokenTypes::Two);
        assert_eq!(architecture.block.norm.eps.to_bits(), 1e-12f64.to_bits());
        assert_eq!((architecture.block.attention.head_dim, architecture.max_tokens), (16, 64));
        assert_eq!(architecture.block.mlp.activation, Activation::Gelu);
    }

    #[test]
    fn unsupported_values_are_refused_with_the_supported_ones() {
        let cases = [
            (serde_json::json!({ "hidden_act": "quick_gelu" }), "hidden_act is quick_gelu"),
            (serde_json::json!({ "position_embedding_type": "relative_key" }), "supported is absolute"),
            (serde_json::json!({ "position_embedding_type": "alibi" }), "supported is absolute"),
            (serde_json::json!({ "is_decoder": true }), "is_decoder is true"),
        ];
        for (changes, expected) in cases {
            let message = config(&changes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
