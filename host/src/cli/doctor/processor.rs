//! The processor: what it does at best, whether every kernel's numbers are right on each of its instruction sets, and
//! how fast the CPU engine is beside that.

use std::sync::Arc;
use std::time::Duration;

use assay_kernels::cpu::{MOST_READ_BYTES, PRECISIONS, Stage};
use assay_kernels::flops::{self, Parts};
use assay_kernels::{
    Architecture, CheckedBatch, CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, Engine, EngineError,
    InstructionSet, Model, Precision,
};
use serde::Serialize;

use super::clock::{Clock, time_of_runs, timed};
use super::measured::{Checked, Pass};
use super::say;
use super::subject::Task;
use super::verdict::{Bound, Verdict};
use crate::cli::error::CliError;

/// Bytes of each thread's buffer in the ladder of reads; the last is memory, bounded for machines of many threads.
const LADDER: [usize; 5] = [16 << 10, 256 << 10, 2 << 20, 16 << 20, 64 << 20];

/// Slices in which a ceiling is measured; the best counts, because everything else on a machine only lowers it.
const SLICES: usize = 25;
/// The same for reads, which take longer.
const READ_SLICES: usize = 5;

/// What the processor's peak is at least: two threads without vectors. Only to guess how long something takes.
const LEAST_FLOPS_PER_S: f64 = 2e9;

/// The processor's part of the report.
#[derive(Debug, Serialize)]
pub(super) struct Processor {
    pub(super) instruction_set: &'static str,
    pub(super) threads: usize,
    pub(super) peaks: Vec<Peak>,
    pub(super) reads: Vec<Read>,
    pub(super) numbers: Vec<Checked>,
    pub(super) precisions: Vec<Timed>,
}

/// Multiply-adds on registers alone.
#[derive(Debug, Serialize)]
pub(super) struct Peak {
    pub(super) instruction: &'static str,
    /// 10⁹ operations a second, of all threads.
    pub(super) gops: f64,
    /// What these operations are called.
    pub(super) unit: &'static str,
}

/// How fast all threads read, each a buffer of its own.
#[derive(Debug, Serialize)]
pub(super) struct Read {
    pub(super) bytes_per_thread: usize,
    pub(super) bytes_per_s: f64,
}

/// One precision.
#[derive(Debug, Serialize)]
pub(super) struct Timed {
    pub(super) precision: &'static str,
    pub(super) passes: Vec<Pass>,
    /// Of the largest pass.
    pub(super) stages: Vec<StageRate>,
}

/// A part of the forward pass.
#[derive(Debug, Serialize)]
pub(super) struct StageRate {
    pub(super) stage: &'static str,
    /// Its part of all threads' time.
    pub(super) share_of_time: f64,
    /// Of all threads; nothing where no FLOPs are counted.
    pub(super) gflops: Option<f64>,
    pub(super) verdict: Option<Verdict>,
}

