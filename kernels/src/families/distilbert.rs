//! DistilBERT (Sanh et al. 2019, <https://arxiv.org/abs/1910.01108>), as Hugging Face's
//! `DistilBertForSequenceClassification` and `DistilBertModel` implement it: BERT without token types, with other names
//! and relu in the head.

use serde::Deserialize;
use serde_json::Value;

use super::bert::{ENCODER_NAMES, classifier_or_mean};
use super::config::{activation, head_dim, plain_layers, unsupported};
use super::{ConfigError, Family, Intermediate, Kind, Names, QueryKeyValue};
use crate::architecture::{
    Activation, Architecture, Attention, Block, Embeddings, Mlp, MlpKind, Norm, NormKind, NormPlacement, Positions,
    TokenTypes,
};

pub(super) const FAMILY: Family =
    Family { kinds: &[Kind::new("distilbert", "DistilBert")], architecture, names: NAMES };

const NAMES: Names = Names {
    prefix: "distilbert.",
    token_type: "",
    layer: "transformer.layer.",
    query_key_value: QueryKeyValue::Separate(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    intermediate: Intermediate::One("ffn.lin1"),
    output: "ffn.lin2",
    output_norm: "output_layer_norm",
    dense: "pre_classifier",
    classifier: "classifier",
    ..ENCODER_NAMES
};

/// Fixed for the family; not in the configuration.
const NORM: Norm = Norm { kind: NormKind::Layer, eps: 1e-12, bias: true };

/// Fields of `config.json`.
#[derive(Debug, Deserialize)]
struct DistilBertConfig {
    vocab_size: usize,
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    max_position_embeddings: usize,
    #[serde(default = "default_activation")]
    activation: String,
}

fn default_activation() -> String {
    "gelu".to_owned()
}

fn architecture(config: &Value, labels: Option<usize>) -> Result<Architecture, ConfigError> {
    for (own, general) in
        [("dim", "hidden_size"), ("n_heads", "num_attention_heads"), ("n_layers", "num_hidden_layers")]
    {
        if !config[general].is_null() && config[general] != config[own] {
            return Err(unsupported(own, &config[own], "the number that its other name in the file has too"));
        }
    }
    let config = DistilBertConfig::deserialize(config)?;
    let head_dim = head_dim("n_heads", config.dim, config.n_heads)?;
    let (pooling, head) = classifier_or_mean(Activation::Relu, labels);
    // Sine and cosine positions are stored as a table too.
    let positions = Positions::Learned { rows: config.max_position_embeddings, first: 0, padding_id: None };
    Ok(Architecture {
        family: "distilbert",
        vocab_size: config.vocab_size,
        hidden_size: config.dim,
        max_tokens: config.max_position_embeddings,
        embeddings: Embeddings { width: config.dim, positions, token_types: TokenTypes::None, norm: Some(NORM) },
        block: Block {
            norm: NORM,
            norm_placement: NormPlacement::After,
            attention: Attention::of_heads(config.n_heads, head_dim),
            mlp: Mlp {
                intermediate_size: config.hidden_dim,
                activation: activation("activation", &config.activation)?,
                kind: MlpKind::Plain,
                intermediate_bias: true,
                output_bias: true,
            },
        },
        layers: plain_layers("n_layers", config.n_layers)?,
        final_norm: None,
        pooling,
        head,
    })
}

#[cfg(test)]
mod tests {
    use super::super::read_config;
    use super::*;
    use crate::architecture::{Dense, Head};

    fn config(changes: &Value) -> Result<Architecture, ConfigError> {
        let mut json = serde_json::json!({
            "architectures": ["DistilBertForSequenceClassification"], "model_type": "distilbert", "vocab_size": 100,
            "dim": 48, "n_layers": 2, "n_heads": 3, "hidden_dim": 100, "max_position_embeddings": 64,
        });
        for (field, value) in changes.as_object().unwrap() {
            json[field] = value.clone();
        }
        read_config(json.to_string().as_bytes())
    }

    #[test]
    fn there_are_no_token_types_and_the_head_has_relu() {
        let architecture = config(&serde_json::json!({})).unwrap();
        assert_eq!(architecture.embeddings.token_types, TokenTypes::None);
        let dense = Some(Dense { bias: true, activation: Some(Activation::Relu), norm: None });
        assert_eq!(architecture.head, Head::Classifier { dense, labels: 2, bias: true });
    }

    #[test]
    fn fields_are_named_as_the_family_names_them() {
        let cases = [
            (serde_json::json!({ "n_heads": 5 }), "n_heads is 5, supported is a divisor of dim"),
            (serde_json::json!({ "n_layers": 0 }), "n_layers is 0"),
            (
                serde_json::json!({ "num_attention_heads": 6 }),
                "n_heads is 3, supported is the number that its other name",
            ),
            (serde_json::json!({ "activation": "swiglu" }), "activation is swiglu"),
        ];
        for (changes, expected) in cases {
            let message = config(&changes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
