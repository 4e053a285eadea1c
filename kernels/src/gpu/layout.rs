//! How the model lies in device memory: padded widths and the number format.
//!
//! Widths are padded once, at load, to [`TILE`], so that no kernel has a partial tile in K or N: the padding of weights
//! is zero, and so is that of activations (a GEMM writes zeros there, no other kernel writes there at all, and buffers
//! begin as zeros). Rows are padded in the buffer only: a GEMM may compute up to 15 rows past the batch, whose contents
//! nobody reads.

use super::error::GpuError;
use crate::architecture::Architecture;

/// Widths are padded to a multiple of this: 32 threads of four columns, and 32 numbers of K, both divide it.
pub const TILE: usize = 128;
/// Rows that one GEMM workgroup computes; buffers have a multiple of it.
pub const TILE_ROWS: usize = 16;
/// Widest attention head that the kernels hold in registers.
pub const MAX_HEAD_DIM: usize = 128;

/// How numbers are stored in weights and activations. Arithmetic is f32 in both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Within 1e-4 of the float64 reference's logits.
    #[default]
    F32,
    /// Half the memory and traffic; within 2e-2 of the reference's logits.
    F16,
}

impl Precision {
    /// Bytes of one stored number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Numbers in one 16-byte load.
    #[must_use]
    pub fn run(self) -> u32 {
        16 / self.bytes() as u32
    }

    /// As [`EngineInfo`](crate::EngineInfo) names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    /// `values` as they are stored, zeros to `padded` numbers.
    #[must_use]
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => bytemuck::cast_slice(values).to_vec(),
            Self::F16 => values
                .iter()
                .flat_map(|&value| half::f16::from_f32(value.clamp(-65504.0, 65504.0)).to_le_bytes())
                .collect(),
        }
    }

    /// The inverse of [`encode`](Self::encode).
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Self::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        }
    }
}

/// A model's widths as its kernels see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Width of a hidden state.
    pub hidden: usize,
    /// `hidden`, padded: the row stride of hidden states.
    pub hidden_padded: usize,
    /// The feed-forward width, padded.
    pub intermediate_padded: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// How numbers are stored.
    pub precision: Precision,
}

impl Layout {
    /// The layout of a model.
    ///
    /// # Errors
    /// A head is wider than [`MAX_HEAD_DIM`], or its width is not a multiple of 8 (of 16 where it is above 64).
    pub fn new(architecture: &Architecture, precision: Precision) -> Result<Self, GpuError> {
        let layout = Self {
            hidden: architecture.hidden_size,
            hidden_padded: architecture.hidden_size.next_multiple_of(TILE),
            intermediate_padded: architecture.block.mlp.intermediate_size.next_multiple_of(TILE),
            heads: architecture.block.attention.heads,
            head_dim: architecture.block.attention.head_dim,
            precision,
        };
        layout.check()?;
        Ok(layout)
    }

    /// Whether kernels can compute it. Their shaders run without bounds checks: these are the sizes that they rely on.
    ///
    /// # Errors
    /// As [`new`](Self::new), or a width is not padded.
    pub fn check(&self) -> Result<(), GpuError> {
        let Self { hidden, hidden_padded, intermediate_padded, heads, head_dim, .. } = *self;
        if head_dim == 0 || head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(if head_dim > 64 { 16 } else { 8 }) {
            return Err(GpuError::Shape { what: format!("attention heads of {head_dim} numbers") });
        }
        let padded = hidden_padded.is_multiple_of(TILE) && intermediate_padded.is_multiple_of(TILE);
        if !padded || hidden > hidden_padded || heads * head_dim != hidden || intermediate_padded == 0 {
            let widths = format!("{heads} heads, {hidden} padded to {hidden_padded}, and {intermediate_padded}");
            return Err(GpuError::Shape { what: format!("widths that are not padded to {TILE}: {widths}") });
        }
        Ok(())
    }

    /// Bytes of one stored hidden state.
    #[must_use]
    pub fn hidden_bytes(&self) -> u64 {
        (self.hidden_padded * self.precision.bytes()) as u64
    }
}