/// Measures the processor.
pub(super) fn examine(task: &Task<'_>, clock: &mut Clock) -> Result<Processor, CliError> {
    let Task { subject, expected, .. } = *task;
    let device = CpuDevice::new(CpuDeviceOptions::default())?;
    say("processor: multiply-adds, caches, memory");
    let peaks = [Precision::F32, Precision::Int8].map(|precision| peak(&device, precision));
    let mut processor = Processor {
        instruction_set: device.instruction_set().name(),
        threads: device.threads(),
        peaks: peaks.into_iter().collect::<Result<_, _>>()?,
        reads: ladder(&device)?,
        numbers: Vec::new(),
        precisions: Vec::new(),
    };
    for &precision in PRECISIONS {
        let name = precision.name();
        say(&format!("processor: {name}, numbers and whole passes"));
        // Loaded, and packed for the engine, which takes about as long.
        if !clock.allows(&format!("{name} on the processor"), 2 * subject.load_time) {
            continue;
        }
        let mut engine = load(&device, subject.load()?, precision)?;
        if let Some(expected) = expected {
            let what = format!("{} {name}", device.instruction_set().name());
            let time = expected.time_at(&subject.architecture, LEAST_FLOPS_PER_S);
            if clock.allows(&format!("numbers by {what}"), time) {
                let error = match expected.stand_in() {
                    Some(model) => expected.largest_error(&mut load(&device, model, precision)?)?,
                    None => expected.largest_error(&mut engine)?,
                };
                processor.numbers.push(Checked::new(what, precision, error));
            }
        }
        let timed = time(&mut engine, task, precision, &processor, clock)?;
        processor.precisions.push(timed);
    }
    let others = InstructionSet::ALL.into_iter().filter(|&set| set.is_available() && set != device.instruction_set());
    for (set, expected) in others.flat_map(|set| expected.map(|expected| (set, expected))) {
        say(&format!("processor: numbers by {}", set.name()));
        let options = CpuDeviceOptions { instruction_set: Some(set), ..CpuDeviceOptions::default() };
        let device = CpuDevice::new(options)?;
        for &precision in PRECISIONS {
            let what = format!("{} {}", set.name(), precision.name());
            let time = 2 * subject.load_time + expected.time_at(&subject.architecture, LEAST_FLOPS_PER_S);
            if clock.allows(&format!("numbers by {what}"), time) {
                let model = expected.stand_in().map_or_else(|| subject.load(), Ok)?;
                let mut engine = load(&device, model, precision)?;
                processor.numbers.push(Checked::new(what, precision, expected.largest_error(&mut engine)?));
            }
        }
    }
    Ok(processor)
}

fn load(device: &Arc<CpuDevice>, model: Model, precision: Precision) -> Result<CpuEngine, EngineError> {
    CpuEngine::load(device, model, CpuOptions { precision, ..CpuOptions::default() })
}

fn peak(device: &CpuDevice, precision: Precision) -> Result<Peak, EngineError> {
    let slices = (0..SLICES).map(|_| device.peak(precision)).collect::<Result<Vec<_>, _>>()?;
    let instruction = slices[0].instruction;
    let unit = if precision == Precision::F32 { "GFLOP/s" } else { "GOPS (integers)" };
    Ok(Peak { instruction, unit, gops: slices.iter().map(|slice| slice.gops).fold(0.0, f64::max) })
}

fn ladder(device: &CpuDevice) -> Result<Vec<Read>, EngineError> {
    let most = MOST_READ_BYTES / device.threads();
    let mut sizes: Vec<usize> = LADDER.map(|bytes| bytes.min(most)).to_vec();
    sizes.dedup();
    let read = |bytes_per_thread| {
        let rates = (0..READ_SLICES).map(|_| device.read_rate(bytes_per_thread)).collect::<Result<Vec<_>, _>>()?;
        Ok(Read { bytes_per_thread, bytes_per_s: rates.into_iter().fold(0.0, f64::max) })
    };
    sizes.into_iter().map(read).collect()
}

