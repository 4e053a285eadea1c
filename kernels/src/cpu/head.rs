//! What follows the layers: the rest of the last layer for the tokens that the head reads, pooling, and the head.

use std::sync::PoisonError;

use super::feed_forward::{after_attention, normalise};
use super::forward::{Forward, Pass};
use super::gemm::Finish;
use super::matrix::{Matrix, MatrixMut};
use super::pack::{Left, Plus, Product};
use super::packed_model::PackedHead;
use super::stages::{Clock, Stage};
use super::worker::{BlockBuffers, Worker, blocks};
use crate::architecture::Activation;
use crate::reference;

/// Columns whose mean is taken together. Their sums are in f64: a row has thousands of tokens.
const MEAN_COLUMNS: usize = 64;

impl Pass<'_> {
    /// The mean of each row's last states, for the head. The member that has the row's first token computes it.
    pub(super) fn mean(&self, worker: &mut Worker) {
        let model = &self.forward.model;
        let (stride, hidden) = (model.widths.hidden, model.architecture.hidden_size);
        let buffer = self.publish(worker, |states, _, exchange, tokens| {
            let (states, exchange) = (&states[..tokens * stride], &mut exchange[..tokens * stride]);
            normalise(self.forward.isa, model.final_norm.as_ref(), states, exchange);
        });
        for part in self.parts(self.team.member).filter(|part| part.from == part.row_start) {
            let slot = worker.tail.rows.len();
            worker.tail.rows.push(part.row);
            let mean = &mut worker.tail.states[slot * stride..][..stride];
            mean.fill(0.0);
            let row = part.row_start..part.row_start + part.row_tokens;
            let columns = mean[..hidden].chunks_mut(MEAN_COLUMNS);
            for (first, mean) in (0..).step_by(MEAN_COLUMNS).zip(columns) {
                let mut sums = [0f64; MEAN_COLUMNS];
                for member in row.start / self.share..=(row.end - 1) / self.share {
                    let own = self.own(member);
                    let exchange = self.exchange(member, buffer);
                    for token in own.start.max(row.start)..own.end.min(row.end) {
                        let state = &exchange[(token - own.start) * stride + first..][..mean.len()];
                        sums.iter_mut().zip(state).for_each(|(sum, &x)| *sum += f64::from(x));
                    }
                }
                mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = (sum / part.row_tokens as f64) as f32);
            }
        }
        worker.clock.lap(Stage::Head);
    }
}

impl Forward {
    /// The head, after the rest of a pruned last layer, for the states collected so far.
    pub(super) fn finish_tail(&self, worker: &mut Worker) {
        let (isa, model) = (self.isa, &self.model);
        let hidden = model.widths.hidden;
        let tail = &mut worker.tail;
        let tokens = tail.rows.len();
        if let Some(layer) = model.layers.last().filter(|_| model.is_pruned()) {
            let mut ignored = Clock::default();
            let states = &mut tail.states[..tokens * hidden];
            after_attention((isa, model), layer, &tail.context, states, &mut worker.block, &mut ignored);
        }
        blocks(tokens, |block| {
            let BlockBuffers { sums, intermediate, .. } = &mut worker.block;
            let sums = &mut sums[..block.len() * hidden];
            let states = &mut tail.states[block.start * hidden..block.end * hidden];
            let rows = &tail.rows[block];
            if let Some(norm) = model.final_norm.as_ref().filter(|_| model.is_pruned()) {
                norm.apply(isa, states, sums);
                states.copy_from_slice(sums);
            }
            let Some(PackedHead { dense, dense_norm, classifier }) = &model.head else {
                return self.write_embeddings(rows, states);
            };
            if let Some(dense) = dense {
                let product = Product {
                    rows: rows.len(),
                    a: Left::F32(Matrix::new(states, hidden)),
                    c: MatrixMut::new(sums, hidden),
                    plus: Plus::Nothing,
                    finish: Finish::Store,
                };
                dense.apply(isa, 0..hidden, product);
                activate(model.head_activation(), sums);
                normalise(isa, dense_norm.as_ref(), sums, states);
            }
            let stride = classifier.outputs();
            let product = Product {
                rows: rows.len(),
                a: Left::F32(Matrix::new(states, hidden)),
                c: MatrixMut::new(intermediate, stride),
                plus: Plus::Nothing,
                finish: Finish::Store,
            };
            classifier.apply(isa, 0..stride, product);
            for (&row, logits) in rows.iter().zip(intermediate.chunks_exact(stride)) {
                self.write_outputs(row, &logits[..model.architecture.outputs()]);
            }
        });
        tail.rows.clear();
        worker.clock.lap(Stage::Head);
    }

    /// Writes states scaled to unit length.
    fn write_embeddings(&self, rows: &[u32], states: &mut [f32]) {
        for (&row, state) in rows.iter().zip(states.chunks_exact_mut(self.model.widths.hidden)) {
            let state = &mut state[..self.model.architecture.hidden_size];
            let length = state.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            state.iter_mut().for_each(|x| *x /= length);
            self.write_outputs(row, state);
        }
    }

    fn write_outputs(&self, row: u32, values: &[f32]) {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs[row as usize * values.len()..][..values.len()].copy_from_slice(values);
    }
}

/// Applies the head's activation. There are few numbers, so one at a time is fast enough.
fn activate(activation: Option<Activation>, values: &mut [f32]) {
    let wide = |activation, x: f32| reference::activate(activation, f64::from(x)) as f32;
    match activation {
        None => {}
        Some(Activation::Tanh) => values.iter_mut().for_each(|x| *x = libm::tanhf(*x)),
        Some(activation) => values.iter_mut().for_each(|x| *x = wide(activation, *x)),
    }
}
