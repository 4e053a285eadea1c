//! Fields of `config.json` that several families share.

use serde_json::Value;

use super::{ConfigError, shown};
use crate::architecture::{Activation, Layer, Mask, TokenTypes};

/// Most layers accepted: each layer takes memory before any weights are read.
pub(super) const MAX_LAYERS: usize = 1 << 10;

/// Number of labels if a classifier's configuration does not state it.
pub(super) const DEFAULT_LABELS: usize = 2;

/// The error for an unsupported field value.
pub(super) fn unsupported(field: &'static str, value: impl std::fmt::Display, supported: &'static str) -> ConfigError {
    ConfigError::Unsupported { field, value: shown(&value.to_string()), supported }
}

/// Number of labels in the configuration, from their names or as a number.
pub(super) fn labels(config: &Value) -> Option<usize> {
    let named = config["id2label"].as_object().map(serde_json::Map::len);
    named.or_else(|| config["num_labels"].as_u64().map(|count| usize::try_from(count).unwrap_or(usize::MAX)))
}

/// An activation by its name in the Hugging Face libraries.
pub(super) fn activation(field: &'static str, name: &str) -> Result<Activation, ConfigError> {
    Ok(match name {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "silu" | "swish" => Activation::Silu,
        "relu" => Activation::Relu,
        "tanh" => Activation::Tanh,
        other => return Err(unsupported(field, other, "gelu, gelu_new, gelu_pytorch_tanh, silu, relu or tanh")),
    })
}

/// The width of one of `heads` heads that share `hidden` numbers.
pub(super) fn head_dim(heads_field: &'static str, hidden: usize, heads: usize) -> Result<usize, ConfigError> {
    if heads == 0 || !hidden.is_multiple_of(heads) {
        let supported = match heads_field {
            "n_heads" => "a divisor of dim",
            _ => "a number of which hidden_size is a multiple: hidden_size must be a multiple of num_attention_heads",
        };
        return Err(unsupported(heads_field, heads, supported));
    }
    Ok(hidden / heads)
}

/// `count` layers that attend to the whole row, without rotary positions.
pub(super) fn plain_layers(field: &'static str, count: usize) -> Result<Vec<Layer>, ConfigError> {
    if count == 0 || count > MAX_LAYERS {
        return Err(unsupported(field, count, "1 to 1024"));
    }
    Ok(vec![Layer { mask: Mask::All, rotary: None, attention_norm: true }; count])
}

/// The token type table with `type_vocab_size` rows.
pub(super) fn token_types(type_vocab_size: usize) -> Result<TokenTypes, ConfigError> {
    match type_vocab_size {
        0 => Ok(TokenTypes::None),
        1 => Ok(TokenTypes::One),
        2 => Ok(TokenTypes::Two),
        more => Err(unsupported("type_vocab_size", more, "0 to 2")),
    }
}

/// Refuses settings that make a model other than an encoder with absolute positions.
pub(super) fn check_absolute_encoder(
    position_embedding_type: Option<&str>,
    is_decoder: bool,
) -> Result<(), ConfigError> {
    match position_embedding_type {
        None | Some("absolute") => {}
        Some(other) => return Err(unsupported("position_embedding_type", other, "absolute")),
    }
    if is_decoder {
        return Err(unsupported("is_decoder", true, "false"));
    }
    Ok(())
}
