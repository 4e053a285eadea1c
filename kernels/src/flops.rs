//! Useful floating-point operations of a forward pass, by formula: a multiply-add counts as two, and elementwise work
//! is left out. Counts only what the result needs, so padding cannot make an engine look faster.

use crate::architecture::{Architecture, Head, Mask, MlpKind, Pooling};
use crate::batch::PackedBatch;

/// Useful FLOPs of a forward pass by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// From the embeddings' width to the hidden size.
    pub embeddings: u64,
    /// Projections to queries, keys and values.
    pub query_key_value: u64,
    /// Scores, and sums of values.
    pub attention: u64,
    /// The attention's output projection.
    pub projection: u64,
    /// The feed-forward products.
    pub feed_forward: u64,
    /// The rest of a pruned last layer, and the head.
    pub head: u64,
}

impl Parts {
    /// All parts together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { embeddings, query_key_value, attention, projection, feed_forward, head } = *self;
        embeddings + query_key_value + attention + projection + feed_forward + head
    }
}

impl std::iter::Sum for Parts {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |a, b| Self {
            embeddings: a.embeddings + b.embeddings,
            query_key_value: a.query_key_value + b.query_key_value,
            attention: a.attention + b.attention,
            projection: a.projection + b.projection,
            feed_forward: a.feed_forward + b.feed_forward,
            head: a.head + b.head,
        })
    }
}

/// Useful FLOPs of one row of `tokens` tokens, the last layer pruned to what the head reads.
#[must_use]
pub fn row_flops(architecture: &Architecture, tokens: usize) -> u64 {
    row_parts(architecture, tokens).total()
}

/// As [`row_flops`], by part.
#[must_use]
pub fn row_parts(architecture: &Architecture, tokens: usize) -> Parts {
    if tokens == 0 {
        return Parts::default();
    }
    let hidden = architecture.hidden_size as u64;
    let (attention, mlp) = (&architecture.block.attention, &architecture.block.mlp);
    let (query, key_value) = (attention.query_width() as u64, attention.key_value_width() as u64);
    let mlp_products = match mlp.kind {
        MlpKind::Plain => 2,
        MlpKind::Gated => 3,
    };
    let length = tokens as u64;
    // Of one token each.
    let (to_query, keys_and_values) = (2 * hidden * query, 4 * hidden * key_value);
    let feed_forward = 2 * mlp_products * hidden * mlp.intermediate_size as u64;
    let mut parts = Parts::default();
    if architecture.has_projection() {
        parts.embeddings = length * 2 * architecture.embeddings.width as u64 * hidden;
    }
    let last = architecture.layers.len().saturating_sub(1);
    for (index, layer) in architecture.layers.iter().enumerate() {
        // The one token that the head reads, if the layer is pruned to it.
        let place = match architecture.pooling {
            _ if index < last => None,
            Pooling::Mean => None,
            Pooling::First => Some(0),
            Pooling::Last => Some(tokens - 1),
        };
        parts.query_key_value += length * keys_and_values;
        match place {
            None => {
                parts.query_key_value += length * to_query;
                parts.attention += 4 * query * attended(layer.mask, tokens);
                parts.projection += length * 2 * query * hidden;
                parts.feed_forward += length * feed_forward;
            }
            Some(place) => {
                parts.attention += 4 * query * layer.mask.keys(place, tokens).len() as u64;
                parts.head += to_query + 2 * query * hidden + feed_forward;
            }
        }
    }
    if let Head::Classifier { dense, labels, .. } = architecture.head {
        parts.head += dense.map_or(0, |_| 2 * hidden * hidden) + 2 * hidden * labels as u64;
    }
    parts
}

/// Query-key pairs in one row.
fn attended(mask: Mask, tokens: usize) -> u64 {
    let length = tokens as u64;
    match mask {
        Mask::All => length * length,
        Mask::Causal => length * (length + 1) / 2,
        Mask::Window { radius } => {
            // A token misses the tokens beyond the radius on either side: 1 + 2 + … at each end of the row.
            let missed = length.saturating_sub(1).saturating_sub(radius as u64);
            length * length - missed * (missed + 1)
        }
    }
}

/// As [`batch_flops`], by part.
#[must_use]
pub fn batch_parts(architecture: &Architecture, batch: &PackedBatch) -> Parts {
    batch.iter().map(|row| row_parts(architecture, row.ids.len())).sum()
}

/// Useful FLOPs of a batch.
#[must_use]
pub fn batch_flops(architecture: &Architecture, batch: &PackedBatch) -> u64 {
    batch.iter().map(|row| row_flops(architecture, row.ids.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_counts_the_keys_of_every_token() {
        for mask in [Mask::All, Mask::Causal, Mask::Window { radius: 0 }, Mask::Window { radius: 3 }] {
            for tokens in 1..12 {
                let counted: usize = (0..tokens).map(|place| mask.keys(place, tokens).len()).sum();
                assert_eq!(attended(mask, tokens), counted as u64, "{mask:?}, {tokens} tokens");
            }
        }
    }

    #[test]
    fn the_default_models_flops_follow_from_its_widths() {
        let config =
            br#"{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 30522,
            "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
            "max_position_embeddings": 512, "num_labels": 1}"#;
        let architecture = crate::families::read_config(config).unwrap();
        // Five whole layers of 3,538,944 and 1,536 × length per token, the last layer's keys and values, and the rest
        // for one token.
        let token = 5 * 3_538_944 + 4 * 384 * 384;
        let row = |tokens: u64| tokens * token + 5 * 1_536 * tokens * tokens;
        let rest = |tokens: u64| 3_538_944 - 4 * 384 * 384 + 1_536 * tokens + 2 * 384 * 384 + 2 * 384;
        for tokens in [1, 80, 512] {
            assert_eq!(row_flops(&architecture, tokens as usize), row(tokens) + rest(tokens), "{tokens} tokens");
        }
    }
}
