//! One GPU: what it does at best, whether every candidate kernel computes right numbers, and how fast the chosen ones
//! and whole passes are beside that.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use assay_kernels::gpu::engine::KernelTime;
use assay_kernels::gpu::op::Rereads;
use assay_kernels::gpu::tune::{RememberError, TuneEntry, TuneTable};
use assay_kernels::gpu::{
    self, AdapterDescription, AdapterFacts, AdapterKind, AdapterSelection, Ceilings, GpuDevice, GpuEngine, GpuOptions,
    TuneCache, predicted,
};
use assay_kernels::{CheckedBatch, Engine, Precision, flops};
use serde::Serialize;

use super::clock::{Clock, time_of_runs, timed};
use super::measured::{Checked, Pass};
use super::say;
use super::subject::Task;
use super::verdict::{Bound, Verdict, leaves_rolled};
use crate::cli::error::CliError;
use crate::device::{DeviceOptions, EngineChoice, EnginePrecision};
use crate::durable;

/// Rows of the batch whose kernels are timed one by one: the most that there is time for.
const PROFILED_ROWS: [usize; 3] = [32, 4, 1];

/// Passes that timing each kernel alone takes if they are long, and what a kernel takes if it is short: measurements of
/// at least 20 ms.
const PROFILE_PASSES: f64 = 5.0;
const PROFILE_DISPATCH: Duration = Duration::from_millis(70);

/// Tokens of the batch that shows how long candidates take on a software adapter, before they are timed on a large one.
const TRIED_TOKENS: usize = 128;

/// Times that tuning runs a candidate that takes long, and candidates of each GEMM; to guess how long it takes.
const TUNING_RUNS: f64 = 6.0;
const TUNING_CANDIDATES: f64 = 10.0;

/// The part of the register peak that candidates reach on average; to guess as well.
const TUNING_SHARE: f64 = 0.2;

/// Tokens of the large batch on a GPU.
const TUNED_TOKENS: usize = 4096;

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
    /// What became of the choice among them.
    pub(super) choice: Kept,
    pub(super) pipelines: u64,
    pub(super) compile_s: f64,
    /// The whole model's numbers.
    pub(super) numbers: Option<Checked>,
    pub(super) passes: Vec<Pass>,
    pub(super) in_flight: Option<InFlight>,
    /// Rows of the batch in which each kernel was timed.
    pub(super) profiled_rows: usize,
    /// The chosen kernels.
    pub(super) kernels: Vec<Kernel>,
}

/// What became of a tuning choice. The file is the data directory's, and its path is not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kept {
    /// Written, in place of an earlier one.
    Written,
    /// The machine was busy, so an earlier choice stays.
    Busy,
    /// There was no time to tune with large batches, so an earlier choice stays.
    Short,
    /// It cannot be written; the system's reason.
    Failed(String),
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

/// Where choices are kept, and whether the machine is too busy for it.
pub(super) struct Tuning<'a> {
    pub(super) file: &'a Path,
    pub(super) is_busy: &'a dyn Fn() -> bool,
}

/// Measures a GPU, and tunes it as `assay tune` does.
pub(super) fn examine(
    adapter: &AdapterDescription,
    task: &Task<'_>,
    tuning: &Tuning<'_>,
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
        let time = 2 * task.subject.load_time + Duration::from_secs(1);
        if clock.allows(&format!("{precision} on {}", adapter.name), time) {
            let timed = tuned(&gpu, (&device, precision), task, tuning, clock)?;
            gpu.precisions.push(timed);
        }
    }
    Ok(gpu)
}

