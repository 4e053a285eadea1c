//! The report of `assay-bench engine`: medians over batches, as text or JSON. It measures nothing.

use std::time::Duration;

use assay_kernels::PackedBatch;
use serde::Serialize;

use super::subject::Subject;
use super::turns::{Kind, Rival};
use super::{Measured, Slice, milliseconds, quantile, sorted};

/// With fewer turns a median says little.
const LEAST_TURNS: usize = 5;

/// What was measured; rates are medians over batches.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    engine: &'static str,
    device: String,
    precision: &'static str,
    threads: usize,
    pairs: usize,
    tokens: usize,
    batch_rows: usize,
    /// Batches, each measured after the ceilings.
    turns: usize,
    useful_gflops: f64,
    /// Multiply-adds on registers by the instruction named here.
    peak: CeilingReport,
    /// candle-core's matrix product; only on a processor.
    gemm: Option<CeilingReport>,
    pairs_per_s: f64,
    batch_ms_p50: f64,
    batch_ms_p99: f64,
    first_batch_ms: f64,
    load_ms: f64,
    weights_bytes: u64,
    arena_bytes: u64,
    peak_rss_bytes: Option<u64>,
    stages: Vec<StageTime>,
    /// Small batches, in turns with the others.
    small: Vec<SmallReport>,
    /// Other precisions, in turns with this one.
    also: Vec<AlsoReport>,
}

/// A ceiling, and the engine's share of it; medians and quartiles over batches.
#[derive(Debug, Serialize)]
struct CeilingReport {
    what: &'static str,
    gops: f64,
    gops_quartiles: [f64; 2],
    share: f64,
    share_quartiles: [f64; 2],
}

/// Batches of a few rows.
#[derive(Debug, Serialize)]
struct SmallReport {
    rows: usize,
    ms_p50: f64,
    ms_p99: f64,
    /// Time of a batch, divided by the time that its FLOPs take at the rate of the large batch in the same turn.
    time_ratio: f64,
    time_ratio_quartiles: [f64; 2],
}

/// The same batches in another precision.
#[derive(Debug, Serialize)]
struct AlsoReport {
    precision: String,
    ms_p50: f64,
    /// Rate divided by that of the measured precision in the same turn.
    speedup: f64,
    speedup_quartiles: [f64; 2],
}

/// What was measured while the engine was loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loaded {
    pub(super) load_ms: f64,
    pub(super) peak_rss_bytes: Option<u64>,
}

/// A part of the forward pass: on the processor over all batches and threads, on a GPU a kernel in one batch.
#[derive(Debug, Serialize)]
struct StageTime {
    stage: String,
    ms: f64,
    share: f64,
}

pub(super) fn summarise(
    subject: &mut Subject,
    rows: &PackedBatch,
    batch_rows: usize,
    measured: &Measured,
    rivals: &[Rival],
    loaded: Loaded,
) -> anyhow::Result<Report> {
    let slices = &measured.slices;
    let total: Duration = slices.iter().map(|slice| slice.elapsed).sum();
    let flops: u64 = slices.iter().map(|slice| slice.useful_flops).sum();
    let batch_ms = sorted(slices.iter().map(|slice| milliseconds(slice.elapsed)));
    let all_stages: f64 = measured.stages.iter().map(|(_, time)| milliseconds(*time)).sum();
    let instruction = subject.instruction()?;
    let gemm: Option<Vec<f64>> = slices.iter().map(|slice| slice.ceilings.gemm).collect();
    let engine = subject.engine();
    let info = engine.info();
    Ok(Report {
        engine: info.name,
        device: info.device.clone(),
        precision: info.precision,
        threads: info.threads,
        pairs: rows.rows(),
        tokens: rows.tokens(),
        batch_rows,
        turns: slices.len(),
        useful_gflops: flops as f64 / total.as_secs_f64() / 1e9,
        peak: CeilingReport::of(instruction, slices, slices.iter().map(|slice| slice.ceilings.registers)),
        gemm: gemm.map(|gemm| CeilingReport::of("candle-core's f32 GEMM", slices, gemm.into_iter())),
        pairs_per_s: rows.rows() as f64 / total.as_secs_f64(),
        batch_ms_p50: quantile(&batch_ms, 0.5),
        batch_ms_p99: quantile(&batch_ms, 0.99),
        first_batch_ms: milliseconds(measured.first_batch),
        load_ms: loaded.load_ms,
        weights_bytes: engine.memory().weights_bytes,
        arena_bytes: engine.memory().arena_bytes,
        peak_rss_bytes: loaded.peak_rss_bytes,
        stages: measured
            .stages
            .iter()
            .map(|(stage, time)| StageTime {
                stage: stage.clone(),
                ms: milliseconds(*time),
                share: milliseconds(*time) / all_stages,
            })
            .collect(),
        small: rivals.iter().filter_map(SmallReport::of).collect(),
        also: rivals.iter().filter_map(AlsoReport::of).collect(),
    })
}

