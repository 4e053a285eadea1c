//! A step of a forward pass: one dispatch, and the buffers that it touches, by name. Plain values: nothing here knows a
//! device.

use super::arena::ArenaBuffer;
use super::op::{Extent, Op, Rereads, Work};
use super::uploaded::WeightName;

/// One dispatch.
#[derive(Debug)]
pub struct Step {
    /// The part of the computation, for reports; all layers have the same parts.
    pub part: &'static str,
    /// What is computed.
    pub op: Box<dyn Op>,
    pub(super) span: Span,
    pub(super) buffers: Vec<BufferAt>,
}

/// The rows that a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// Every token.
    Tokens,
    /// One per row of the batch.
    Rows,
}

/// Extents of one batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extents {
    /// For steps that compute every token.
    pub tokens: Extent,
    /// For steps that compute one row per row of the batch.
    pub rows: Extent,
}

/// A position in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BufferAt {
    pub(super) buffer: BufferName,
    /// In bytes.
    pub(super) offset: u64,
}

/// A buffer, named by its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BufferName {
    /// The batch's [`Token`](super::ops::embed::Token)s.
    Tokens,
    /// The batch's [`QueryTile`](super::ops::attention::QueryTile)s.
    QueryTiles,
    /// The batch's rows: one query tile with one query each.
    Rows,
    /// The rows of the word table that the batch brings, one a token, if the table is not on the device.
    Words,
    /// The batch's outputs.
    Outputs,
    /// Activations.
    Arena(ArenaBuffer),
    /// Weights.
    Weight(WeightName),
}

impl Step {
    /// The cost of the dispatch for a batch of `extents`.
    #[must_use]
    pub fn work(&self, extents: &Extents) -> Work {
        self.op.work(self.extent(extents))
    }

    /// What the dispatch reads again, for a batch of `extents`.
    #[must_use]
    pub fn rereads(&self, extents: &Extents) -> Rereads {
        self.op.rereads(self.extent(extents))
    }

    fn extent<'a>(&self, extents: &'a Extents) -> &'a Extent {
        match self.span {
            Span::Tokens => &extents.tokens,
            Span::Rows => &extents.rows,
        }
    }
}

impl BufferAt {
    /// A position further on in the same buffer.
    pub(super) fn plus(self, bytes: u64) -> Self {
        Self { offset: self.offset + bytes, ..self }
    }
}

impl From<BufferName> for BufferAt {
    fn from(buffer: BufferName) -> Self {
        Self { buffer, offset: 0 }
    }
}

impl From<ArenaBuffer> for BufferAt {
    fn from(buffer: ArenaBuffer) -> Self {
        BufferName::Arena(buffer).into()
    }
}

impl From<WeightName> for BufferAt {
    fn from(weight: WeightName) -> Self {
        BufferName::Weight(weight).into()
    }
}