/// Times whole passes of `rows` rows, the fewest first, and divides the last of them into stages.
fn time(
    engine: &mut CpuEngine,
    task: &Task<'_>,
    precision: Precision,
    processor: &Processor,
    clock: &mut Clock,
) -> Result<Timed, CliError> {
    let subject = task.subject;
    let mut timed_passes = Timed { precision: precision.name(), passes: Vec::new(), stages: Vec::new() };
    let mut outputs = Vec::new();
    let warm = subject.batch(engine, 1)?;
    let mut rate = LEAST_FLOPS_PER_S;
    if !clock.allows(&format!("{} on the processor", precision.name()), time_of(&warm, &subject.architecture, rate)) {
        return Ok(timed_passes);
    }
    engine.run(&warm, &mut outputs)?;
    for &rows in task.rows {
        let batch = subject.batch(engine, rows)?;
        let what = format!("{rows} rows in {} on the processor", precision.name());
        if !clock.allows(&what, time_of_runs(time_of(&batch, &subject.architecture, rate))) {
            break;
        }
        let before = engine.stage_times();
        let mut runs = 0;
        let (seconds, timed_runs) = timed(|| {
            outputs.clear();
            runs += 1;
            engine.run(&batch, &mut outputs).map(|report| report.elapsed)
        })?;
        let parts = flops::batch_parts(&subject.architecture, &batch);
        rate = parts.total() as f64 / seconds[1];
        let bounds = [
            (Bound::Arithmetic, parts.total() as f64 / peak_of(processor, precision)),
            (Bound::Cache, weights_time(&subject.architecture, precision, processor)),
        ];
        timed_passes.passes.push(Pass {
            rows: batch.rows(),
            tokens: batch.tokens(),
            seconds,
            runs: timed_runs,
            gflops: parts.total() as f64 / seconds[0] / 1e9,
            verdict: Verdict::of(seconds[0], &bounds, false),
        });
        let spent =
            engine.stage_times().into_iter().zip(before).map(|((stage, after), (_, before))| (stage, after - before));
        timed_passes.stages = stages(spent.collect(), parts, runs, peak_of(processor, precision), processor.threads);
    }
    Ok(timed_passes)
}

/// The register peak of a precision, in operations a second.
fn peak_of(processor: &Processor, precision: Precision) -> f64 {
    let index = usize::from(precision != Precision::F32);
    processor.peaks[index].gops * 1e9
}

/// How long the threads take to read the weights of all layers, each all of them.
fn weights_time(architecture: &Architecture, precision: Precision, processor: &Processor) -> f64 {
    // A token's products take two operations a weight.
    let Parts { query_key_value, projection, feed_forward, head, .. } = flops::row_parts(architecture, 1);
    let weights = (query_key_value + projection + feed_forward + head) / 2;
    let bytes = weights
        * match precision {
            Precision::F32 => 4,
            Precision::F16 | Precision::Int16 => 2,
            Precision::Int8 => 1,
        };
    let read = processor.reads.iter().find(|read| read.bytes_per_thread as u64 >= bytes).or(processor.reads.last());
    read.map_or(0.0, |read| bytes as f64 * processor.threads as f64 / read.bytes_per_s)
}

fn stages(spent: Vec<(Stage, Duration)>, parts: Parts, runs: u64, peak: f64, threads: usize) -> Vec<StageRate> {
    let all: f64 = spent.iter().map(|(_, time)| time.as_secs_f64()).sum();
    let rate = |(stage, time): (Stage, Duration)| {
        let flops = match stage {
            Stage::QueryKeyValue => parts.query_key_value,
            Stage::Attention => parts.attention,
            Stage::Projection => parts.projection,
            Stage::FeedForward => parts.feed_forward,
            Stage::Head => parts.head,
            Stage::Embed => parts.embeddings,
            Stage::Wait => 0,
        };
        // Threads compute stages side by side: with all of them, a stage would take its threads' time divided by them.
        let seconds = time.as_secs_f64() / threads as f64;
        let work = (flops * runs) as f64;
        let counted = flops > 0 && seconds > 0.0;
        StageRate {
            stage: stage.name(),
            share_of_time: time.as_secs_f64() / all,
            gflops: counted.then(|| work / seconds / 1e9),
            // Softmax takes most of attention's time, and no operations are counted for it.
            verdict: match counted && stage != Stage::Attention {
                true => Verdict::of(seconds, &[(Bound::Arithmetic, work / peak)], false),
                false => None,
            },
        }
    };
    spent.into_iter().map(rate).collect()
}

/// What a batch takes at a rate.
fn time_of(batch: &CheckedBatch, architecture: &Architecture, flops_per_s: f64) -> Duration {
    Duration::from_secs_f64(flops::batch_flops(architecture, batch) as f64 / flops_per_s)
}
