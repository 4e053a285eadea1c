//! Embeddings and LayerNorm: `embed.wgsl`, and `embed_cpu.wgsl` for software adapters.
//!
//! Shapes: tokens `[rows]` of [`Token`], tables `[…, hidden]`, norm `[2, hidden]` in f32, y `[rows, hidden_padded]`.

use bytemuck::{Pod, Zeroable};

use super::Target;
use super::layer_norm::{row_constants, row_groups};
use crate::gpu::device::GpuDevice;
use crate::gpu::error::GpuError;
use crate::gpu::kernel::{Access, Extent, Kernel, KernelDescriptor, Op, Work};
use crate::gpu::layout::Layout;
use crate::gpu::shader::{self, Shader};

/// One token as it is uploaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Token {
    /// Below the vocabulary's size.
    pub id: u32,
    /// Place in its row · 2 + token type.
    pub place: u32,
}

/// The embedding kernel.
#[derive(Debug, Clone)]
pub struct Embed {
    kernel: Kernel,
    layout: Layout,
    target: Target,
}

impl Embed {
    /// Makes the kernel.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn new(gpu: &GpuDevice, layout: Layout, eps: f64, target: Target) -> Result<Self, GpuError> {
        let shader = match target {
            Target::Gpu => Shader::Embed,
            Target::Software => Shader::EmbedSoftware,
        };
        let mut bindings = [Access::Read; 6];
        bindings[5] = Access::Write;
        let kernel = Kernel::new(
            gpu,
            &KernelDescriptor {
                label: "embed",
                source: &shader::source(shader, layout.precision),
                bindings: &bindings,
                immediate_bytes: 4,
                constants: &row_constants(&layout, eps),
            },
        )?;
        Ok(Self { kernel, layout, target })
    }

    /// Binds the tokens, the word, position and token type tables with the norm, and the output.
    #[must_use]
    pub fn bind(
        &self,
        gpu: &GpuDevice,
        tokens: wgpu::BufferBinding<'_>,
        [word, position, token_type, norm]: [&wgpu::Buffer; 4],
        y: &wgpu::Buffer,
    ) -> wgpu::BindGroup {
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        self.kernel.bind(gpu, &[tokens, whole(word), whole(position), whole(token_type), whole(norm), whole(y)])
    }
}

impl Op for Embed {
    fn name(&self) -> String {
        "embed".to_owned()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn work(&self, extent: &Extent) -> Work {
        let row = (self.layout.hidden * self.layout.precision.bytes()) as u64;
        let bytes = u64::from(extent.rows) * (4 * row + 8) + 8 * self.layout.hidden as u64;
        Work::new(&[extent.rows], row_groups(self.target, extent.rows), 0, bytes)
    }
}
