//! What a device does at best, each thing alone: multiply-adds, reads of caches and memory, broadcasts from workgroup
//! memory, one dispatch after the other, submissions. Kernels are held to these; nothing here is part of a forward pass.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::adapter::AdapterKind;
use super::device::GpuDevice;
use super::error::GpuError;
use super::layout::Storage;
use super::op::{Buffers, Extent, Op, PipelineSpec, Work};
use super::opened::OpenDevice;
use super::ops::broadcast::{self, Broadcast, BroadcastBuffers};
use super::ops::peak::{self, Peak, PeakBuffers};
use super::ops::reads::{self, Reads, ReadsBuffers};
use super::probe;
use super::shader::Loops;
use super::timing::{Stopwatch, TURNS, seconds};

/// Bytes of the ladder of reads: from a core's own cache to memory.
const LADDER: [u64; 5] = [16 << 10, 256 << 10, 2 << 20, 16 << 20, 128 << 20];

/// Most bytes that a software adapter reads: what it does not have in a cache, and made in little time.
const SOFTWARE_LADDER_BYTES: u64 = 16 << 20;

/// Submissions that are timed; the median counts.
const SUBMISSIONS: usize = 50;

/// A dispatch that hardly computes anything.
const SMALLEST: Peak = Peak { trips: 1, storage: Storage::F32, loops: Loops::WrittenOut };

/// A device at its best.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ceilings {
    /// Multiply-adds on registers in FLOP/s.
    pub multiply_adds: f64,
    /// The same with its loops over registers left to the compiler. Far lower, if that keeps them in memory.
    pub rolled_multiply_adds: f64,
    /// Reads of ever larger buffers, the smallest first.
    pub reads: Vec<ReadRate>,
    /// Bytes a second that threads get from workgroup memory when all of a workgroup read the same.
    pub broadcast_bytes_per_s: f64,
    /// Time from one dispatch to the next that waits for it.
    #[serde(rename = "dispatch_s", serialize_with = "seconds")]
    pub dispatch: Duration,
    /// Time of a submission of one dispatch, until the caller may go on.
    #[serde(rename = "submit_s", serialize_with = "seconds")]
    pub submit: Duration,
    /// Time from such a submission until the caller knows that it is done.
    #[serde(rename = "round_trip_s", serialize_with = "seconds")]
    pub round_trip: Duration,
    /// Threads of a subgroup in a kernel that asked; `None` if the device cannot be asked.
    pub subgroup: Option<u32>,
}

/// How fast a buffer is read by all threads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReadRate {
    /// Its size.
    pub bytes: u64,
    /// Bytes a second.
    pub bytes_per_s: f64,
}

/// How much work fills a device.
struct Load {
    workgroups: u32,
    trips: u32,
    largest_read: u64,
}

impl Load {
    /// A large GPU needs thousands of workgroups. A software adapter computes as much in seconds, and needs little.
    fn of(gpu: &OpenDevice) -> Self {
        let most = gpu.description().max_buffer_bytes;
        match gpu.description().kind {
            AdapterKind::Software => Self { workgroups: 64, trips: 128, largest_read: SOFTWARE_LADDER_BYTES.min(most) },
            _ => Self { workgroups: 4096, trips: 512, largest_read: most },
        }
    }
}

impl Ceilings {
    /// Measures all of them: seconds.
    ///
    /// # Errors
    /// The device failed.
    pub fn measure(device: &GpuDevice) -> Result<Self, GpuError> {
        let gpu = &*device.opened()?;
        let load = Load::of(gpu);
        let bench = Bench { gpu, stopwatch: Stopwatch::new(gpu)?, load };
        let sizes = LADDER.into_iter().filter(|&bytes| bytes <= bench.load.largest_read);
        let (submit, round_trip) = bench.submissions()?;
        Ok(Self {
            multiply_adds: bench.multiply_adds(Loops::WrittenOut)?,
            rolled_multiply_adds: bench.multiply_adds(Loops::LeftAlone)?,
            reads: sizes.map(|bytes| bench.reads(bytes)).collect::<Result<_, _>>()?,
            broadcast_bytes_per_s: bench.broadcast()?,
            dispatch: bench.dispatch()?,
            submit,
            round_trip,
            subgroup: probe::subgroup_size(&gpu.device, &gpu.queue),
        })
    }

    /// Bytes a second at which a buffer of `bytes` is read: those of the smallest one measured that is as large.
    #[must_use]
    pub fn read_rate(&self, bytes: u64) -> Option<f64> {
        let found = self.reads.iter().find(|read| read.bytes >= bytes).or(self.reads.last());
        found.map(|read| read.bytes_per_s)
    }
}

/// The rate of multiply-adds on registers alone, in FLOP/s: what no kernel exceeds.
///
/// # Errors
/// The device failed.
pub fn ceiling(device: &GpuDevice) -> Result<f64, GpuError> {
    let gpu = &*device.opened()?;
    Bench { gpu, stopwatch: Stopwatch::new(gpu)?, load: Load::of(gpu) }.multiply_adds(Loops::WrittenOut)
}

