//! The forward pass of a model as a list of dispatches: a value, made from the architecture and the chosen kernel
//! variants.
//!
//! Engines bind it to buffers ([`bound`](super::bound)); the kernel report and the tests of shaders read it without a
//! device. Per layer: query, key and value in one GEMM, rotated if positions are; attention; output GEMM with the
//! residual; LayerNorm; GEMM with the activation or the gate; output GEMM with the residual; LayerNorm. With
//! norms before, each LayerNorm comes before its GEMM instead. A classifier over the first token of each row reads no
//! other, so the last layer computes keys and values of all tokens and everything else of first tokens. All layers
//! share five buffers:
//!
//! ```text
//! fused:      x ─qkv─▶ qkv ─attention─▶ context ─output + x, norm─▶ y ─activation─▶ inner ─output + y, norm─▶ x
//! separate:   x ─qkv─▶ qkv ─attention─▶ context ─output + x─▶ y ─norm─▶ x ─activation─▶ inner ─output + x─▶ y ─norm─▶ x
//! before:     x ─norm─▶ y ─qkv─▶ qkv ─attention─▶ context ─output + x─▶ y ─norm─▶ x ─activation─▶ inner ─output + y─▶ x
//! last layer: x ─kv─▶ qkv, x ─gather─▶ y ─q─▶ inner; (inner, qkv) ─attention─▶ context; from there as above with x and y
//!             exchanged, then ─dense─▶ context ─classifier─▶ outputs
//! before:     x ─norm─▶ y ─kv─▶ qkv, y ─gather─▶ context ─q─▶ inner, x ─gather─▶ y; the rest as without
//! ```

use super::adapter::AdapterDescription;
use super::arena::ArenaBuffer;
use super::choices::{Choices, NormChoice};
use super::layout::{Layout, WordTable};
use super::op::{Buffers, Op, PipelineSpec};
use super::ops::attention::{Attention, AttentionBuffers, AttentionShape};
use super::ops::attention_relative::{RelativeAttention, RelativeAttentionBuffers};
use super::ops::classify::{Classify, ClassifyBuffers};
use super::ops::embed::{Embed, EmbedBuffers};
use super::ops::gather::{Gather, GatherBuffers};
use super::ops::gemm::{Epilogue, Gemm, GemmBuffers, GemmShape, GemmVariant};
use super::ops::gemm_norm::{GemmNorm, GemmNormBuffers};
use super::ops::gemm_rotary::{GemmRotary, GemmRotaryBuffers};
use super::ops::layer_norm::{LayerNorm, LayerNormBuffers};
use super::ops::peak::Peak;
use super::ops::pool::{PoolMean, PoolMeanBuffers, PoolNormalise, PoolNormaliseBuffers};
use super::shader::Loops;
use super::step::{BufferAt, BufferName, Span, Step};
use super::uploaded::{LayerWeight, WeightName};
use crate::architecture::{Architecture, Dense, Head, Mask, Mlp, MlpKind, Norm, NormPlacement, Pooling, Positions};

/// A forward pass.
#[derive(Debug)]
pub struct ForwardPass {
    /// In order.
    pub steps: Vec<Step>,
    /// Most queries in an entry of the attention's list.
    pub(super) queries_per_tile: u32,
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
        let pooled = match architecture.pooling {
            Pooling::First => {
                let pooled = builder.last_layer(last);
                builder.final_norm(Span::Rows, pooled)
            }
            // `supports` refuses any other pooling.
            Pooling::Mean | Pooling::Last => {
                builder.layer(last);
                let states = builder.final_norm(Span::Tokens, ArenaBuffer::X);
                builder.pool(states)
            }
        };
        match architecture.head {
            Head::Embedding => builder.embedding(pooled),
            Head::Classifier { dense, labels, .. } => builder.classify(pooled, dense, labels),
        }
        Self { steps: builder.steps, queries_per_tile: choices.attention_queries }
    }
}

/// Every pipeline that the engine may create for a model of this architecture, on any adapter, without duplicates.
#[must_use]
pub fn pipelines(architecture: &Architecture, layout: &Layout) -> Vec<PipelineSpec> {
    of_choices(architecture, layout, &Choices::all(layout))
}

