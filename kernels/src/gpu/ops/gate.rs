//! The gate of a feed-forward part: `gate.wgsl`.
//!
//! Shapes: x `[rows, 2 · stride]`, what is activated and the gate side by side; y `[rows, stride]`.

use super::gemm::activation_number;
use crate::architecture::Activation;
use crate::gpu::layout::Storage;
use crate::gpu::op::{Buffers, Extent, Op, PipelineSpec, Work, buffers};
use crate::gpu::shader::{self, Shader};

const SHADER: &Shader = shader::find("gate");
const THREADS: u32 = 64;

/// The op.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// Row stride of y: a multiple of 4.
    pub stride: usize,
    /// Applied to the first half.
    pub activation: Activation,
    /// How numbers are stored.
    pub storage: Storage,
}

buffers! {
    /// The op's buffers.
    pub struct GateBuffers {
        /// `[rows, 2 · stride]`.
        x: Read,
        /// `[rows, stride]`.
        y: Write,
    }
}

impl Op for Gate {
    fn name(&self) -> String {
        format!("gate {} {}", self.stride, self.activation.name())
    }

    fn pipeline(&self) -> PipelineSpec {
        let constants = vec![
            ("STRIDE4", (self.stride / 4) as f64),
            ("ACTIVATION", f64::from(activation_number(self.activation))),
            ("THREADS", f64::from(THREADS)),
        ];
        PipelineSpec::new(SHADER, self.storage, GateBuffers::<()>::BINDINGS, constants).named(format!(
            "{} {}",
            self.stride,
            self.activation.name()
        ))
    }

    fn work(&self, extent: &Extent) -> Work {
        let bytes = u64::from(extent.rows) * (3 * self.stride * self.storage.bytes()) as u64;
        let groups = [((self.stride / 4) as u32).div_ceil(THREADS), extent.rows, 1];
        Work::new(&[], groups, 0, bytes)
    }
}
