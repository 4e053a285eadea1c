//! Question: what share of the processor's matrix product does an engine turn into useful work?
//!
//! Baseline: candle-core's f32 product of 3000×384 by 384×1536, the largest of the model's at a full batch, on the same
//! threads. Excluded: tokenising, loading, and the first batch of each. Ceiling and engine alternate in short slices,
//! so that a processor whose speed drifts is the same for both; medians are reported with their spread.
//!
//! `cargo run --release -p assay-bench -- engine --requests FILE --model DIR --adapter DIR`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use assay_kernels::cpu::Stage;
use assay_kernels::{CpuEngine, CpuOptions, Engine, PackedBatch, Precision, checkpoint};
use candle_core::{Device, Tensor};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use crate::pairs;

/// Shape of the ceiling's product: tokens, hidden size, intermediate size.
const CEILING_SHAPE: (usize, usize, usize) = (3000, 384, 1536);

/// Pairs that are measured unless told otherwise: the first 40 requests of the baseline's load.
const DEFAULT_PAIRS: usize = 1_280;

/// Rows to a batch: what one request of the load brings.
const DEFAULT_BATCH_ROWS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineKind {
    Cpu,
    Gpu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PrecisionName {
    F32,
    Int8,
    Int16,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Engine to measure.
    #[arg(long, value_enum, default_value_t = EngineKind::Cpu)]
    engine: EngineKind,
    /// Numbers as stored and multiplied.
    #[arg(long, value_enum, default_value_t = PrecisionName::F32)]
    precision: PrecisionName,
    /// Threads that compute; all that the process may use unless given.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Requests, one JSON object with `query` and `documents` a line.
    #[arg(long)]
    requests: PathBuf,
    /// Directory with config.json, model.safetensors and tokenizer.json.
    #[arg(long, default_value = "target/models/minilm")]
    model: PathBuf,
    /// Directory with a LoRA adapter to merge.
    #[arg(long)]
    adapter: Option<PathBuf>,
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
    gemm_ceiling_gflops: f64,
    gemm_ceiling_gflops_quartiles: [f64; 2],
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

#[derive(Debug, Serialize)]
struct StageTime {
    stage: &'static str,
    thread_ms: f64,
    share: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.engine == EngineKind::Gpu {
        bail!("the gpu engine is not built in");
    }
    if let Some(threads) = args.threads {
        limit_ceiling_threads(threads);
    }
    let loading = Instant::now();
    let weights = checkpoint::load(&args.model, args.adapter.as_deref())?;
    let precision = match args.precision {
        PrecisionName::F32 => Precision::F32,
        PrecisionName::Int8 => Precision::Int8,
        PrecisionName::Int16 => Precision::Int16,
    };
    let options = CpuOptions { threads: args.threads, precision, ..CpuOptions::default() };
    let mut engine = CpuEngine::new(weights, options)?;
    let load_ms = milliseconds(loading.elapsed());
    let peak_rss_bytes = peak_rss();
    let pairs = pairs::read(&args.requests, args.pairs)?;
    let rows = pairs::tokenise(&args.model, engine.config().max_position_embeddings, &pairs)?;
    let batches = split(&rows, args.batch_rows.max(1), engine.max_batch_tokens())?;
    let measured = measure(&mut engine, &batches)?;
    let report = summarise(&engine, &rows, args.batch_rows, &measured, load_ms, peak_rss_bytes);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

/// The ceiling runs on as many threads as the engine. Its pool reads this variable once, and nothing has started yet.
#[allow(unsafe_code, reason = "the only way to size the pool of a library that is not ours")]
fn limit_ceiling_threads(threads: NonZeroUsize) {
    // SAFETY: called first thing in `run`, before any thread is started.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
}

fn split(rows: &PackedBatch, batch_rows: usize, max_tokens: usize) -> anyhow::Result<Vec<PackedBatch>> {
    let mut batches = vec![PackedBatch::default()];
    for row in rows.iter() {
        let current = batches.last().context("there is always one")?;
        if current.rows() == batch_rows || current.tokens() + row.ids.len() > max_tokens {
            batches.push(PackedBatch::default());
        }
        batches.last_mut().context("there is always one")?.push(row)?;
    }
    Ok(batches)
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
    stages: Vec<(Stage, Duration)>,
}

fn measure(engine: &mut CpuEngine, batches: &[PackedBatch]) -> anyhow::Result<Measured> {
    let (m, k, n) = CEILING_SHAPE;
    let a = Tensor::rand(-1f32, 1f32, (m, k), &Device::Cpu)?;
    let b = Tensor::rand(-1f32, 1f32, (k, n), &Device::Cpu)?;
    let mut outputs = Vec::new();
    let first_batch = engine.run(&batches[0], &mut outputs)?.elapsed;
    for _ in 0..3 {
        a.matmul(&b)?;
    }
    let before = engine.stage_times();
    let mut slices = Vec::with_capacity(batches.len());
    for batch in batches {
        let started = Instant::now();
        a.matmul(&b)?;
        let ceiling_gflops = (2 * m * k * n) as f64 / started.elapsed().as_secs_f64() / 1e9;
        outputs.clear();
        let report = engine.run(batch, &mut outputs)?;
        if outputs.iter().any(|value| !value.is_finite()) {
            bail!("the engine computed a number that is not finite");
        }
        slices.push(Slice { ceiling_gflops, useful_flops: report.useful_flops, elapsed: report.elapsed });
    }
    let after = engine.stage_times();
    let stages = after.iter().zip(before).map(|(&(stage, after), (_, before))| (stage, after - before)).collect();
    Ok(Measured { first_batch, slices, stages })
}

fn summarise(
    engine: &CpuEngine,
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
    let gemm_ceiling_gflops = quantile(&ceilings, 0.5);
    let all_stages: f64 = measured.stages.iter().map(|(_, time)| milliseconds(*time)).sum();
    let info = engine.info();
    Report {
        engine: info.name,
        device: info.device.clone(),
        precision: info.precision,
        threads: info.threads,
        pairs: rows.rows(),
        tokens: rows.tokens(),
        batch_rows,
        gemm_ceiling_gflops,
        gemm_ceiling_gflops_quartiles: [quantile(&ceilings, 0.25), quantile(&ceilings, 0.75)],
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
            .map(|&(stage, time)| StageTime {
                stage: stage.name(),
                thread_ms: milliseconds(time),
                share: milliseconds(time) / all_stages,
            })
            .collect(),
    }
}

fn print(report: &Report) {
    println!("{} {} {}, {} threads", report.engine, report.device, report.precision, report.threads);
    println!("{} pairs, {} tokens, batches of {}", report.pairs, report.tokens, report.batch_rows);
    let [low, high] = report.gemm_ceiling_gflops_quartiles;
    println!("GEMM ceiling   {:7.1} GFLOP/s (quartiles {low:.1} to {high:.1})", report.gemm_ceiling_gflops);
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
    for StageTime { stage, thread_ms, share } in &report.stages {
        println!("  {stage:<16} {thread_ms:9.1} thread ms {:6.1} %", share * 100.0);
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
