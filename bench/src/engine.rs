//! Question: what share of what the device could do at best does an engine turn into useful work?
//!
//! Baseline: multiply-adds on registers, by the instruction of the engine's precision, on the same threads. On the
//! processor also candle-core's f32 product of 3000×384 by 384×1536, the largest of the model's at a full batch. Excluded:
//! tokenising, loading, and the first batch of each. Ceilings and engine alternate in short slices, so that a device whose
//! speed drifts is the same for both; medians are reported with their spread. `--small` and `--also` take their turns in
//! the same slices. Fewer than five turns are said to be too few.
//!
//! `cargo run --release -p assay-bench -- engine --engine gpu --requests FILE --model DIR --adapter DIR`

mod report;
mod subject;
mod turns;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use assay::device::{Decision, DeviceOptions, EngineChoice, EnginePrecision};
use assay_kernels::cpu::{Cores, InstructionSet};
use assay_kernels::{CheckedBatch, PackedBatch, RowShape, checkpoint};
use clap::Args as ClapArgs;

use crate::pairs;
use report::Loaded;
use subject::{Ceilings, Subject};
use turns::Rival;

/// Pairs that are measured unless told otherwise: the first 40 requests of the baseline's load.
const DEFAULT_PAIRS: NonZeroUsize = NonZeroUsize::new(1_280).unwrap();

/// Rows to a batch: what one request of the load brings.
const DEFAULT_BATCH_ROWS: NonZeroUsize = NonZeroUsize::new(32).unwrap();

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Engine to measure.
    #[arg(long, value_enum, default_value_t = EngineChoice::Cpu)]
    engine: EngineChoice,
    /// Numbers as stored and multiplied.
    #[arg(long, value_enum, default_value_t)]
    precision: EnginePrecision,
    /// Threads that compute; one for each fast physical core unless given.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Instruction set of the processor's engine: avx512f+bw, avx2+fma, neon or portable; the processor's best unless
    /// given.
    #[arg(long, value_name = "SET", value_parser = instruction_set)]
    instructions: Option<InstructionSet>,
    /// Requests, one JSON object with `query` and `documents` a line.
    #[arg(long)]
    requests: PathBuf,
    #[command(flatten)]
    model: pairs::ModelArgs,
    /// Pairs to measure, from the start of the file.
    #[arg(long, default_value_t = DEFAULT_PAIRS)]
    pairs: NonZeroUsize,
    /// Rows to a batch.
    #[arg(long, default_value_t = DEFAULT_BATCH_ROWS)]
    batch_rows: NonZeroUsize,
    /// Also measure batches of so many rows, such as 1,10, in turns with the others.
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    small: Vec<NonZeroUsize>,
    /// Also measure the processor's engine in these precisions, such as int8,int16, in turns with the other.
    #[arg(long, value_name = "PRECISION", value_enum, value_delimiter = ',')]
    also: Vec<EnginePrecision>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Reads the name of an instruction set.
fn instruction_set(name: &str) -> Result<InstructionSet, String> {
    let found = InstructionSet::ALL.into_iter().find(|set| set.name() == name);
    found.ok_or_else(|| format!("there are {}", InstructionSet::ALL.map(InstructionSet::name).join(", ")))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let processors = Cores::detect().logical;
    if let Some(threads) = args.threads.filter(|threads| threads.get() > processors) {
        // The peak is the sum of all threads' rates, which would not have run at the same time.
        bail!("--threads is {threads}, and this process may use {processors} processors");
    }
    limit_ceiling_threads(args.threads.unwrap_or_else(|| Cores::detect().threads()));
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
    let load = || checkpoint::load(&files.dir, files.adapter.as_deref());
    let mut subject = Subject::new(load()?, &options, adapter, args.instructions)?;
    let load_ms = milliseconds(loading.elapsed());
    let loaded = Loaded { load_ms, peak_rss_bytes: peak_rss() };
    let pairs = pairs::read(&args.requests, args.pairs.get())?;
    if pairs.is_empty() {
        bail!("{} has no pairs", args.requests.display());
    }
    if let Some(size) = args.small.iter().find(|size| size.get() > pairs.len()) {
        bail!("--small {size} is more rows than the {} pairs that are measured", pairs.len());
    }
    let shape = subject.engine().shape();
    let rows = pairs::tokenise(&files.dir, shape.max_tokens, &pairs)?;
    let max_tokens = subject.engine().max_batch_tokens();
    let batches = split(&rows, args.batch_rows.get(), max_tokens, &shape)?;
    let mut rivals = Vec::new();
    for &size in &args.small {
        rivals.push(Rival::small(size, split(&rows, size.get(), max_tokens, &shape)?));
    }
    for &precision in &args.also {
        rivals.push(Rival::precision(precision, subject.another(load()?, precision)?));
    }
    let measured = measure(&mut subject, &batches, &mut rivals)?;
    let report = report::summarise(&mut subject, &rows, args.batch_rows.get(), &measured, &rivals, loaded)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report::print(&report);
    }
    Ok(())
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

/// One batch and the ceilings measured right before it.
struct Slice {
    ceilings: Ceilings,
    useful_flops: u64,
    elapsed: Duration,
}

impl Slice {
    fn gflops(&self) -> f64 {
        self.useful_flops as f64 / self.elapsed.as_secs_f64() / 1e9
    }
}

struct Measured {
    first_batch: Duration,
    slices: Vec<Slice>,
    stages: Vec<(String, Duration)>,
}

fn measure(subject: &mut Subject, batches: &[CheckedBatch], rivals: &mut [Rival]) -> anyhow::Result<Measured> {
    let mut outputs = Vec::new();
    let first_batch = subject.engine().run(&batches[0], &mut outputs)?.elapsed;
    for _ in 0..3 {
        subject.ceilings()?;
    }
    for rival in &mut *rivals {
        rival.warm_up(subject.engine(), &batches[0])?;
    }
    let mut stages: Vec<(String, Duration)> = Vec::new();
    let mut slices = Vec::with_capacity(batches.len());
    for (turn, batch) in batches.iter().enumerate() {
        let ceilings = subject.ceilings()?;
        let before = subject.stages();
        outputs.clear();
        let report = subject.engine().run(batch, &mut outputs)?;
        if outputs.iter().any(|value| !value.is_finite()) {
            bail!("the engine computed a number that is not finite");
        }
        // Only of these batches: those of rivals on the same engine do not count.
        for (index, ((stage, after), (_, before))) in subject.stages().into_iter().zip(before).enumerate() {
            match stages.get_mut(index) {
                Some((_, time)) => *time += after - before,
                None => stages.push((stage, after - before)),
            }
        }
        let slice = Slice { ceilings, useful_flops: report.useful_flops, elapsed: report.elapsed };
        for rival in &mut *rivals {
            rival.take_turn(turn, subject.engine(), batch, &slice)?;
        }
        slices.push(slice);
    }
    stages.extend(subject.kernels(&batches[0])?);
    Ok(Measured { first_batch, slices, stages })
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
