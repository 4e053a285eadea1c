//! Activation buffers between the steps of a forward pass.
//!
//! One queue runs all batches of all models in turn, so they share one arena, as large as the largest model on the
//! device needs. A model whose rows have padding is the exception: its padding must stay zero, so it has an arena of
//! its own.

use super::error::GpuError;
use super::layout::Layout;
use super::opened::OpenDevice;
use super::ops::gemm::MAX_ROWS;

/// Buffers of an arena.
const BUFFERS: usize = 6;

/// A buffer of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArenaBuffer {
    /// Hidden states, `[tokens, stride]`.
    X,
    /// Hidden states, `[tokens, stride]`.
    Y,
    /// Queries, keys and values, `[tokens, 3 · stride]`.
    QueryKeyValue,
    /// The outputs of attention, `[tokens, stride]`.
    Context,
    /// Intermediate states of the feed-forward part, `[tokens, intermediate]`, or queries of first tokens.
    Inner,
    /// Embeddings of another width than hidden states, `[tokens, embeddings' stride]`.
    Embedded,
}

/// Bytes of each buffer of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArenaSizes {
    bytes: [u64; BUFFERS],
    /// Whether models may share it.
    pub(super) shared: bool,
}

/// The buffers.
#[derive(Debug)]
pub(super) struct Arena {
    /// In the order of [`ArenaBuffer`].
    buffers: Vec<wgpu::Buffer>,
    pub(super) sizes: ArenaSizes,
}

impl ArenaSizes {
    /// What a model needs for batches of `max_batch_tokens` tokens: rows are rounded up to the largest step of rows.
    pub(super) fn new(layout: &Layout, max_batch_tokens: usize) -> Self {
        let rows = max_batch_tokens.next_multiple_of(MAX_ROWS);
        let bytes = |width: usize| (rows * width * layout.storage.bytes()) as u64;
        let hidden = layout.states.stride;
        let embedded = if layout.has_projection() { layout.embeddings.stride } else { 0 };
        let inner = layout.intermediate_stride().max(hidden);
        // In the order of `ArenaBuffer`.
        let widths = [hidden, hidden, 3 * hidden, hidden, inner, embedded];
        Self { bytes: widths.map(bytes), shared: !layout.has_padding() }
    }

    /// Bytes of all buffers.
    pub(super) fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }

    /// Whether every buffer is at least as large as in `other`.
    pub(super) fn cover(&self, other: &Self) -> bool {
        self.bytes.iter().zip(other.bytes).all(|(&bytes, other)| bytes >= other)
    }

    /// The larger of each buffer.
    pub(super) fn max(mut self, other: &Self) -> Self {
        for (bytes, &other) in self.bytes.iter_mut().zip(&other.bytes) {
            *bytes = (*bytes).max(other);
        }
        self
    }
}

impl Arena {
    /// Makes the buffers.
    ///
    /// # Errors
    /// A buffer is larger than the device can bind, or the device is out of memory.
    pub(super) fn new(gpu: &OpenDevice, sizes: ArenaSizes) -> Result<Self, GpuError> {
        let labels = ["x", "y", "query, key, value", "context", "inner", "embedded"];
        // An empty buffer cannot be created. No step uses this one, so it is never bound.
        let make = |(label, bytes): (&'static str, u64)| gpu.buffer(label, bytes.max(16), wgpu::BufferUsages::STORAGE);
        let buffers = gpu.scoped(|| labels.into_iter().zip(sizes.bytes).map(make).collect::<Result<Vec<_>, _>>())?;
        Ok(Self { buffers, sizes })
    }

    pub(super) fn buffer(&self, name: ArenaBuffer) -> &wgpu::Buffer {
        &self.buffers[name as usize]
    }
}
