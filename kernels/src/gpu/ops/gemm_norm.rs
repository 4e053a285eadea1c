//! GEMM, residual and LayerNorm in one: `y = norm(a · w + bias + residual)`; `gemm_tile_norm.wgsl`.
//!
//! Shapes: a `[rows, k]`, w `[k, stride]`, params `[3, stride]` in f32 (bias, norm weight, norm bias), residual and y
//! `[rows, stride]`. One workgroup holds whole rows, so the stride must be at most four times the threads that a
//! workgroup may have. Indices are in bounds for the reasons in [`super::gemm`].

use super::gemm::Tile;
use crate::gpu::adapter::AdapterDescription;
use crate::gpu::layout::RowLayout;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Rereads, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("gemm_tile_norm");
/// Most threads per workgroup on every adapter.
const MAX_THREADS: usize = 256;
/// Workgroup memory that every adapter has.
const MAX_WORKGROUP_BYTES: usize = 16 << 10;

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct GemmNorm {
    /// Rows of y and the residual; they must [fit](fits) a workgroup.
    pub states: RowLayout,
    /// Width of a, height of w: a multiple of [`WIDTH_STEP`](crate::gpu::layout::WIDTH_STEP).
    pub k: usize,
    /// Columns of a without padding, to count useful operations.
    pub inputs: usize,
    /// Added to the variance.
    pub eps: f64,
}

buffers! {
    /// The op's buffers.
    pub struct GemmNormBuffers {
        /// `[rows, k]`.
        a: Read,
        /// `[k, stride]`.
        w: Read,
        /// `[3, stride]` in f32: bias, norm weight, norm bias.
        params: Read,
        /// `[rows, stride]`.
        residual: Read,
        /// `[rows, stride]`: not the residual's buffer.
        y: Write,
        /// w from its [second row](GemmNorm::second_row) on.
        w_next: Read,
    }
}

/// Whether a workgroup can hold whole rows of `states`.
#[must_use]
pub fn fits(states: &RowLayout) -> bool {
    let Tile { threads, rows, depth, .. } = tile(states);
    let [threads, rows, depth] = [threads, rows, depth].map(|size| size as usize);
    // Partial sums with one number more a row, totals, and the staged part of a.
    let bytes = 4 * rows * (threads + 2) + rows * depth * states.storage.bytes();
    threads <= MAX_THREADS && bytes <= MAX_WORKGROUP_BYTES
}

/// Whether `adapter` takes workgroups of whole rows of `states`.
#[must_use]
pub fn runs_on(adapter: &AdapterDescription, states: &RowLayout) -> bool {
    tile(states).workgroup() >= adapter.least_threads()
}

fn tile(states: &RowLayout) -> Tile {
    Tile::wide((states.stride / 4) as u32)
}

impl GemmNorm {
    /// Byte offset of the second row of w, where `w_next` begins. At least 256, which every adapter accepts as an
    /// offset.
    #[must_use]
    pub fn second_row(&self) -> u64 {
        self.states.bytes()
    }
}

impl Op for GemmNorm {
    fn name(&self) -> String {
        format!("gemm_norm {}x{}", self.k, self.states.stride)
    }

    fn pipeline(&self) -> PipelineSpec {
        let n = self.states.stride;
        let sizes = [("K", self.k), ("N", n), ("HIDDEN", self.states.width)];
        let mut constants: Vec<_> = sizes.into_iter().map(|(name, value)| (name, value as f64)).collect();
        constants.extend(tile(&self.states).constants());
        constants.push(("EPS", self.eps));
        PipelineSpec::new(SHADER, self.states.storage, GemmNormBuffers::<()>::BINDINGS, constants)
            .named(format!("{}x{n}", self.k))
    }

    fn work(&self, extent: &Extent) -> Work {
        let (rows, n) = (u64::from(extent.rows), self.states.stride as u64);
        let numbers = rows * (self.k as u64 + 2 * n) + self.k as u64 * n;
        let bytes = numbers * self.states.storage.bytes() as u64 + 12 * n;
        let groups = [1, extent.rows.div_ceil(tile(&self.states).rows), 1];
        Work::new(&[], groups, 2 * rows * (self.inputs * self.states.width) as u64, bytes)
    }

    fn rereads(&self, extent: &Extent) -> Rereads {
        let Tile { threads, rows, .. } = tile(&self.states);
        let workgroups = u64::from(extent.rows.div_ceil(rows));
        let bytes = |numbers: u32| workgroups * u64::from(numbers) * (self.k * self.states.storage.bytes()) as u64;
        Rereads { cached_bytes: bytes(4 * threads), broadcast_bytes: bytes(threads * rows) }
    }
}
