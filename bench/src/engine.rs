//! Question: what share of what the device could do at best does an engine turn into useful work?
//!
//! Baseline, on the processor: candle-core's f32 product of 3000×384 by 384×1536, the largest of the model's at a full
//! batch, on the same threads. On a GPU: f32 multiply-adds on registers. Excluded: tokenising, loading, and the first
//! batch of each. Ceiling and engine alternate in short slices, so that a device whose speed drifts is the same for both;
//! medians are reported with their spread.
//!
//! `cargo run --release -p assay-bench -- engine --engine gpu --requests FILE --model DIR --adapter DIR`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use assay::device::{Decision, DeviceOptions, EngineChoice, EnginePrecision};
use assay_kernels::gpu::{
    self, AdapterDescription, AdapterKind, AdapterSelection, GpuDevice, GpuEngine, GpuOptions, TuneCache,
};
use assay_kernels::{
    CheckedBatch, CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, Engine, Model, PackedBatch, RowShape, checkpoint,
};
use candle_core::{Device, Tensor};
use clap::Args as ClapArgs;
use serde::Serialize;

use crate::pairs;

/// Shape of the ceiling's product: tokens, hidden size, intermediate size.
const CEILING_SHAPE: (usize, usize, usize) = (3000, 384, 1536);

/// What the ceiling of a GPU is measured with: 17 GFLOP, enough to fill a large one; 1 GFLOP for a software adapter.
const PEAK_WORKGROUPS: u32 = 1024;
const PEAK_TRIPS: u32 = 2048;
const SOFTWARE_PEAK_TRIPS: u32 = 128;

/// Runs of each kernel of which the fastest counts.
const PROFILE_REPEATS: u32 = 3;

/// Pairs that are measured unless told otherwise: the first 40 requests of the baseline's load.
const DEFAULT_PAIRS: usize = 1_280;

/// Rows to a batch: what one request of the load brings.
const DEFAULT_BATCH_ROWS: usize = 32;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Engine to measure.
    #[arg(long, value_enum, default_value_t = EngineChoice::Cpu)]
    engine: EngineChoice,
    /// Numbers as stored and multiplied.
    #[arg(long, value_enum, default_value_t)]
    precision: EnginePrecision,
    /// Threads that compute; all that the process may use unless given.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Requests, one JSON object with `query` and `documents` a line.
    #[arg(long)]
    requests: PathBuf,
    #[command(flatten)]
    model: pairs::ModelArgs,
    /// Pairs to measure, from the start of the file.
    #[arg(long, default_value_t = DEFAULT_PAIRS)]
    pairs: usize,
    /// Rows to a batch.
    #[arg(long, default_value_t = DEFAULT_BATCH_ROWS)]
    batch_rows: usize,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What was measured; rates are medians over batches.
#[derive(Debug, Serialize)]
struct Report {
    engine: &'static str,
    device: String,
    precision: &'static str,
    threads: usize,
    pairs: usize,
    tokens: usize,
    batch_rows: usize,
    /// What the share is of.
    ceiling: &'static str,
    #[serde(rename = "gemm_ceiling_gflops")]
    ceiling_gflops: f64,
    #[serde(rename = "gemm_ceiling_gflops_quartiles")]
    ceiling_gflops_quartiles: [f64; 2],
    useful_gflops: f64,
    share: f64,
    share_quartiles: [f64; 2],
    pairs_per_s: f64,
    batch_ms_p50: f64,
    batch_ms_p99: f64,
    first_batch_ms: f64,
    load_ms: f64,
    weights_bytes: u64,
    arena_bytes: u64,
    peak_rss_bytes: Option<u64>,
    stages: Vec<StageTime>,
}

