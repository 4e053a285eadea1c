//! GEMM, residual and LayerNorm in one: `y = norm(a · w + bias + residual)`; `gemm_tile_norm.wgsl`.
//!
//! Shapes: a `[rows, k]`, w `[k, hidden_padded]`, params `[3, hidden_padded]` in f32 (bias, norm weight, norm bias),
//! residual and y `[rows, hidden_padded]`. One workgroup holds whole rows, so the padded hidden size must be at most four
//! times the threads that a workgroup may have. Indices are in bounds for the reasons in [`super::gemm`].

use super::gemm;
use crate::gpu::device::GpuDevice;
use crate::gpu::error::GpuError;
use crate::gpu::kernel::{Extent, Kernel, KernelDescriptor, Op, Work};
use crate::gpu::layout::{Layout, TILE_ROWS};
use crate::gpu::shader::{self, Shader};

/// Threads that a workgroup may have on every adapter.
const MAX_THREADS: usize = 256;
/// Workgroup memory that every adapter has.
const MAX_WORKGROUP_BYTES: usize = 16 << 10;

/// The fused kernel.
#[derive(Debug, Clone)]
pub struct GemmNorm {
    kernel: Kernel,
    layout: Layout,
    k: usize,
    useful_multiply_adds: u64,
}

/// Whether a workgroup can hold whole rows of `layout`.
#[must_use]
pub fn fits(layout: &Layout) -> bool {
    let threads = layout.hidden_padded / 4;
    // Partial sums, totals, and 32 numbers of K of 16 rows.
    let bytes = 4 * TILE_ROWS * (threads + 1) + TILE_ROWS * 32 * layout.precision.bytes();
    threads <= MAX_THREADS && bytes <= MAX_WORKGROUP_BYTES
}

pub(crate) fn constants(layout: &Layout, k: usize, eps: f64) -> Vec<(&'static str, f64)> {
    let n = layout.hidden_padded;
    let sizes = [("THREADS", n / 4), ("K", k), ("N", n), ("HIDDEN", layout.hidden)];
    sizes.into_iter().map(|(name, value)| (name, value as f64)).chain([("EPS", eps)]).collect()
}

impl GemmNorm {
    /// Makes the kernel for an a of `k` columns, of which `inputs` are no padding.
    ///
    /// # Errors
    /// The driver refuses it.
    ///
    /// # Panics
    /// Rows do not [fit](fits()).
    pub fn new(gpu: &GpuDevice, layout: Layout, (k, inputs): (usize, usize), eps: f64) -> Result<Self, GpuError> {
        assert!(fits(&layout), "{layout:?} does not fit a workgroup");
        let kernel = Kernel::new(
            gpu,
            &KernelDescriptor {
                label: &format!("gemm_norm {k}x{}", layout.hidden_padded),
                source: &shader::source(Shader::GemmTileNorm, layout.precision),
                bindings: &gemm::BINDINGS,
                immediate_bytes: 8,
                constants: &constants(&layout, k, eps),
            },
        )?;
        let useful_multiply_adds = (inputs * layout.hidden) as u64;
        Ok(Self { kernel, layout, k, useful_multiply_adds })
    }

    /// Binds a, w, params, the residual and y, which must not be the residual's buffer.
    #[must_use]
    pub fn bind(&self, gpu: &GpuDevice, buffers: [&wgpu::Buffer; 5]) -> wgpu::BindGroup {
        self.kernel.bind(gpu, &gemm::bindings(buffers, self.layout.hidden_padded, self.layout.precision))
    }
}

impl Op for GemmNorm {
    fn name(&self) -> String {
        format!("gemm_norm {}x{}", self.k, self.layout.hidden_padded)
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn work(&self, extent: &Extent) -> Work {
        let (rows, n) = (u64::from(extent.rows), self.layout.hidden_padded as u64);
        let numbers = rows * (self.k as u64 + 2 * n) + self.k as u64 * n;
        let bytes = numbers * self.layout.precision.bytes() as u64 + 12 * n;
        let groups = [1, extent.rows.div_ceil(TILE_ROWS as u32), 1];
        Work::new(&[0, (n / 4) as u32], groups, 2 * rows * self.useful_multiply_adds, bytes)
    }
}

/// The `params` of a layer: bias, norm weight, norm bias, each padded with zeros.
#[must_use]
pub fn params(layout: &Layout, bias: &[f32], norm: &crate::weights::NormWeights) -> Vec<f32> {
    let mut params = Vec::with_capacity(3 * layout.hidden_padded);
    for part in [bias, &norm.weight, norm.bias.as_deref().unwrap_or_default()] {
        params.extend_from_slice(part);
        params.resize(params.len().next_multiple_of(layout.hidden_padded), 0.0);
    }
    params
}
