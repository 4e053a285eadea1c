//! A model packed for the CPU engine.
//!
//! Only columns are padded: hidden states, each head and the intermediate layer are widened to whole panels with zeros,
//! and every kernel keeps them zero. Heads of 32 or 64 numbers need no padding.

use super::norm::{PackedEmbeddings, PackedNorm};
use super::pack::{self, Format, PackedLinear};
use super::relative::{RelativePanels, RelativeTable};
use super::rotary::RotaryTable;
use super::simd::{Isa, PANEL_VECTORS};
use super::widths::{HeadOrder, Widths, head_places, query_scale};
use crate::architecture::{
    Activation, Architecture, Block, Head, Layer, Mask, Mlp, MlpKind, Norm, NormPlacement, Pooling, Rotary,
};
use crate::weights::{HeadWeights, LayerWeights, Model, NormWeights, RelativeWeights};

/// All weights that a forward pass reads.
#[derive(Debug)]
pub(super) struct PackedModel {
    pub(super) architecture: Architecture,
    pub(super) widths: Widths,
    pub(super) embeddings: PackedEmbeddings,
    /// One for each way in which layers rotate.
    pub(super) rotary: Vec<RotaryTable>,
    pub(super) relative: Option<RelativeTable>,
    pub(super) layers: Vec<PackedLayer>,
    pub(super) final_norm: Option<PackedNorm>,
    /// `None` if the model computes embeddings.
    pub(super) head: Option<PackedHead>,
}

#[derive(Debug)]
pub(super) struct PackedLayer {
    pub(super) mask: Mask,
    /// Index of the layer's table.
    pub(super) rotary: Option<usize>,
    /// Applied to the states that are projected to queries, keys and values: only with norms before.
    pub(super) input_norm: Option<PackedNorm>,
    /// `[3 · heads, hidden]`: queries (scaled), keys, values.
    pub(super) query_key_value: PackedLinear,
    pub(super) relative: Option<RelativePanels>,
    /// `[hidden, heads]`.
    pub(super) attention_output: PackedLinear,
    /// Between attention's residual and the feed-forward part.
    pub(super) middle_norm: Option<PackedNorm>,
    /// What the feed-forward part is added to.
    pub(super) residual: FeedForwardResidual,
    /// `[intermediate, hidden]`; with a gate `[2 · intermediate, hidden]` in the order of [`pack::gated_columns`].
    pub(super) intermediate: PackedLinear,
    /// `[hidden, intermediate]`.
    pub(super) output: PackedLinear,
    /// After the feed-forward part's residual: only with norms after.
    pub(super) end_norm: Option<PackedNorm>,
}

/// What a layer's feed-forward part is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeedForwardResidual {
    /// Its own input, which has been normalised.
    Normalised,
    /// The sum before the norm.
    Sum,
}

#[derive(Debug)]
pub(super) struct PackedHead {
    /// `[hidden, hidden]`.
    pub(super) dense: Option<PackedLinear>,
    pub(super) dense_norm: Option<PackedNorm>,
    /// `[labels, hidden]`.
    pub(super) classifier: PackedLinear,
}

