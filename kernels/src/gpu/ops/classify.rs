//! The classifier over first tokens: `classify.wgsl`. (A dense layer before it is a GEMM with an activation.)
//!
//! Shapes: x `[rows, stride]`, w `[outputs, width]` and bias `[outputs]` in f32, y `[rows, outputs]` in f32.

use crate::gpu::layout::RowLayout;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("classify");
const THREADS: u32 = 64;

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct Classify {
    /// Rows of x.
    pub states: RowLayout,
    /// Outputs per row.
    pub outputs: u32,
}

buffers! {
    /// The op's buffers.
    pub struct ClassifyBuffers {
        /// `[rows, stride]`.
        x: Read,
        /// `[outputs, width]` in f32.
        w: Read,
        /// `[outputs]` in f32.
        bias: Read,
        /// `[rows, outputs]` in f32.
        y: Write,
    }
}

impl Op for Classify {
    fn name(&self) -> String {
        "classify".to_owned()
    }

    fn pipeline(&self) -> PipelineSpec {
        let mut constants = self.states.constants().to_vec();
        constants.extend([("OUTPUTS", f64::from(self.outputs)), ("THREADS", f64::from(THREADS))]);
        PipelineSpec::new(SHADER, self.states.storage, ClassifyBuffers::<()>::BINDINGS, constants)
    }

    fn work(&self, extent: &Extent) -> Work {
        let (rows, outputs) = (u64::from(extent.rows), u64::from(self.outputs));
        let width = self.states.width as u64;
        let bytes = rows * (width * self.states.storage.bytes() as u64 + 4 * outputs) + 4 * outputs * (width + 1);
        let groups = [(extent.rows * self.outputs).div_ceil(THREADS), 1, 1];
        Work::new(&[extent.rows], groups, 2 * rows * outputs * width, bytes)
    }
}
