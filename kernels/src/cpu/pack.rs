//! Linear layers packed for [`Gemm`](super::gemm::Gemm): once, when a model loads.
//!
//! `[block of k][panel][k in the block][column in the panel]`, so that a product reads its right matrix from front to
//! back. Outputs and inputs are padded with zeros to whole panels, so that no kernel has an edge in its columns.

use std::ops::Range;

use super::gemm::{Finish, Gemm, Init};
use super::matrix::{Matrix, MatrixMut};
use super::simd::Isa;
use crate::weights::Linear;

/// Inputs to one block: the panel (24 KiB on AVX2) shares a first-level cache of 32 KiB with a strip of the left
/// matrix. Divides into no smaller blocks the 384 of the model at hand.
pub(super) const K_BLOCK: usize = 384;

/// One column of a packed matrix: an output of a linear layer, scaled; `None` is padding.
pub(super) type Column<'a> = Option<(&'a Linear, usize, f32)>;

/// A linear layer, `[outputs, inputs]`, packed.
#[derive(Debug)]
pub(super) struct PackedLinear {
    panels: Vec<f32>,
    /// `[outputs]`.
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

/// Every output of a layer.
pub(super) fn columns(linear: &Linear) -> Vec<Column<'_>> {
    (0..linear.bias.len()).map(|output| Some((linear, output, 1.0))).collect()
}

/// Inputs in their own order.
pub(super) fn all_inputs(count: usize) -> Vec<Option<usize>> {
    (0..count).map(Some).collect()
}

impl PackedLinear {
    /// `columns` are padded to whole panels; `inputs` says which of a layer's inputs each row of the packed matrix is,
    /// `None` being padding.
    pub(super) fn new(isa: Isa, columns: &[Column<'_>], inputs: &[Option<usize>]) -> Self {
        let panel = isa.panel();
        let outputs = columns.len().next_multiple_of(panel);
        let mut panels = Vec::with_capacity(outputs * inputs.len());
        for block in inputs.chunks(K_BLOCK) {
            for first in (0..outputs).step_by(panel) {
                for &input in block {
                    panels.extend((first..first + panel).map(|output| weight(columns, output, input)));
                }
            }
        }
        let bias = (0..outputs)
            .map(|output| match columns.get(output) {
                Some(&Some((linear, output, scale))) => linear.bias[output] * scale,
                _ => 0.0,
            })
            .collect();
        Self { panels, bias, inputs: inputs.len(), outputs }
    }

    /// Outputs, padded.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn bytes(&self) -> u64 {
        (size_of_val(self.panels.as_slice()) + size_of_val(self.bias.as_slice())) as u64
    }

    /// `c = finish(a · wᵀ + bias + residual)` for some of the outputs, whole panels of them: `a` is `[rows, inputs]`, `c`
    /// and the residual are `[rows, outputs.len()]`.
    pub(super) fn apply(&self, isa: Isa, outputs: Range<usize>, product: Product<'_>) {
        let Product { rows, a, mut c, residual, finish } = product;
        let bias = &self.bias[outputs.clone()];
        let blocks = self.inputs.div_ceil(K_BLOCK);
        for block in 0..blocks {
            let init = match (block, residual) {
                (0, None) => Init::Bias(bias),
                (0, Some(residual)) => Init::BiasAndResidual(bias, residual),
                _ => Init::Accumulate,
            };
            let finish = if block + 1 == blocks { finish } else { Finish::Store };
            let (depth, b) = self.block(block, outputs.clone());
            let a = Matrix::new(&a.data[block * K_BLOCK..], a.stride);
            isa.run(Gemm { rows, depth, a, b, c: c.reborrow(), init, finish });
        }
    }

    /// Adds the product with one block of the inputs: `a` is `[rows, inputs of the block]`, `c` is `[rows, outputs]` and
    /// holds the sum over the blocks before. The first block starts from the bias and the residual instead.
    pub(super) fn apply_block(&self, isa: Isa, block: usize, product: Product<'_>) {
        let Product { rows, a, c, residual, finish } = product;
        let init = match (block, residual) {
            (0, None) => Init::Bias(&self.bias),
            (0, Some(residual)) => Init::BiasAndResidual(&self.bias, residual),
            _ => Init::Accumulate,
        };
        let (depth, b) = self.block(block, 0..self.outputs);
        isa.run(Gemm { rows, depth, a, b, c, init, finish });
    }

    /// Depth and panels of one block of the inputs, for some of the outputs.
    fn block(&self, block: usize, outputs: Range<usize>) -> (usize, &[f32]) {
        let first = block * K_BLOCK;
        let depth = K_BLOCK.min(self.inputs - first);
        let start = first * self.outputs;
        (depth, &self.panels[start + outputs.start * depth..start + outputs.end * depth])
    }
}

/// What a [`PackedLinear`] is applied to.
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub(super) rows: usize,
    pub(super) a: Matrix<'a>,
    pub(super) c: MatrixMut<'a>,
    pub(super) residual: Option<Matrix<'a>>,
    pub(super) finish: Finish,
}

fn weight(columns: &[Column<'_>], output: usize, input: Option<usize>) -> f32 {
    match (columns.get(output), input) {
        (Some(&Some((linear, output, scale))), Some(input)) => {
            let inputs = linear.weight.len() / linear.bias.len();
            linear.weight[output * inputs + input] * scale
        }
        _ => 0.0,
    }
}
