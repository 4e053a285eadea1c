//! Useful floating-point operations of a forward pass, by formula: a multiply-add counts as two, and elementwise work
//! is left out. Counts only what the result needs, so padding cannot make an engine look faster.

use crate::architecture::{Architecture, Head, Mask, MlpKind, Pooling};
use crate::batch::PackedBatch;

/// Useful FLOPs of one row of `tokens` tokens, the last layer pruned to what the head reads.
#[must_use]
pub fn row_flops(architecture: &Architecture, tokens: usize) -> u64 {
    if tokens == 0 {
        return 0;
    }
    let hidden = architecture.hidden_size as u64;
    let (attention, mlp) = (&architecture.block.attention, &architecture.block.mlp);
    let (query, key_value) = (attention.query_width() as u64, attention.key_value_width() as u64);
    let mlp_products = match mlp.kind {
        MlpKind::Plain => 2,
        MlpKind::Gated => 3,
    };
    let length = tokens as u64;
    let keys_and_values = 4 * hidden * key_value;
    let query_and_rest = 4 * hidden * query + 2 * mlp_products * hidden * mlp.intermediate_size as u64;
    let layer = |mask: Mask| length * (keys_and_values + query_and_rest) + 4 * query * attended(mask, tokens);
    let pruned = |mask: Mask, place| {
        length * keys_and_values + query_and_rest + 4 * query * mask.keys(place, tokens).len() as u64
    };
    let projection = if architecture.has_projection() { architecture.embeddings.width as u64 } else { 0 };
    let mut flops = length * 2 * projection * hidden;
    if let Some((last, whole)) = architecture.layers.split_last() {
        flops += whole.iter().map(|whole| layer(whole.mask)).sum::<u64>();
        flops += match architecture.pooling {
            Pooling::Mean => layer(last.mask),
            Pooling::First => pruned(last.mask, 0),
            Pooling::Last => pruned(last.mask, tokens - 1),
        };
    }
    if let Head::Classifier { dense, labels, .. } = architecture.head {
        flops += dense.map_or(0, |_| 2 * hidden * hidden) + 2 * hidden * labels as u64;
    }
    flops
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