/// Times every candidate, if there is time: on a software adapter with a small batch first, which shows how long a large
/// one takes. Tells what is to become of the choice.
fn candidates(
    gpu: &Gpu,
    options: &DeviceOptions,
    task: &Task<'_>,
    tuning: &Tuning<'_>,
    clock: &mut Clock,
) -> Result<(Option<TuneTable>, Kept), CliError> {
    let architecture = &task.subject.architecture;
    let precision = options.precision;
    let guess = |least: u64, tokens: usize| {
        // Of one layer, without the head: each of its kernels is tuned once.
        let flops = flops::row_flops(architecture, 1) as f64 / architecture.layers.len().max(1) as f64;
        let runs = TUNING_RUNS * TUNING_CANDIDATES * tokens as f64;
        let seconds = runs * flops / (TUNING_SHARE * gpu.ceilings.multiply_adds);
        Duration::from_secs(least) + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 2)
    };
    let all = format!("tuning in {precision}");
    let kept = |table| (Some(table), if (tuning.is_busy)() { Kept::Busy } else { Kept::Written });
    if gpu.adapter.kind != AdapterKind::Software {
        return match clock.allows(&all, guess(5, TUNED_TOKENS)) {
            true => Ok(kept(options.tune(architecture)?)),
            false => Ok((None, Kept::Short)),
        };
    }
    if !clock.allows(&all, guess(8, TRIED_TOKENS)) {
        return Ok((None, Kept::Short));
    }
    let started = Instant::now();
    let tried = DeviceOptions { max_batch_tokens: Some(TRIED_TOKENS), ..options.clone() }.tune(architecture)?;
    let spent = started.elapsed();
    let once: Duration = tried.entries.iter().map(|entry| entry.time).sum();
    let tokens = options.processor_batch_tokens().min(TUNED_TOKENS);
    let large = once.mul_f64(TUNING_RUNS * tokens as f64 / TRIED_TOKENS as f64);
    match clock.allows(&format!("tuning in {precision} with {tokens} tokens"), 2 * spent + large) {
        true => Ok(kept(options.tune(architecture)?)),
        false => Ok((Some(tried), Kept::Short)),
    }
}

