//! The GEMM of queries, keys and values, which turns queries and keys by rotary positions; `epilogue_rotary.wgsl`.
//!
//! Shapes: those of [`super::gemm`] without a residual, tokens `[rows]` of [`Token`](super::embed::Token), table
//! `[positions, head_dim]` in f32. A token's position is its place in its row, which is below the table's rows.

use super::gemm::{Gemm, pair_columns};
use crate::architecture::Rotary;
use crate::gpu::layout::Layout;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Rereads, Work, buffers};

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct GemmRotary {
    gemm: Gemm,
    /// Width of a head: a multiple of 8.
    head_dim: usize,
    /// Columns of queries, and of keys.
    part: usize,
}

buffers! {
    /// The op's buffers.
    pub struct GemmRotaryBuffers {
        /// `[rows, k]`.
        a: Read,
        /// `[k, n]`.
        w: Read,
        /// `[n]` in f32.
        bias: Read,
        /// `[rows]` of [`Token`](super::embed::Token).
        tokens: Read,
        /// `[rows, stride]`.
        y: Write,
        /// w from its [second row](Gemm::second_row) on.
        w_next: Read,
        /// `[positions, head_dim]` in f32: a [`table`].
        table: Read,
    }
}

impl GemmRotary {
    /// `gemm` computes columns of queries, keys and values side by side, and ends with the bias.
    #[must_use]
    pub fn new(gemm: Gemm, layout: &Layout) -> Self {
        Self { gemm, head_dim: layout.head_dim, part: layout.states.stride }
    }

    /// As [`Gemm::second_row`].
    #[must_use]
    pub fn second_row(&self) -> u64 {
        self.gemm.second_row()
    }
}

/// The cosines and sines of `positions` positions, `[positions, head_dim]`, each in the [column](pair_columns) of the
/// number that it multiplies first.
#[must_use]
pub fn table(rotary: Rotary, positions: usize, head_dim: usize) -> Vec<f32> {
    let mut table = vec![0.0; positions * head_dim];
    for (position, row) in table.chunks_exact_mut(head_dim).enumerate() {
        for pair in 0..head_dim / 2 {
            let angle = f64::from(rotary.angle(position, pair, head_dim));
            let [cosine, sine] = pair_columns(pair);
            row[cosine] = angle.cos() as f32;
            row[sine] = angle.sin() as f32;
        }
    }
    table
}

impl Op for GemmRotary {
    fn name(&self) -> String {
        format!("{} rotary {}", self.gemm.name(), self.head_dim)
    }

    fn pipeline(&self) -> PipelineSpec {
        let constants = [("HEAD_DIM", self.head_dim as f64), ("PART4", (self.part / 4) as f64)];
        let detail = format!("head_dim {}", self.head_dim);
        self.gemm.rotary_pipeline(GemmRotaryBuffers::<()>::BINDINGS, &constants, &detail)
    }

    fn work(&self, extent: &Extent) -> Work {
        let Work { workgroups, flops, bytes, .. } = self.gemm.work(extent);
        // Of each token, its position and its row of the table.
        let angles = u64::from(extent.rows) * (8 + 4 * self.head_dim) as u64;
        Work::new(&self.gemm.immediates(extent), workgroups, flops, bytes + angles)
    }

    fn rereads(&self, extent: &Extent) -> Rereads {
        self.gemm.rereads(extent)
    }
}