/// A part of the forward pass: on the processor over all batches and threads, on a GPU a kernel in one batch.
#[derive(Debug, Serialize)]
struct StageTime {
    stage: String,
    ms: f64,
    share: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(threads) = args.threads {
        limit_ceiling_threads(threads);
    }
    let options = DeviceOptions {
        choice: args.engine,
        precision: args.precision,
        threads: args.threads,
        ..DeviceOptions::default()
    };
    let Decision { adapter, reason } = options.decide()?;
    eprintln!("{}: {reason}", if adapter.is_some() { "gpu" } else { "cpu" });
    let loading = Instant::now();
    let files = args.model.files()?;
    let weights = checkpoint::load(&files.dir, files.adapter.as_deref())?;
    let mut subject = Subject::new(weights, &options, adapter)?;
    let load_ms = milliseconds(loading.elapsed());
    let peak_rss_bytes = peak_rss();
    let pairs = pairs::read(&args.requests, args.pairs)?;
    let shape = subject.engine().shape();
    let rows = pairs::tokenise(&files.dir, shape.max_tokens, &pairs)?;
    let batches = split(&rows, args.batch_rows.max(1), subject.engine().max_batch_tokens(), &shape)?;
    let measured = measure(&mut subject, &batches)?;
    let report = summarise(&mut subject, &rows, args.batch_rows, &measured, load_ms, peak_rss_bytes);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

/// The engine that is measured, with the ceiling of its device.
enum Subject {
    Cpu(Box<CpuEngine>, Product),
    Gpu(Box<GpuEngine>, Registers),
}

/// The ceiling of the processor: candle-core's matrix product.
struct Product {
    a: Tensor,
    b: Tensor,
}

/// The ceiling of a GPU: multiply-adds on registers.
struct Registers {
    device: Arc<GpuDevice>,
    trips: u32,
}

impl Subject {
    fn new(weights: Model, options: &DeviceOptions, adapter: Option<AdapterDescription>) -> anyhow::Result<Self> {
        let (m, k, n) = CEILING_SHAPE;
        match (adapter, options.precision.gpu(), options.precision.cpu()) {
            (Some(adapter), Some(precision), _) => {
                let software = adapter.kind == AdapterKind::Software;
                let device = GpuDevice::open(&AdapterSelection::Index(adapter.index))?;
                let trips = if software { SOFTWARE_PEAK_TRIPS } else { PEAK_TRIPS };
                // Timed at each load: what is measured is the engine at its best. A software adapter takes too long.
                let tune = if software { TuneCache::Defaults } else { TuneCache::Memory };
                let options = GpuOptions { precision, tune, ..GpuOptions::default() };
                let engine = Box::new(GpuEngine::load(&device, weights, &options)?);
                Ok(Self::Gpu(engine, Registers { device, trips }))
            }
            (_, _, Some(precision)) => {
                let product = Product {
                    a: Tensor::rand(-1f32, 1f32, (m, k), &Device::Cpu)?,
                    b: Tensor::rand(-1f32, 1f32, (k, n), &Device::Cpu)?,
                };
                let threads = options.threads;
                let device = CpuDevice::new(CpuDeviceOptions { threads, ..CpuDeviceOptions::default() })?;
                let options = CpuOptions { precision, ..CpuOptions::default() };
                Ok(Self::Cpu(Box::new(CpuEngine::load(&device, weights, options)?), product))
            }
            (_, _, None) => bail!("no engine here computes in {}", options.precision),
        }
    }

    fn engine(&mut self) -> &mut dyn Engine {
        match self {
            Self::Cpu(engine, _) => engine.as_mut(),
            Self::Gpu(engine, _) => engine.as_mut(),
        }
    }

    fn ceiling_name(&self) -> &'static str {
        match self {
            Self::Cpu(..) => "GEMM",
            Self::Gpu(..) => "registers",
        }
    }

    /// GFLOP/s, measured now.
    fn ceiling(&self) -> anyhow::Result<f64> {
        match self {
            Self::Cpu(_, Product { a, b }) => {
                let (m, k, n) = CEILING_SHAPE;
                let started = Instant::now();
                a.matmul(b)?;
                Ok((2 * m * k * n) as f64 / started.elapsed().as_secs_f64() / 1e9)
            }
            Self::Gpu(_, ceiling) => Ok(gpu::ceiling(&ceiling.device, PEAK_WORKGROUPS, ceiling.trips)? / 1e9),
        }
    }

    /// Time in each part of the forward pass so far.
    fn stages(&self) -> Vec<(String, Duration)> {
        match self {
            Self::Cpu(engine, _) => {
                engine.stage_times().iter().map(|&(stage, time)| (stage.name().to_owned(), time)).collect()
            }
            Self::Gpu(..) => Vec::new(),
        }
    }

    /// Time of each kernel in one batch, equal ones together; nothing on the processor.
    fn kernels(&mut self, batch: &CheckedBatch) -> anyhow::Result<Vec<(String, Duration)>> {
        let Self::Gpu(engine, _) = self else { return Ok(Vec::new()) };
        let mut kernels: Vec<(String, Duration)> = Vec::new();
        for kernel in engine.profile(batch, PROFILE_REPEATS)? {
            match kernels.iter_mut().find(|(name, _)| *name == kernel.name) {
                Some((_, time)) => *time += kernel.time,
                None => kernels.push((kernel.name, kernel.time)),
            }
        }
        Ok(kernels)
    }
}

/// The ceiling runs on as many threads as the engine. Its pool reads this variable once, and nothing has started yet.
#[allow(unsafe_code, reason = "the only way to size the pool of a library that is not ours")]
fn limit_ceiling_threads(threads: NonZeroUsize) {
    // SAFETY: called first thing in `run`, before any thread is started.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
}

fn split(
    rows: &PackedBatch,
    batch_rows: usize,
    max_tokens: usize,
    shape: &RowShape,
) -> anyhow::Result<Vec<CheckedBatch>> {
    let mut batches = vec![PackedBatch::default()];
    for row in rows.iter() {
        let current = batches.last().context("there is always one")?;
        if current.rows() == batch_rows || current.tokens() + row.ids.len() > max_tokens {
            batches.push(PackedBatch::default());
        }
        batches.last_mut().context("there is always one")?.push(row)?;
    }
    Ok(batches.into_iter().map(|batch| batch.check(shape)).collect::<Result<_, _>>()?)
}

/// One batch and the ceiling measured right before it.
struct Slice {
    ceiling_gflops: f64,
    useful_flops: u64,
    elapsed: Duration,
}

