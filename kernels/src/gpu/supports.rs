//! Which models the GPU engine computes: it names the part of any other one.

use crate::architecture::{
    Activation, Architecture, Attention, Dense, Embeddings, Head, Mask, Mlp, MlpKind, NormKind, NormPlacement, Pooling,
    Positions, TokenTypes, Unsupported,
};

pub(super) fn check(architecture: &Architecture) -> Result<(), Unsupported> {
    match lack(architecture) {
        None => Ok(()),
        Some((part, supported)) => Err(Unsupported { engine: "gpu", part: part.to_owned(), supported }),
    }
}

fn lack(architecture: &Architecture) -> Option<(&'static str, &'static str)> {
    let Architecture { embeddings, block, layers, .. } = architecture;
    let norm = block.norm;
    if norm.kind != NormKind::Layer || !norm.bias || block.norm_placement != NormPlacement::After {
        return Some(("norms of another kind or in another place", "LayerNorm with a bias, after"));
    }
    let Embeddings { positions, token_types, norm: embedding_norm, .. } = *embeddings;
    if !matches!(positions, Positions::Learned { first: 0, padding_id: None, .. }) {
        return Some(("other positions than learned ones from the first row on", "those"));
    }
    if token_types == TokenTypes::None || architecture.has_projection() || embedding_norm != Some(norm) {
        return Some(("embeddings of another form", "three tables of the hidden size and the norm of the layers"));
    }
    let Attention { heads, kv_heads, query_key_value_bias, output_bias, .. } = block.attention;
    if heads != kv_heads || !query_key_value_bias || !output_bias {
        return Some(("attention of another form", "as many key and value heads, and biases"));
    }
    let Mlp { activation, kind, intermediate_bias, output_bias, .. } = block.mlp;
    if kind != MlpKind::Plain || activation != Activation::Gelu || !intermediate_bias || !output_bias {
        return Some(("feed-forward part of another form", "a plain one with gelu and biases"));
    }
    if layers.iter().any(|layer| layer.rotary.is_some() || layer.mask != Mask::All || !layer.attention_norm) {
        return Some(("rotary positions or attention to a part of the row", "attention to the whole row"));
    }
    if architecture.final_norm.is_some() {
        return Some(("norm after the last layer", "none there"));
    }
    match (architecture.pooling, architecture.head) {
        (
            Pooling::First,
            Head::Classifier {
                dense: Some(Dense { bias: true, activation: Some(Activation::Tanh), norm: None }),
                bias: true,
                ..
            },
        )
        | (Pooling::Mean, Head::Embedding) => None,
        _ => Some(("head of another form", "a linear layer with tanh and a classifier, or embeddings by the mean")),
    }
}
