//! The forward pass as a list of dispatches, made once at load.
//!
//! Per layer: query, key and value in one GEMM; attention; output GEMM with the residual; LayerNorm; GELU GEMM; output
//! GEMM with the residual; LayerNorm. The last layer of a cross-encoder takes keys and values of all tokens and
//! everything else of first tokens only. Activations live in five buffers that all layers share:
//!
//! ```text
//! fused:      x ─qkv─▶ qkv ─attention─▶ context ─output + x, norm─▶ y ─gelu─▶ inner ─output + y, norm─▶ x
//! separate:   x ─qkv─▶ qkv ─attention─▶ context ─output + x─▶ y ─norm─▶ x ─gelu─▶ inner ─output + x─▶ y ─norm─▶ x
//! last layer: x ─kv─▶ qkv, x ─gather─▶ y ─q─▶ inner; (inner, qkv) ─attention─▶ context; from there as above with x and y
//!             exchanged, then ─pooler─▶ context ─classifier─▶ outputs
//! ```

use super::device::GpuDevice;
use super::error::GpuError;
use super::kernel::{Extent, Kernel, Op};
use super::layout::Layout;
use super::model::{DeviceHead, DeviceLayer, DeviceLinear, DeviceModel, DeviceNorm};
use super::ops::attention::{Attention, AttentionShape};
use super::ops::classify::Classify;
use super::ops::embed::Embed;
use super::ops::gather::Gather;
use super::ops::gemm::{COOPERATIVE_ROWS, Epilogue, Gemm, GemmShape};
use super::ops::gemm_norm::GemmNorm;
use super::ops::layer_norm::LayerNorm;
use super::ops::pool::{PoolMean, PoolNormalise};
use super::slots::Slot;
use super::tune::{Choices, NormChoice};
use crate::architecture::{Architecture, Task};

/// Activations of one batch, shared by all batches in flight: the queue runs them one after the other.
#[derive(Debug)]
pub(super) struct Arena {
    x: wgpu::Buffer,
    y: wgpu::Buffer,
    qkv: wgpu::Buffer,
    context: wgpu::Buffer,
    inner: wgpu::Buffer,
    pub(super) bytes: u64,
}

/// Which rows a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
    /// Every token.
    Tokens,
    /// One for each row of the batch.
    Rows,
}

/// One dispatch.
#[derive(Debug)]
pub(super) struct Step {
    op: Box<dyn Op>,
    span: Span,
    /// One for each I/O slot where the step reads or writes one, else a single one.
    bind_groups: Vec<wgpu::BindGroup>,
}

/// Extents of one batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extents {
    pub(super) tokens: Extent,
    pub(super) rows: Extent,
}

/// What recording a batch came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) dispatches: u32,
    pub(super) bytes: u64,
}

/// The forward pass.
#[derive(Debug)]
pub(super) struct Plan {
    steps: Vec<Step>,
    pub(super) queries_per_tile: u32,
}

impl Arena {
    /// Buffers for `max_batch_tokens` tokens, rows rounded up to the largest row tile.
    pub(super) fn new(gpu: &GpuDevice, layout: &Layout, max_batch_tokens: usize) -> Result<Self, GpuError> {
        let rows = max_batch_tokens.next_multiple_of(COOPERATIVE_ROWS);
        let before = gpu.created().buffer_bytes;
        let make = |label, width: usize| {
            gpu.buffer(label, (rows * width * layout.precision.bytes()) as u64, wgpu::BufferUsages::STORAGE)
        };
        let hidden = layout.hidden_padded;
        let mut arena = Self {
            x: make("x", hidden)?,
            y: make("y", hidden)?,
            qkv: make("qkv", 3 * hidden)?,
            context: make("context", hidden)?,
            inner: make("inner", layout.intermediate_padded.max(2 * hidden))?,
            bytes: 0,
        };
        arena.bytes = gpu.created().buffer_bytes - before;
        Ok(arena)
    }
}

impl Plan {
    /// Makes every pipeline and every bind group.
    pub(super) fn new(
        gpu: &GpuDevice,
        architecture: &Architecture,
        layout: &Layout,
        choices: &Choices,
        (model, arena, slots): (&DeviceModel, &Arena, &[Slot]),
    ) -> Result<Self, GpuError> {
        let kernels = Kernels::new(gpu, architecture, layout, choices)?;
        let mut builder = Builder { gpu, layout, kernels, arena, slots, steps: Vec::new() };
        builder.embed(model);
        let (last, full) = match architecture.task() {
            Task::Embedding => (None, &model.layers[..]),
            Task::CrossEncoder => match model.layers.split_last() {
                Some((last, full)) => (Some(last), full),
                None => (None, &[][..]),
            },
        };
        for layer in full {
            builder.layer(layer);
        }
        if let Some(layer) = last {
            builder.last_layer(layer);
        }
        builder.head(architecture, &model.head)?;
        Ok(Self { steps: builder.steps, queries_per_tile: choices.attention_queries })
    }

