//! Copies the first token of each row: `gather.wgsl`.
//!
//! Shapes: rows `[rows]` of [`QueryTile`](super::attention::QueryTile) with one query each, x `[tokens, stride]`,
//! y `[rows, stride]`.

use crate::gpu::layout::RowLayout;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("gather");
const THREADS: u32 = 64;

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct Gather {
    /// Rows of x and y.
    pub states: RowLayout,
}

buffers! {
    /// The op's buffers.
    pub struct GatherBuffers {
        /// `[rows]` of [`QueryTile`](super::attention::QueryTile).
        rows: Read,
        /// `[tokens, stride]`.
        x: Read,
        /// `[rows, stride]`.
        y: Write,
    }
}

impl Op for Gather {
    fn name(&self) -> String {
        "gather".to_owned()
    }

    fn pipeline(&self) -> PipelineSpec {
        let [_, stride4] = self.states.constants();
        let constants = vec![stride4, ("THREADS", f64::from(THREADS))];
        PipelineSpec::new(SHADER, self.states.storage, GatherBuffers::<()>::BINDINGS, constants)
    }

    fn work(&self, extent: &Extent) -> Work {
        let threads = extent.rows * (self.states.stride / 4) as u32;
        let bytes = u64::from(extent.rows) * (2 * self.states.bytes() + 16);
        Work::new(&[extent.rows], [threads.div_ceil(THREADS), 1, 1], 0, bytes)
    }
}