struct Measured {
    first_batch: Duration,
    slices: Vec<Slice>,
    stages: Vec<(String, Duration)>,
}

fn measure(subject: &mut Subject, batches: &[CheckedBatch]) -> anyhow::Result<Measured> {
    let mut outputs = Vec::new();
    let first_batch = subject.engine().run(&batches[0], &mut outputs)?.elapsed;
    for _ in 0..3 {
        subject.ceiling()?;
    }
    let before = subject.stages();
    let mut slices = Vec::with_capacity(batches.len());
    for batch in batches {
        let ceiling_gflops = subject.ceiling()?;
        outputs.clear();
        let report = subject.engine().run(batch, &mut outputs)?;
        if outputs.iter().any(|value| !value.is_finite()) {
            bail!("the engine computed a number that is not finite");
        }
        slices.push(Slice { ceiling_gflops, useful_flops: report.useful_flops, elapsed: report.elapsed });
    }
    let spent = subject.stages().into_iter().zip(before).map(|((stage, after), (_, before))| (stage, after - before));
    let mut stages: Vec<_> = spent.collect();
    stages.extend(subject.kernels(&batches[0])?);
    Ok(Measured { first_batch, slices, stages })
}

fn summarise(
    subject: &mut Subject,
    rows: &PackedBatch,
    batch_rows: usize,
    measured: &Measured,
    load_ms: f64,
    peak_rss_bytes: Option<u64>,
) -> Report {
    let slices = &measured.slices;
    let ceilings = sorted(slices.iter().map(|slice| slice.ceiling_gflops));
    let useful = |slice: &Slice| slice.useful_flops as f64 / slice.elapsed.as_secs_f64() / 1e9;
    let shares = sorted(slices.iter().map(|slice| useful(slice) / slice.ceiling_gflops));
    let total: Duration = slices.iter().map(|slice| slice.elapsed).sum();
    let flops: u64 = slices.iter().map(|slice| slice.useful_flops).sum();
    let batch_ms = sorted(slices.iter().map(|slice| milliseconds(slice.elapsed)));
    let useful_gflops = flops as f64 / total.as_secs_f64() / 1e9;
    let ceiling_gflops = quantile(&ceilings, 0.5);
    let all_stages: f64 = measured.stages.iter().map(|(_, time)| milliseconds(*time)).sum();
    let ceiling = subject.ceiling_name();
    let engine = subject.engine();
    let info = engine.info();
    Report {
        engine: info.name,
        device: info.device.clone(),
        precision: info.precision,
        threads: info.threads,
        pairs: rows.rows(),
        tokens: rows.tokens(),
        batch_rows,
        ceiling,
        ceiling_gflops,
        ceiling_gflops_quartiles: [quantile(&ceilings, 0.25), quantile(&ceilings, 0.75)],
        useful_gflops,
        share: quantile(&shares, 0.5),
        share_quartiles: [quantile(&shares, 0.25), quantile(&shares, 0.75)],
        pairs_per_s: rows.rows() as f64 / total.as_secs_f64(),
        batch_ms_p50: quantile(&batch_ms, 0.5),
        batch_ms_p99: quantile(&batch_ms, 0.99),
        first_batch_ms: milliseconds(measured.first_batch),
        load_ms,
        weights_bytes: engine.memory().weights_bytes,
        arena_bytes: engine.memory().arena_bytes,
        peak_rss_bytes,
        stages: measured
            .stages
            .iter()
            .map(|(stage, time)| StageTime {
                stage: stage.clone(),
                ms: milliseconds(*time),
                share: milliseconds(*time) / all_stages,
            })
            .collect(),
    }
}

fn print(report: &Report) {
    println!("{} {} {}, {} threads", report.engine, report.device, report.precision, report.threads);
    println!("{} pairs, {} tokens, batches of {}", report.pairs, report.tokens, report.batch_rows);
    let [low, high] = report.ceiling_gflops_quartiles;
    println!(
        "ceiling        {:7.1} GFLOP/s, {} (quartiles {low:.1} to {high:.1})",
        report.ceiling_gflops, report.ceiling
    );
    println!("useful         {:7.1} GFLOP/s", report.useful_gflops);
    let [low, high] = report.share_quartiles;
    println!("share          {:7.3} (quartiles {low:.3} to {high:.3})", report.share);
    println!("pairs          {:7.1} /s", report.pairs_per_s);
    println!("batch          {:7.2} ms p50, {:.2} ms p99", report.batch_ms_p50, report.batch_ms_p99);
    println!("first batch    {:7.2} ms; load {:.0} ms", report.first_batch_ms, report.load_ms);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("memory         {:7.1} MiB weights, {:.1} MiB arena", mib(report.weights_bytes), mib(report.arena_bytes));
    if let Some(bytes) = report.peak_rss_bytes {
        println!("peak RSS       {:7.1} MiB, engine loaded", mib(bytes));
    }
    // Of the processor's stages every batch's and thread's time, of a GPU's kernels one batch's.
    for StageTime { stage, ms, share } in &report.stages {
        println!("  {stage:<36} {ms:9.1} ms {:6.1} %", share * 100.0);
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((q * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Most memory that the process has had resident, where the system tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
