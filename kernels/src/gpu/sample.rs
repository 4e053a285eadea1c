//! The batch that kernel variants are tuned on: its buffers, the candidates of each kernel, and what each must compute by
//! the float64 reference, in a few rows around the edges of tiles. [`judge`](super::judge) decides between them.

use std::sync::Arc;

use super::adapter::KernelFamily;
use super::choices::{BySize, NormChoice, norm_candidates};
use super::error::GpuError;
use super::judge::{Candidate, Cost, Judge, TuneEntry};
use super::layout::{Layout, Storage};
use super::op::{Buffers, Extent, Op};
use super::opened::{OpenDevice, Pipeline};
use super::ops::attention::{self, Attention, AttentionBuffers, AttentionShape};
use super::ops::embed::Token;
use super::ops::gemm::{Epilogue, Gemm, GemmBuffers, GemmShape, GemmVariant, MAX_ROWS, pair_columns};
use super::ops::gemm_norm::{GemmNorm, GemmNormBuffers};
use super::ops::gemm_rotary::{self, GemmRotary, GemmRotaryBuffers};
use super::ops::layer_norm::{LayerNorm, LayerNormBuffers};
use super::sample_numbers::{Expected, Of, number};
use super::timing::Round;
use crate::architecture::{Architecture, Attention as Heads, Mask, Rotary};
use crate::reference;
use crate::weights::{Linear, NormWeights};

/// Tokens of a large sample batch: enough to fill a large GPU, few enough to take milliseconds.
const LARGE_TOKENS: usize = 4096;
/// Tokens of a small one: a pair or two.
const SMALL_TOKENS: usize = 128;
/// Tokens in each row of a sample batch.
const ROW_TOKENS: usize = 100;
/// Rows whose numbers are checked: two of the highest tiles and a part of one.
const CHECKED_ROWS: usize = 33;
/// Lengths of the rows in which attention is checked.
const CHECKED_LENGTHS: [u32; 2] = [17, 47];
/// Every so manieth column of a GEMM is checked, of all tiles because it divides no width of a tile.
const COLUMN_STEP: usize = 5;

/// The model that kernels are timed for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) architecture: &'a Architecture,
    pub(super) layout: &'a Layout,
    pub(super) family: KernelFamily,
    pub(super) max_batch_tokens: usize,
}

/// The buffers, and what they contain.
#[derive(Debug)]
pub(super) struct Sample<'a> {
    gpu: &'a OpenDevice,
    subject: Subject<'a>,
    judge: Judge<'a>,
    /// Whatever a kernel reads rows of: [`number`]s.
    a: wgpu::Buffer,
    residual: wgpu::Buffer,
    /// What lies between two kernels.
    between: wgpu::Buffer,
}

/// The weight of a GEMM, `[k, n]`, and its bias: as numbers and on the device.
struct Operands {
    numbers: Vec<f32>,
    bias: Vec<f32>,
    w: wgpu::Buffer,
    params: wgpu::Buffer,
}

impl<'a> Sample<'a> {
    pub(super) fn new(gpu: &'a OpenDevice, subject: Subject<'a>) -> Result<Self, GpuError> {
        use wgpu::BufferUsages as U;
        let Subject { layout, max_batch_tokens, .. } = subject;
        let (hidden, storage) = (layout.states.stride, layout.storage);
        let widest = layout.intermediate_columns().max(3 * hidden);
        let large = max_batch_tokens.min(LARGE_TOKENS);
        let sizes = BySize { small: large.min(SMALL_TOKENS), large };
        let rows = large.next_multiple_of(MAX_ROWS);
        let filled = |label, of, width, real: usize| {
            let piece = move |row: usize| {
                let numbers = (0..width).map(|c| if c < real { number(of, row * width + c) } else { 0.0 });
                storage.encode(&numbers.collect::<Vec<_>>())
            };
            let bytes = (rows * width * storage.bytes()) as u64;
            gpu.buffer_of_pieces(label, bytes, (0..rows).map(piece), U::STORAGE)
        };
        let written = |label, width: usize| {
            let bytes = (rows * width * storage.bytes()) as u64;
            gpu.buffer(label, bytes, U::STORAGE | U::COPY_SRC | U::COPY_DST)
        };
        gpu.scoped(|| {
            Ok(Self {
                gpu,
                subject,
                judge: Judge::new(gpu, storage, sizes, written("tune output", widest)?)?,
                a: filled("tune input", Of::A, widest, widest)?,
                residual: filled("tune residual", Of::Residual, hidden, layout.states.width)?,
                between: written("tune between", hidden)?,
            })
        })
    }

