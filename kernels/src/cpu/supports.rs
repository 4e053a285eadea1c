//! Checks whether the CPU engine can compute a model, and names the part that it lacks.

use crate::architecture::{
    Activation, Architecture, Dense, Head, Mask, MlpKind, NormKind, NormPlacement, Pooling, Unsupported,
};

/// The missing part, and what the engine supports instead.
type Lack = (String, &'static str);

pub(super) fn check(architecture: &Architecture) -> Result<(), Unsupported> {
    match lack(architecture) {
        None => Ok(()),
        Some((part, supported)) => Err(Unsupported { engine: "cpu", part, supported }),
    }
}

fn lack(architecture: &Architecture) -> Option<Lack> {
    let lack = |part: &str, supported| Some((part.to_owned(), supported));
    let block = &architecture.block;
    if block.norm_placement == NormPlacement::Before {
        return lack("norms before attention and feed-forward", "norms after them");
    }
    if architecture.final_norm.is_some() {
        return lack("norm after the last layer", "none there");
    }
    let norms = [Some(block.norm), architecture.embeddings.norm, architecture.final_norm];
    if norms.iter().flatten().any(|norm| norm.kind == NormKind::Rms) {
        return lack("RMSNorm", "LayerNorm");
    }
    if block.attention.heads != block.attention.kv_heads {
        return lack("key and value heads that several query heads share", "as many of each");
    }
    for layer in &architecture.layers {
        if layer.rotary.is_some() {
            return lack("rotary positions", "learned positions");
        }
        match layer.mask {
            Mask::All => {}
            Mask::Window { .. } => return lack("attention within a window", "attention to the whole row"),
            Mask::Causal => return lack("causal attention", "attention to the whole row"),
        }
    }
    if block.mlp.kind == MlpKind::Gated {
        return lack("gated feed-forward part", "a plain one");
    }
    if block.mlp.activation != Activation::Gelu {
        return Some((format!("{} in the feed-forward part", block.mlp.activation.name()), "gelu"));
    }
    match (architecture.pooling, architecture.head) {
        (Pooling::First, Head::Classifier { dense, .. }) => match dense {
            Some(Dense { norm: Some(_), .. }) => lack("norm in the head", "a linear layer and an activation"),
            _ => None,
        },
        (Pooling::Mean, Head::Embedding) => None,
        (_, Head::Classifier { .. }) => lack("classifier over the mean or the last token", "one over the first token"),
        (_, Head::Embedding) => lack("embeddings of the first or the last token", "embeddings by the mean"),
    }
}
