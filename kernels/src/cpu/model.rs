//! A model packed for the CPU engine, and the shapes that its padding gives.
//!
//! Padding is in columns only: a hidden state, each head and the intermediate layer are widened to whole panels with
//! zeros, which every kernel keeps zero. MiniLM and every BERT whose head is 32 or 64 wide need none.

use super::Precision;
use super::norm::{PackedEmbeddings, PackedNorm};
use super::pack::{self, Column, PackedLinear};
use super::simd::Isa;
use crate::config::{BertConfig, Task};
use crate::weights::{BertWeights, Head, Layer, Linear};

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

/// Everything that a forward pass reads.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) config: BertConfig,
    pub(super) widths: Widths,
    pub(super) embeddings: PackedEmbeddings,
    pub(super) layers: Vec<PackedLayer>,
    pub(super) head: PackedHead,
}

#[derive(Debug)]
pub(super) struct PackedLayer {
    /// `[3 · heads, hidden]`: queries (scaled by 1/√head_dim), keys, values.
    pub(super) query_key_value: PackedLinear,
    /// `[hidden, heads]`.
    pub(super) attention_output: PackedLinear,
    pub(super) attention_norm: PackedNorm,
    /// `[intermediate, hidden]`.
    pub(super) intermediate: PackedLinear,
    /// `[hidden, intermediate]`.
    pub(super) output: PackedLinear,
    pub(super) output_norm: PackedNorm,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a model has one")]
pub(super) enum PackedHead {
    CrossEncoder {
        /// `[hidden, hidden]`.
        pooler: PackedLinear,
        /// `[labels, hidden]`.
        classifier: PackedLinear,
    },
    MeanEmbedding,
}

impl Model {
    /// Packs layer by layer, dropping the originals on the way: the peak is one layer above what is kept.
    pub(super) fn new(isa: Isa, precision: Precision, weights: BertWeights) -> Self {
        let BertWeights { config, embeddings, layers, head } = weights;
        let panel = isa.panel();
        let head_width = config.head_dim().next_multiple_of(panel);
        let widths = Widths {
            hidden: config.hidden_size.next_multiple_of(panel),
            head: head_width,
            heads: head_width * config.num_attention_heads,
        };
        let embeddings = PackedEmbeddings::new(isa, embeddings, config.layer_norm_eps);
        let layers = layers.into_iter().map(|layer| PackedLayer::new(isa, precision, &config, widths, layer)).collect();
        let head = match head {
            Head::MeanEmbedding => PackedHead::MeanEmbedding,
            Head::CrossEncoder { pooler, classifier } => {
                let inputs = pack::all_inputs(config.hidden_size);
                PackedHead::CrossEncoder {
                    pooler: PackedLinear::new(isa, Precision::F32, &pack::columns(&pooler), &inputs),
                    classifier: PackedLinear::new(isa, Precision::F32, &pack::columns(&classifier), &inputs),
                }
            }
        };
        Self { config, widths, embeddings, layers, head }
    }

    /// Whether the last layer is computed for first tokens only.
    pub(super) fn is_pruned(&self) -> bool {
        self.config.task == Task::CrossEncoder
    }

    pub(super) fn bytes(&self) -> u64 {
        let head = match &self.head {
            PackedHead::CrossEncoder { pooler, classifier } => pooler.bytes() + classifier.bytes(),
            PackedHead::MeanEmbedding => 0,
        };
        self.embeddings.bytes() + self.layers.iter().map(PackedLayer::bytes).sum::<u64>() + head
    }
}

impl PackedLayer {
    fn new(isa: Isa, precision: Precision, config: &BertConfig, widths: Widths, layer: Layer) -> Self {
        let Layer { query, key, value, attention_output, attention_norm, intermediate, output, output_norm } = layer;
        let scale = 1.0 / (config.head_dim() as f32).sqrt();
        let mut columns = Vec::with_capacity(3 * widths.heads);
        for (linear, scale) in [(&query, scale), (&key, 1.0), (&value, 1.0)] {
            columns.extend(head_columns(config, widths, linear, scale));
        }
        let hidden = pack::all_inputs(config.hidden_size);
        let heads: Vec<Option<usize>> = head_places(config, widths).collect();
        let eps = config.layer_norm_eps;
        Self {
            query_key_value: PackedLinear::new(isa, precision, &columns, &hidden),
            attention_output: PackedLinear::new(isa, precision, &pack::columns(&attention_output), &heads),
            attention_norm: PackedNorm::new(isa, attention_norm, eps),
            intermediate: PackedLinear::new(isa, precision, &pack::columns(&intermediate), &hidden),
            output: PackedLinear::new(
                isa,
                precision,
                &pack::columns(&output),
                &pack::all_inputs(config.intermediate_size),
            ),
            output_norm: PackedNorm::new(isa, output_norm, eps),
        }
    }

    fn bytes(&self) -> u64 {
        let linears = [&self.query_key_value, &self.attention_output, &self.intermediate, &self.output];
        let norms = [&self.attention_norm, &self.output_norm];
        linears.map(PackedLinear::bytes).iter().sum::<u64>() + norms.map(PackedNorm::bytes).iter().sum::<u64>()
    }
}

/// Where in a checkpoint's row of heads each number of a padded row of heads is.
fn head_places(config: &BertConfig, widths: Widths) -> impl Iterator<Item = Option<usize>> + use<> {
    let head_dim = config.head_dim();
    (0..widths.heads).map(move |column| {
        let (head, dim) = (column / widths.head, column % widths.head);
        (dim < head_dim).then_some(head * head_dim + dim)
    })
}

fn head_columns<'a>(
    config: &BertConfig,
    widths: Widths,
    linear: &'a Linear,
    scale: f32,
) -> impl Iterator<Item = Column<'a>> + use<'a> {
    head_places(config, widths).map(move |place| place.map(|output| (linear, output, scale)))
}