    /// Chooses the variant of a GEMM of `shape`; it must compute slices of `columns` columns too.
    pub(super) fn gemm(
        &self,
        kernel: &'static str,
        shape: GemmShape,
        columns: usize,
        entries: &mut Vec<TuneEntry>,
    ) -> Result<BySize<GemmVariant>, GpuError> {
        let GemmShape { k, n, epilogue, .. } = shape;
        let Operands { numbers, bias, w, params } = self.operands(k, n)?;
        let checked: Vec<usize> = (0..epilogue.outputs(n)).step_by(COLUMN_STEP).collect();
        let sums = |columns: &[usize]| self.product(k, n, &numbers, &bias, columns);
        let numbers = match epilogue {
            Epilogue::Bias => sums(&checked),
            Epilogue::Residual => {
                let at = |index| self.residual_at(index / checked.len(), checked[index % checked.len()]);
                sums(&checked).into_iter().enumerate().map(|(index, sum)| sum + at(index)).collect()
            }
            Epilogue::Activation(activation) => {
                sums(&checked).into_iter().map(|sum| reference::activate(activation, sum)).collect()
            }
            Epilogue::Gate(activation) => {
                let pairs: Vec<usize> = checked.iter().flat_map(|&output| pair_columns(output)).collect();
                sums(&pairs).as_chunks().0.iter().map(|&[x, gate]| reference::activate(activation, x) * gate).collect()
            }
        };
        let expected = Expected { stride: shape.stride, columns: checked, numbers };
        let op = |variant| Gemm::new(shape, variant, self.subject.layout.storage);
        let buffers = |op: &Gemm| self.gemm_buffers(op, &w, &params, &self.judge.y);
        self.gemm_variant(kernel, columns, (op, buffers), &expected, entries)
    }

    /// The same for queries, keys and values where `rotary` turns queries and keys.
    pub(super) fn rotary_gemm(
        &self,
        kernel: &'static str,
        shape: GemmShape,
        rotary: Rotary,
        columns: usize,
        entries: &mut Vec<TuneEntry>,
    ) -> Result<BySize<GemmVariant>, GpuError> {
        let Layout { head_dim, states, storage, .. } = *self.subject.layout;
        let GemmShape { k, n, .. } = shape;
        let Operands { numbers, bias, w, params } = self.operands(k, n)?;
        let place = |row: usize| row % ROW_TOKENS;
        let rows = self.judge.sizes.large.next_multiple_of(MAX_ROWS);
        let tokens: Vec<Token> = (0..rows).map(|row| Token::new(0, place(row), 0)).collect();
        let tokens = self.gpu.buffer_with("tune tokens", bytemuck::cast_slice(&tokens), wgpu::BufferUsages::STORAGE)?;
        let table = self.plain(&gemm_rotary::table(rotary, ROW_TOKENS, head_dim))?;

        let checked: Vec<usize> = (0..n).step_by(COLUMN_STEP).collect();
        let pair = |column: usize| column / 4 * 2 + column % 2;
        let pairs: Vec<usize> = checked.iter().flat_map(|&column| pair_columns(pair(column))).collect();
        let sums = self.product(k, n, &numbers, &bias, &pairs);
        let turned = |(index, &[x, y]): (usize, &[f64; 2])| {
            let (row, column) = (index / checked.len(), checked[index % checked.len()]);
            let is_value = column >= 2 * states.stride;
            let pair_of_head = pair(column % states.stride % head_dim);
            let angle = if is_value { 0.0 } else { rotary.angle(place(row), pair_of_head, head_dim) };
            let (sine, cosine) = f64::from(angle).sin_cos();
            if column % 4 < 2 { x * cosine - y * sine } else { y * cosine + x * sine }
        };
        let numbers = sums.as_chunks().0.iter().enumerate().map(turned).collect();
        let expected = Expected { stride: n, columns: checked, numbers };
        let op = |variant| GemmRotary::new(Gemm::new(shape, variant, storage), self.subject.layout);
        let buffers = |op: &GemmRotary| GemmRotaryBuffers {
            a: whole(&self.a),
            w: whole(&w),
            bias: whole(&params),
            tokens: whole(&tokens),
            y: whole(&self.judge.y),
            w_next: from(&w, op.second_row()),
            table: whole(&table),
        };
        self.gemm_variant(kernel, columns, (op, buffers), &expected, entries)
    }

