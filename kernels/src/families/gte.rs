//! GTE (Zhang et al. 2024, <https://arxiv.org/abs/2407.19669>): BERT's layers with rotary positions and a gate. The
//! checkpoints of the authors have the type `new` and name code of their own, which scales the rotary frequencies;
//! Hugging Face's `GteForSequenceClassification` and `GteModel` do not scale them.

use serde::Deserialize;
use serde_json::Value;

use super::bert::{ENCODER_NAMES, classifier_or_mean, default_hidden_act, default_layer_norm_eps};
use super::config::{activation, head_dim, plain_layers, token_types, unsupported};
use super::{Code, ConfigError, Family, Intermediate, Kind, Names, OwnCode, QueryKeyValue};
use crate::architecture::{
    Activation, Architecture, Attention, Block, Embeddings, Mlp, MlpKind, Norm, NormKind, NormPlacement, Pooling,
    Positions, Rotary,
};

/// As Hugging Face's library saves it.
pub(super) const FAMILY: Family =
    Family { kinds: &[Kind::new("gte", "Gte")], architecture: library_architecture, names: NAMES };

/// As the authors saved it.
pub(super) const OWN_CODE_FAMILY: Family = Family {
    kinds: &[Kind { model_type: "new", class: "New", code: Code::KnownOrNone(&OWN_CODE) }],
    architecture: own_code_architecture,
    names: OWN_CODE_NAMES,
};

const OWN_CODE: OwnCode =
    OwnCode { repositories: &["Alibaba-NLP/new-impl"], classes: &["configuration.NewConfig", "modeling.New"] };

/// The library keeps the authors' names when it saves, except for the first.
const NAMES: Names = Names { prefix: "gte.", dense: "gte.pooler.dense", ..OWN_CODE_NAMES };

const OWN_CODE_NAMES: Names = Names {
    prefix: "new.",
    query_key_value: QueryKeyValue::Fused("attention.qkv_proj"),
    attention_output: "attention.o_proj",
    attention_norm: "attn_ln",
    intermediate: Intermediate::GateFirst("mlp.up_gate_proj"),
    output: "mlp.down_proj",
    output_norm: "mlp_ln",
    dense: "new.pooler.dense",
    classifier: "classifier",
    ..ENCODER_NAMES
};

/// Fields of `config.json`, in both layouts.
#[derive(Debug, Deserialize)]
struct GteConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "default_max_position_embeddings")]
    max_position_embeddings: usize,
    #[serde(default = "default_type_vocab_size")]
    type_vocab_size: usize,
    #[serde(default = "default_layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "default_hidden_act")]
    hidden_act: String,
    position_embedding_type: Option<String>,
    layer_norm_type: Option<String>,
    #[serde(default)]
    logn_attention_scale: bool,
    #[serde(default = "default_pack_qkv")]
    pack_qkv: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Replaces the two fields above.
    rope_parameters: Option<Rope>,
}

/// `rope_scaling` of the authors' files, `rope_parameters` of the library's.
#[derive(Debug, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    mixed_b: Option<f64>,
}

fn default_max_position_embeddings() -> usize {
    8_192
}

fn default_type_vocab_size() -> usize {
    1
}

fn default_pack_qkv() -> bool {
    true
}

/// The rotary base of files that name none, in the library and in the authors' code.
const LIBRARY_THETA: f64 = 160_000.0;
const OWN_CODE_THETA: f64 = 10_000.0;

fn library_architecture(config: &Value, labels: Option<usize>) -> Result<Architecture, ConfigError> {
    architecture(config, labels, LIBRARY_THETA)
}

fn own_code_architecture(config: &Value, labels: Option<usize>) -> Result<Architecture, ConfigError> {
    architecture(config, labels, OWN_CODE_THETA)
}

