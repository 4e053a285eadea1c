//! Packed attention: `attention.wgsl`, and `attention_cpu.wgsl` for software adapters.
//!
//! Queries of one row are cut into tiles on the host: [`query_tiles`]. Every index is in bounds without a check: tiles
//! come from a checked batch, key numbers are clamped to their row, and threads past a tile's queries repeat its last
//! one and store nothing.

use bytemuck::{Pod, Zeroable};

use crate::gpu::adapter::{AdapterDescription, KernelFamily};
use crate::gpu::layout::{Layout, Storage};
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Rereads, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("attention");
const SOFTWARE_SHADER: &Shader = shader::find("attention_cpu");

/// Widest slice of a head that one thread sums: a whole head up to this width, half a head above it.
const MAX_OUTPUT_DIM: usize = 64;

/// One workgroup's queries, and the keys of their row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct QueryTile {
    /// Row of q and context of the first query.
    pub query_start: u32,
    /// Queries: at least 1, at most the kernel's threads.
    pub queries: u32,
    /// Row of keys and values of the first key.
    pub key_start: u32,
    /// Keys: at least 1.
    pub keys: u32,
}

/// Columns of queries, keys, values and outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Heads, side by side.
    pub heads: usize,
    /// Width of a head: a multiple of 8, at most 128.
    pub head_dim: usize,
    /// Row stride of q.
    pub q_stride: usize,
    /// Row stride of keys and values.
    pub kv_stride: usize,
    /// First column of the keys.
    pub key_column: usize,
    /// First column of the values.
    pub value_column: usize,
    /// Row stride of the output.
    pub context_stride: usize,
    /// Which queries the tiles list.
    pub queries: Queries,
    /// A query attends to the keys at most this far before and after it; `None` is all.
    pub radius: Option<usize>,
}

/// Which queries of a row there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// One for each token, at the token's index in the batch.
    Tokens,
    /// One for each row, of the row's first token.
    FirstTokens,
}

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Columns of its numbers.
    pub shape: AttentionShape,
    /// Most queries in a tile.
    pub threads: u32,
    /// How numbers are stored.
    pub storage: Storage,
    /// The kernel family.
    pub family: KernelFamily,
}

buffers! {
    /// The op's buffers.
    pub struct AttentionBuffers {
        /// `[queries, q_stride]`.
        q: Read,
        /// `[tokens, kv_stride]`: keys and values.
        kv: Read,
        /// `[tiles]` of [`QueryTile`].
        query_tiles: Read,
        /// `[queries, context_stride]`.
        context: Write,
    }
}

/// The immediates of both kinds of attention.
pub(super) fn immediates(shape: &AttentionShape, storage: Storage) -> [u32; 7] {
    let run = storage.run();
    [
        shape.q_stride as u32 / run,
        shape.kv_stride as u32 / run,
        shape.key_column as u32 / run,
        shape.value_column as u32 / run,
        shape.context_stride as u32 / 4,
        shape.radius.map_or(u32::MAX, |radius| u32::try_from(radius).unwrap_or(u32::MAX)),
        u32::from(shape.queries == Queries::Tokens),
    ]
}

/// Columns of a head that one thread sums.
pub(super) fn output_dim(head_dim: usize) -> usize {
    if head_dim > MAX_OUTPUT_DIM { head_dim / 2 } else { head_dim }
}

/// Queries per tile that `adapter` may take; the first is the default without timing.
pub(crate) fn candidates(adapter: &AdapterDescription, family: KernelFamily) -> Vec<u32> {
    let least = match family {
        // It stages nothing, so that workgroups may be small.
        KernelFamily::Software => 1,
        KernelFamily::Gpu => adapter.least_threads(),
    };
    thread_counts(family).iter().copied().filter(|&threads| threads >= least).collect()
}

/// Queries per tile worth timing, on any adapter.
pub(crate) fn thread_counts(family: KernelFamily) -> &'static [u32] {
    match family {
        KernelFamily::Software => &[8, 16],
        KernelFamily::Gpu => &[64, 32, 128],
    }
}