    /// Chooses the variant of a GEMM, given what it makes an op of and the op's buffers.
    fn gemm_variant<'b, O: Op, B: Buffers<wgpu::BufferBinding<'b>>>(
        &self,
        kernel: &'static str,
        columns: usize,
        (op, buffers): (impl Fn(GemmVariant) -> O, impl Fn(&O) -> B),
        expected: &Expected,
        entries: &mut Vec<TuneEntry>,
    ) -> Result<BySize<GemmVariant>, GpuError> {
        let Subject { layout, family, .. } = self.subject;
        let variants = GemmVariant::candidates(self.gpu.description(), family, columns, layout.storage);
        let ops: Vec<O> = variants.iter().map(|&variant| op(variant)).collect();
        let _held = self.compile(&ops)?;
        let candidate = |(op, &choice): (&O, &GemmVariant)| -> Result<Candidate<GemmVariant>, GpuError> {
            let round = |rows: usize| self.round(op, buffers(op), rows);
            Ok(Candidate {
                choice,
                name: choice.name(),
                timed: self.judge.sizes.try_map(round)?,
                checked: round(CHECKED_ROWS)?.0,
            })
        };
        let candidates = ops.iter().zip(&variants).map(candidate).collect::<Result<Vec<_>, GpuError>>()?;
        // A row's score must not depend on the size of its batch, so sums are formed alike in both.
        self.judge.choose(kernel, candidates, expected, entries, |a, b| a.is_cooperative() == b.is_cooperative())
    }

    fn operands(&self, k: usize, n: usize) -> Result<Operands, GpuError> {
        let numbers = self.weights(k, n, n);
        let bias: Vec<f32> = (0..n).map(|c| number(Of::Params, c)).collect();
        let (w, params) = (self.stored(&numbers)?, self.plain(&bias)?);
        Ok(Operands { numbers, bias, w, params })
    }

    /// Chooses how many queries a workgroup of attention has.
    pub(super) fn attention(&self, entries: &mut Vec<TuneEntry>) -> Result<BySize<u32>, GpuError> {
        let Subject { layout, family, .. } = self.subject;
        let shape = AttentionShape::all(layout);
        let op = |threads| Attention { shape, threads, storage: layout.storage, family };
        let counts = attention::candidates(self.gpu.description(), family);
        let ops: Vec<Attention> = counts.iter().map(|&threads| op(threads)).collect();
        let _held = self.compile(&ops)?;
        let candidate = |(op, &threads): (&Attention, &u32)| -> Result<Candidate<u32>, GpuError> {
            let round = |lengths: &[u32]| self.attention_round(op, lengths);
            let timed = self.judge.sizes.try_map(|tokens| {
                let row = tokens.min(ROW_TOKENS);
                round(&vec![row as u32; (tokens / row).max(1)])
            })?;
            let name = format!("{threads} queries");
            Ok(Candidate { choice: threads, name, timed, checked: round(&CHECKED_LENGTHS)?.0 })
        };
        let candidates = ops.iter().zip(&counts).map(candidate).collect::<Result<Vec<_>, GpuError>>()?;
        self.judge.choose("attention", candidates, &self.expected_context(&shape), entries, |_, _| true)
    }