    /// Records a batch into `pass`.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, slot: usize, extents: &Extents) -> Totals {
        let mut totals = Totals::default();
        for step in &self.steps {
            let work = step.work(extents);
            let bind_group = step.bind_groups.get(slot).unwrap_or(&step.bind_groups[0]);
            work.record(step.op.kernel(), bind_group, pass);
            totals.dispatches += 1;
            totals.bytes += work.bytes;
        }
        totals
    }

    /// The steps with their work for a batch of `extents`, for profiles: name, kernel, bind group, work.
    pub(super) fn steps(
        &self,
        extents: Extents,
    ) -> impl Iterator<Item = (String, &Kernel, &wgpu::BindGroup, super::kernel::Work)> {
        self.steps.iter().map(move |step| (step.op.name(), step.op.kernel(), &step.bind_groups[0], step.work(&extents)))
    }
}

impl Step {
    fn work(&self, extents: &Extents) -> super::kernel::Work {
        self.op.work(match self.span {
            Span::Tokens => &extents.tokens,
            Span::Rows => &extents.rows,
        })
    }
}

/// The pipelines, shared by all layers.
struct Kernels {
    embed: Embed,
    norm: LayerNorm,
    qkv: Gemm,
    query: Gemm,
    key_value: Gemm,
    attention_output: Projection,
    intermediate: Gemm,
    output: Projection,
    attention: Attention,
    attention_first: Attention,
    gather: Gather,
    pooler: Gemm,
}

/// A GEMM with residual and LayerNorm, in one kernel or two.
#[derive(Clone)]
enum Projection {
    Fused(GemmNorm),
    Separate(Gemm),
}

impl Kernels {
    fn new(gpu: &GpuDevice, architecture: &Architecture, layout: &Layout, choices: &Choices) -> Result<Self, GpuError> {
        let target = choices.target;
        let eps = architecture.block.norm.eps;
        let (h, i) = (layout.hidden_padded, layout.intermediate_padded);
        let (hidden_size, intermediate_size) = (architecture.hidden_size, architecture.block.mlp.intermediate_size);
        let (hidden, intermediate) = (hidden_size as u64, intermediate_size as u64);
        let gemm = |k, n, epilogue, variant, useful_multiply_adds| {
            let shape = GemmShape { useful_multiply_adds, ..GemmShape::new(k, n, epilogue) };
            Gemm::new(gpu, shape, variant, layout.precision)
        };
        let square = hidden * hidden;
        let qkv = gemm(h, 3 * h, Epilogue::Bias, choices.qkv, 3 * square)?;
        let shape = AttentionShape::all(layout);
        let attention = Attention::new(gpu, shape, target, choices.attention_queries, layout.precision)?;
        // First tokens' queries go into a buffer of their own, so the slice has another stride.
        let query_shape = GemmShape {
            columns: h,
            stride: h,
            useful_multiply_adds: square,
            ..GemmShape::new(h, 3 * h, Epilogue::Bias)
        };
        Ok(Self {
            embed: Embed::new(gpu, *layout, eps, target)?,
            norm: LayerNorm::new(gpu, *layout, eps, target)?,
            query: qkv.with_shape(query_shape),
            key_value: qkv.columns(h, 2 * h, 2 * square),
            qkv,
            attention_output: match choices.norm {
                NormChoice::Fused => Projection::Fused(GemmNorm::new(gpu, *layout, (h, hidden_size), eps)?),
                NormChoice::Separate => Projection::Separate(gemm(h, h, Epilogue::Residual, choices.hidden, square)?),
            },
            intermediate: gemm(h, i, Epilogue::Gelu, choices.intermediate, hidden * intermediate)?,
            output: match choices.norm {
                NormChoice::Fused => Projection::Fused(GemmNorm::new(gpu, *layout, (i, intermediate_size), eps)?),
                NormChoice::Separate => {
                    Projection::Separate(gemm(i, h, Epilogue::Residual, choices.output, hidden * intermediate)?)
                }
            },
            attention_first: attention.with_shape(AttentionShape::first_tokens(layout)),
            attention,
            gather: Gather::new(gpu, *layout)?,
            pooler: gemm(h, h, Epilogue::Tanh, choices.hidden, square)?,
        })
    }
}

struct Builder<'a> {
    gpu: &'a GpuDevice,
    layout: &'a Layout,
    kernels: Kernels,
    arena: &'a Arena,
    slots: &'a [Slot],
    steps: Vec<Step>,
}

