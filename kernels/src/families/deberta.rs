//! DeBERTa in its second and third version (He et al. 2021, <https://arxiv.org/abs/2111.09543>), as Hugging Face's
//! `DebertaV2ForSequenceClassification` and `DebertaV2Model` implement it: BERT's layers, whose attention adds scores
//! by distance.

use serde::Deserialize;
use serde_json::Value;

use super::bert::{ENCODER_NAMES, classifier_or_mean};
use super::config::{activation, head_dim, plain_layers, token_types, unsupported};
use super::{ConfigError, Family, Kind, Names, QueryKeyValue};
use crate::architecture::{
    Architecture, Attention, Block, Embeddings, Mlp, MlpKind, Norm, NormKind, NormPlacement, Positions,
    RelativePositions,
};

pub(super) const FAMILY: Family = Family { kinds: &[Kind::new("deberta-v2", "DebertaV2")], architecture, names: NAMES };

const NAMES: Names = Names {
    prefix: "deberta.",
    query_key_value: QueryKeyValue::Separate([
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
    ]),
    relative: "encoder.rel_embeddings",
    relative_norm: "encoder.LayerNorm",
    dense: "pooler.dense",
    classifier: "classifier",
    ..ENCODER_NAMES
};

/// Fields of `config.json`, with the library's defaults.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct DebertaConfig {
    vocab_size: usize,
    hidden_size: usize,
    embedding_size: Option<usize>,
    pooler_hidden_size: Option<usize>,
    attention_head_size: Option<usize>,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    hidden_act: String,
    pooler_hidden_act: String,
    layer_norm_eps: f64,
    relative_attention: bool,
    /// Below 1: `max_position_embeddings`.
    max_relative_positions: i64,
    /// Below 1: every distance has its own row.
    position_buckets: i64,
    position_biased_input: bool,
    share_att_key: bool,
    /// A list, or one string with `|` between.
    pos_att_type: Value,
    norm_rel_ebd: String,
    conv_kernel_size: u64,
}

impl Default for DebertaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 128_100,
            hidden_size: 1_536,
            embedding_size: None,
            pooler_hidden_size: None,
            attention_head_size: None,
            num_hidden_layers: 24,
            num_attention_heads: 24,
            intermediate_size: 6_144,
            max_position_embeddings: 512,
            type_vocab_size: 0,
            hidden_act: "gelu".to_owned(),
            pooler_hidden_act: "gelu".to_owned(),
            layer_norm_eps: 1e-7,
            relative_attention: false,
            max_relative_positions: -1,
            position_buckets: -1,
            position_biased_input: true,
            share_att_key: false,
            pos_att_type: Value::Null,
            norm_rel_ebd: "none".to_owned(),
            conv_kernel_size: 0,
        }
    }
}

fn architecture(config: &Value, labels: Option<usize>) -> Result<Architecture, ConfigError> {
    let config = DebertaConfig::deserialize(config)?;
    config.check()?;
    let norm = Norm { kind: NormKind::Layer, eps: config.layer_norm_eps, bias: true };
    let heads = config.num_attention_heads;
    let head_dim = head_dim("num_attention_heads", config.hidden_size, heads)?;
    let (pooling, head) = classifier_or_mean(activation("pooler_hidden_act", &config.pooler_hidden_act)?, labels);
    let rows = config.max_position_embeddings;
    Ok(Architecture {
        family: "deberta-v2",
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        max_tokens: rows,
        embeddings: Embeddings {
            width: config.hidden_size,
            positions: match config.position_biased_input {
                true => Positions::Learned { rows, first: 0, padding_id: None },
                false => Positions::None,
            },
            token_types: token_types(config.type_vocab_size)?,
            norm: Some(norm),
        },
        block: Block {
            norm,
            norm_placement: NormPlacement::After,
            attention: Attention {
                relative: Some(config.relative_positions(norm)?),
                ..Attention::of_heads(heads, head_dim)
            },
            mlp: Mlp {
                intermediate_size: config.intermediate_size,
                activation: activation("hidden_act", &config.hidden_act)?,
                kind: MlpKind::Plain,
                intermediate_bias: true,
                output_bias: true,
            },
        },
        layers: plain_layers("num_hidden_layers", config.num_hidden_layers)?,
        final_norm: None,
        pooling,
        head,
    })
}