    /// Chooses whether the output GEMM and its LayerNorm are one kernel or two; both sizes have the same.
    pub(super) fn norm(
        &self,
        gemm: BySize<GemmVariant>,
        entries: &mut Vec<TuneEntry>,
    ) -> Result<BySize<NormChoice>, GpuError> {
        let Subject { architecture, layout, family, .. } = self.subject;
        let (states, k, eps) = (layout.states, layout.intermediate_stride(), architecture.block.norm.eps);
        let (n, width) = (states.stride, states.width);
        let numbers = self.weights(k, n, width);
        // Bias, norm weight, norm bias.
        let params: Vec<f32> = (0..3 * n).map(|i| if i % n < width { number(Of::Params, i) } else { 0.0 }).collect();
        let (w, params_buffer) = (self.stored(&numbers)?, self.plain(&params)?);
        let norm_params = wgpu::BufferBinding { offset: 4 * n as u64, ..whole(&params_buffer) };
        let fused = |rows: usize| {
            let op = GemmNorm { states, k, inputs: k, eps };
            let buffers = GemmNormBuffers {
                a: whole(&self.a),
                w: whole(&w),
                params: whole(&params_buffer),
                residual: whole(&self.residual),
                y: whole(&self.judge.y),
                w_next: from(&w, op.second_row()),
            };
            self.round(&op, buffers, rows)
        };
        let separate = |variant: GemmVariant, rows: usize| -> Result<(Round, Cost), GpuError> {
            let op = Gemm::new(GemmShape::new(k, n, Epilogue::Residual), variant, layout.storage);
            let (mut round, mut cost) =
                self.round(&op, self.gemm_buffers(&op, &w, &params_buffer, &self.between), rows)?;
            let op = LayerNorm { rows: states, eps, family };
            let buffers =
                LayerNormBuffers { x: whole(&self.between), norm: norm_params.clone(), y: whole(&self.judge.y) };
            let (norm, of_norm) = self.round(&op, buffers, rows)?;
            round.extend(norm);
            cost.bytes += of_norm.bytes;
            Ok((round, cost))
        };
        let candidate = |choice: NormChoice| -> Result<Candidate<NormChoice>, GpuError> {
            let (timed, checked) = match choice {
                NormChoice::Fused => (self.judge.sizes.try_map(fused)?, fused(CHECKED_ROWS)?.0),
                NormChoice::Separate => (
                    BySize {
                        small: separate(gemm.small, self.judge.sizes.small)?,
                        large: separate(gemm.large, self.judge.sizes.large)?,
                    },
                    separate(gemm.large, CHECKED_ROWS)?.0,
                ),
            };
            let name = format!("{choice:?}").to_lowercase();
            Ok(Candidate { choice, name, timed, checked })
        };
        let choices = norm_candidates(self.gpu.description(), family, layout);
        let candidates = choices.into_iter().map(candidate).collect::<Result<Vec<_>, GpuError>>()?;

        let columns: Vec<usize> = (0..width).collect();
        let mut numbers = self.product(k, n, &numbers, &params[..n], &columns);
        for (index, value) in numbers.iter_mut().enumerate() {
            *value += self.residual_at(index / width, index % width);
        }
        let part = |first: usize| params[first..first + width].to_vec();
        reference::layer_norm(&mut numbers, &NormWeights { weight: part(n), bias: Some(part(2 * n)) }, eps);
        let expected = Expected { stride: n, columns, numbers };
        self.judge.choose("output + norm", candidates, &expected, entries, |a, b| a == b)
    }

    /// Compiles all pipelines together. Holding them keeps them for the rounds that are made next.
    fn compile(&self, ops: &[impl Op]) -> Result<Vec<Arc<Pipeline>>, GpuError> {
        let specs: Vec<_> = ops.iter().map(Op::pipeline).collect();
        self.gpu.pipelines(&specs)
    }

    /// One dispatch over `rows` tokens, and its cost.
    fn round<'b, B>(&self, op: &impl Op, buffers: B, rows: usize) -> Result<(Round, Cost), GpuError>
    where
        B: Buffers<wgpu::BufferBinding<'b>>,
    {
        self.round_over(op, buffers, &Extent { rows: rows as u32, ..Extent::default() })
    }

    fn round_over<'b, B>(&self, op: &impl Op, buffers: B, extent: &Extent) -> Result<(Round, Cost), GpuError>
    where
        B: Buffers<wgpu::BufferBinding<'b>>,
    {
        let pipeline = self.gpu.pipeline(&op.pipeline())?;
        let (group, work) = (self.gpu.bind(&pipeline, buffers), op.work(extent));
        let cost = Cost { flops: work.flops, bytes: work.bytes, rereads: op.rereads(extent) };
        Ok((vec![(pipeline, group, work)], cost))
    }

    fn attention_round(&self, op: &Attention, lengths: &[u32]) -> Result<(Round, Cost), GpuError> {
        let offsets = offsets(lengths);
        let mut tiles = Vec::new();
        attention::query_tiles(&offsets, op.threads, &mut tiles);
        let list = bytemuck::cast_slice(&tiles);
        let list = self.gpu.buffer_with("tune query tiles", list, wgpu::BufferUsages::STORAGE)?;
        let buffers = AttentionBuffers {
            q: whole(&self.a),
            kv: whole(&self.a),
            query_tiles: whole(&list),
            context: whole(&self.judge.y),
        };
        let extent = Extent {
            rows: lengths.iter().sum(),
            query_tiles: tiles.len() as u32,
            query_keys: lengths.iter().map(|&length| u64::from(length).pow(2)).sum(),
        };
        self.round_over(op, buffers, &extent)
    }