impl PackedModel {
    /// Packs layer by layer and drops each original, so peak memory is one layer above the result.
    pub(super) fn new(isa: Isa, format: Format, model: Model) -> Self {
        let Model { architecture, weights } = model;
        let widths = Widths::of(isa, &architecture);
        let embeddings = PackedEmbeddings::new(isa, &architecture.embeddings, weights.embeddings);
        let rotations = architecture.rotations();
        let relative = architecture.block.attention.relative;
        let relative_table = weights.relative.map(|weights| normalised(isa, relative.and_then(|r| r.norm), weights));
        let pack = |(layer, mut weights): (&Layer, LayerWeights)| {
            // Packing takes numbers one by one, which is slow where each is to be widened.
            weights.matrices().into_iter().for_each(|linear| linear.weight.widen());
            let rotary = layer.rotary.and_then(|rotary| rotations.iter().position(|&other| other == rotary));
            let attention = architecture.block.attention;
            let project =
                |table: &Vec<f32>| RelativePanels::new(isa, table, (&weights.query, &weights.key), attention, widths);
            let relative = relative_table.as_ref().map(project);
            let layer = (layer.mask, rotary);
            PackedLayer { relative, ..PackedLayer::new(isa, format, &architecture.block, widths, layer, weights) }
        };
        let layers = architecture.layers.iter().zip(weights.layers).map(pack).collect();
        let (positions, head_dim) = (architecture.max_tokens, architecture.block.attention.head_dim);
        let table = |&rotary: &Rotary| RotaryTable::new(rotary, positions, head_dim, widths.head);
        let rotary = rotations.iter().map(table).collect();
        let relative = relative.map(|relative| RelativeTable::new(relative, positions));
        let final_norm = architecture.final_norm.zip(weights.final_norm);
        let final_norm = final_norm.map(|(norm, weights)| PackedNorm::new(isa, weights, norm.eps));
        let dense_norm_eps = match architecture.head {
            Head::Classifier { dense, .. } => dense.and_then(|dense| dense.norm).map_or(0.0, |norm| norm.eps),
            Head::Embedding => 0.0,
        };
        let head = weights.head.map(|HeadWeights { dense, dense_norm, classifier }| PackedHead {
            dense: dense.map(|dense| PackedLinear::plain(isa, Format::F32, &dense)),
            dense_norm: dense_norm.map(|weights| PackedNorm::new(isa, weights, dense_norm_eps)),
            classifier: PackedLinear::plain(isa, Format::F32, &classifier),
        });
        Self { architecture, widths, embeddings, rotary, relative, layers, final_norm, head }
    }

    /// Numbers of the first feed-forward product for each number of the second's input: two with a gate.
    pub(super) fn intermediate_parts(architecture: &Architecture) -> usize {
        match architecture.block.mlp.kind {
            MlpKind::Plain => 1,
            MlpKind::Gated => PANEL_VECTORS,
        }
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
        let Mlp { intermediate_size: intermediate, .. } = architecture.block.mlp;
        let parts = Self::intermediate_parts(architecture);
        let layer = linear(format, 3 * widths.heads, hidden)
            + linear(format, hidden, widths.heads)
            + linear(format, parts * intermediate.next_multiple_of(panel / parts), hidden)
            + linear(format, hidden, intermediate)
            + norm(hidden);
        let attention_norms = architecture.layers.iter().filter(|layer| layer.attention_norm).count() as u64;
        let head = match architecture.head {
            Head::Embedding => 0,
            Head::Classifier { dense, labels, .. } => {
                let dense_norm = dense.and_then(|dense| dense.norm).map_or(0, |_| norm(hidden));
                let dense = dense.map_or(0, |_| linear(Format::F32, hidden, hidden));
                dense + dense_norm + linear(Format::F32, labels, hidden)
            }
        };
        let relative = architecture.block.attention.relative.map_or(0, |_| {
            let panels = architecture.layers.len() as u64 * RelativePanels::bytes_of(isa, architecture);
            RelativeTable::bytes_of(architecture.max_tokens) + panels
        });
        let rotary = architecture.rotations().len() * architecture.max_tokens * widths.head * size_of::<f32>();
        let projection = match architecture.has_projection() {
            true => linear(Format::F32, stride, architecture.embeddings.width),
            false => 0,
        };
        PackedEmbeddings::bytes_of(architecture)
            + architecture.embeddings.norm.map_or(0, |_| norm(architecture.embeddings.width))
            + projection
            + architecture.layers.len() as u64 * layer
            + attention_norms * norm(hidden)
            + architecture.final_norm.map_or(0, |_| norm(hidden))
            + rotary as u64
            + relative
            + head
    }

