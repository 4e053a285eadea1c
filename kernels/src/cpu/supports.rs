//! Checks whether the CPU engine can compute a model, and names the part that it lacks.

use crate::architecture::{Architecture, NormKind, Pooling, Unsupported};

/// The missing part, and what the engine supports instead.
type Lack = (&'static str, &'static str);

pub(super) fn check(architecture: &Architecture) -> Result<(), Unsupported> {
    match lack(architecture) {
        None => Ok(()),
        Some((part, supported)) => Err(Unsupported { engine: "cpu", part: part.to_owned(), supported }),
    }
}

fn lack(architecture: &Architecture) -> Option<Lack> {
    let block = &architecture.block;
    let norms = [Some(block.norm), architecture.embeddings.norm, architecture.final_norm];
    if norms.iter().flatten().any(|norm| norm.kind == NormKind::Rms) {
        return Some(("RMSNorm", "LayerNorm"));
    }
    if block.attention.heads != block.attention.kv_heads {
        return Some(("key and value heads that several query heads share", "as many of each"));
    }
    if architecture.pooling == Pooling::Last {
        return Some(("pooling of the last token", "that of the first token, and the mean"));
    }
    None
}
