//! First tokens of each row, copied together: `gather.wgsl`.
//!
//! Shapes: rows `[rows]` of [`Tile`](super::attention::Tile) with one query each, x `[tokens, hidden_padded]`,
//! y `[rows, hidden_padded]`.

use crate::gpu::device::GpuDevice;
use crate::gpu::error::GpuError;
use crate::gpu::kernel::{Access, Extent, Kernel, KernelDescriptor, Op, Work};
use crate::gpu::layout::Layout;
use crate::gpu::shader::{self, Shader};

/// THREADS in the shader.
const THREADS: u32 = 64;

/// The gather kernel.
#[derive(Debug, Clone)]
pub struct Gather {
    kernel: Kernel,
    layout: Layout,
}

impl Gather {
    /// Makes the kernel.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn new(gpu: &GpuDevice, layout: Layout) -> Result<Self, GpuError> {
        let kernel = Kernel::new(
            gpu,
            &KernelDescriptor {
                label: "gather",
                source: &shader::source(Shader::Gather, layout.precision),
                bindings: &[Access::Read, Access::Read, Access::Write],
                immediate_bytes: 4,
                constants: &[("STRIDE4", (layout.hidden_padded / 4) as f64)],
            },
        )?;
        Ok(Self { kernel, layout })
    }

    /// Binds the row list, the input and the output.
    #[must_use]
    pub fn bind(
        &self,
        gpu: &GpuDevice,
        rows: wgpu::BufferBinding<'_>,
        x: &wgpu::Buffer,
        y: &wgpu::Buffer,
    ) -> wgpu::BindGroup {
        self.kernel.bind(gpu, &[rows, x.as_entire_buffer_binding(), y.as_entire_buffer_binding()])
    }
}

impl Op for Gather {
    fn name(&self) -> String {
        "gather".to_owned()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn work(&self, extent: &Extent) -> Work {
        let threads = extent.rows * (self.layout.hidden_padded / 4) as u32;
        let bytes = u64::from(extent.rows) * (2 * self.layout.hidden_bytes() + 16);
        Work::new(&[extent.rows], [threads.div_ceil(THREADS), 1, 1], 0, bytes)
    }
}
