//! ModernBERT (Warner et al. 2024, <https://arxiv.org/abs/2412.13663>), as Hugging Face's
//! `ModernBertForSequenceClassification` and `ModernBertModel` implement it: norms before each part, rotary positions,
//! windowed attention in most layers, a gated feed-forward part.

use serde::Deserialize;
use serde_json::Value;

use super::config::{activation, head_dim, plain_layers, unsupported};
use super::{ConfigError, Family, Intermediate, Kind, Names, QueryKeyValue};
use crate::architecture::{
    Architecture, Attention, Block, Dense, Embeddings, Head, Layer, Mask, Mlp, MlpKind, Norm, NormKind, NormPlacement,
    Pooling, Positions, Rotary, TokenTypes,
};

pub(super) const FAMILY: Family =
    Family { kinds: &[Kind::new("modernbert", "ModernBert")], architecture, names: NAMES };

const NAMES: Names = Names {
    prefix: "model.",
    word: "embeddings.tok_embeddings",
    position: "",
    token_type: "",
    embedding_norm: "embeddings.norm",
    projection: "",
    relative: "",
    relative_norm: "",
    layer: "layers.",
    query_key_value: QueryKeyValue::Fused("attn.Wqkv"),
    attention_output: "attn.Wo",
    attention_norm: "attn_norm",
    intermediate: Intermediate::One("mlp.Wi"),
    output: "mlp.Wo",
    output_norm: "mlp_norm",
    final_norm: "final_norm",
    dense: "head.dense",
    dense_norm: "head.norm",
    classifier: "classifier",
};

/// Supported values of `layer_types`.
const LAYER_TYPES: &str = "full_attention or sliding_attention for each layer";

/// Fields of `config.json`, in the formats of versions 4 and 5 of the libraries.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct ModernBertConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    hidden_activation: String,
    norm_eps: f64,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    global_attn_every_n_layers: usize,
    /// Replaces the field above.
    layer_types: Option<Vec<String>>,
    local_attention: usize,
    global_rope_theta: f64,
    local_rope_theta: Option<f64>,
    /// Changes the bases or the form of all rotary positions; not supported.
    rope_scaling: Value,
    /// Half of `local_attention`, under another name.
    sliding_window: Option<usize>,
    /// Replaces the two fields above.
    rope_parameters: Option<RopeParameters>,
    classifier_pooling: String,
    classifier_activation: String,
    classifier_bias: bool,
}

#[derive(Debug, Deserialize)]
struct RopeParameters {
    full_attention: RopeParameter,
    sliding_attention: RopeParameter,
}

#[derive(Debug, Deserialize)]
struct RopeParameter {
    rope_theta: f64,
    #[serde(default, alias = "type")]
    rope_type: Option<String>,
}

/// The rotary bases: one for layers that attend to the whole row, one for the others.
#[derive(Debug, Clone, Copy)]
struct Thetas {
    global: f64,
    local: f64,
}

impl Default for ModernBertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50_368,
            hidden_size: 768,
            num_hidden_layers: 22,
            num_attention_heads: 12,
            intermediate_size: 1_152,
            max_position_embeddings: 8_192,
            hidden_activation: "gelu".to_owned(),
            norm_eps: 1e-5,
            norm_bias: false,
            attention_bias: false,
            mlp_bias: false,
            global_attn_every_n_layers: 3,
            layer_types: None,
            local_attention: 128,
            global_rope_theta: 160_000.0,
            local_rope_theta: Some(10_000.0),
            rope_scaling: Value::Null,
            sliding_window: None,
            rope_parameters: None,
            classifier_pooling: "cls".to_owned(),
            classifier_activation: "gelu".to_owned(),
            classifier_bias: false,
        }
    }
}

