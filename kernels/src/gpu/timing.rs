//! Times kernels: many dispatches in one pass, by the device's clock where it has one, else by the processor's.
//!
//! One dispatch takes a fraction of a millisecond, as does its submission, and a device that was idle runs slowly at
//! first. So each measurement takes [`LEAST`] or more, comes after a warm-up of as much, and candidates take turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::GpuError;
use super::op::Work;
use super::opened::{OpenDevice, Pipeline};

/// Least time of one measurement.
const LEAST: Duration = Duration::from_millis(20);
/// Most rounds in one measurement, however short they are.
const MOST_ROUNDS: u32 = 1 << 14;
/// Measurements of each candidate; the fastest counts, because everything else on a machine only adds time.
pub(super) const TURNS: u32 = 3;

/// Dispatches that are timed together, one after the other.
pub(super) type Round = Vec<(Arc<Pipeline>, wgpu::BindGroup, Work)>;

/// Times rounds of dispatches on one device.
#[derive(Debug)]
pub(super) struct Stopwatch<'a> {
    gpu: &'a OpenDevice,
    timestamps: Option<Timestamps>,
}

#[derive(Debug)]
struct Timestamps {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
}

/// What one round is made of, borrowed.
type Dispatch<'a> = (&'a Pipeline, &'a wgpu::BindGroup, Work);

impl<'a> Stopwatch<'a> {
    pub(super) fn new(gpu: &'a OpenDevice) -> Result<Self, GpuError> {
        use wgpu::BufferUsages as U;
        let timestamps = match gpu.has(wgpu::Features::TIMESTAMP_QUERY) {
            false => None,
            true => Some(Timestamps {
                set: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("stopwatch"),
                    ty: wgpu::QueryType::Timestamp,
                    count: 2,
                }),
                resolved: gpu.buffer("stopwatch", 16, U::QUERY_RESOLVE | U::COPY_SRC)?,
            }),
        };
        Ok(Self { gpu, timestamps })
    }

    /// The time of one round of each candidate, measured in turns: the fastest of [`TURNS`] for each.
    pub(super) fn in_turns(&self, candidates: &[Round]) -> Result<Vec<Duration>, GpuError> {
        let borrowed: Vec<Vec<Dispatch<'_>>> = candidates
            .iter()
            .map(|round| round.iter().map(|(pipeline, group, work)| (&**pipeline, group, *work)).collect())
            .collect();
        let counts = borrowed.iter().map(|round| self.warmed_up(round)).collect::<Result<Vec<_>, _>>()?;
        let mut fastest = vec![Duration::MAX; candidates.len()];
        for _ in 0..TURNS {
            for ((round, &count), fastest) in borrowed.iter().zip(&counts).zip(&mut fastest) {
                *fastest = (*fastest).min(self.rounds(round, count)? / count);
            }
        }
        Ok(fastest)
    }

    /// The time of one dispatch: the fastest of `turns` measurements.
    pub(super) fn one(
        &self,
        pipeline: &Pipeline,
        bind_group: &wgpu::BindGroup,
        work: &Work,
        turns: u32,
    ) -> Result<Duration, GpuError> {
        let round = [(pipeline, bind_group, *work)];
        let count = self.warmed_up(&round)?;
        let mut fastest = Duration::MAX;
        for _ in 0..turns {
            fastest = fastest.min(self.rounds(&round, count)? / count);
        }
        Ok(fastest)
    }

    /// Runs rounds until a measurement is long enough; returns how many rounds that takes.
    fn warmed_up(&self, round: &[Dispatch<'_>]) -> Result<u32, GpuError> {
        // The first run includes work that drivers put off.
        self.rounds(round, 1)?;
        let mut count = 1;
        loop {
            let took = self.rounds(round, count)?;
            if took >= LEAST || count == MOST_ROUNDS {
                return Ok(count);
            }
            // A fifth more than it would take at this rate, and at most eight times as many: the rate is not known yet.
            let wanted = f64::from(count) * 1.2 * LEAST.as_secs_f64() / took.as_secs_f64().max(1e-9);
            count = (wanted.ceil() as u32).clamp(count + 1, count * 8).min(MOST_ROUNDS);
        }
    }

    /// The time of `count` rounds in one pass.
    fn rounds(&self, round: &[Dispatch<'_>], count: u32) -> Result<Duration, GpuError> {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let timestamp_writes = self.timestamps.as_ref().map(|timestamps| wgpu::ComputePassTimestampWrites {
                query_set: &timestamps.set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let label = Some("timing");
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes });
            for _ in 0..count {
                for (pipeline, bind_group, work) in round {
                    pipeline.record(bind_group, work, &mut pass);
                }
            }
        }
        if let Some(Timestamps { set, resolved }) = &self.timestamps {
            encoder.resolve_query_set(set, 0..2, resolved, 0);
        }
        let start = Instant::now();
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
        let elapsed = start.elapsed();
        self.gpu.check()?;
        let Some(Timestamps { resolved, .. }) = &self.timestamps else { return Ok(elapsed) };
        let bytes = self.gpu.read_buffer(resolved, 16)?;
        let measured = between(&bytes, self.gpu.queue.get_timestamp_period());
        // A driver may report no time at all, or one that cannot be.
        Ok(if measured.is_zero() || measured > elapsed { elapsed } else { measured })
    }
}

/// The time between two timestamps of 8 bytes each, in ticks of `period_ns`.
pub(super) fn between(bytes: &[u8], period_ns: f32) -> Duration {
    let at = |index: usize| {
        let ticks = bytes.get(8 * index..8 * index + 8).and_then(|ticks| ticks.try_into().ok());
        ticks.map_or(0, u64::from_le_bytes)
    };
    Duration::from_nanos((at(1).saturating_sub(at(0)) as f64 * f64::from(period_ns)) as u64)
}

/// Writes a time in seconds.
pub(super) fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_ticks_of_the_queues_period() {
        let bytes = [1_000u64.to_le_bytes(), 1_500u64.to_le_bytes()].concat();
        assert_eq!(between(&bytes, 2.0), Duration::from_micros(1));
        let backwards = [1_500u64.to_le_bytes(), 1_000u64.to_le_bytes()].concat();
        assert_eq!(between(&backwards, 2.0), Duration::ZERO);
    }
}
