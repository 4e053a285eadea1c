//! Linear layers, packed for [`Gemm`](super::gemm::Gemm) once when a model loads.
//!
//! The layout `[block of k][panel][k in the block][column in the panel]` lets a product read its right matrix from
//! front to back. Outputs and inputs are padded with zeros to whole panels, so no kernel handles partial columns.

use std::ops::Range;

use super::gemm::{Finish, Gemm, Init, K_BLOCK};
use super::integer::{IntegerGemm, IntegerPanels, LeftBuffer, Quantised, Weight};
use super::matrix::{Matrix, MatrixMut};
use super::simd::{Isa, PANEL_VECTORS};
use crate::engine::Precision;
use crate::weights::Linear;

/// How a packed matrix stores its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    F32,
    Int8,
    Int16,
}

impl Format {
    /// The format of a precision; `None` if the CPU engine lacks it.
    pub(super) fn of(precision: Precision) -> Option<Self> {
        match precision {
            Precision::F32 => Some(Self::F32),
            Precision::Int8 => Some(Self::Int8),
            Precision::Int16 => Some(Self::Int16),
            Precision::F16 => None,
        }
    }
}

/// One column of a packed matrix: an output of a linear layer, scaled; `None` is padding.
pub(super) type Column<'a> = Option<(&'a Linear, usize, f32)>;

/// A linear layer, `[outputs, inputs]`, packed.
#[derive(Debug)]
pub(super) struct PackedLinear {
    panels: Panels,
    /// `[outputs]`.
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

#[derive(Debug)]
enum Panels {
    F32(Vec<f32>),
    Int8(IntegerPanels<i8>),
    Int16(IntegerPanels<i16>),
}

/// Every output of a layer.
pub(super) fn columns(linear: &Linear) -> Vec<Column<'_>> {
    (0..linear.outputs()).map(|output| Some((linear, output, 1.0))).collect()
}

/// Every output of a layer whose first half is activated and multiplied by the second: each panel has as many outputs
/// of one half as a vector has lanes, then the same of the other, for [`Finish::Gate`].
pub(super) fn gated_columns(isa: Isa, linear: &Linear) -> Vec<Column<'_>> {
    let (size, lanes) = (linear.outputs() / 2, isa.panel() / PANEL_VECTORS);
    let half = |first: usize, offset: usize| {
        (first..first + lanes).map(move |output| (output < size).then_some((linear, offset + output, 1.0)))
    };
    (0..size).step_by(lanes).flat_map(|first| half(first, 0).chain(half(first, size))).collect()
}

/// Inputs in their own order.
pub(super) fn all_inputs(count: usize) -> Vec<Option<usize>> {
    (0..count).map(Some).collect()
}

impl PackedLinear {
    /// All outputs and inputs in their own order.
    pub(super) fn plain(isa: Isa, format: Format, linear: &Linear) -> Self {
        Self::new(isa, format, &columns(linear), &all_inputs(linear.inputs))
    }

    /// `columns` are padded to whole panels; `inputs` names the layer's input for each row of the packed matrix, or
    /// `None` for padding.
    pub(super) fn new(isa: Isa, format: Format, columns: &[Column<'_>], inputs: &[Option<usize>]) -> Self {
        let panel = isa.panel();
        let outputs = columns.len().next_multiple_of(panel);
        let panels = match format {
            Format::F32 => Panels::F32(f32_panels(columns, inputs, outputs, panel)),
            Format::Int8 => Panels::Int8(integer_panels(columns, inputs, outputs, panel)),
            Format::Int16 => Panels::Int16(integer_panels(columns, inputs, outputs, panel)),
        };
        let bias = (0..outputs)
            .map(|output| match columns.get(output) {
                Some(&Some((linear, output, scale))) => linear.bias_of(output) * scale,
                _ => 0.0,
            })
            .collect();
        Self { panels, bias, inputs: inputs.len(), outputs }
    }

    /// Bytes of a layer of these sizes; `outputs` are padded.
    pub(super) fn bytes_of(format: Format, outputs: usize, inputs: usize) -> u64 {
        let blocks = (0..inputs).step_by(K_BLOCK);
        let pairs = || blocks.clone().map(|first| K_BLOCK.min(inputs - first).next_multiple_of(2)).sum::<usize>();
        let scales = blocks.len() * size_of::<f32>();
        let of_output = match format {
            Format::F32 => inputs * size_of::<f32>(),
            Format::Int8 => pairs() + scales,
            Format::Int16 => pairs() * size_of::<i16>() + scales,
        };
        (outputs * (of_output + size_of::<f32>())) as u64
    }

    /// Inputs, not padded.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Outputs, padded.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn bytes(&self) -> u64 {
        let panels = match &self.panels {
            Panels::F32(panels) => size_of_val(panels.as_slice()) as u64,
            Panels::Int8(panels) => panels.bytes(),
            Panels::Int16(panels) => panels.bytes(),
        };
        panels + size_of_val(self.bias.as_slice()) as u64
    }

    /// Converts a left matrix, `[rows, inputs]`, for [`apply`](Self::apply); `buffer` holds the converted copy if one
    /// is needed.
    pub(super) fn left<'a>(&self, isa: Isa, rows: usize, a: Matrix<'a>, buffer: &'a mut LeftBuffer) -> Left<'a> {
        self.quantise(isa, rows, self.inputs, a, buffer)
    }

