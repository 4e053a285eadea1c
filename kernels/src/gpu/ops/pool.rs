//! Embedding pooling: the mean over a row's tokens, `pool_mean.wgsl`, scaled to unit length, `pool_normalise.wgsl`.
//!
//! Shapes: rows `[rows]` of [`Tile`](super::attention::Tile) with one query each, x `[tokens, hidden_padded]`, mean and
//! y `[rows, hidden]` in f32.

use crate::gpu::device::GpuDevice;
use crate::gpu::error::GpuError;
use crate::gpu::kernel::{Access, Extent, Kernel, KernelDescriptor, Op, Work};
use crate::gpu::layout::Layout;
use crate::gpu::shader::{self, Shader};

/// THREADS in the shaders.
const THREADS: u32 = 64;

/// The kernel of the mean. Its [`Extent::query_keys`] is the number of tokens.
#[derive(Debug, Clone)]
pub struct PoolMean {
    kernel: Kernel,
    layout: Layout,
}

/// The kernel that scales the means.
#[derive(Debug, Clone)]
pub struct PoolNormalise {
    kernel: Kernel,
    layout: Layout,
}

impl PoolMean {
    /// Makes the kernel.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn new(gpu: &GpuDevice, layout: Layout) -> Result<Self, GpuError> {
        let kernel = Kernel::new(
            gpu,
            &KernelDescriptor {
                label: "pool_mean",
                source: &shader::source(Shader::PoolMean, layout.precision),
                bindings: &[Access::Read, Access::Read, Access::Write],
                immediate_bytes: 4,
                constants: &[("HIDDEN4", (layout.hidden / 4) as f64), ("STRIDE4", (layout.hidden_padded / 4) as f64)],
            },
        )?;
        Ok(Self { kernel, layout })
    }

    /// Binds the row list, the input and the means.
    #[must_use]
    pub fn bind(
        &self,
        gpu: &GpuDevice,
        rows: wgpu::BufferBinding<'_>,
        x: &wgpu::Buffer,
        mean: &wgpu::Buffer,
    ) -> wgpu::BindGroup {
        self.kernel.bind(gpu, &[rows, x.as_entire_buffer_binding(), mean.as_entire_buffer_binding()])
    }
}

impl PoolNormalise {
    /// Makes the kernel.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn new(gpu: &GpuDevice, layout: Layout) -> Result<Self, GpuError> {
        let kernel = Kernel::new(
            gpu,
            &KernelDescriptor {
                label: "pool_normalise",
                source: &shader::source(Shader::PoolNormalise, layout.precision),
                bindings: &[Access::Read, Access::Write],
                immediate_bytes: 4,
                constants: &[("HIDDEN4", (layout.hidden / 4) as f64)],
            },
        )?;
        Ok(Self { kernel, layout })
    }

    /// Binds the means and the output.
    #[must_use]
    pub fn bind(&self, gpu: &GpuDevice, mean: &wgpu::Buffer, y: &wgpu::Buffer) -> wgpu::BindGroup {
        self.kernel.bind(gpu, &[mean.as_entire_buffer_binding(), y.as_entire_buffer_binding()])
    }
}

impl Op for PoolMean {
    fn name(&self) -> String {
        "pool_mean".to_owned()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn work(&self, extent: &Extent) -> Work {
        let row = (self.layout.hidden * self.layout.precision.bytes()) as u64;
        let bytes = extent.query_keys * row + u64::from(extent.rows) * (4 * self.layout.hidden as u64 + 16);
        Work::new(&[extent.rows], groups(&self.layout, extent), 0, bytes)
    }
}

impl Op for PoolNormalise {
    fn name(&self) -> String {
        "pool_normalise".to_owned()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn work(&self, extent: &Extent) -> Work {
        let bytes = 8 * u64::from(extent.rows) * self.layout.hidden as u64;
        Work::new(&[extent.rows], groups(&self.layout, extent), 0, bytes)
    }
}

fn groups(layout: &Layout, extent: &Extent) -> [u32; 3] {
    [(extent.rows * (layout.hidden / 4) as u32).div_ceil(THREADS), 1, 1]
}