fn architecture(config: &Value, labels: Option<usize>) -> Result<Architecture, ConfigError> {
    let config = ModernBertConfig::deserialize(config)?;
    config.check()?;
    let norm = Norm { kind: NormKind::Layer, eps: config.norm_eps, bias: config.norm_bias };
    let heads = config.num_attention_heads;
    let (pooling, head) = config.head(norm, labels)?;
    Ok(Architecture {
        family: "modernbert",
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        max_tokens: config.max_position_embeddings,
        embeddings: Embeddings {
            width: config.hidden_size,
            positions: Positions::None,
            token_types: TokenTypes::None,
            norm: Some(norm),
        },
        block: Block {
            norm,
            norm_placement: NormPlacement::Before,
            attention: Attention {
                heads,
                kv_heads: heads,
                head_dim: head_dim("num_attention_heads", config.hidden_size, heads)?,
                query_key_value_bias: config.attention_bias,
                output_bias: config.attention_bias,
                relative: None,
            },
            mlp: Mlp {
                intermediate_size: config.intermediate_size,
                activation: activation("hidden_activation", &config.hidden_activation)?,
                kind: MlpKind::Gated,
                intermediate_bias: config.mlp_bias,
                output_bias: config.mlp_bias,
            },
        },
        layers: config.layers()?,
        final_norm: Some(norm),
        pooling,
        head,
    })
}

impl ModernBertConfig {
    /// Refuses variants that compute something else.
    fn check(&self) -> Result<(), ConfigError> {
        if !self.rope_scaling.is_null() {
            return Err(unsupported("rope_scaling", &self.rope_scaling, "null"));
        }
        match self.sliding_window {
            Some(window) if window != self.local_attention / 2 => {
                Err(unsupported("sliding_window", window, "half of local_attention"))
            }
            _ => Ok(()),
        }
    }

    /// The classifier over the pooled states, or embeddings by the mean: `classifier_pooling` concerns only the
    /// classifier.
    fn head(&self, norm: Norm, labels: Option<usize>) -> Result<(Pooling, Head), ConfigError> {
        let Some(labels) = labels else { return Ok((Pooling::Mean, Head::Embedding)) };
        let pooling = match self.classifier_pooling.as_str() {
            "cls" => Pooling::First,
            "mean" => Pooling::Mean,
            other => return Err(unsupported("classifier_pooling", other, "cls or mean")),
        };
        let dense = Dense {
            bias: self.classifier_bias,
            activation: Some(activation("classifier_activation", &self.classifier_activation)?),
            norm: Some(norm),
        };
        Ok((pooling, Head::Classifier { dense: Some(dense), labels, bias: true }))
    }

    fn layers(&self) -> Result<Vec<Layer>, ConfigError> {
        let thetas = self.thetas()?;
        let mut layers = plain_layers("num_hidden_layers", self.num_hidden_layers)?;
        if self.layer_types.as_ref().is_some_and(|types| types.len() > layers.len()) {
            return Err(unsupported("layer_types", "too long", LAYER_TYPES));
        }
        for (index, layer) in layers.iter_mut().enumerate() {
            let is_global = self.is_global(index)?;
            layer.rotary = Some(Rotary::of_theta(if is_global { thetas.global } else { thetas.local }));
            if !is_global {
                layer.mask = Mask::Window { radius: self.local_attention / 2 };
            }
            // The first layer's input has just been normalised.
            layer.attention_norm = index > 0;
        }
        Ok(layers)
    }

    fn is_global(&self, layer: usize) -> Result<bool, ConfigError> {
        let Some(types) = &self.layer_types else {
            let every = self.global_attn_every_n_layers;
            if every == 0 {
                return Err(unsupported("global_attn_every_n_layers", every, "at least 1"));
            }
            return Ok(layer.is_multiple_of(every));
        };
        match types.get(layer).map(String::as_str) {
            Some("full_attention") => Ok(true),
            Some("sliding_attention") => Ok(false),
            other => Err(unsupported("layer_types", other.unwrap_or("too short"), LAYER_TYPES)),
        }
    }

