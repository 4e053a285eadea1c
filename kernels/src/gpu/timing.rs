//! Times kernels: each dispatch in a submission of its own, by the processor's clock.

use std::time::{Duration, Instant};

use super::device::GpuDevice;
use super::error::GpuError;
use super::layout::Storage;
use super::op::{Extent, Op, Work};
use super::opened::{OpenDevice, Pipeline};
use super::ops::peak::{self, Peak, PeakBuffers};

/// Runs of which the fastest counts, where the ceiling is measured.
const CEILING_REPEATS: u32 = 3;

/// The fastest of `repeats` dispatches.
pub(super) fn fastest(
    gpu: &OpenDevice,
    pipeline: &Pipeline,
    bind_group: &wgpu::BindGroup,
    work: &Work,
    repeats: u32,
) -> Result<Duration, GpuError> {
    let mut best = Duration::MAX;
    // One run more than asked for: the first pays for what the driver puts off.
    for _ in 0..=repeats {
        let start = Instant::now();
        gpu.run_one(pipeline, bind_group, work)?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// The ceiling that kernels are held to, in FLOP/s: multiply-adds on registers, in `workgroups` workgroups of `trips`
/// trips each.
///
/// # Errors
/// The device failed.
pub fn ceiling(device: &GpuDevice, workgroups: u32, trips: u32) -> Result<f64, GpuError> {
    let gpu = device.opened()?;
    let op = Peak { trips, storage: Storage::F32 };
    let pipeline = gpu.pipeline(&op.pipeline())?;
    let bytes = u64::from(workgroups) * u64::from(peak::THREADS) * 4;
    let y = gpu.buffer("peak", bytes, wgpu::BufferUsages::STORAGE)?;
    let group = gpu.bind(&pipeline, PeakBuffers { y: y.as_entire_buffer_binding() });
    let work = op.work(&Extent { rows: workgroups, ..Extent::default() });
    let time = fastest(&gpu, &pipeline, &group, &work, CEILING_REPEATS)?;
    Ok(work.flops as f64 / time.as_secs_f64())
}
