//! Bounds for every family. Each size is checked before anything is allocated for it.

use super::ConfigError;
use super::config::{MAX_LAYERS, unsupported};
use crate::architecture::{Architecture, Attention, Dense, Head, Positions};

/// Largest accepted dimension. No encoder in use comes near it, and a hostile `config.json` must not make the host
/// reserve memory for a model that cannot exist.
const MAX_DIMENSION: usize = 1 << 20;

/// Most numbers of a table of rotary positions, which no file holds: 512 MiB. Rows of 131,072 tokens with heads of 128
/// numbers have an eighth of it.
const MAX_ROTARY_NUMBERS: usize = 1 << 27;

/// Checks the architecture that a family made.
///
/// # Errors
/// A size is out of bounds; the error names it and the accepted values.
pub(super) fn check(architecture: &Architecture) -> Result<(), ConfigError> {
    let Attention { heads, kv_heads, head_dim, .. } = architecture.block.attention;
    let dimensions = [
        ("vocabulary size", architecture.vocab_size),
        ("hidden size", architecture.hidden_size),
        ("embedding size", architecture.embeddings.width),
        ("number of attention heads", heads),
        ("width of an attention head", head_dim),
        ("width of all attention heads", heads.saturating_mul(head_dim)),
        ("intermediate size", architecture.block.mlp.intermediate_size),
        ("longest row", architecture.max_tokens),
        ("number of labels", architecture.outputs()),
    ];
    for (field, value) in dimensions {
        if value == 0 || value > MAX_DIMENSION {
            return Err(unsupported(field, value, "1 to 1048576"));
        }
    }
    if let Some(relative) = architecture.block.attention.relative
        && (relative.span == 0
            || relative.span > MAX_DIMENSION
            || relative.max_distance.is_some_and(|max| max <= relative.span / 2 + 1))
    {
        return Err(unsupported(
            "span of relative positions",
            relative.span,
            "1 to 1048576, below the largest distance",
        ));
    }
    if architecture.layers.is_empty() || architecture.layers.len() > MAX_LAYERS {
        return Err(unsupported("number of layers", architecture.layers.len(), "1 to 1024"));
    }
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(unsupported("number of key and value heads", kv_heads, "a divisor of the attention heads"));
    }
    if let Positions::Learned { rows, first, padding_id } = architecture.embeddings.positions {
        let padding_is_outside = padding_id.is_some_and(|id| id as usize >= rows);
        if rows > MAX_DIMENSION || first.saturating_add(architecture.max_tokens) > rows || padding_is_outside {
            return Err(unsupported("number of positions", rows, "at least the longest row's, at most 1048576"));
        }
    }
    let head_norm = match architecture.head {
        Head::Classifier { dense: Some(Dense { norm, .. }), .. } => norm,
        _ => None,
    };
    for norm in [Some(architecture.block.norm), architecture.embeddings.norm, architecture.final_norm, head_norm]
        .into_iter()
        .flatten()
    {
        if !(norm.eps > 0.0 && norm.eps < 1.0) {
            return Err(unsupported("eps of a norm", norm.eps, "between 0 and 1"));
        }
    }
    let rotates = architecture.layers.iter().any(|layer| layer.rotary.is_some());
    if rotates && architecture.max_tokens.saturating_mul(head_dim) > MAX_ROTARY_NUMBERS {
        let supported = "at most 134217728 divided by the width of a head, with rotary positions";
        return Err(unsupported("longest row", architecture.max_tokens, supported));
    }
    for rotary in architecture.layers.iter().filter_map(|layer| layer.rotary) {
        if !head_dim.is_multiple_of(2) || !rotary.theta.is_finite() || rotary.theta <= 1.0 {
            return Err(unsupported("rotary theta", rotary.theta, "above 1, with heads of an even width"));
        }
        if !(rotary.frequency_divisor >= 1.0 && rotary.frequency_divisor <= 1024.0) {
            let (field, supported) = ("divisor of the rotary frequencies", "1 to 1024");
            return Err(unsupported(field, rotary.frequency_divisor, supported));
        }
    }
    Ok(())
}