    fn thetas(&self) -> Result<Thetas, ConfigError> {
        let Some(RopeParameters { full_attention, sliding_attention }) = &self.rope_parameters else {
            return Ok(Thetas {
                global: self.global_rope_theta,
                local: self.local_rope_theta.unwrap_or(self.global_rope_theta),
            });
        };
        for RopeParameter { rope_type, .. } in [full_attention, sliding_attention] {
            match rope_type.as_deref() {
                None | Some("default") => {}
                Some(other) => return Err(unsupported("rope_type", other, "default")),
            }
        }
        Ok(Thetas { global: full_attention.rope_theta, local: sliding_attention.rope_theta })
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_config;
    use super::*;

    fn config(changes: &Value) -> Result<Architecture, ConfigError> {
        let mut json = serde_json::json!({
            "architectures": ["ModernBertForSequenceClassification"], "model_type": "modernbert", "vocab_size": 100,
            "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 100,
            "local_attention": 8, "num_labels": 1,
        });
        for (field, value) in changes.as_object().unwrap() {
            json[field] = value.clone();
        }
        read_config(json.to_string().as_bytes())
    }

    #[test]
    fn both_versions_of_the_configuration_describe_the_same_layers() {
        let old = config(&serde_json::json!({ "global_rope_theta": 80_000.0 })).unwrap();
        let (full, sliding) = ("full_attention", "sliding_attention");
        let new = config(&serde_json::json!({
            "layer_types": [full, sliding, sliding, full],
            "rope_parameters": {
                full: { "rope_theta": 80_000.0, "rope_type": "default" }, sliding: { "rope_theta": 10_000.0 },
            },
        }))
        .unwrap();
        assert_eq!(old, new);
        let window = Mask::Window { radius: 4 };
        let masks: Vec<Mask> = old.layers.iter().map(|layer| layer.mask).collect();
        assert_eq!(masks, [Mask::All, window, window, Mask::All]);
        let thetas: Vec<f64> = old.layers.iter().filter_map(|layer| Some(layer.rotary?.theta)).collect();
        assert_eq!(thetas, [80_000.0, 10_000.0, 10_000.0, 80_000.0]);
        let norms: Vec<bool> = old.layers.iter().map(|layer| layer.attention_norm).collect();
        assert_eq!(norms, [false, true, true, true]);
    }

    #[test]
    fn windows_without_a_base_of_their_own_have_the_global_one_as_in_version_4() {
        let none = serde_json::json!({ "global_rope_theta": 80_000.0, "local_rope_theta": null });
        let layers = config(&none).unwrap().layers;
        assert!(layers.iter().all(|layer| layer.rotary.is_some_and(|rotary| rotary.theta == 80_000.0)), "{layers:?}");
    }

    #[test]
    fn unsupported_values_are_refused_with_the_supported_ones() {
        let cases = [
            (serde_json::json!({ "classifier_pooling": "max" }), "supported is cls or mean"),
            (serde_json::json!({ "layer_types": ["full_attention"] }), "layer_types is too short"),
            (serde_json::json!({ "layer_types": ["other"] }), "layer_types is other"),
            (serde_json::json!({ "layer_types": vec!["full_attention"; 5] }), "layer_types is too long"),
            (serde_json::json!({ "global_attn_every_n_layers": 0 }), "supported is at least 1"),
            (serde_json::json!({ "rope_scaling": { "rope_type": "linear", "factor": 4.0 } }), "rope_scaling is"),
            (serde_json::json!({ "sliding_window": 1 }), "supported is half of local_attention"),
            (serde_json::json!({ "num_attention_heads": 16 }), "width of all attention heads"),
        ];
        for (changes, expected) in &cases[..7] {
            let message = config(changes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
        let huge =
            serde_json::json!({ "hidden_size": 768, "num_attention_heads": 1, "max_position_embeddings": 1 << 20 });
        assert!(config(&huge).unwrap_err().to_string().contains("longest row is 1048576"));
        // Heads of three numbers cannot be rotated in pairs.
        assert!(config(&cases[7].0).unwrap_err().to_string().contains("an even width"));
    }
}
