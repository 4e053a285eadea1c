//! The forward pass of a model as a list of dispatches: a value, made from the architecture and the chosen kernel
//! variants.
//!
//! Engines bind it to buffers ([`bound`](super::bound)); the kernel report and the tests of shaders read it without a
//! device. Per layer: query, key and value in one GEMM; attention; output GEMM with the residual; LayerNorm; GEMM with
//! the activation; output GEMM with the residual; LayerNorm. A classifier reads the first token of each row only, so
//! the last layer computes keys and values of all tokens and everything else of first tokens. All layers share five
//! buffers:
//!
//! ```text
//! fused:      x ─qkv─▶ qkv ─attention─▶ context ─output + x, norm─▶ y ─activation─▶ inner ─output + y, norm─▶ x
//! separate:   x ─qkv─▶ qkv ─attention─▶ context ─output + x─▶ y ─norm─▶ x ─activation─▶ inner ─output + x─▶ y ─norm─▶ x
//! last layer: x ─kv─▶ qkv, x ─gather─▶ y ─q─▶ inner; (inner, qkv) ─attention─▶ context; from there as above with x and y
//!             exchanged, then ─dense─▶ context ─classifier─▶ outputs
//! ```

use super::arena::ArenaBuffer;
use super::choices::{Choices, NormChoice};
use super::layout::Layout;
use super::op::{Buffers, Extent, Op, PipelineSpec, Work};
use super::ops::attention::{Attention, AttentionBuffers, AttentionShape};
use super::ops::classify::{Classify, ClassifyBuffers};
use super::ops::embed::{Embed, EmbedBuffers};
use super::ops::gather::{Gather, GatherBuffers};
use super::ops::gemm::{Epilogue, Gemm, GemmBuffers, GemmShape, GemmVariant};
use super::ops::gemm_norm::{GemmNorm, GemmNormBuffers};
use super::ops::layer_norm::{LayerNorm, LayerNormBuffers};
use super::ops::peak::Peak;
use super::ops::pool::{PoolMean, PoolMeanBuffers, PoolNormalise, PoolNormaliseBuffers};
use super::uploaded::{LayerWeight, WeightName};
use crate::architecture::{Architecture, Head};

/// A forward pass.
#[derive(Debug)]
pub struct ForwardPass {
    /// In order.
    pub steps: Vec<Step>,
    /// Most queries in an entry of the attention's list.
    pub(super) queries_per_tile: u32,
}

/// One dispatch.
#[derive(Debug)]
pub struct Step {
    /// The part of the computation, for reports; all layers have the same parts.
    pub part: &'static str,
    /// What is computed.
    pub op: Box<dyn Op>,
    span: Span,
    pub(super) buffers: Vec<BufferAt>,
}

/// The rows that a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
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
    /// The batch's outputs.
    Outputs,
    /// Activations.
    Arena(ArenaBuffer),
    /// Weights.
    Weight(WeightName),
}

impl ForwardPass {
    /// The pass of a model that [`supports`](super::layout::supports) accepted.
    #[must_use]
    pub fn new(architecture: &Architecture, layout: &Layout, choices: &Choices) -> Self {
        let mut builder = Builder { architecture, layout, choices, steps: Vec::new() };
        builder.embeddings();
        let last = architecture.layers.len().saturating_sub(1);
        for layer in 0..last {
            builder.layer(layer);
        }
        match architecture.head {
            Head::Embedding => {
                builder.layer(last);
                builder.pool();
            }
            Head::Classifier { dense, labels, .. } => {
                let pooled = builder.last_layer(last);
                let dense = dense.map(|dense| dense.activation.map_or(Epilogue::Bias, Epilogue::Activation));
                builder.classify(pooled, dense, labels);
            }
        }
        Self { steps: builder.steps, queries_per_tile: choices.attention_queries }
    }
}

