//! Times kernels: each dispatch in its own submission, by the processor's clock.

use std::time::{Duration, Instant};

use super::device::GpuDevice;
use super::error::GpuError;
use super::layout::Storage;
use super::op::{Extent, Op, Work};
use super::opened::{OpenDevice, Pipeline};
use super::ops::peak::{self, Peak, PeakBuffers};

/// Runs of the ceiling measurement; the fastest counts.
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
    // One extra run: the first includes work that the driver defers.
    for _ in 0..=repeats {
        let start = Instant::now();
        gpu.run_one(pipeline, bind_group, work)?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// The device's ceiling, in FLOP/s: multiply-adds on registers, in `workgroups` workgroups of `trips` trips each.
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