/// Every pipeline that tuning may choose for a model of this architecture on `adapter`, without duplicates.
#[must_use]
pub fn candidates(architecture: &Architecture, layout: &Layout, adapter: &AdapterDescription) -> Vec<PipelineSpec> {
    of_choices(architecture, layout, &Choices::candidates(adapter, layout))
}

fn of_choices(architecture: &Architecture, layout: &Layout, choices: &[Choices]) -> Vec<PipelineSpec> {
    let passes: Vec<ForwardPass> =
        choices.iter().map(|choices| ForwardPass::new(architecture, layout, choices)).collect();
    let steps = passes.iter().flat_map(|pass| pass.steps.iter().map(|step| step.op.pipeline()));
    let peak = Peak { trips: 1, storage: layout.storage, loops: Loops::WrittenOut };
    let mut seen = std::collections::HashSet::new();
    steps.chain([peak.pipeline()]).filter(|spec| seen.insert(spec.key())).collect()
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
        let positioned = self.architecture.embeddings.positions != Positions::None;
        let op = Embed { rows: embeddings, eps, positioned, family: self.choices.family };
        let word = match self.layout.word_table {
            WordTable::OnDevice => WeightName::Word.into(),
            WordTable::OnHost => BufferName::Words.into(),
        };
        let buffers = EmbedBuffers {
            tokens: BufferName::Tokens.into(),
            word,
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
        let part = "query, key, value";
        let input = self.attention_input(part, layer);
        self.query_key_value(part, Span::Tokens, layer, shape, (input, qkv));
        let shape = AttentionShape { radius: self.radius(layer), ..AttentionShape::all(self.layout) };
        self.attention("attention", Span::Tokens, layer, shape, (qkv, BufferName::QueryTiles));
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
        let input = self.attention_input("last layer: key, value", layer);
        self.query_key_value("last layer: key, value", Span::Tokens, layer, keys_and_values, (input, qkv));
        let part = "last layer: query";
        let query_input = if input == x { y } else { ArenaBuffer::Context };
        self.gather(part, input, query_input);
        // First tokens' queries have their own buffer, so the slice has another stride.
        let queries = GemmShape { columns: stride, stride, useful_multiply_adds: width * width, ..all };
        self.query_key_value(part, Span::Rows, layer, queries, (query_input, inner));
        if query_input != y {
            self.gather(part, x, y);
        }
        let shape = AttentionShape { radius: self.radius(layer), ..AttentionShape::first_tokens(self.layout) };
        self.attention("last layer: attention", Span::Rows, layer, shape, (inner, BufferName::Rows));
        let parts =
            ["last layer: attention output, norm", "last layer: feed-forward in", "last layer: feed-forward out, norm"];
        self.after_attention(parts, Span::Rows, layer, (y, x));
        y
    }

    fn gather(&mut self, part: &'static str, x: ArenaBuffer, y: ArenaBuffer) {
        let buffers = GatherBuffers { rows: BufferName::Rows.into(), x: x.into(), y: y.into() };
        self.push(part, Span::Rows, Gather { states: self.layout.states }, buffers);
    }

    /// What queries, keys and values are projected from: x, or with norms before y.
    fn attention_input(&mut self, part: &'static str, layer: usize) -> ArenaBuffer {
        let has_norm =
            self.layout.norm_placement == NormPlacement::Before && self.architecture.layers[layer].attention_norm;
        if !has_norm {
            return ArenaBuffer::X;
        }
        let params = WeightName::Layer(layer, LayerWeight::AttentionParams);
        self.layer_norm(part, Span::Tokens, params, (ArenaBuffer::X, ArenaBuffer::Y));
        ArenaBuffer::Y
    }

    /// The norm in the last two of three rows of a layer's parameters.
    fn layer_norm(&mut self, part: &'static str, span: Span, params: WeightName, (x, y): (ArenaBuffer, ArenaBuffer)) {
        // They are f32.
        let norm = BufferAt::from(params).plus(4 * self.layout.states.stride as u64);
        self.norm(part, span, self.architecture.block.norm, norm, (x, y));
    }

    fn norm(
        &mut self,
        part: &'static str,
        span: Span,
        norm: Norm,
        params: BufferAt,
        (x, y): (ArenaBuffer, ArenaBuffer),
    ) {
        let op = LayerNorm { rows: self.layout.states, eps: norm.eps, family: self.choices.family };
        self.push(part, span, op, LayerNormBuffers { x: x.into(), norm: params, y: y.into() });
    }

    /// The norm after the last layer, if there is one: of x or y, into the other. Returns where the result is.
    fn final_norm(&mut self, span: Span, states: ArenaBuffer) -> ArenaBuffer {
        let Some(norm) = self.architecture.final_norm else { return states };
        let other = if states == ArenaBuffer::X { ArenaBuffer::Y } else { ArenaBuffer::X };
        self.norm("head", span, norm, WeightName::FinalNorm.into(), (states, other));
        other
    }

    /// The table of a layer's rotary positions, if it has any.
    fn rotation(&self, layer: usize) -> Option<WeightName> {
        let rotary = self.architecture.layers[layer].rotary?;
        self.architecture.rotations().iter().position(|&other| other == rotary).map(WeightName::Rotary)
    }

    fn radius(&self, layer: usize) -> Option<usize> {
        match self.architecture.layers[layer].mask {
            Mask::Window { radius } => Some(radius),
            // `supports` refuses causal attention.
            Mask::All | Mask::Causal => None,
        }
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
        let (w, bias) = (weight(LayerWeight::QueryKeyValue), weight(LayerWeight::QueryKeyValueBias).into());
        match (self.rotation(layer), span) {
            (Some(table), Span::Tokens) => {
                let (op, w) = (GemmRotary::new(op, self.layout), BufferAt::from(w));
                let buffers = GemmRotaryBuffers {
                    a: a.into(),
                    w,
                    bias,
                    tokens: BufferName::Tokens.into(),
                    y: y.into(),
                    w_next: w.plus(op.second_row()),
                    table: table.into(),
                };
                self.push(part, span, op, buffers);
            }
            // First tokens have position 0, which turns nothing.
            (None, _) | (Some(_), Span::Rows) => self.gemm(part, span, op, (w, bias), (a, a, y)),
        }
    }

    /// Keys and values are always in `QueryKeyValue`.
    fn attention(
        &mut self,
        part: &'static str,
        span: Span,
        layer: usize,
        shape: AttentionShape,
        (q, query_tiles): (ArenaBuffer, BufferName),
    ) {
        let (Choices { family, attention_queries: threads, .. }, storage) = (*self.choices, self.layout.storage);
        let (q, kv, query_tiles) = (q.into(), ArenaBuffer::QueryKeyValue.into(), query_tiles.into());
        let context = ArenaBuffer::Context.into();
        if self.architecture.block.attention.relative.is_none() {
            let op = Attention { shape, threads, storage, family };
            return self.push(part, span, op, AttentionBuffers { q, kv, query_tiles, context });
        }
        let (max_tokens, relative_stride) = (self.architecture.max_tokens, 2 * self.layout.states.stride);
        let op = RelativeAttention { shape, threads, max_tokens, relative_stride, storage };
        let distance_rows = WeightName::DistanceRows.into();
        let relative = WeightName::Layer(layer, LayerWeight::Relative).into();
        let buffers = RelativeAttentionBuffers { q, kv, query_tiles, context, distance_rows, relative };
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
        let Layout { states, intermediate, .. } = *self.layout;
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
        let output = Projection {
            part: feed_forward_out,
            k: stride,
            inputs: intermediate,
            variant: self.choices.output,
            weight: weight(LayerWeight::Output),
            params: weight(LayerWeight::OutputParams),
        };
        match self.layout.norm_placement {
            NormPlacement::After => {
                let middle = self.project(span, &projection, ArenaBuffer::Context, (from, other));
                self.feed_forward_in(feed_forward_in, span, layer, middle);
                let free = if middle == from { other } else { from };
                let end = self.project(span, &output, ArenaBuffer::Inner, (middle, free));
                debug_assert_eq!(end, from, "the layer's output is where the next layer looks for it");
            }
            NormPlacement::Before => {
                self.add(span, &projection, ArenaBuffer::Context, (from, other));
                self.layer_norm(attention_output, span, output.params, (other, from));
                self.feed_forward_in(feed_forward_in, span, layer, from);
                self.add(span, &output, ArenaBuffer::Inner, (other, from));
            }
        }
    }

    /// From `a` into `inner`.
    fn feed_forward_in(&mut self, part: &'static str, span: Span, layer: usize, a: ArenaBuffer) {
        let Layout { states, intermediate, storage, .. } = *self.layout;
        let (columns, stride) = (self.layout.intermediate_columns(), self.layout.intermediate_stride());
        let useful_columns = intermediate * (columns / stride);
        let shape = GemmShape {
            useful_multiply_adds: (states.width * useful_columns) as u64,
            ..GemmShape::new(states.stride, columns, intermediate_epilogue(&self.architecture.block.mlp))
        };
        let op = Gemm::new(shape, self.choices.intermediate, storage);
        let weight = |weight| WeightName::Layer(layer, weight);
        let weights = (weight(LayerWeight::Intermediate), weight(LayerWeight::IntermediateBias).into());
        self.gemm(part, span, op, weights, (a, a, ArenaBuffer::Inner));
    }

    /// `a · w + bias + residual` into `y`.
    fn add(&mut self, span: Span, projection: &Projection, a: ArenaBuffer, (residual, y): (ArenaBuffer, ArenaBuffer)) {
        let &Projection { part, k, inputs, variant, weight, params } = projection;
        let states = self.layout.states;
        let useful_multiply_adds = (inputs * states.width) as u64;
        let shape = GemmShape { useful_multiply_adds, ..GemmShape::new(k, states.stride, Epilogue::Residual) };
        let op = Gemm::new(shape, variant, self.layout.storage);
        self.gemm(part, span, op, (weight, params.into()), (a, residual, y));
    }

    /// `norm(a · w + bias + residual)`. Returns the result's buffer: `other` if fused, `residual` if separate.
    fn project(
        &mut self,
        span: Span,
        projection: &Projection,
        a: ArenaBuffer,
        (residual, other): (ArenaBuffer, ArenaBuffer),
    ) -> ArenaBuffer {
        let &Projection { part, k, inputs, weight, params, .. } = projection;
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
                self.add(span, projection, a, (residual, other));
                self.layer_norm(part, span, params, (other, residual));
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

    /// From one pooled state a row.
    fn classify(&mut self, pooled: ArenaBuffer, dense: Option<Dense>, labels: usize) {
        let states = self.layout.states;
        let mut x = pooled;
        if let Some(dense) = dense {
            let epilogue = dense.activation.map_or(Epilogue::Bias, Epilogue::Activation);
            let shape = GemmShape {
                useful_multiply_adds: (states.width * states.width) as u64,
                ..GemmShape::new(states.stride, states.stride, epilogue)
            };
            let op = Gemm::new(shape, self.choices.hidden, self.layout.storage);
            x = ArenaBuffer::Context;
            self.gemm("head", Span::Rows, op, (WeightName::Dense, WeightName::DenseBias.into()), (pooled, pooled, x));
            if let Some(norm) = dense.norm {
                self.norm("head", Span::Rows, norm, WeightName::DenseNorm.into(), (x, pooled));
                x = pooled;
            }
        }
        let buffers = ClassifyBuffers {
            x: x.into(),
            w: WeightName::Classifier.into(),
            bias: WeightName::ClassifierBias.into(),
            y: BufferName::Outputs.into(),
        };
        self.push("head", Span::Rows, Classify { states, outputs: labels as u32 }, buffers);
    }

    /// The mean over each row of x or y, into the other. Returns where the result is.
    fn pool(&mut self, states: ArenaBuffer) -> ArenaBuffer {
        let mean = if states == ArenaBuffer::X { ArenaBuffer::Y } else { ArenaBuffer::X };
        let buffers = PoolMeanBuffers { rows: BufferName::Rows.into(), x: states.into(), mean: mean.into() };
        self.push("head", Span::Rows, PoolMean { states: self.layout.states }, buffers);
        mean
    }

    /// From one pooled state a row, scaled to unit length.
    fn embedding(&mut self, pooled: ArenaBuffer) {
        let buffers = PoolNormaliseBuffers { mean: pooled.into(), y: BufferName::Outputs.into() };
        self.push("head", Span::Rows, PoolNormalise { states: self.layout.states }, buffers);
    }
}

/// What the first feed-forward GEMM ends with.
pub(super) fn intermediate_epilogue(mlp: &Mlp) -> Epilogue {
    match mlp.kind {
        MlpKind::Plain => Epilogue::Activation(mlp.activation),
        MlpKind::Gated => Epilogue::Gate(mlp.activation),
    }
}
