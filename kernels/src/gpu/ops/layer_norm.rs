//! LayerNorm: `layer_norm.wgsl`, and `layer_norm_cpu.wgsl` for software adapters.
//!
//! Shapes: x and y `[rows, hidden_padded]`, of which `hidden` columns are read and written; weight and bias `[hidden]`
//! in f32.

use super::Target;
use crate::gpu::device::GpuDevice;
use crate::gpu::error::GpuError;
use crate::gpu::kernel::{Access, Extent, Kernel, KernelDescriptor, Op, Work};
use crate::gpu::layout::Layout;
use crate::gpu::shader::{self, Shader};

/// Rows to a workgroup on a GPU: ROW_GROUPS in `row_total.wgsl`.
const ROWS_PER_GROUP: u32 = 4;
/// Rows to a workgroup on a software adapter: THREADS in the `_cpu` shaders.
const SOFTWARE_ROWS_PER_GROUP: u32 = 8;

/// The LayerNorm kernel.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    kernel: Kernel,
    layout: Layout,
    target: Target,
}

pub(super) fn row_constants(layout: &Layout, eps: f64) -> [(&'static str, f64); 3] {
    let (hidden4, stride4) = (layout.hidden / 4, layout.hidden_padded / 4);
    [("HIDDEN4", hidden4 as f64), ("STRIDE4", stride4 as f64), ("EPS", eps)]
}

pub(super) fn row_groups(target: Target, rows: u32) -> [u32; 3] {
    let rows_per_group = match target {
        Target::Gpu => ROWS_PER_GROUP,
        Target::Software => SOFTWARE_ROWS_PER_GROUP,
    };
    [rows.div_ceil(rows_per_group), 1, 1]
}

impl LayerNorm {
    /// Makes the kernel.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn new(gpu: &GpuDevice, layout: Layout, eps: f64, target: Target) -> Result<Self, GpuError> {
        let shader = match target {
            Target::Gpu => Shader::LayerNorm,
            Target::Software => Shader::LayerNormSoftware,
        };
        let kernel = Kernel::new(
            gpu,
            &KernelDescriptor {
                label: "layer_norm",
                source: &shader::source(shader, layout.precision),
                bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
                immediate_bytes: 4,
                constants: &row_constants(&layout, eps),
            },
        )?;
        Ok(Self { kernel, layout, target })
    }

    /// Binds the input, the weight, the bias and the output.
    #[must_use]
    pub fn bind(&self, gpu: &GpuDevice, [x, weight, bias, y]: [&wgpu::Buffer; 4]) -> wgpu::BindGroup {
        self.kernel.bind(gpu, &[x, weight, bias, y].map(wgpu::Buffer::as_entire_buffer_binding))
    }
}

impl Op for LayerNorm {
    fn name(&self) -> String {
        "layer_norm".to_owned()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn work(&self, extent: &Extent) -> Work {
        let row = (self.layout.hidden * self.layout.precision.bytes()) as u64;
        let bytes = 2 * u64::from(extent.rows) * row + 8 * self.layout.hidden as u64;
        Work::new(&[extent.rows], row_groups(self.target, extent.rows), 0, bytes)
    }
}
