//! One GPU: what it does at best, whether every candidate kernel computes right numbers, and how fast the chosen ones
//! and whole passes are beside that.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use assay_kernels::gpu::engine::KernelTime;
use assay_kernels::gpu::op::Rereads;
use assay_kernels::gpu::tune::TuneEntry;
use assay_kernels::gpu::{
    self, AdapterDescription, AdapterFacts, AdapterKind, AdapterSelection, Ceilings, GpuDevice, GpuEngine, GpuOptions,
    TuneCache, predicted,
};
use assay_kernels::{CheckedBatch, Engine, Precision};
use serde::Serialize;

use super::clock::{Clock, timed};
use super::measured::{Checked, Pass};
use super::say;
use super::subject::Task;
use super::verdict::{Bound, Verdict};
use crate::cli::error::CliError;
use crate::device::{DeviceOptions, EngineChoice, EnginePrecision};

/// Rows of the batch whose kernels are timed one by one; fewer for a software adapter, which takes seconds for more.
const PROFILED_ROWS: usize = 32;
const PROFILED_ROWS_SOFTWARE: usize = 4;

/// Size of the weights that the GEMMs read from the caches: those of the default model's widest layer.
const WEIGHTS_BYTES: u64 = 2 << 20;

/// Batches of one row for the comparison of one with several in flight: as many as take this long, within bounds.
const IN_FLIGHT_TIME: f64 = 1.0;
const FEWEST_IN_FLIGHT: usize = 6;
const MOST_IN_FLIGHT: usize = 48;

/// What a software adapter computes a second at least, and what a GPU does. Only to guess how long something takes.
const LEAST_SOFTWARE_FLOPS_PER_S: f64 = 2e9;
const LEAST_GPU_FLOPS_PER_S: f64 = 2e10;

/// A GPU's part of the report.
#[derive(Debug, Serialize)]
pub(super) struct Gpu {
    pub(super) adapter: AdapterDescription,
    pub(super) facts: AdapterFacts,
    pub(super) ceilings: Ceilings,
    pub(super) precisions: Vec<Timed>,
}

/// One precision.
#[derive(Debug, Serialize)]
pub(super) struct Timed {
    pub(super) precision: &'static str,
    /// Every candidate of every kernel, as `assay tune` lists them.
    pub(super) candidates: Vec<TuneEntry>,
    pub(super) pipelines: u64,
    pub(super) compile_s: f64,
    /// The whole model's numbers.
    pub(super) numbers: Option<Checked>,
    pub(super) passes: Vec<Pass>,
    pub(super) in_flight: Option<InFlight>,
    /// The chosen kernels.
    pub(super) kernels: Vec<Kernel>,
}

/// A chosen kernel in a forward pass, equal ones together.
#[derive(Debug, Serialize)]
pub(super) struct Kernel {
    pub(super) part: &'static str,
    pub(super) pipeline: String,
    pub(super) dispatches: u32,
    pub(super) seconds: f64,
    pub(super) gflops: f64,
    pub(super) gbytes_per_s: f64,
    /// Most of the peak that an Apple GPU's instructions allow, where that was predicted.
    pub(super) predicted_share: Option<f64>,
    pub(super) verdict: Option<Verdict>,
}

/// Batches of one row, one after the other and several at a time.
#[derive(Debug, Serialize)]
pub(super) struct InFlight {
    pub(super) one_per_s: f64,
    pub(super) batches: usize,
    pub(super) several_per_s: f64,
    /// The longest submission while others were in flight.
    pub(super) longest_submit_s: f64,
}

/// Measures a GPU, and tunes it as `assay tune` does.
pub(super) fn examine(
    adapter: &AdapterDescription,
    task: &Task<'_>,
    tune_file: &Path,
    clock: &mut Clock,
) -> Result<Gpu, CliError> {
    say(&format!("{}: multiply-adds, caches, broadcasts, dispatches", adapter.name));
    let selection = AdapterSelection::Index(adapter.index);
    let device = GpuDevice::open(&selection)?;
    let mut gpu = Gpu {
        adapter: device.description().clone(),
        facts: gpu::facts(&selection).map_err(gpu::GpuError::from)?,
        ceilings: Ceilings::measure(&device)?,
        precisions: Vec::new(),
    };
    if let Err(lacks) = GpuEngine::supports(&task.subject.architecture) {
        clock.skip(format!("the model on {}: {lacks}", adapter.name));
        return Ok(gpu);
    }
    let software = adapter.kind == AdapterKind::Software;
    // A software adapter is for development: f32 shows what there is to see.
    let precisions: &[EnginePrecision] =
        if software { &[EnginePrecision::F32] } else { &[EnginePrecision::F32, EnginePrecision::F16] };
    for &precision in precisions {
        let time = Duration::from_secs(if software { 15 } else { 5 });
        if clock.allows(&format!("tuning in {precision}"), time) {
            let timed = tuned(&gpu, (&device, precision), task, tune_file, clock)?;
            gpu.precisions.push(timed);
        }
    }
    Ok(gpu)
}

