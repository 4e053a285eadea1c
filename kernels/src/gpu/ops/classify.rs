//! The classifier over pooled first tokens: `classify.wgsl`. (The pooler is a GEMM with a tanh.)
//!
//! Shapes: x `[rows, hidden_padded]`, w `[outputs, hidden]` and bias `[outputs]` in f32, y `[rows, outputs]` in f32.

use crate::gpu::device::GpuDevice;
use crate::gpu::error::GpuError;
use crate::gpu::kernel::{Access, Extent, Kernel, KernelDescriptor, Op, Work};
use crate::gpu::layout::Layout;
use crate::gpu::shader::{self, Shader};

/// THREADS in the shader.
const THREADS: u32 = 64;

/// The classifier's kernel.
#[derive(Debug, Clone)]
pub struct Classify {
    kernel: Kernel,
    layout: Layout,
    outputs: u32,
}

impl Classify {
    /// Makes the kernel.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn new(gpu: &GpuDevice, layout: Layout, outputs: usize) -> Result<Self, GpuError> {
        let kernel = Kernel::new(
            gpu,
            &KernelDescriptor {
                label: "classify",
                source: &shader::source(Shader::Classify, layout.precision),
                bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
                immediate_bytes: 4,
                constants: &[
                    ("HIDDEN4", (layout.hidden / 4) as f64),
                    ("STRIDE4", (layout.hidden_padded / 4) as f64),
                    ("OUTPUTS", outputs as f64),
                ],
            },
        )?;
        Ok(Self { kernel, layout, outputs: outputs as u32 })
    }

    /// Binds the input, the weight, the bias and the output.
    #[must_use]
    pub fn bind(&self, gpu: &GpuDevice, [x, w, bias, y]: [&wgpu::Buffer; 4]) -> wgpu::BindGroup {
        self.kernel.bind(gpu, &[x, w, bias, y].map(wgpu::Buffer::as_entire_buffer_binding))
    }
}

impl Op for Classify {
    fn name(&self) -> String {
        "classify".to_owned()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn work(&self, extent: &Extent) -> Work {
        let (rows, outputs) = (u64::from(extent.rows), u64::from(self.outputs));
        let hidden = self.layout.hidden as u64;
        let bytes = rows * (hidden * self.layout.precision.bytes() as u64 + 4 * outputs) + 4 * outputs * (hidden + 1);
        let groups = [(extent.rows * self.outputs).div_ceil(THREADS), 1, 1];
        Work::new(&[extent.rows], groups, 2 * rows * outputs * hidden, bytes)
    }
}
