//! Useful floating-point operations of a forward pass, by formula: a multiply-add counts as two, and elementwise work
//! is left out. Only what the answer needs is counted, so no engine can look faster by padding.

use crate::batch::PackedBatch;
use crate::config::{BertConfig, Task};

/// Useful FLOPs of one row of `tokens` tokens, last layer pruned to what the head reads.
#[must_use]
pub fn row_flops(config: &BertConfig, tokens: usize) -> u64 {
    let (hidden, intermediate) = (config.hidden_size as u64, config.intermediate_size as u64);
    let tokens = tokens as u64;
    let key_value = 4 * hidden * hidden;
    let query_and_rest = 4 * hidden * hidden + 4 * hidden * intermediate;
    let attention_per_query = 4 * hidden * tokens;
    let full = tokens * (key_value + query_and_rest + attention_per_query);
    let layers = config.num_hidden_layers as u64;
    match config.task {
        Task::Embedding => layers * full,
        Task::CrossEncoder => {
            let last = tokens * key_value + query_and_rest + attention_per_query;
            let head = 2 * hidden * hidden + 2 * hidden * config.outputs as u64;
            (layers - 1) * full + last + head
        }
    }
}

/// Useful FLOPs of a batch.
#[must_use]
pub fn batch_flops(config: &BertConfig, batch: &PackedBatch) -> u64 {
    batch.iter().map(|row| row_flops(config, row.ids.len())).sum()
}