/// Cuts rows, given by their boundaries, into tiles of at most `threads` queries.
pub fn query_tiles(offsets: &[u32], threads: u32, tiles: &mut Vec<QueryTile>) {
    tiles.clear();
    for row in offsets.windows(2) {
        let (key_start, keys) = (row[0], row[1] - row[0]);
        for first in (0..keys).step_by(threads as usize) {
            tiles.push(QueryTile {
                query_start: key_start + first,
                queries: threads.min(keys - first),
                key_start,
                keys,
            });
        }
    }
}

impl AttentionShape {
    /// All queries of a layer: q, keys and values side by side in one buffer.
    #[must_use]
    pub fn all(layout: &Layout) -> Self {
        let hidden = layout.states.stride;
        Self {
            heads: layout.heads,
            head_dim: layout.head_dim,
            q_stride: 3 * hidden,
            kv_stride: 3 * hidden,
            key_column: hidden,
            value_column: 2 * hidden,
            context_stride: hidden,
            queries: Queries::Tokens,
            radius: None,
        }
    }

    /// First tokens only: q in its own buffer.
    #[must_use]
    pub fn first_tokens(layout: &Layout) -> Self {
        Self { q_stride: layout.states.stride, queries: Queries::FirstTokens, ..Self::all(layout) }
    }
}

impl Op for Attention {
    fn name(&self) -> String {
        format!("attention {}x{} t{}", self.shape.heads, self.shape.head_dim, self.threads)
    }

    fn pipeline(&self) -> PipelineSpec {
        let shader = match self.family {
            KernelFamily::Gpu => SHADER,
            KernelFamily::Software => SOFTWARE_SHADER,
        };
        let head_dim = self.shape.head_dim;
        let constants = vec![
            ("HEAD_DIM", head_dim as f64),
            ("OUTPUT_DIM", output_dim(head_dim) as f64),
            ("THREADS", f64::from(self.threads)),
        ];
        PipelineSpec::new(shader, self.storage, AttentionBuffers::<()>::BINDINGS, constants)
            .named(format!("head_dim {head_dim} t{}", self.threads))
    }

    fn work(&self, extent: &Extent) -> Work {
        let AttentionShape { heads, head_dim, .. } = self.shape;
        // An upper bound: queries near the ends of rows have fewer keys.
        let window = self.shape.radius.map_or(u64::MAX, |radius| 2 * radius as u64 + 1);
        let query_keys = extent.query_keys.min(u64::from(extent.rows).saturating_mul(window));
        let width = (heads * head_dim) as u64;
        let splits = head_dim / output_dim(head_dim);
        // Queries and outputs once; keys and values once per tile of queries.
        let numbers = 2 * u64::from(extent.rows) * width + 2 * query_keys * width / u64::from(self.threads);
        let bytes = numbers * self.storage.bytes() as u64 + 16 * u64::from(extent.query_tiles);
        let groups = [extent.query_tiles, (heads * splits) as u32, 1];
        Work::new(&immediates(&self.shape, self.storage), groups, 4 * query_keys * width, bytes)
    }

    fn rereads(&self, extent: &Extent) -> Rereads {
        if self.family == KernelFamily::Software {
            return Rereads::default();
        }
        let AttentionShape { heads, head_dim, .. } = self.shape;
        // A query reads each key once for each slice of the outputs, and each value once.
        let numbers = head_dim * (head_dim / output_dim(head_dim) + 1);
        let broadcast_bytes = extent.query_keys * (heads * numbers * self.storage.bytes()) as u64;
        Rereads { cached_bytes: 0, broadcast_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_query_once_and_stay_in_their_row() {
        let mut list = Vec::new();
        query_tiles(&[0, 1, 9, 73], 8, &mut list);
        let queries: Vec<u32> = list.iter().flat_map(|t| t.query_start..t.query_start + t.queries).collect();
        assert_eq!(queries, (0..73).collect::<Vec<_>>());
        for tile in list {
            assert!(tile.query_start >= tile.key_start);
            assert!(tile.query_start + tile.queries <= tile.key_start + tile.keys);
            assert!((1..=8).contains(&tile.queries));
        }
    }
}
