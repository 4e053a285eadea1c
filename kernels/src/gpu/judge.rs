//! Decides between the variants of a kernel: those with wrong numbers are listed and never taken, since a driver's
//! compiler may break one variant and not another; of the others the fastest wins, for each size of batch.

use std::time::Duration;

use serde::Serialize;

use super::choices::{BySize, SMALL_BATCH_TOKENS};
use super::error::GpuError;
use super::layout::Storage;
use super::op::Rereads;
use super::opened::OpenDevice;
use super::sample_numbers::{Expected, decode, tolerance};
use super::timing::{Round, Stopwatch, seconds};

/// One variant of one kernel, timed for one size of batch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TuneEntry {
    /// Which of the model's kernels: `qkv`, `hidden`, `intermediate`, `output`, `attention` or `output + norm`.
    pub kernel: &'static str,
    /// The variant's name.
    pub variant: String,
    /// Tokens of the batch.
    pub tokens: usize,
    /// The fastest of several measurements, of 20 ms or more each.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
    /// Floating-point operations of a run.
    pub flops: u64,
    /// Bytes that it moves, each array once.
    pub bytes: u64,
    /// What its threads read beyond that.
    #[serde(flatten)]
    pub rereads: Rereads,
    /// The name of its pipeline, of the first if there are two.
    pub pipeline: String,
    /// Largest difference from the float64 reference, as a part of the largest number.
    pub error: f64,
    /// Whether that is within what rounding makes. A wrong variant is never chosen.
    pub right: bool,
    /// The fastest right one of its kernel and size.
    pub chosen: bool,
}

/// The cost of a round by formula.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) flops: u64,
    pub(super) bytes: u64,
    pub(super) rereads: Rereads,
}

/// One variant of a kernel.
pub(super) struct Candidate<T> {
    pub(super) choice: T,
    pub(super) name: String,
    /// For each size, what is timed and its cost.
    pub(super) timed: BySize<(Round, Cost)>,
    /// What is checked.
    pub(super) checked: Round,
}

/// Checks and times candidates, which all write the same buffer.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    gpu: &'a OpenDevice,
    storage: Storage,
    stopwatch: Stopwatch<'a>,
    /// Tokens of the batches that are timed.
    pub(super) sizes: BySize<usize>,
    /// What a candidate writes; it can be cleared and read.
    pub(super) y: wgpu::Buffer,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        gpu: &'a OpenDevice,
        storage: Storage,
        sizes: BySize<usize>,
        y: wgpu::Buffer,
    ) -> Result<Self, GpuError> {
        Ok(Self { gpu, storage, stopwatch: Stopwatch::new(gpu)?, sizes, y })
    }

    /// Checks and times candidates; returns the fastest of those with right numbers, for each size. That of small
    /// batches must be `like` that of large ones.
    pub(super) fn choose<T: Copy>(
        &self,
        kernel: &'static str,
        candidates: Vec<Candidate<T>>,
        expected: &Expected,
        entries: &mut Vec<TuneEntry>,
        like: impl Fn(T, T) -> bool,
    ) -> Result<BySize<T>, GpuError> {
        let tolerance = tolerance(self.storage);
        let errors = candidates
            .iter()
            .map(|candidate| self.error(&candidate.checked, expected))
            .collect::<Result<Vec<_>, _>>()?;
        let right: Vec<bool> = errors.iter().map(|&error| error <= tolerance).collect();
        let choices: Vec<T> = candidates.iter().map(|c| c.choice).collect();
        let names: Vec<String> = candidates.iter().map(|c| c.name.clone()).collect();
        let (small, large): (Vec<_>, Vec<_>) = candidates.into_iter().map(|c| (c.timed.small, c.timed.large)).unzip();
        let mut time = |tokens: usize, timed: Vec<(Round, Cost)>, allowed: &dyn Fn(usize) -> bool| {
            let (rounds, costs): (Vec<Round>, Vec<Cost>) = timed.into_iter().unzip();
            let times = self.stopwatch.in_turns(&rounds)?;
            let chosen =
                fastest(&times, |index| right[index] && allowed(index)).ok_or_else(|| GpuError::WrongNumbers {
                    kernel,
                    error: errors.iter().copied().fold(f64::INFINITY, f64::min),
                    tolerance,
                })?;
            entries.extend((0..times.len()).map(|index| TuneEntry {
                kernel,
                variant: names[index].clone(),
                tokens,
                time: times[index],
                flops: costs[index].flops,
                bytes: costs[index].bytes,
                rereads: costs[index].rereads,
                pipeline: rounds[index].first().map_or_else(String::new, |(pipeline, _, _)| pipeline.name().to_owned()),
                error: errors[index],
                right: right[index],
                chosen: index == chosen,
            }));
            Ok::<usize, GpuError>(chosen)
        };
        let large = time(self.sizes.large, large, &|_| true)?;
        let small = match self.sizes.large > SMALL_BATCH_TOKENS {
            true => time(self.sizes.small, small, &|index| like(choices[index], choices[large]))?,
            false => large,
        };
        Ok(BySize { small: choices[small], large: choices[large] })
    }

    /// The largest difference between what dispatches write and what they must, as a part of the largest number.
    fn error(&self, round: &Round, expected: &Expected) -> Result<f64, GpuError> {
        let storage = self.storage;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        // What the candidate before it wrote must not count.
        encoder.clear_buffer(&self.y, 0, None);
        self.gpu.queue.submit([encoder.finish()]);
        let dispatches: Vec<_> = round.iter().map(|(pipeline, group, work)| (&**pipeline, group, *work)).collect();
        self.gpu.run_all(&dispatches)?;
        let rows = expected.numbers.len() / expected.columns.len();
        let bytes = self.gpu.read_buffer(&self.y, (rows * expected.stride * storage.bytes()) as u64)?;
        Ok(expected.largest_error(&decode(storage, &bytes)))
    }
}

/// The candidate that took the least time, of those that are allowed.
fn fastest(times: &[Duration], allowed: impl Fn(usize) -> bool) -> Option<usize> {
    (0..times.len()).filter(|&index| allowed(index)).min_by_key(|&index| times[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_of_those_with_right_numbers_wins() {
        let times = [3, 1, 2].map(Duration::from_millis);
        assert_eq!(fastest(&times, |_| true), Some(1));
        assert_eq!(fastest(&times, |index| index != 1), Some(2));
        assert_eq!(fastest(&times, |_| false), None);
    }
}