    fn gemm_buffers<'b>(
        &'b self,
        op: &Gemm,
        w: &'b wgpu::Buffer,
        bias: &'b wgpu::Buffer,
        y: &'b wgpu::Buffer,
    ) -> GemmBuffers<wgpu::BufferBinding<'b>> {
        GemmBuffers {
            a: whole(&self.a),
            w: whole(w),
            bias: whole(bias),
            residual: whole(&self.residual),
            y: whole(y),
            w_next: from(w, op.second_row()),
        }
    }

    /// `[k, n]`, as stored; zeros from column `real` on.
    fn weights(&self, k: usize, n: usize, real: usize) -> Vec<f32> {
        let at = |index| if index % n < real { 0.1 * number(Of::Weight, index) } else { 0.0 };
        (0..k * n).map(|index| self.as_stored(at(index))).collect()
    }

    /// The checked rows of `a · w + bias`, in these columns.
    fn product(&self, k: usize, n: usize, w: &[f32], bias: &[f32], columns: &[usize]) -> Vec<f64> {
        let weight: Vec<f32> = columns.iter().flat_map(|&column| w[column..].iter().step_by(n).copied()).collect();
        let bias = Some(columns.iter().map(|&column| bias[column]).collect());
        let a: Vec<f64> = (0..CHECKED_ROWS * k).map(|index| self.a_at(index)).collect();
        reference::linear(&a, &Linear { weight: weight.into(), bias, inputs: k })
    }

    fn expected_context(&self, shape: &AttentionShape) -> Expected {
        let width = shape.heads * shape.head_dim;
        // The kernel takes exp2 of scores that are not scaled; the reference exp of scores over √head_dim.
        let scale = (shape.head_dim as f64).sqrt() / std::f64::consts::LOG2_E;
        let part = |tokens: std::ops::Range<u32>, first: usize, scale: f64| -> Vec<f64> {
            let of_token = |token: u32| {
                let start = token as usize * shape.kv_stride + first;
                (start..start + width).map(move |index| self.a_at(index) * scale)
            };
            tokens.flat_map(of_token).collect()
        };
        let heads = Heads::of_heads(shape.heads, shape.head_dim);
        let of_row = |row: &[u32]| {
            let tokens = row[0]..row[1];
            let (query, key) = (part(tokens.clone(), 0, scale), part(tokens.clone(), shape.key_column, 1.0));
            reference::attention(&query, &key, &part(tokens, shape.value_column, 1.0), &heads, Mask::All)
        };
        let numbers = offsets(&CHECKED_LENGTHS).windows(2).flat_map(of_row).collect();
        Expected { stride: shape.context_stride, columns: (0..width).collect(), numbers }
    }

    fn a_at(&self, index: usize) -> f64 {
        f64::from(self.as_stored(number(Of::A, index)))
    }

    fn residual_at(&self, row: usize, column: usize) -> f64 {
        let layout = &self.subject.layout.states;
        let real = column < layout.width;
        if real { f64::from(self.as_stored(number(Of::Residual, row * layout.stride + column))) } else { 0.0 }
    }

    fn as_stored(&self, value: f32) -> f32 {
        match self.subject.layout.storage {
            Storage::F32 => value,
            Storage::F16 => half::f16::from_f32(value).to_f32(),
        }
    }

    fn stored(&self, numbers: &[f32]) -> Result<wgpu::Buffer, GpuError> {
        let bytes = self.subject.layout.storage.encode(numbers);
        self.gpu.buffer_with("tune weight", &bytes, wgpu::BufferUsages::STORAGE)
    }

    fn plain(&self, numbers: &[f32]) -> Result<wgpu::Buffer, GpuError> {
        self.gpu.buffer_with("tune parameters", bytemuck::cast_slice(numbers), wgpu::BufferUsages::STORAGE)
    }
}

fn offsets(lengths: &[u32]) -> Vec<u32> {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    offsets
}

fn whole(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

fn from(buffer: &wgpu::Buffer, offset: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { offset, ..whole(buffer) }
}