impl Builder<'_> {
    fn push(&mut self, span: Span, op: impl Op + 'static, bind_groups: Vec<wgpu::BindGroup>) {
        self.steps.push(Step { op: Box::new(op), span, bind_groups });
    }

    fn embed(&mut self, model: &DeviceModel) {
        let [word, position, token_type, norm] = &model.embeddings;
        let op = self.kernels.embed.clone();
        let tables = [word, position, token_type, norm];
        let bind = |slot: &Slot| op.bind(self.gpu, slot.tokens(), tables, &self.arena.x);
        let groups = self.slots.iter().map(bind).collect();
        self.push(Span::Tokens, op, groups);
    }

    fn gemm(
        &mut self,
        span: Span,
        op: Gemm,
        linear: &DeviceLinear,
        (a, residual, y): (&wgpu::Buffer, &wgpu::Buffer, &wgpu::Buffer),
    ) {
        let group = op.bind(self.gpu, [a, &linear.weight, &linear.bias, residual, y]);
        self.push(span, op, vec![group]);
    }

    fn norm(&mut self, span: Span, norm: &DeviceNorm, x: &wgpu::Buffer, y: &wgpu::Buffer) {
        let op = self.kernels.norm.clone();
        let group = op.bind(self.gpu, [x, &norm.weight, &norm.bias, y]);
        self.push(span, op, vec![group]);
    }

    fn layer(&mut self, layer: &DeviceLayer) {
        let Arena { x, y, qkv, context, .. } = self.arena;
        let tokens = Span::Tokens;
        self.gemm(tokens, self.kernels.qkv.clone(), &layer.qkv, (x, x, qkv));
        let op = self.kernels.attention.clone();
        let groups = self.slots.iter().map(|slot| op.bind(self.gpu, qkv, qkv, slot.tiles(), context)).collect();
        self.push(tokens, op, groups);
        self.after_attention(tokens, layer, x, y);
    }

    /// Output projection and feed-forward: from `context` and the residual in `from`, back into `from`; `other` is free.
    fn after_attention(&mut self, span: Span, layer: &DeviceLayer, from: &wgpu::Buffer, other: &wgpu::Buffer) {
        let Arena { context, inner, .. } = self.arena;
        let attention = (&layer.attention_output, &layer.attention_norm, &layer.attention_params);
        let middle = self.project(span, self.kernels.attention_output.clone(), attention, (context, from, other));
        self.gemm(span, self.kernels.intermediate.clone(), &layer.intermediate, (middle, middle, inner));
        let free = if std::ptr::eq(middle, from) { other } else { from };
        let output = (&layer.output, &layer.output_norm, &layer.output_params);
        let end = self.project(span, self.kernels.output.clone(), output, (inner, middle, free));
        debug_assert!(std::ptr::eq(end, from), "the layer's output is where the next layer looks for it");
    }

    /// `norm(a · w + bias + residual)`; returns where it is: in `other` if fused, in `residual` if by way of `other`.
    fn project<'b>(
        &mut self,
        span: Span,
        projection: Projection,
        (linear, norm, params): (&DeviceLinear, &DeviceNorm, &wgpu::Buffer),
        (a, residual, other): (&wgpu::Buffer, &'b wgpu::Buffer, &'b wgpu::Buffer),
    ) -> &'b wgpu::Buffer {
        match projection {
            Projection::Fused(op) => {
                let group = op.bind(self.gpu, [a, &linear.weight, params, residual, other]);
                self.push(span, op, vec![group]);
                other
            }
            Projection::Separate(op) => {
                self.gemm(span, op, linear, (a, residual, other));
                self.norm(span, norm, other, residual);
                residual
            }
        }
    }

    fn last_layer(&mut self, layer: &DeviceLayer) {
        let Arena { x, y, qkv, context, inner, .. } = self.arena;
        let rows = Span::Rows;
        self.gemm(Span::Tokens, self.kernels.key_value.clone(), &layer.qkv, (x, x, qkv));
        let op = self.kernels.gather.clone();
        let groups = self.slots.iter().map(|slot| op.bind(self.gpu, slot.rows(), x, y)).collect();
        self.push(rows, op, groups);
        self.gemm(rows, self.kernels.query.clone(), &layer.qkv, (y, y, inner));
        let op = self.kernels.attention_first.clone();
        let groups = self.slots.iter().map(|slot| op.bind(self.gpu, inner, qkv, slot.rows(), context)).collect();
        self.push(rows, op, groups);
        self.after_attention(rows, layer, y, x);
    }

    fn head(&mut self, architecture: &Architecture, head: &DeviceHead) -> Result<(), GpuError> {
        let Arena { x, y, context, inner, .. } = self.arena;
        match head {
            DeviceHead::CrossEncoder { pooler, classifier } => {
                self.gemm(Span::Rows, self.kernels.pooler.clone(), pooler, (y, y, context));
                let op = Classify::new(self.gpu, *self.layout, architecture.outputs())?;
                let bind =
                    |slot: &Slot| op.bind(self.gpu, [context, &classifier.weight, &classifier.bias, slot.outputs()]);
                let groups = self.slots.iter().map(bind).collect();
                self.push(Span::Rows, op, groups);
            }
            DeviceHead::MeanEmbedding => {
                // Means are f32, so they need up to twice the width of a hidden state: `inner` has it in both formats.
                let op = PoolMean::new(self.gpu, *self.layout)?;
                let groups = self.slots.iter().map(|slot| op.bind(self.gpu, slot.rows(), x, inner)).collect();
                self.push(Span::Rows, op, groups);
                let op = PoolNormalise::new(self.gpu, *self.layout)?;
                let groups = self.slots.iter().map(|slot| op.bind(self.gpu, inner, slot.outputs())).collect();
                self.push(Span::Rows, op, groups);
            }
        }
        Ok(())
    }
}