fn architecture(config: &Value, labels: Option<usize>, default_theta: f64) -> Result<Architecture, ConfigError> {
    let config = GteConfig::deserialize(config)?;
    config.check()?;
    let norm = Norm { kind: NormKind::Layer, eps: config.layer_norm_eps, bias: true };
    let heads = config.num_attention_heads;
    let head_dim = head_dim("num_attention_heads", config.hidden_size, heads)?;
    let rotary = config.rotary(head_dim, default_theta)?;
    let mut layers = plain_layers("num_hidden_layers", config.num_hidden_layers)?;
    layers.iter_mut().for_each(|layer| layer.rotary = Some(rotary));
    let (pooling, head) = classifier_or_mean(Activation::Tanh, labels);
    Ok(Architecture {
        family: "gte",
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        max_tokens: config.max_position_embeddings,
        embeddings: Embeddings {
            width: config.hidden_size,
            positions: Positions::None,
            token_types: token_types(config.type_vocab_size)?,
            norm: Some(norm),
        },
        block: Block {
            norm,
            norm_placement: NormPlacement::After,
            attention: Attention::of_heads(heads, head_dim),
            mlp: Mlp {
                intermediate_size: config.intermediate_size,
                activation: activation("hidden_act", &config.hidden_act)?,
                kind: MlpKind::Gated,
                intermediate_bias: false,
                output_bias: true,
            },
        },
        layers,
        final_norm: None,
        // The family's embedders take the first token.
        pooling: if labels.is_none() { Pooling::First } else { pooling },
        head,
    })
}

impl GteConfig {
    /// Refuses variants that compute something else.
    fn check(&self) -> Result<(), ConfigError> {
        match self.position_embedding_type.as_deref() {
            None | Some("rope") => {}
            Some(other) => return Err(unsupported("position_embedding_type", other, "rope")),
        }
        match self.layer_norm_type.as_deref() {
            None | Some("layer_norm") => {}
            Some(other) => return Err(unsupported("layer_norm_type", other, "layer_norm")),
        }
        if self.logn_attention_scale {
            return Err(unsupported("logn_attention_scale", true, "false"));
        }
        if !self.pack_qkv {
            return Err(unsupported("pack_qkv", false, "true"));
        }
        Ok(())
    }