    pub(super) fn bytes(&self) -> u64 {
        let norm = |norm: &Option<PackedNorm>| norm.as_ref().map_or(0, PackedNorm::bytes);
        let head = self.head.as_ref().map_or(0, |PackedHead { dense, dense_norm, classifier }| {
            dense.as_ref().map_or(0, PackedLinear::bytes) + norm(dense_norm) + classifier.bytes()
        });
        self.embeddings.bytes()
            + self.rotary.iter().map(RotaryTable::bytes).sum::<u64>()
            + self.relative.as_ref().map_or(0, |_| RelativeTable::bytes_of(self.architecture.max_tokens))
            + self.layers.iter().map(PackedLayer::bytes).sum::<u64>()
            + norm(&self.final_norm)
            + head
    }
}

/// The table of relative positions, `[rows, hidden]`, after its norm.
fn normalised(isa: Isa, norm: Option<Norm>, weights: RelativeWeights) -> Vec<f32> {
    let RelativeWeights { table, norm: norm_weights } = weights;
    let Some((norm, norm_weights)) = norm.zip(norm_weights) else { return table };
    let packed = PackedNorm::new(isa, norm_weights, norm.eps);
    let (hidden, stride) = (packed.hidden(), packed.stride());
    let mut padded = vec![0.0; stride];
    let mut row = vec![0.0; stride];
    let mut normalised = Vec::with_capacity(table.len());
    for numbers in table.chunks_exact(hidden) {
        padded[..hidden].copy_from_slice(numbers);
        packed.apply(isa, &padded, &mut row);
        normalised.extend_from_slice(&row[..hidden]);
    }
    normalised
}

impl PackedLayer {
    fn new(
        isa: Isa,
        format: Format,
        block: &Block,
        widths: Widths,
        (mask, rotary): (Mask, Option<usize>),
        layer: LayerWeights,
    ) -> Self {
        let LayerWeights { query, key, value, attention_output, attention_norm, intermediate, output, output_norm } =
            layer;
        let scale = query_scale(block.attention);
        // Values keep their order: rotation concerns queries and keys.
        let turned = if rotary.is_some() { HeadOrder::Rotary } else { HeadOrder::Plain };
        let mut columns = Vec::with_capacity(3 * widths.heads);
        for (linear, order, scale) in [(&query, turned, scale), (&key, turned, 1.0), (&value, HeadOrder::Plain, 1.0)] {
            let places = head_places(block.attention, widths, order);
            columns.extend(places.map(|place| place.map(|output| (linear, output, scale))));
        }
        let heads: Vec<Option<usize>> = head_places(block.attention, widths, HeadOrder::Plain).collect();
        let norm = |weights: NormWeights| PackedNorm::new(isa, weights, block.norm.eps);
        let (attention_norm, output_norm) = (attention_norm.map(norm), Some(norm(output_norm)));
        let (input_norm, middle_norm, end_norm, residual) = match block.norm_placement {
            NormPlacement::After => (None, attention_norm, output_norm, FeedForwardResidual::Normalised),
            NormPlacement::Before => (attention_norm, output_norm, None, FeedForwardResidual::Sum),
        };
        let intermediate_columns = match block.mlp.kind {
            MlpKind::Plain => pack::columns(&intermediate),
            MlpKind::Gated => pack::gated_columns(isa, &intermediate),
        };
        Self {
            mask,
            rotary,
            input_norm,
            relative: None,
            query_key_value: PackedLinear::new(isa, format, &columns, &pack::all_inputs(query.inputs)),
            attention_output: PackedLinear::new(isa, format, &pack::columns(&attention_output), &heads),
            middle_norm,
            residual,
            intermediate: PackedLinear::new(isa, format, &intermediate_columns, &pack::all_inputs(intermediate.inputs)),
            output: PackedLinear::plain(isa, format, &output),
            end_norm,
        }
    }

    fn bytes(&self) -> u64 {
        let linears = [&self.query_key_value, &self.attention_output, &self.intermediate, &self.output];
        let norms = [&self.input_norm, &self.middle_norm, &self.end_norm];
        let norms = norms.map(|norm| norm.as_ref().map_or(0, PackedNorm::bytes));
        let relative = self.relative.as_ref().map_or(0, RelativePanels::bytes);
        linears.map(PackedLinear::bytes).iter().sum::<u64>() + norms.iter().sum::<u64>() + relative
    }
}