impl CeilingReport {
    /// `ceilings` has a number for each slice.
    fn of(what: &'static str, slices: &[Slice], ceilings: impl Iterator<Item = f64> + Clone) -> Self {
        let shares = sorted(slices.iter().zip(ceilings.clone()).map(|(slice, ceiling)| slice.gflops() / ceiling));
        let gops = sorted(ceilings);
        Self {
            what,
            gops: quantile(&gops, 0.5),
            gops_quartiles: quartiles(&gops),
            share: quantile(&shares, 0.5),
            share_quartiles: quartiles(&shares),
        }
    }
}

impl SmallReport {
    fn of(rival: &Rival) -> Option<Self> {
        let Kind::Small(rows, _) = rival.kind else { return None };
        let ms = sorted(rival.ms.iter().copied());
        let ratios = sorted(rival.rates.iter().map(|rate| 1.0 / rate));
        Some(Self {
            rows: rows.get(),
            ms_p50: quantile(&ms, 0.5),
            ms_p99: quantile(&ms, 0.99),
            time_ratio: quantile(&ratios, 0.5),
            time_ratio_quartiles: quartiles(&ratios),
        })
    }
}

impl AlsoReport {
    fn of(rival: &Rival) -> Option<Self> {
        let Kind::Precision(precision, _) = rival.kind else { return None };
        let speedups = sorted(rival.rates.iter().copied());
        Some(Self {
            precision: precision.to_string(),
            ms_p50: quantile(&sorted(rival.ms.iter().copied()), 0.5),
            speedup: quantile(&speedups, 0.5),
            speedup_quartiles: quartiles(&speedups),
        })
    }
}

pub(super) fn print(report: &Report) {
    println!("{} {} {}, {} threads", report.engine, report.device, report.precision, report.threads);
    println!("{} pairs, {} tokens, batches of {}", report.pairs, report.tokens, report.batch_rows);
    println!("useful         {:7.1} GFLOP/s", report.useful_gflops);
    if report.turns < LEAST_TURNS {
        println!(
            "TOO FEW TURNS: medians of {} say little, and a share may exceed 1; measure {LEAST_TURNS} batches or more, by \
             more --pairs or fewer --batch-rows",
            report.turns
        );
    }
    for (name, ceiling) in [("peak", Some(&report.peak)), ("GEMM", report.gemm.as_ref())] {
        let Some(CeilingReport { what, gops, gops_quartiles, share, share_quartiles }) = ceiling else { continue };
        let [low, high] = gops_quartiles;
        println!("{name:<14} {gops:7.1} ×10⁹ operations/s, {what} (quartiles {low:.1} to {high:.1})");
        let [low, high] = share_quartiles;
        println!("  share of it  {share:7.3} (quartiles {low:.3} to {high:.3})");
    }
    println!("(a share is a batch's rate divided by the ceiling measured before it; GEMM is a matrix product; half of");
    println!("all batches lie between the quartiles)");
    println!("pairs          {:7.1} /s", report.pairs_per_s);
    println!("batch          {:7.2} ms p50, {:.2} ms p99", report.batch_ms_p50, report.batch_ms_p99);
    println!("first batch    {:7.2} ms; load {:.0} ms", report.first_batch_ms, report.load_ms);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("memory         {:7.1} MiB weights, {:.1} MiB arena", mib(report.weights_bytes), mib(report.arena_bytes));
    if let Some(bytes) = report.peak_rss_bytes {
        println!("peak RSS       {:7.1} MiB, engine loaded", mib(bytes));
    }
    for SmallReport { rows, ms_p50, ms_p99, time_ratio, time_ratio_quartiles: [low, high] } in &report.small {
        println!("batches of {rows:<3} {ms_p50:7.2} ms p50, {ms_p99:.2} ms p99");
        println!("  to the rate  {time_ratio:7.3} times its FLOPs' time (quartiles {low:.3} to {high:.3})");
    }
    for AlsoReport { precision, ms_p50, speedup, speedup_quartiles: [low, high] } in &report.also {
        println!("{precision:<14} {ms_p50:7.2} ms p50, {speedup:.3} times as fast (quartiles {low:.3} to {high:.3})");
    }
    // Of the processor's stages every batch's and thread's time, of a GPU's kernels one batch's.
    for StageTime { stage, ms, share } in &report.stages {
        println!("  {stage:<36} {ms:9.1} ms {:6.1} %", share * 100.0);
    }
}

fn quartiles(sorted: &[f64]) -> [f64; 2] {
    [quantile(sorted, 0.25), quantile(sorted, 0.75)]
}