/// Every pipeline that the engine may create for a model of this architecture, on any adapter, without duplicates.
#[must_use]
pub fn pipelines(architecture: &Architecture, layout: &Layout) -> Vec<PipelineSpec> {
    let passes: Vec<ForwardPass> =
        Choices::all(layout).iter().map(|choices| ForwardPass::new(architecture, layout, choices)).collect();
    let steps = passes.iter().flat_map(|pass| pass.steps.iter().map(|step| step.op.pipeline()));
    let peak = Peak { trips: 1, storage: layout.storage };
    let mut seen = std::collections::HashSet::new();
    steps.chain([peak.pipeline()]).filter(|spec| seen.insert(spec.key())).collect()
}

impl Step {
    /// The cost of the dispatch for a batch of `extents`.
    #[must_use]
    pub fn work(&self, extents: &Extents) -> Work {
        self.op.work(match self.span {
            Span::Tokens => &extents.tokens,
            Span::Rows => &extents.rows,
        })
    }
}

impl BufferAt {
    fn plus(self, bytes: u64) -> Self {
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

/// A linear layer with a residual and a norm: its part, its input, and its weights.
struct Projection {
    part: &'static str,
    /// Width of the input, and its columns without padding.
    k: usize,
    inputs: usize,
    variant: GemmVariant,
    weight: WeightName,
    /// Bias, norm weight and norm bias, `[3, stride]`.
    params: WeightName,
}

struct Builder<'a> {
    architecture: &'a Architecture,
    layout: &'a Layout,
    choices: &'a Choices,
    steps: Vec<Step>,
}

impl Builder<'_> {
    fn push(&mut self, part: &'static str, span: Span, op: impl Op + 'static, buffers: impl Buffers<BufferAt>) {
        self.steps.push(Step { part, op: Box::new(op), span, buffers: buffers.in_order() });
    }

    fn embeddings(&mut self) {
        let Layout { states, embeddings, storage, .. } = *self.layout;
        let projected = self.layout.has_projection();
        let y = if projected { ArenaBuffer::Embedded } else { ArenaBuffer::X };
        // `supports` refuses embeddings without a norm.
        let eps = self.architecture.embeddings.norm.map_or(0.0, |norm| norm.eps);
        let op = Embed { rows: embeddings, eps, family: self.choices.family };
        let buffers = EmbedBuffers {
            tokens: BufferName::Tokens.into(),
            word: WeightName::Word.into(),
            position: WeightName::Position.into(),
            token_type: WeightName::TokenType.into(),
            norm: WeightName::EmbeddingNorm.into(),
            y: y.into(),
        };
        self.push("embeddings", Span::Tokens, op, buffers);
        if projected {
            let useful_multiply_adds = (embeddings.width * states.width) as u64;
            let shape =
                GemmShape { useful_multiply_adds, ..GemmShape::new(embeddings.stride, states.stride, Epilogue::Bias) };
            let op = Gemm::new(shape, self.choices.hidden, storage);
            let weights = (WeightName::Projection, WeightName::ProjectionBias.into());
            self.gemm("embedding projection", Span::Tokens, op, weights, (y, ArenaBuffer::Y, ArenaBuffer::X));
        }
    }

    /// From x into x.
    fn layer(&mut self, layer: usize) {
        let (x, y, qkv) = (ArenaBuffer::X, ArenaBuffer::Y, ArenaBuffer::QueryKeyValue);
        let (width, stride) = (self.layout.states.width as u64, self.layout.states.stride);
        let shape =
            GemmShape { useful_multiply_adds: 3 * width * width, ..GemmShape::new(stride, 3 * stride, Epilogue::Bias) };
        self.query_key_value("query, key, value", Span::Tokens, layer, shape, (x, qkv));
        self.attention("attention", Span::Tokens, AttentionShape::all(self.layout), (qkv, BufferName::QueryTiles));
        let parts = ["attention output, norm", "feed-forward in", "feed-forward out, norm"];
        self.after_attention(parts, Span::Tokens, layer, (x, y));
    }