/// Keeps a choice in the data directory.
fn keep(
    choice: &mut Kept,
    table: Option<&TuneTable>,
    device: &GpuDevice,
    (task, precision): (&Task<'_>, Precision),
    file: &Path,
) -> Result<(), CliError> {
    let (Kept::Written, Some(table)) = (&*choice, table) else { return Ok(()) };
    // The data directory is its owner's alone; one that is there stays as it is.
    let written = file.parent().filter(|dir| !dir.exists()).map_or(Ok(()), durable::private_dir);
    let written = match written {
        Ok(()) => match gpu::remember(file, device, &task.subject.architecture, precision, &table.choices) {
            Err(RememberError::Gpu(error)) => return Err(error.into()),
            Err(RememberError::Write { source, .. }) => Err(source),
            Ok(()) => Ok(()),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        *choice = Kept::Failed(error.to_string());
    }
    Ok(())
}

fn tuned(
    gpu: &Gpu,
    (device, choice): (&Arc<GpuDevice>, EnginePrecision),
    task: &Task<'_>,
    tuning: &Tuning<'_>,
    clock: &mut Clock,
) -> Result<Timed, CliError> {
    let subject = task.subject;
    let name = &gpu.adapter.name;
    say(&format!("{name}: every candidate kernel in {choice}"));
    let options = DeviceOptions {
        choice: EngineChoice::Gpu,
        precision: choice,
        adapter: Some(AdapterSelection::Index(gpu.adapter.index)),
        tune_file: None,
        ..DeviceOptions::default()
    };
    let (table, mut kept) = candidates(gpu, &options, task, tuning, clock)?;
    let precision = choice.gpu().unwrap_or_default();
    keep(&mut kept, table.as_ref(), device, (task, precision), tuning.file)?;
    // Measured is what serves from now on: this choice, or else the earlier one.
    let tune = match (&table, &kept) {
        (Some(table), Kept::Written | Kept::Failed(_)) => TuneCache::Chosen(table.choices),
        _ => TuneCache::Remembered(tuning.file.to_owned()),
    };
    let options = GpuOptions { precision, tune, ..GpuOptions::default() };
    say(&format!("{name}: numbers and whole passes in {choice}"));
    let mut engine = GpuEngine::load(device, subject.load()?, &options)?;
    let compiled = engine.compiled();
    let least =
        if gpu.adapter.kind == AdapterKind::Software { LEAST_SOFTWARE_FLOPS_PER_S } else { LEAST_GPU_FLOPS_PER_S };
    let what = format!("numbers by gpu {choice}");
    let expected = task.expected.filter(|expected| clock.allows(&what, expected.time_at(&subject.architecture, least)));
    let numbers = match expected {
        Some(expected) => {
            let error = match expected.stand_in() {
                Some(model) => expected.largest_error(&mut GpuEngine::load(device, model, &options)?)?,
                None => expected.largest_error(&mut engine)?,
            };
            Some(Checked::new(format!("gpu {choice}"), precision, error))
        }
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
    let (profiled_rows, kernels) = profiled(&mut engine, gpu, task, &passes, clock)?;
    Ok(Timed {
        precision: precision.name(),
        candidates: table.map_or_else(Vec::new, |table| table.entries),
        choice: kept,
        pipelines: compiled.pipelines,
        compile_s: compiled.time.as_secs_f64(),
        numbers,
        passes,
        in_flight,
        profiled_rows,
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
    let flops: u64 = first.iter().map(|row| engine.row_flops(row.ids.len())).sum();
    let what = format!("whole passes in {} on {}", precision.name(), gpu.adapter.name);
    if !clock.allows(&what, Duration::from_secs_f64(flops as f64 / rate)) {
        return Ok(passes);
    }
    engine.run(&first, &mut outputs)?;
    for &rows in task.rows {
        let batch = subject.batch(engine, rows)?;
        let flops: u64 = batch.iter().map(|row| engine.row_flops(row.ids.len())).sum();
        let what = format!("{rows} rows in {} on {}", precision.name(), gpu.adapter.name);
        if !clock.allows(&what, time_of_runs(Duration::from_secs_f64(flops as f64 / rate))) {
            break;
        }
        let mut dispatches = 0;
        let (seconds, runs) = timed(|| {
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
            runs,
            gflops: flops as f64 / seconds[0] / 1e9,
            verdict: Verdict::of(seconds[0], &bounds, false),
        });
    }
    Ok(passes)
}

/// Times each kernel alone, in a batch of as many rows as there is time for by the passes measured.
fn profiled(
    engine: &mut GpuEngine,
    gpu: &Gpu,
    task: &Task<'_>,
    passes: &[Pass],
    clock: &mut Clock,
) -> Result<(usize, Vec<Kernel>), CliError> {
    let Some(last) = passes.last() else { return Ok((0, Vec::new())) };
    // A pass has about so many kernels.
    let dispatches = 8 * task.subject.architecture.layers.len() as u32 + 8;
    let software = gpu.adapter.kind == AdapterKind::Software;
    // A software adapter takes seconds for more.
    let sizes = PROFILED_ROWS.into_iter().filter(|&rows| !software || rows < PROFILED_ROWS[0]);
    let time_of = |rows: usize| {
        let pass = last.seconds[1] * rows as f64 / last.rows as f64;
        Duration::from_secs_f64(PROFILE_PASSES * pass) + PROFILE_DISPATCH * dispatches
    };
    let left = clock.left();
    let rows = sizes.into_iter().find(|&rows| time_of(rows) <= left).unwrap_or(1);
    if !clock.allows("each kernel alone", time_of(rows)) {
        return Ok((0, Vec::new()));
    }
    let batch = task.subject.batch(engine, rows)?;
    Ok((batch.rows(), kernels(gpu, engine.profile(&batch, 1)?)))
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
    let rolled = in_registers && leaves_rolled(multiply_adds, gpu.ceilings.rolled_multiply_adds);
    Kernel {
        part,
        verdict: Verdict::of(seconds, &bounds, rolled),
        pipeline,
        dispatches,
        seconds,
        gflops: flops as f64 / seconds / 1e9,
        gbytes_per_s: bytes as f64 / seconds / 1e9,
        predicted_share,
    }
}
