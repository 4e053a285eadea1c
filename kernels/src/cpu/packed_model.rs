//! A model packed for the CPU engine, and its padded widths.
//!
//! Only columns are padded: hidden states, each head and the intermediate layer are widened to whole panels with zeros,
//! and every kernel keeps them zero. Heads of 32 or 64 numbers need no padding.

use super::norm::{PackedEmbeddings, PackedNorm};
use super::pack::{self, Column, Format, PackedLinear};
use super::simd::Isa;
use crate::architecture::{Activation, Architecture, Attention, Block, Head, Pooling};
use crate::weights::{HeadWeights, LayerWeights, Linear, Model, NormWeights};

/// Widths of rows in memory, padding included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    /// A hidden state.
    pub(super) hidden: usize,
    /// One head.
    pub(super) head: usize,
    /// All heads side by side.
    pub(super) heads: usize,
}

impl Widths {
    pub(super) fn of(isa: Isa, architecture: &Architecture) -> Self {
        let attention = architecture.block.attention;
        let head = attention.head_dim.next_multiple_of(isa.panel());
        let hidden = architecture.hidden_size.next_multiple_of(isa.panel());
        Self { hidden, head, heads: head * attention.heads }
    }
}

/// All weights that a forward pass reads.
#[derive(Debug)]
pub(super) struct PackedModel {
    pub(super) architecture: Architecture,
    pub(super) widths: Widths,
    pub(super) embeddings: PackedEmbeddings,
    pub(super) layers: Vec<PackedLayer>,
    /// `None` if the model computes embeddings.
    pub(super) head: Option<PackedHead>,
}

#[derive(Debug)]
pub(super) struct PackedLayer {
    /// `[3 · heads, hidden]`: queries (scaled by 1/√head_dim), keys, values.
    pub(super) query_key_value: PackedLinear,
    /// `[hidden, heads]`.
    pub(super) attention_output: PackedLinear,
    /// `None` if the layer has no such norm.
    pub(super) attention_norm: Option<PackedNorm>,
    /// `[intermediate, hidden]`.
    pub(super) intermediate: PackedLinear,
    /// `[hidden, intermediate]`.
    pub(super) output: PackedLinear,
    pub(super) output_norm: PackedNorm,
}

#[derive(Debug)]
pub(super) struct PackedHead {
    /// `[hidden, hidden]`.
    pub(super) dense: Option<PackedLinear>,
    /// `[labels, hidden]`.
    pub(super) classifier: PackedLinear,
}

impl PackedModel {
    /// Packs layer by layer and drops each original, so peak memory is one layer above the result.
    pub(super) fn new(isa: Isa, format: Format, model: Model) -> Self {
        let Model { architecture, weights } = model;
        let widths = Widths::of(isa, &architecture);
        let embeddings = PackedEmbeddings::new(isa, &architecture.embeddings, weights.embeddings);
        let pack = |layer| PackedLayer::new(isa, format, &architecture.block, widths, layer);
        let layers = weights.layers.into_iter().map(pack).collect();
        let head = weights.head.map(|HeadWeights { dense, classifier, .. }| PackedHead {
            dense: dense.map(|dense| PackedLinear::plain(isa, Format::F32, &dense)),
            classifier: PackedLinear::plain(isa, Format::F32, &classifier),
        });
        Self { architecture, widths, embeddings, layers, head }
    }

    /// Whether the last layer is computed only for first tokens.
    pub(super) fn is_pruned(&self) -> bool {
        self.architecture.pooling == Pooling::First
    }

    /// What follows the head's dense layer.
    pub(super) fn head_activation(&self) -> Option<Activation> {
        match self.architecture.head {
            Head::Classifier { dense, .. } => dense.and_then(|dense| dense.activation),
            Head::Embedding => None,
        }
    }