    /// As [`left`](Self::left), for one block of the inputs: `a` is `[rows, inputs of the block]`.
    pub(super) fn left_block<'a>(
        &self,
        isa: Isa,
        rows: usize,
        block: usize,
        a: Matrix<'a>,
        buffer: &'a mut LeftBuffer,
    ) -> Left<'a> {
        self.quantise(isa, rows, K_BLOCK.min(self.inputs - block * K_BLOCK), a, buffer)
    }

    fn quantise<'a>(
        &self,
        isa: Isa,
        rows: usize,
        inputs: usize,
        a: Matrix<'a>,
        buffer: &'a mut LeftBuffer,
    ) -> Left<'a> {
        match &self.panels {
            Panels::F32(_) => Left::F32(a),
            Panels::Int8(_) => Left::Quantised(buffer.quantise::<i8>(isa, rows, inputs, a)),
            Panels::Int16(_) => Left::Quantised(buffer.quantise::<i16>(isa, rows, inputs, a)),
        }
    }

    /// `c = finish(a · wᵀ + bias + plus)` for some of the outputs, in whole panels: `a` is `[rows, inputs]`, `c` and
    /// what is added are `[rows, outputs.len()]`.
    pub(super) fn apply(&self, isa: Isa, outputs: Range<usize>, product: Product<'_>) {
        let Product { rows, a, mut c, plus, finish } = product;
        let blocks = self.inputs.div_ceil(K_BLOCK);
        for block in 0..blocks {
            let finish = if block + 1 == blocks { finish } else { Finish::Store };
            let place = Place { block, left_block: block, outputs: outputs.clone() };
            self.multiply(isa, place, Product { rows, a, c: c.reborrow(), plus, finish });
        }
    }

    /// Adds the product with one block of the inputs: `a` is `[rows, inputs of the block]`, `c` is `[rows, outputs]`
    /// and holds the sum over the blocks before. The first block starts from the bias and what is added instead.
    pub(super) fn apply_block(&self, isa: Isa, block: usize, product: Product<'_>) {
        self.multiply(isa, Place { block, left_block: 0, outputs: 0..self.outputs }, product);
    }

    fn multiply(&self, isa: Isa, place: Place, product: Product<'_>) {
        let Place { block, left_block, outputs } = place;
        let Product { rows, a, c, plus, finish } = product;
        let bias = &self.bias[outputs.clone()];
        let init = match (block, plus) {
            (0, Plus::Nothing) => Init::Bias(bias),
            (0, Plus::Other(residual)) => Init::BiasAndResidual(bias, residual),
            (0, Plus::Itself) => Init::BiasAndItself(bias),
            _ => Init::Accumulate,
        };
        let first = block * K_BLOCK;
        let depth = K_BLOCK.min(self.inputs - first);
        match (&self.panels, a) {
            (Panels::F32(panels), Left::F32(a)) => {
                let a = Matrix::new(&a.data[left_block * K_BLOCK..], a.stride);
                let start = first * self.outputs;
                let b = &panels[start + outputs.start * depth..start + outputs.end * depth];
                isa.run(Gemm { rows, depth, a, b, c, init, finish });
            }
            (Panels::Int8(panels), Left::Quantised(a)) => {
                let (b, scales) = panels.block(block, depth, outputs);
                isa.run_integers(IntegerGemm { rows, depth, a: a.block(left_block), b, scales, c, init, finish });
            }
            (Panels::Int16(panels), Left::Quantised(a)) => {
                let (b, scales) = panels.block(block, depth, outputs);
                isa.run_integers(IntegerGemm { rows, depth, a: a.block(left_block), b, scales, c, init, finish });
            }
            _ => unreachable!("a left matrix is made by the layer that multiplies it"),
        }
    }
}

/// The part of a packed matrix to multiply with.
struct Place {
    block: usize,
    /// Index of the same block in the left matrix.
    left_block: usize,
    outputs: Range<usize>,
}

fn f32_panels(columns: &[Column<'_>], inputs: &[Option<usize>], outputs: usize, panel: usize) -> Vec<f32> {
    let mut panels = Vec::with_capacity(outputs * inputs.len());
    for block in inputs.chunks(K_BLOCK) {
        for first in (0..outputs).step_by(panel) {
            for &input in block {
                panels.extend((first..first + panel).map(|output| weight(columns, output, input)));
            }
        }
    }
    panels
}

fn integer_panels<W: Weight>(
    columns: &[Column<'_>],
    inputs: &[Option<usize>],
    outputs: usize,
    panel: usize,
) -> IntegerPanels<W> {
    IntegerPanels::new(outputs, inputs.len(), panel, |output, input| weight(columns, output, inputs[input]))
}

/// The left matrix of a product, in the format that the right matrix needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Left<'a> {
    F32(Matrix<'a>),
    Quantised(Quantised<'a>),
}

/// Arguments of a product with a [`PackedLinear`].
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub(super) rows: usize,
    pub(super) a: Left<'a>,
    pub(super) c: MatrixMut<'a>,
    pub(super) plus: Plus<'a>,
    pub(super) finish: Finish,
}

/// Added to a product.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plus<'a> {
    Nothing,
    /// A matrix as large as the result.
    Other(Matrix<'a>),
    /// What the result's place holds.
    Itself,
}

fn weight(columns: &[Column<'_>], output: usize, input: Option<usize>) -> f32 {
    match (columns.get(output), input) {
        (Some(&Some((linear, output, scale))), Some(input)) => {
            linear.weight.number(output * linear.inputs + input) * scale
        }
        _ => 0.0,
    }
}
