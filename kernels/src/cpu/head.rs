//! What follows the layers: the rest of the last layer for the tokens that the head reads, then the head.

use std::sync::PoisonError;

use super::forward::{Forward, Pass, after_attention, blocks};
use super::gemm::Finish;
use super::matrix::{Matrix, MatrixMut};
use super::pack::{Left, Product};
use super::packed_model::PackedHead;
use super::stages::{Clock, Stage};
use super::worker::{BlockBuffers, Worker};
use crate::architecture::Activation;
use crate::reference;

impl Pass<'_> {
    /// The mean of each row's last states, scaled to unit length. The member that has the row's first token computes
    /// it.
    pub(super) fn mean(&self, worker: &mut Worker) {
        let model = &self.forward.model;
        let (stride, hidden) = (model.widths.hidden, model.architecture.hidden_size);
        let buffer = self.publish(worker, |states, _, exchange, tokens| {
            exchange[..tokens * stride].copy_from_slice(&states[..tokens * stride]);
        });
        let mean = &mut worker.block.sums[..hidden];
        for part in self.parts(self.team.member).filter(|part| part.from == part.row_start) {
            mean.fill(0.0);
            let row = part.row_start..part.row_start + part.row_tokens;
            for member in row.start / self.share..=(row.end - 1) / self.share {
                let own = self.own(member);
                let exchange = self.exchange(member, buffer);
                for token in own.start.max(row.start)..own.end.min(row.end) {
                    let state = &exchange[(token - own.start) * stride..][..hidden];
                    mean.iter_mut().zip(state).for_each(|(mean, x)| *mean += x);
                }
            }
            mean.iter_mut().for_each(|mean| *mean /= part.row_tokens as f32);
            let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            mean.iter_mut().for_each(|mean| *mean /= norm);
            self.forward.write_outputs(part.row, mean);
        }
        worker.clock.lap(Stage::Head);
    }
}

impl Forward {
    /// The rest of the last layer and the head, for the first tokens collected so far.
    pub(super) fn finish_tail(&self, worker: &mut Worker) {
        let Some(PackedHead { dense, classifier }) = &self.model.head else { return };
        let Some(layer) = self.model.layers.last() else { return };
        let tail = &mut worker.tail;
        let hidden = self.model.widths.hidden;
        let tokens = tail.rows.len();
        let mut ignored = Clock::default();
        after_attention(self, layer, tokens, &tail.context, &mut tail.states, &mut worker.block, &mut ignored);
        blocks(tokens, |block| {
            let BlockBuffers { sums, intermediate, .. } = &mut worker.block;
            let mut pooled = Matrix::new(&tail.states[block.start * hidden..], hidden);
            if let Some(dense) = dense {
                let product = Product {
                    rows: block.len(),
                    a: Left::F32(pooled),
                    c: MatrixMut::new(sums, hidden),
                    residual: None,
                    finish: Finish::Store,
                };
                dense.apply(self.isa, 0..hidden, product);
                activate(self.model.head_activation(), &mut sums[..block.len() * hidden]);
                pooled = Matrix::new(sums, hidden);
            }
            let stride = classifier.outputs();
            let product = Product {
                rows: block.len(),
                a: Left::F32(pooled),
                c: MatrixMut::new(intermediate, stride),
                residual: None,
                finish: Finish::Store,
            };
            classifier.apply(self.isa, 0..stride, product);
            for (&row, logits) in tail.rows[block].iter().zip(intermediate.chunks_exact(stride)) {
                self.write_outputs(row, &logits[..self.model.architecture.outputs()]);
            }
        });
        tail.rows.clear();
        worker.clock.lap(Stage::Head);
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
