//! What is computed for each token alone: the norm before attention, and everything in a layer after attention.

use super::gemm::{Finish, K_BLOCK};
use super::matrix::{Matrix, MatrixMut};
use super::norm::PackedNorm;
use super::pack::{Plus, Product};
use super::packed_model::{FeedForwardResidual, PackedLayer, PackedModel};
use super::simd::Isa;
use super::stages::{Clock, Stage};
use super::worker::{BlockBuffers, blocks};
use crate::architecture::MlpKind;

impl PackedLayer {
    /// What queries, keys and values are projected from: `states`, or normalised copies in `normalised`; `[tokens,
    /// hidden]`.
    pub(super) fn attention_input<'a>(&self, isa: Isa, states: &'a [f32], normalised: &'a mut [f32]) -> &'a [f32] {
        match &self.input_norm {
            None => states,
            Some(norm) => {
                norm.apply(isa, states, normalised);
                normalised
            }
        }
    }
}

/// The rest of a layer: output projection, norm, feed-forward, norm. `context` is `[tokens, heads]`; `states`,
/// `[tokens, hidden]`, is the residual and becomes the layer's result.
pub(super) fn after_attention(
    (isa, model): (Isa, &PackedModel),
    layer: &PackedLayer,
    context: &[f32],
    states: &mut [f32],
    buffers: &mut BlockBuffers,
    clock: &mut Clock,
) {
    let (widths, mlp) = (model.widths, model.architecture.block.mlp);
    let hidden = widths.hidden;
    let finish = match mlp.kind {
        MlpKind::Plain => Finish::Activate(mlp.activation),
        MlpKind::Gated => Finish::Gate(mlp.activation),
    };
    let parts = PackedModel::intermediate_parts(&model.architecture);
    let stride = K_BLOCK * parts;
    let BlockBuffers { sums, intermediate, left, left_block } = buffers;
    blocks(states.len() / hidden, |block| {
        let rows = block.len();
        let states = &mut states[block.start * hidden..block.end * hidden];
        let sums = &mut sums[..rows * hidden];
        let a = Matrix::new(&context[block.start * widths.heads..], widths.heads);
        let product = Product {
            rows,
            a: layer.attention_output.left(isa, rows, a, left),
            c: MatrixMut::new(sums, hidden),
            plus: Plus::Other(Matrix::new(states, hidden)),
            finish: Finish::Store,
        };
        layer.attention_output.apply(isa, 0..hidden, product);
        normalise(isa, layer.middle_norm.as_ref(), sums, states);
        clock.lap(Stage::Projection);
        // Works on one block of the intermediate layer at a time: the second product reads the block while it is in
        // cache.
        let a = layer.intermediate.left(isa, rows, Matrix::new(states, hidden), left);
        for (index, start) in (0..layer.output.inputs()).step_by(K_BLOCK).enumerate() {
            let outputs = parts * start..(parts * (start + K_BLOCK)).min(layer.intermediate.outputs());
            let c = MatrixMut::new(intermediate, stride);
            layer.intermediate.apply(isa, outputs, Product { rows, a, c, plus: Plus::Nothing, finish });
            let product = Product {
                rows,
                a: layer.output.left_block(isa, rows, index, Matrix::new(intermediate, stride), left_block),
                c: MatrixMut::new(sums, hidden),
                plus: match layer.residual {
                    FeedForwardResidual::Normalised => Plus::Other(Matrix::new(states, hidden)),
                    FeedForwardResidual::Sum => Plus::Itself,
                },
                finish: Finish::Store,
            };
            layer.output.apply_block(isa, index, product);
        }
        normalise(isa, layer.end_norm.as_ref(), sums, states);
        clock.lap(Stage::FeedForward);
    });
}

/// `to = norm(from)`; a copy without a norm.
pub(super) fn normalise(isa: Isa, norm: Option<&PackedNorm>, from: &[f32], to: &mut [f32]) {
    match norm {
        Some(norm) => norm.apply(isa, from, to),
        None => to.copy_from_slice(from),
    }
}