fn tuned(
    gpu: &Gpu,
    (device, choice): (&Arc<GpuDevice>, EnginePrecision),
    task: &Task<'_>,
    tune_file: &Path,
    clock: &mut Clock,
) -> Result<Timed, CliError> {
    let subject = task.subject;
    let name = &gpu.adapter.name;
    say(&format!("{name}: every candidate kernel in {choice}"));
    let options = DeviceOptions {
        choice: EngineChoice::Gpu,
        precision: choice,
        adapter: Some(AdapterSelection::Index(gpu.adapter.index)),
        tune_file: Some(tune_file.to_owned()),
        ..DeviceOptions::default()
    };
    let table = options.tune(&subject.architecture)?;
    let precision = choice.gpu().unwrap_or_default();
    let options = GpuOptions { precision, tune: TuneCache::Remembered(tune_file.to_owned()), ..GpuOptions::default() };
    say(&format!("{name}: numbers and whole passes in {choice}"));
    let mut engine = GpuEngine::load(device, subject.load()?, &options)?;
    let compiled = engine.compiled();
    let numbers = match task.expected {
        Some(expected) => Some(Checked::new(format!("gpu {choice}"), precision, expected.largest_error(&mut engine)?)),
        None => None,
    };
    let passes = passes(&mut engine, gpu, task, precision, clock)?;
    let one_row = subject.batch(&engine, 1)?;
    let in_flight = match passes.first().map(|pass| pass.seconds[1]) {
        Some(seconds) => {
            let batches = ((IN_FLIGHT_TIME / seconds) as usize).clamp(FEWEST_IN_FLIGHT, MOST_IN_FLIGHT);
            let time = Duration::from_secs_f64(2.0 * batches as f64 * seconds);
            clock.allows("batches in flight", time).then(|| in_flight(&mut engine, &one_row, batches)).transpose()?
        }
        None => None,
    };
    let software = gpu.adapter.kind == AdapterKind::Software;
    let profiled = subject.batch(&engine, if software { PROFILED_ROWS_SOFTWARE } else { PROFILED_ROWS })?;
    let kernels = match clock.allows("each kernel alone", Duration::from_secs(if software { 15 } else { 6 })) {
        true => kernels(gpu, engine.profile(&profiled, 1)?),
        false => Vec::new(),
    };
    Ok(Timed {
        precision: precision.name(),
        candidates: table.entries,
        pipelines: compiled.pipelines,
        compile_s: compiled.time.as_secs_f64(),
        numbers,
        passes,
        in_flight,
        kernels,
    })
}

/// Times whole passes, the fewest rows first.
fn passes(
    engine: &mut GpuEngine,
    gpu: &Gpu,
    task: &Task<'_>,
    precision: Precision,
    clock: &mut Clock,
) -> Result<Vec<Pass>, CliError> {
    let subject = task.subject;
    let (mut passes, mut outputs) = (Vec::new(), Vec::new());
    let software = gpu.adapter.kind == AdapterKind::Software;
    let mut rate = if software { LEAST_SOFTWARE_FLOPS_PER_S } else { LEAST_GPU_FLOPS_PER_S };
    // Drivers put work off until the first batch.
    let first = subject.batch(engine, 1)?;
    engine.run(&first, &mut outputs)?;
    for &rows in task.rows {
        let batch = subject.batch(engine, rows)?;
        let flops: u64 = batch.iter().map(|row| engine.row_flops(row.ids.len())).sum();
        let what = format!("{rows} rows in {} on {}", precision.name(), gpu.adapter.name);
        if !clock.allows(&what, Duration::from_secs_f64(flops as f64 / rate)) {
            break;
        }
        let mut dispatches = 0;
        let seconds = timed(|| {
            outputs.clear();
            engine.run(&batch, &mut outputs).map(|report| {
                dispatches = report.dispatches;
                report.elapsed
            })
        })?;
        rate = flops as f64 / seconds[1];
        let Ceilings { multiply_adds, dispatch, round_trip, .. } = gpu.ceilings;
        let bounds = [
            (Bound::Arithmetic, flops as f64 / multiply_adds),
            (Bound::Dispatch, (dispatch * dispatches + round_trip).as_secs_f64()),
        ];
        passes.push(Pass {
            rows: batch.rows(),
            tokens: batch.tokens(),
            seconds,
            gflops: flops as f64 / seconds[0] / 1e9,
            verdict: Verdict::of(seconds[0], &bounds, false),
        });
    }
    Ok(passes)
}

