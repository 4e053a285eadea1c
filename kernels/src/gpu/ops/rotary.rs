//! Rotary positions: `rotary.wgsl`.
//!
//! Shapes: tokens `[rows]` of [`Token`](super::embed::Token), table `[positions, head_dim]` in f32, x `[rows, stride]`.
//! A token's position is its place in its row, which is below the table's rows.

use crate::architecture::Rotary;
use crate::gpu::layout::{Layout, Storage};
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("rotary");
const THREADS: u32 = 64;

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct Rotate {
    /// Heads of each part.
    pub heads: usize,
    /// Width of a head: a multiple of 8.
    pub head_dim: usize,
    /// Row stride of x.
    pub stride: usize,
    /// First column of the first part.
    pub column: usize,
    /// Columns from one part to the next.
    pub part_columns: usize,
    /// Parts: queries and keys, or keys alone.
    pub parts: usize,
    /// How numbers are stored.
    pub storage: Storage,
}

buffers! {
    /// The op's buffers.
    pub struct RotateBuffers {
        /// `[rows]` of [`Token`](super::embed::Token).
        tokens: Read,
        /// `[positions, head_dim]` in f32.
        table: Read,
        /// `[rows, stride]`.
        x: Write,
    }
}

impl Rotate {
    /// Queries and keys in the buffer that also has the values.
    #[must_use]
    pub fn queries_and_keys(layout: &Layout) -> Self {
        let hidden = layout.states.stride;
        Self {
            heads: layout.heads,
            head_dim: layout.head_dim,
            stride: 3 * hidden,
            column: 0,
            part_columns: hidden,
            parts: 2,
            storage: layout.storage,
        }
    }

    /// Only the keys in that buffer.
    #[must_use]
    pub fn keys(layout: &Layout) -> Self {
        Self { column: layout.states.stride, parts: 1, ..Self::queries_and_keys(layout) }
    }
}

/// The cosines and sines of `positions` positions: `[positions, head_dim]`.
#[must_use]
pub fn table(rotary: Rotary, positions: usize, head_dim: usize) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        let angles = (0..head_dim / 2).map(|pair| f64::from(rotary.angle(position, pair, head_dim)));
        table.extend(angles.clone().map(|angle| angle.cos() as f32));
        table.extend(angles.map(|angle| angle.sin() as f32));
    }
    table
}

impl Op for Rotate {
    fn name(&self) -> String {
        format!("rotary {}x{}", self.parts * self.heads, self.head_dim)
    }

    fn pipeline(&self) -> PipelineSpec {
        let constants = vec![
            ("HEAD_DIM", self.head_dim as f64),
            ("STRIDE4", (self.stride / 4) as f64),
            ("THREADS", f64::from(THREADS)),
        ];
        PipelineSpec::new(SHADER, self.storage, RotateBuffers::<()>::BINDINGS, constants)
            .named(format!("head_dim {} stride {}", self.head_dim, self.stride))
    }

    fn work(&self, extent: &Extent) -> Work {
        let part_fours = (self.heads * self.head_dim / 8) as u32;
        let fours = self.parts as u32 * part_fours;
        let immediates = [(self.column / 4) as u32, part_fours, (self.part_columns / 4) as u32, fours];
        let numbers = u64::from(8 * fours) * self.storage.bytes() as u64;
        let bytes = u64::from(extent.rows) * (2 * numbers + 4 * self.head_dim as u64);
        Work::new(&immediates, [fours.div_ceil(THREADS), extent.rows, 1], 0, bytes)
    }
}