    /// Bytes of the packed model, computed without reading weights.
    pub(super) fn bytes_of(isa: Isa, format: Format, architecture: &Architecture) -> u64 {
        let (panel, widths) = (isa.panel(), Widths::of(isa, architecture));
        let (hidden, stride) = (architecture.hidden_size, widths.hidden);
        let linear =
            |format, outputs: usize, inputs| PackedLinear::bytes_of(format, outputs.next_multiple_of(panel), inputs);
        let norm = |width: usize| (2 * width.next_multiple_of(panel) * size_of::<f32>()) as u64;
        let intermediate = architecture.block.mlp.intermediate_size;
        let layer = linear(format, 3 * widths.heads, hidden)
            + linear(format, hidden, widths.heads)
            + linear(format, intermediate, hidden)
            + linear(format, hidden, intermediate)
            + norm(hidden);
        let attention_norms = architecture.layers.iter().filter(|layer| layer.attention_norm).count() as u64;
        let head = match architecture.head {
            Head::Embedding => 0,
            Head::Classifier { dense, labels, .. } => {
                dense.map_or(0, |_| linear(Format::F32, hidden, hidden)) + linear(Format::F32, labels, hidden)
            }
        };
        let projection = match architecture.has_projection() {
            true => linear(Format::F32, stride, architecture.embeddings.width),
            false => 0,
        };
        PackedEmbeddings::bytes_of(architecture)
            + architecture.embeddings.norm.map_or(0, |_| norm(architecture.embeddings.width))
            + projection
            + architecture.layers.len() as u64 * layer
            + attention_norms * norm(hidden)
            + head
    }

    pub(super) fn bytes(&self) -> u64 {
        let head = self.head.as_ref().map_or(0, |PackedHead { dense, classifier }| {
            dense.as_ref().map_or(0, PackedLinear::bytes) + classifier.bytes()
        });
        self.embeddings.bytes() + self.layers.iter().map(PackedLayer::bytes).sum::<u64>() + head
    }
}

impl PackedLayer {
    fn new(isa: Isa, format: Format, block: &Block, widths: Widths, layer: LayerWeights) -> Self {
        let LayerWeights { query, key, value, attention_output, attention_norm, intermediate, output, output_norm } =
            layer;
        let scale = 1.0 / (block.attention.head_dim as f32).sqrt();
        let mut columns = Vec::with_capacity(3 * widths.heads);
        for (linear, scale) in [(&query, scale), (&key, 1.0), (&value, 1.0)] {
            columns.extend(head_columns(block.attention, widths, linear, scale));
        }
        let heads: Vec<Option<usize>> = head_places(block.attention, widths).collect();
        let norm = |weights: NormWeights| PackedNorm::new(isa, weights, block.norm.eps);
        Self {
            query_key_value: PackedLinear::new(isa, format, &columns, &pack::all_inputs(query.inputs)),
            attention_output: PackedLinear::new(isa, format, &pack::columns(&attention_output), &heads),
            attention_norm: attention_norm.map(norm),
            intermediate: PackedLinear::plain(isa, format, &intermediate),
            output: PackedLinear::plain(isa, format, &output),
            output_norm: norm(output_norm),
        }
    }

    fn bytes(&self) -> u64 {
        let linears = [&self.query_key_value, &self.attention_output, &self.intermediate, &self.output];
        let norms = self.attention_norm.as_ref().map_or(0, PackedNorm::bytes) + self.output_norm.bytes();
        linears.map(PackedLinear::bytes).iter().sum::<u64>() + norms
    }
}

/// For each number of a padded row of heads, its index in the checkpoint's row; `None` is padding.
fn head_places(attention: Attention, widths: Widths) -> impl Iterator<Item = Option<usize>> {
    let head_dim = attention.head_dim;
    (0..widths.heads).map(move |column| {
        let (head, dim) = (column / widths.head, column % widths.head);
        (dim < head_dim).then_some(head * head_dim + dim)
    })
}

fn head_columns(attention: Attention, widths: Widths, linear: &Linear, scale: f32) -> impl Iterator<Item = Column<'_>> {
    head_places(attention, widths).map(move |place| place.map(|output| (linear, output, scale)))
}