fn in_flight(engine: &mut GpuEngine, row: &CheckedBatch, count: usize) -> Result<InFlight, CliError> {
    let (mut outputs, mut longest_submit, batches) = (Vec::new(), Duration::ZERO, engine.max_in_flight());
    let mut per_s = |depth: usize| -> Result<f64, CliError> {
        let (started, mut waiting) = (Instant::now(), VecDeque::new());
        for _ in 0..count {
            if waiting.len() == depth
                && let Some(oldest) = waiting.pop_front()
            {
                engine.finish(oldest, &mut outputs)?;
            }
            let submitting = Instant::now();
            waiting.push_back(engine.submit(row)?);
            longest_submit = longest_submit.max(submitting.elapsed());
        }
        for ticket in waiting {
            engine.finish(ticket, &mut outputs)?;
        }
        Ok(count as f64 / started.elapsed().as_secs_f64())
    };
    let (one_per_s, several_per_s) = (per_s(1)?, per_s(batches)?);
    Ok(InFlight { one_per_s, batches, several_per_s, longest_submit_s: longest_submit.as_secs_f64() })
}

/// Equal kernels together, in the order of the pass, each with what bounds it.
fn kernels(gpu: &Gpu, times: Vec<KernelTime>) -> Vec<Kernel> {
    let mut merged: Vec<(u32, KernelTime)> = Vec::new();
    for kernel in times {
        let same = |(_, other): &&mut (u32, KernelTime)| other.pipeline == kernel.pipeline && other.part == kernel.part;
        match merged.iter_mut().find(same) {
            Some((count, other)) => {
                *count += 1;
                other.flops += kernel.flops;
                other.bytes += kernel.bytes;
                other.rereads.cached_bytes += kernel.rereads.cached_bytes;
                other.rereads.broadcast_bytes += kernel.rereads.broadcast_bytes;
                other.time += kernel.time;
            }
            None => merged.push((1, kernel)),
        }
    }
    merged.into_iter().map(|(dispatches, kernel)| judged(gpu, dispatches, kernel)).collect()
}

fn judged(gpu: &Gpu, dispatches: u32, kernel: KernelTime) -> Kernel {
    let KernelTime { part, pipeline, flops, bytes, rereads, time, .. } = kernel;
    let Rereads { cached_bytes, broadcast_bytes } = rereads;
    let Ceilings { multiply_adds, broadcast_bytes_per_s, dispatch, .. } = gpu.ceilings;
    let predicted_share = predicted::multiply_add_share(&pipeline).filter(|_| gpu.adapter.backend == "Metal");
    let read = |bytes: u64, size: u64| gpu.ceilings.read_rate(size).map_or(0.0, |rate| bytes as f64 / rate);
    let bounds = [
        (Bound::Arithmetic, flops as f64 / (multiply_adds * predicted_share.unwrap_or(1.0))),
        (Bound::Broadcast, broadcast_bytes as f64 / broadcast_bytes_per_s),
        (Bound::Cache, read(cached_bytes, WEIGHTS_BYTES)),
        (Bound::Memory, read(bytes, bytes / u64::from(dispatches))),
        (Bound::Dispatch, (dispatch * dispatches).as_secs_f64()),
    ];
    let seconds = time.as_secs_f64();
    let in_registers = pipeline.starts_with("gemm") || pipeline.starts_with("attention");
    Kernel {
        part,
        verdict: Verdict::of(seconds, &bounds, in_registers),
        pipeline,
        dispatches,
        seconds,
        gflops: flops as f64 / seconds / 1e9,
        gbytes_per_s: bytes as f64 / seconds / 1e9,
        predicted_share,
    }
}