    /// From x, first tokens only, into the returned buffer.
    fn last_layer(&mut self, layer: usize) -> ArenaBuffer {
        let (x, y, qkv, inner) = (ArenaBuffer::X, ArenaBuffer::Y, ArenaBuffer::QueryKeyValue, ArenaBuffer::Inner);
        let (width, stride) = (self.layout.states.width as u64, self.layout.states.stride);
        let all = GemmShape::new(stride, 3 * stride, Epilogue::Bias);
        let keys_and_values =
            GemmShape { first_column: stride, columns: 2 * stride, useful_multiply_adds: 2 * width * width, ..all };
        self.query_key_value("last layer: key, value", Span::Tokens, layer, keys_and_values, (x, qkv));
        let gather = GatherBuffers { rows: BufferName::Rows.into(), x: x.into(), y: y.into() };
        self.push("last layer: query", Span::Rows, Gather { states: self.layout.states }, gather);
        // First tokens' queries have their own buffer, so the slice has another stride.
        let queries = GemmShape { columns: stride, stride, useful_multiply_adds: width * width, ..all };
        self.query_key_value("last layer: query", Span::Rows, layer, queries, (y, inner));
        let shape = AttentionShape::first_tokens(self.layout);
        self.attention("last layer: attention", Span::Rows, shape, (inner, BufferName::Rows));
        let parts =
            ["last layer: attention output, norm", "last layer: feed-forward in", "last layer: feed-forward out, norm"];
        self.after_attention(parts, Span::Rows, layer, (y, x));
        y
    }

    fn query_key_value(
        &mut self,
        part: &'static str,
        span: Span,
        layer: usize,
        shape: GemmShape,
        (a, y): (ArenaBuffer, ArenaBuffer),
    ) {
        let op = Gemm::new(shape, self.choices.qkv, self.layout.storage);
        let weight = |weight| WeightName::Layer(layer, weight);
        let weights = (weight(LayerWeight::QueryKeyValue), weight(LayerWeight::QueryKeyValueBias).into());
        self.gemm(part, span, op, weights, (a, a, y));
    }

    /// Keys and values are always in `QueryKeyValue`.
    fn attention(
        &mut self,
        part: &'static str,
        span: Span,
        shape: AttentionShape,
        (q, query_tiles): (ArenaBuffer, BufferName),
    ) {
        let Choices { family, attention_queries, .. } = *self.choices;
        let op = Attention { shape, threads: attention_queries, storage: self.layout.storage, family };
        let buffers = AttentionBuffers {
            q: q.into(),
            kv: ArenaBuffer::QueryKeyValue.into(),
            query_tiles: query_tiles.into(),
            context: ArenaBuffer::Context.into(),
        };
        self.push(part, span, op, buffers);
    }

