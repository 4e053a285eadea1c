//! Embeddings and LayerNorm: `embed.wgsl`.
//!
//! Shapes: tokens `[rows]` of [`Token`], tables `[…, width]`, norm `[2, stride]` in f32, y `[rows, stride]`.

use bytemuck::{Pod, Zeroable};

use super::layer_norm::{row_constants, row_groups};
use crate::gpu::adapter::KernelFamily;
use crate::gpu::layout::RowLayout;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("embed");
const SOFTWARE_SHADER: &Shader = shader::find("embed_cpu");

/// One uploaded token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Token {
    /// Row of the word table, or of the rows that the batch brings of it.
    pub id: u32,
    /// Row of the position table, or place in the row, · 2 + row of the token type table (0 or 1).
    pub position_and_type: u32,
}

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct Embed {
    /// Rows of y. The tables' rows have the same width, without padding.
    pub rows: RowLayout,
    /// Added to the variance.
    pub eps: f64,
    /// Whether the position table has a row for each position, not one of zeros for all.
    pub positioned: bool,
    /// The kernel family.
    pub family: KernelFamily,
}

buffers! {
    /// The op's buffers.
    pub struct EmbedBuffers {
        /// `[rows]` of [`Token`].
        tokens: Read,
        /// `[vocabulary, width]`, or the rows that the batch brings of it.
        word: Read,
        /// `[positions, width]`, or one row.
        position: Read,
        /// `[types, width]`.
        token_type: Read,
        /// `[2, stride]` in f32: weight, bias.
        norm: Read,
        /// `[rows, stride]`.
        y: Write,
    }
}

impl Token {
    /// A token with its rows of the three tables; `token_type` is 0 or 1.
    #[must_use]
    pub fn new(id: u32, position: usize, token_type: usize) -> Self {
        Self { id, position_and_type: (position << 1 | token_type) as u32 }
    }
}

impl Op for Embed {
    fn name(&self) -> String {
        "embed".to_owned()
    }

    fn pipeline(&self) -> PipelineSpec {
        let shader = match self.family {
            KernelFamily::Gpu => SHADER,
            KernelFamily::Software => SOFTWARE_SHADER,
        };
        let mut constants = row_constants(&self.rows, self.eps, self.family);
        constants.push(("POSITIONED", f64::from(u8::from(self.positioned))));
        PipelineSpec::new(shader, self.rows.storage, EmbedBuffers::<()>::BINDINGS, constants)
    }

    fn work(&self, extent: &Extent) -> Work {
        let row = (self.rows.width * self.rows.storage.bytes()) as u64;
        let bytes = u64::from(extent.rows) * (4 * row + 8) + 8 * self.rows.width as u64;
        Work::new(&[extent.rows], row_groups(self.family, extent.rows), 0, bytes)
    }
}
