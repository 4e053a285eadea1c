//! The ceiling of a device: multiply-adds on registers and nothing else; `peak.wgsl`.

use crate::gpu::device::GpuDevice;
use crate::gpu::error::GpuError;
use crate::gpu::kernel::{Access, Extent, Kernel, KernelDescriptor, Op, Work};
use crate::gpu::layout::Precision;
use crate::gpu::shader::{self, Shader};

/// THREADS in the shader.
const THREADS: u32 = 64;
/// CHAINS in the shader, four-wide: multiply-adds of one trip.
const MULTIPLY_ADDS_PER_TRIP: u64 = 64;
/// Close enough to 1 that sums stay finite, far enough that no compiler folds it.
const FACTOR: f32 = 0.999;

/// The kernel. Its [`Extent::rows`] is the number of workgroups, and [`Extent::tiles`] the trips of each thread.
#[derive(Debug, Clone)]
pub struct Peak {
    kernel: Kernel,
}

impl Peak {
    /// Makes the kernel.
    ///
    /// # Errors
    /// The driver refuses it.
    pub fn new(gpu: &GpuDevice) -> Result<Self, GpuError> {
        let kernel = Kernel::new(
            gpu,
            &KernelDescriptor {
                label: "peak",
                source: &shader::source(Shader::Peak, Precision::F32),
                bindings: &[Access::Write],
                immediate_bytes: 8,
                constants: &[("THREADS", f64::from(THREADS))],
            },
        )?;
        Ok(Self { kernel })
    }

    /// Multiply-add rate in FLOP/s: the best of some runs of `workgroups` workgroups.
    ///
    /// # Errors
    /// The device failed.
    pub fn measure(&self, gpu: &GpuDevice, workgroups: u32, trips: u32) -> Result<f64, GpuError> {
        let bytes = u64::from(workgroups) * u64::from(THREADS) * 4;
        let y = gpu.buffer("peak", bytes, wgpu::BufferUsages::STORAGE)?;
        let group = self.kernel.bind(gpu, &[y.as_entire_buffer_binding()]);
        let work = self.work(&Extent { rows: workgroups, tiles: trips, query_keys: 0 });
        let time = crate::gpu::tune::fastest(gpu, &self.kernel, &group, &work, 3)?;
        Ok(work.flops as f64 / time.as_secs_f64())
    }
}

impl Op for Peak {
    fn name(&self) -> String {
        "peak".to_owned()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn work(&self, extent: &Extent) -> Work {
        let threads = u64::from(extent.rows) * u64::from(THREADS);
        let flops = 2 * threads * u64::from(extent.tiles) * MULTIPLY_ADDS_PER_TRIP;
        Work::new(&[extent.tiles, FACTOR.to_bits()], [extent.rows, 1, 1], flops, 4 * threads)
    }
}