    /// Output projection and feed-forward: from `context` and the residual in `from`, back into `from`; `other` is
    /// free.
    fn after_attention(
        &mut self,
        [attention_output, feed_forward_in, feed_forward_out]: [&'static str; 3],
        span: Span,
        layer: usize,
        (from, other): (ArenaBuffer, ArenaBuffer),
    ) {
        let Layout { states, intermediate, storage, .. } = *self.layout;
        let stride = self.layout.intermediate_stride();
        let weight = |weight| WeightName::Layer(layer, weight);
        let projection = Projection {
            part: attention_output,
            k: states.stride,
            inputs: states.width,
            variant: self.choices.hidden,
            weight: weight(LayerWeight::AttentionOutput),
            params: weight(LayerWeight::AttentionParams),
        };
        let middle = self.project(span, &projection, ArenaBuffer::Context, (from, other));
        let shape = GemmShape {
            useful_multiply_adds: (states.width * intermediate) as u64,
            ..GemmShape::new(states.stride, stride, Epilogue::Activation(self.architecture.block.mlp.activation))
        };
        let op = Gemm::new(shape, self.choices.intermediate, storage);
        let weights = (weight(LayerWeight::Intermediate), weight(LayerWeight::IntermediateBias).into());
        self.gemm(feed_forward_in, span, op, weights, (middle, middle, ArenaBuffer::Inner));
        let free = if middle == from { other } else { from };
        let projection = Projection {
            part: feed_forward_out,
            k: stride,
            inputs: intermediate,
            variant: self.choices.output,
            weight: weight(LayerWeight::Output),
            params: weight(LayerWeight::OutputParams),
        };
        let end = self.project(span, &projection, ArenaBuffer::Inner, (middle, free));
        debug_assert_eq!(end, from, "the layer's output is where the next layer looks for it");
    }

    /// `norm(a · w + bias + residual)`. Returns the result's buffer: `other` if fused, `residual` if separate.
    fn project(
        &mut self,
        span: Span,
        projection: &Projection,
        a: ArenaBuffer,
        (residual, other): (ArenaBuffer, ArenaBuffer),
    ) -> ArenaBuffer {
        let &Projection { part, k, inputs, variant, weight, params } = projection;
        let states = self.layout.states;
        let eps = self.architecture.block.norm.eps;
        match self.choices.norm {
            NormChoice::Fused => {
                let op = GemmNorm { states, k, inputs, eps };
                let w = BufferAt::from(weight);
                let buffers = GemmNormBuffers {
                    a: a.into(),
                    w,
                    params: params.into(),
                    residual: residual.into(),
                    y: other.into(),
                    w_next: w.plus(op.second_row()),
                };
                self.push(part, span, op, buffers);
                other
            }
            NormChoice::Separate => {
                let useful_multiply_adds = (inputs * states.width) as u64;
                let shape = GemmShape { useful_multiply_adds, ..GemmShape::new(k, states.stride, Epilogue::Residual) };
                let op = Gemm::new(shape, variant, self.layout.storage);
                self.gemm(part, span, op, (weight, params.into()), (a, residual, other));
                let norm = LayerNorm { rows: states, eps, family: self.choices.family };
                // The norm's weight and bias are the last two of the three rows, which are f32.
                let norm_params = BufferAt::from(params).plus(4 * states.stride as u64);
                let buffers = LayerNormBuffers { x: other.into(), norm: norm_params, y: residual.into() };
                self.push(part, span, norm, buffers);
                residual
            }
        }
    }

    fn gemm(
        &mut self,
        part: &'static str,
        span: Span,
        op: Gemm,
        (weight, bias): (WeightName, BufferAt),
        (a, residual, y): (ArenaBuffer, ArenaBuffer, ArenaBuffer),
    ) {
        let w = BufferAt::from(weight);
        let buffers = GemmBuffers {
            a: a.into(),
            w,
            bias,
            residual: residual.into(),
            y: y.into(),
            w_next: w.plus(op.second_row()),
        };
        self.push(part, span, op, buffers);
    }

    /// From first tokens in `pooled`; `dense` is the epilogue of the linear layer before the classifier.
    fn classify(&mut self, pooled: ArenaBuffer, dense: Option<Epilogue>, labels: usize) {
        let states = self.layout.states;
        let mut x = pooled;
        if let Some(epilogue) = dense {
            let shape = GemmShape {
                useful_multiply_adds: (states.width * states.width) as u64,
                ..GemmShape::new(states.stride, states.stride, epilogue)
            };
            let op = Gemm::new(shape, self.choices.hidden, self.layout.storage);
            x = ArenaBuffer::Context;
            self.gemm("head", Span::Rows, op, (WeightName::Dense, WeightName::DenseBias.into()), (pooled, pooled, x));
        }
        let buffers = ClassifyBuffers {
            x: x.into(),
            w: WeightName::Classifier.into(),
            bias: WeightName::ClassifierBias.into(),
            y: BufferName::Outputs.into(),
        };
        self.push("head", Span::Rows, Classify { states, outputs: labels as u32 }, buffers);
    }

    /// The mean of x over each row, scaled to unit length.
    fn pool(&mut self) {
        let states = self.layout.states;
        let (x, mean) = (BufferAt::from(ArenaBuffer::X), BufferAt::from(ArenaBuffer::Inner));
        let buffers = PoolMeanBuffers { rows: BufferName::Rows.into(), x, mean };
        self.push("head", Span::Rows, PoolMean { states }, buffers);
        let buffers = PoolNormaliseBuffers { mean, y: BufferName::Outputs.into() };
        self.push("head", Span::Rows, PoolNormalise { states }, buffers);
    }
}