/// The pipelines of all ceilings; that of [`Loops::LeftAlone`] is the last.
#[must_use]
pub fn pipelines() -> Vec<PipelineSpec> {
    let peak = |loops| Peak { trips: 1, storage: Storage::F32, loops }.pipeline();
    vec![
        Reads { trips: 1, bytes: LADDER[0] }.pipeline(),
        Broadcast { trips: 1 }.pipeline(),
        peak(Loops::WrittenOut),
        peak(Loops::LeftAlone),
    ]
}

struct Bench<'a> {
    gpu: &'a OpenDevice,
    stopwatch: Stopwatch<'a>,
    load: Load,
}

impl Bench<'_> {
    fn multiply_adds(&self, loops: Loops) -> Result<f64, GpuError> {
        let op = Peak { trips: self.load.trips, storage: Storage::F32, loops };
        let y = self.output(self.load.workgroups, peak::THREADS)?;
        let (work, time) = self.time(&op, self.load.workgroups, PeakBuffers { y: y.as_entire_buffer_binding() })?;
        Ok(work.flops as f64 / time.as_secs_f64())
    }

    fn broadcast(&self) -> Result<f64, GpuError> {
        let op = Broadcast { trips: self.load.trips };
        let y = self.output(self.load.workgroups, broadcast::THREADS)?;
        let (work, time) =
            self.time(&op, self.load.workgroups, BroadcastBuffers { y: y.as_entire_buffer_binding() })?;
        Ok(work.bytes as f64 / time.as_secs_f64())
    }

    fn reads(&self, bytes: u64) -> Result<ReadRate, GpuError> {
        let workgroups = self.load.workgroups;
        let x = self.gpu.buffer("ceiling", bytes, wgpu::BufferUsages::STORAGE)?;
        let y = self.output(workgroups, reads::THREADS)?;
        // Twice all of it, and at least as much as fills the device for a while.
        let per_trip = Reads { trips: 1, bytes }.work(&extent(workgroups)).bytes;
        let trips = (2 * bytes).div_ceil(per_trip).max(u64::from(self.load.trips / 16)) as u32;
        let buffers = ReadsBuffers { x: x.as_entire_buffer_binding(), y: y.as_entire_buffer_binding() };
        let (work, time) = self.time(&Reads { trips, bytes }, workgroups, buffers)?;
        Ok(ReadRate { bytes, bytes_per_s: work.bytes as f64 / time.as_secs_f64() })
    }

    /// Dispatches of one workgroup that write the same buffer, so that each waits for the one before.
    fn dispatch(&self) -> Result<Duration, GpuError> {
        let y = self.output(1, peak::THREADS)?;
        Ok(self.time(&SMALLEST, 1, PeakBuffers { y: y.as_entire_buffer_binding() })?.1)
    }

    fn submissions(&self) -> Result<(Duration, Duration), GpuError> {
        let pipeline = self.gpu.pipeline(&SMALLEST.pipeline())?;
        let y = self.output(1, peak::THREADS)?;
        let group = self.gpu.bind(&pipeline, PeakBuffers { y: y.as_entire_buffer_binding() });
        let work = SMALLEST.work(&extent(1));
        let mut times = Vec::with_capacity(SUBMISSIONS);
        for _ in 0..SUBMISSIONS {
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                pipeline.record(&group, &work, &mut pass);
            }
            let commands = encoder.finish();
            let started = Instant::now();
            self.gpu.queue.submit([commands]);
            let submitted = started.elapsed();
            self.gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
            times.push((submitted, started.elapsed()));
        }
        self.gpu.check()?;
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let (submit, round_trip): (Vec<_>, Vec<_>) = times.into_iter().unzip();
        Ok((median(submit), median(round_trip)))
    }

    /// A number for each thread.
    fn output(&self, workgroups: u32, threads: u32) -> Result<wgpu::Buffer, GpuError> {
        let bytes = u64::from(workgroups) * u64::from(threads) * 4;
        self.gpu.buffer("ceiling", bytes, wgpu::BufferUsages::STORAGE)
    }

    /// The work of one dispatch of `workgroups`, and its time.
    fn time<'b, B: Buffers<wgpu::BufferBinding<'b>>>(
        &self,
        op: &impl Op,
        workgroups: u32,
        buffers: B,
    ) -> Result<(Work, Duration), GpuError> {
        let pipeline = self.gpu.pipeline(&op.pipeline())?;
        let (group, work) = (self.gpu.bind(&pipeline, buffers), op.work(&extent(workgroups)));
        let time = self.stopwatch.one(&pipeline, &group, &work, TURNS)?;
        Ok((work, time))
    }
}

fn extent(workgroups: u32) -> Extent {
    Extent { rows: workgroups, ..Extent::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_read_as_fast_as_the_next_larger_one_that_was_measured() {
        let reads = [(16, 4.0), (64, 2.0), (256, 1.0)].map(|(bytes, bytes_per_s)| ReadRate { bytes, bytes_per_s });
        let ceilings = Ceilings {
            multiply_adds: 1.0,
            rolled_multiply_adds: 1.0,
            reads: reads.to_vec(),
            broadcast_bytes_per_s: 1.0,
            dispatch: Duration::ZERO,
            submit: Duration::ZERO,
            round_trip: Duration::ZERO,
            subgroup: None,
        };
        assert_eq!(
            [1, 16, 17, 256, 10_000].map(|bytes| ceilings.read_rate(bytes)),
            [4.0, 4.0, 2.0, 1.0, 1.0].map(Some)
        );
    }
}
