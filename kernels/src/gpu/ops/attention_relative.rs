//! Packed attention with scores by distance: `attention_relative.wgsl`.
//!
//! Every index is in bounds without a check as in [`attention`](super::attention); distances are of two places in a
//! row, so they are in the table, whose numbers are rows of the other.

use super::attention::{AttentionShape, immediates, output_dim};
use crate::architecture::RelativePositions;
use crate::gpu::layout::Storage;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("attention_relative");

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct RelativeAttention {
    /// Columns of its numbers.
    pub shape: AttentionShape,
    /// Most queries in a tile.
    pub threads: u32,
    /// Longest row.
    pub max_tokens: usize,
    /// Row stride of `relative`.
    pub relative_stride: usize,
    /// How numbers are stored.
    pub storage: Storage,
}

buffers! {
    /// The op's buffers.
    pub struct RelativeAttentionBuffers {
        /// `[queries, q_stride]`.
        q: Read,
        /// `[tokens, kv_stride]`: keys and values.
        kv: Read,
        /// `[tiles]` of [`QueryTile`](super::attention::QueryTile).
        query_tiles: Read,
        /// `[queries, context_stride]`.
        context: Write,
        /// `[2 · max_tokens − 1]` in f32: [`distance_rows`].
        distance_rows: Read,
        /// `[table, relative_stride]`: the table's keys, then its queries.
        relative: Read,
    }
}

/// The table's row by a query's place minus a key's, plus `max_tokens − 1`.
#[must_use]
pub fn distance_rows(positions: RelativePositions, max_tokens: usize) -> Vec<f32> {
    let furthest = max_tokens as isize - 1;
    (-furthest..=furthest).map(|distance| positions.row(distance) as f32).collect()
}

impl Op for RelativeAttention {
    fn name(&self) -> String {
        format!("relative attention {}x{} t{}", self.shape.heads, self.shape.head_dim, self.threads)
    }

    fn pipeline(&self) -> PipelineSpec {
        let head_dim = self.shape.head_dim;
        let constants = vec![
            ("HEAD_DIM", head_dim as f64),
            ("OUTPUT_DIM", output_dim(head_dim) as f64),
            ("THREADS", f64::from(self.threads)),
            ("MAX_TOKENS", self.max_tokens as f64),
            ("ROW_RUNS", (self.relative_stride / self.storage.run() as usize) as f64),
        ];
        PipelineSpec::new(SHADER, self.storage, RelativeAttentionBuffers::<()>::BINDINGS, constants)
            .named(format!("head_dim {head_dim} t{}", self.threads))
    }

    fn work(&self, extent: &Extent) -> Work {
        let AttentionShape { heads, head_dim, .. } = self.shape;
        let width = (heads * head_dim) as u64;
        let splits = head_dim / output_dim(head_dim);
        // Queries and outputs once; keys and values once per tile of queries; two rows of the table per score, which
        // caches hold.
        let numbers = 2 * u64::from(extent.rows) * width + 2 * extent.query_keys * width / u64::from(self.threads);
        let bytes = numbers * self.storage.bytes() as u64 + 16 * u64::from(extent.query_tiles);
        let groups = [extent.query_tiles, (heads * splits) as u32, 1];
        Work::new(&immediates(&self.shape, self.storage), groups, 8 * extent.query_keys * width, bytes)
    }
}