impl DebertaConfig {
    /// Refuses variants that compute something else.
    fn check(&self) -> Result<(), ConfigError> {
        let as_wide_as_hidden = [
            ("embedding_size", self.embedding_size.unwrap_or(self.hidden_size), self.hidden_size),
            ("pooler_hidden_size", self.pooler_hidden_size.unwrap_or(self.hidden_size), self.hidden_size),
        ];
        for (field, value, hidden) in as_wide_as_hidden {
            if value != hidden {
                return Err(unsupported(field, value, "the same as hidden_size"));
            }
        }
        if let Some(size) = self.attention_head_size
            && size.saturating_mul(self.num_attention_heads) != self.hidden_size
        {
            return Err(unsupported("attention_head_size", size, "hidden_size divided by num_attention_heads"));
        }
        if self.conv_kernel_size > 0 {
            return Err(unsupported("conv_kernel_size", self.conv_kernel_size, "0: no convolution"));
        }
        if !self.relative_attention {
            return Err(unsupported("relative_attention", false, "true"));
        }
        if !self.share_att_key {
            return Err(unsupported("share_att_key", false, "true"));
        }
        let mut kinds: Vec<String> = match &self.pos_att_type {
            Value::String(kinds) => kinds.to_lowercase().split('|').map(|kind| kind.trim().to_owned()).collect(),
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        kinds.sort_unstable();
        if kinds != ["c2p", "p2c"] {
            return Err(unsupported("pos_att_type", &self.pos_att_type, "c2p and p2c"));
        }
        Ok(())
    }

    fn relative_positions(&self, norm: Norm) -> Result<RelativePositions, ConfigError> {
        let max_distance = usize::try_from(self.max_relative_positions).ok().filter(|&max| max > 0);
        let max_distance = max_distance.unwrap_or(self.max_position_embeddings);
        let buckets = usize::try_from(self.position_buckets).ok().filter(|&buckets| buckets > 0);
        let norm = match self.norm_rel_ebd.to_lowercase() {
            kinds if kinds.split('|').any(|kind| kind.trim() == "layer_norm") => Some(norm),
            kinds if kinds == "none" || kinds.is_empty() => None,
            other => return Err(unsupported("norm_rel_ebd", other, "layer_norm or none")),
        };
        Ok(RelativePositions {
            span: buckets.unwrap_or(max_distance),
            max_distance: buckets.map(|_| max_distance),
            norm,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_config;
    use super::*;
    use crate::architecture::{Activation, Dense, Head};

    fn config(changes: &Value) -> Result<Architecture, ConfigError> {
        let mut json = serde_json::json!({
            "architectures": ["DebertaV2ForSequenceClassification"], "model_type": "deberta-v2", "vocab_size": 100,
            "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100,
            "max_position_embeddings": 512, "relative_attention": true, "position_buckets": 256,
            "share_att_key": true, "pos_att_type": "p2c|c2p", "norm_rel_ebd": "layer_norm",
            "position_biased_input": false, "num_labels": 1,
        });
        for (field, value) in changes.as_object().unwrap() {
            json[field] = value.clone();
        }
        read_config(json.to_string().as_bytes())
    }

    #[test]
    fn the_third_versions_configuration_is_read() {
        let architecture = config(&serde_json::json!({})).unwrap();
        let relative = architecture.block.attention.relative.unwrap();
        assert_eq!((relative.span, relative.max_distance, relative.rows()), (256, Some(512), 512));
        assert!(relative.norm.is_some());
        assert_eq!((architecture.embeddings.positions, architecture.max_tokens), (Positions::None, 512));
        let dense = Some(Dense { bias: true, activation: Some(Activation::Gelu), norm: None });
        assert_eq!(architecture.head, Head::Classifier { dense, labels: 1, bias: true });
        let listed = config(&serde_json::json!({ "pos_att_type": ["c2p", "p2c"] })).unwrap();
        assert_eq!(listed, architecture);
    }

    #[test]
    fn near_distances_have_their_own_rows_and_far_ones_share_them() {
        let relative = RelativePositions { span: 256, max_distance: Some(512), norm: None };
        for distance in -128..=128 {
            assert_eq!(relative.row(distance), (distance + 256) as usize);
        }
        // As PyTorch computes them.
        let expected = [(129, 385), (130, 386), (200, 425), (300, 463), (511, 511), (600, 511), (-511, 1), (-600, 0)];
        for (distance, row) in expected {
            assert_eq!(relative.row(distance), row, "distance {distance}");
        }
        let rows: Vec<usize> = (-1_000..1_000).map(|distance| relative.row(distance)).collect();
        assert!(rows.is_sorted());
    }

    #[test]
    fn variants_that_compute_something_else_are_refused() {
        let cases = [
            (serde_json::json!({ "conv_kernel_size": 3 }), "conv_kernel_size is 3"),
            (serde_json::json!({ "relative_attention": false }), "relative_attention is false"),
            (serde_json::json!({ "share_att_key": false }), "share_att_key is false"),
            (serde_json::json!({ "pos_att_type": ["c2p"] }), "supported is c2p and p2c"),
            (serde_json::json!({ "norm_rel_ebd": "other" }), "supported is layer_norm or none"),
            (serde_json::json!({ "embedding_size": 24 }), "embedding_size is 24"),
            (serde_json::json!({ "position_buckets": 2_000_000 }), "span of relative positions"),
        ];
        for (changes, expected) in cases {
            let message = config(&changes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