    /// The rotary positions. With "ntk" (<https://kexue.fm/archives/9706>, formula 6) the base is multiplied by the
    /// factor, and all frequencies are divided by its power 2/head_dim.
    fn rotary(&self, head_dim: usize, default_theta: f64) -> Result<Rotary, ConfigError> {
        let own_theta = self.rope_theta.unwrap_or(default_theta);
        let (theta, scaling) = match (&self.rope_parameters, &self.rope_scaling) {
            // The library would change the one by the other.
            (Some(_), Some(_)) => return Err(unsupported("rope_scaling", "set beside rope_parameters", "null")),
            (Some(rope), None) => (rope.rope_theta.unwrap_or(own_theta), Some(rope)),
            (None, scaling) => (own_theta, scaling.as_ref()),
        };
        let Some(rope) = scaling else { return Ok(Rotary::of_theta(theta)) };
        match rope.rope_type.as_deref() {
            None | Some("default") => Ok(Rotary::of_theta(theta)),
            Some("ntk") if rope.mixed_b.is_some() => Err(unsupported("mixed_b of rope_scaling", "set", "null")),
            Some("ntk") => {
                let factor = rope.factor.unwrap_or(1.0);
                if !(1.0..=1024.0).contains(&factor) {
                    return Err(unsupported("factor of rope_scaling", factor, "1 to 1024"));
                }
                Ok(Rotary { theta: theta * factor, frequency_divisor: factor.powf(2.0 / head_dim as f64) })
            }
            Some(other) => Err(unsupported("rope_scaling", other, "ntk or default")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_config;
    use super::*;

    /// The authors' multilingual reranker, but narrower.
    fn config(changes: &Value) -> Result<Architecture, ConfigError> {
        let mut json = serde_json::json!({
            "architectures": ["NewForSequenceClassification"], "model_type": "new", "vocab_size": 100,
            "auto_map": {
                "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
                "AutoModelForSequenceClassification": "modeling.NewForSequenceClassification",
            },
            "hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 100,
            "max_position_embeddings": 8192, "type_vocab_size": 1, "position_embedding_type": "rope",
            "rope_theta": 20000, "rope_scaling": { "type": "ntk", "factor": 8.0 }, "id2label": { "0": "LABEL_0" },
            "logn_attention_scale": false, "layer_norm_type": "layer_norm", "pack_qkv": true,
        });
        for (field, value) in changes.as_object().unwrap() {
            json[field] = value.clone();
        }
        read_config(json.to_string().as_bytes())
    }

    #[test]
    fn the_authors_files_scale_the_frequencies_and_the_librarys_do_not() {
        let scaled = config(&serde_json::json!({})).unwrap().layers[1].rotary.unwrap();
        assert_eq!(scaled.theta.to_bits(), 160_000f64.to_bits());
        // 8^(2/64).
        assert!((scaled.frequency_divisor - 1.067_140).abs() < 1e-6, "{}", scaled.frequency_divisor);
        let library = config(&serde_json::json!({
            "architectures": ["GteForSequenceClassification"], "model_type": "gte", "auto_map": null,
            "rope_scaling": null, "rope_theta": null,
            "rope_parameters": { "rope_type": "default", "rope_theta": 160_000.0 },
        }));
        assert_eq!(library.unwrap().layers[0].rotary, Some(Rotary::of_theta(160_000.0)));
    }

    #[test]
    fn a_rotary_base_that_is_not_named_is_the_one_of_the_code_that_reads_the_file() {
        let theta = |changes: Value| config(&changes).unwrap().layers[0].rotary.unwrap().theta;
        let library = |parameters: Value, theta: Value| {
            serde_json::json!({
                "architectures": ["GteForSequenceClassification"], "model_type": "gte", "auto_map": null,
                "rope_scaling": null, "rope_parameters": parameters, "rope_theta": theta,
            })
        };
        let authors = serde_json::json!({ "rope_scaling": null, "rope_theta": null });
        let cases = [
            (authors, 10_000.0),
            (library(Value::Null, Value::Null), 160_000.0),
            (library(Value::Null, serde_json::json!(50)), 50.0),
            (library(serde_json::json!({ "rope_type": "default" }), serde_json::json!(50)), 50.0),
            (library(serde_json::json!({ "rope_theta": 70 }), serde_json::json!(50)), 70.0),
        ];
        for (changes, expected) in cases {
            assert!((theta(changes.clone()) - expected).abs() < 1e-9, "{changes}");
        }
    }

    #[test]
    fn code_of_its_own_is_known_by_repository_and_class() {
        assert!(config(&serde_json::json!({ "auto_map": null })).is_ok());
        for class in ["other/new-impl--configuration.NewConfig", "configuration.OtherConfig", "modeling"] {
            let error = config(&serde_json::json!({ "auto_map": { "AutoConfig": class } })).unwrap_err().to_string();
            assert!(error.contains("auto_map is"), "{class}: {error}");
        }
    }

    #[test]
    fn variants_that_compute_something_else_are_refused() {
        let cases = [
            (serde_json::json!({ "position_embedding_type": "absolute" }), "supported is rope"),
            (serde_json::json!({ "layer_norm_type": "rms_norm" }), "supported is layer_norm"),
            (serde_json::json!({ "logn_attention_scale": true }), "logn_attention_scale is true"),
            (serde_json::json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 } }), "rope_scaling is dynamic"),
            (serde_json::json!({ "rope_scaling": { "type": "ntk", "factor": 0.5 } }), "factor of rope_scaling"),
            (serde_json::json!({ "rope_scaling": { "type": "ntk", "factor": 2.0, "mixed_b": 0.6 } }), "mixed_b"),
            (serde_json::json!({ "rope_parameters": { "rope_theta": 10_000.0 } }), "set beside rope_parameters"),
        ];
        for (changes, expected) in cases {
            let message = config(&changes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
