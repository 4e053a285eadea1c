//! Question: how fast is the CPU engine beside the Python programs that run the same model on the same processor?
//!
//! Baseline: each peer of `bench/peers/peer.py`, with the same merged weights, the same pairs in the same order, and the
//! same number of threads. All are loaded and warmed by one batch first; then they take turns, a slice of the pairs at a
//! time, so that a processor whose speed drifts is the same for all. Excluded: loading, the first batch (reported
//! apart), and tokenising, except where a peer's call takes text. Scores are compared with the f32 engine's.
//!
//! `cargo run --release -p assay-bench -- peers --requests FILE --adapter DIR` after `bench/peers/README.md`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use assay_kernels::{CpuEngine, CpuOptions, Engine, PackedBatch, Precision, checkpoint};
use clap::Args as ClapArgs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::pairs;

/// Pairs that a contestant scores at a turn: a few seconds' work for the slowest.
const DEFAULT_SLICE: usize = 128;

/// Every peer, in the order of the table.
const PEERS: [&str; 7] = [
    "torch-compile",
    "torch-eager",
    "sentence-transformers",
    "onnxruntime",
    "openvino",
    "onnxruntime-int8",
    "onnxruntime-int8-per-channel",
];

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Requests, one JSON object with `query` and `documents` a line.
    #[arg(long)]
    requests: PathBuf,
    /// Directory with the backbone and its tokenizer.json.
    #[arg(long, default_value = "target/models/minilm")]
    model: PathBuf,
    /// Directory with the LoRA adapter that the peers' model has merged.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// What `bench/peers/export.py` wrote.
    #[arg(long, default_value = "target/peers/model")]
    peers_model: PathBuf,
    /// Python with `bench/peers/requirements.txt` installed.
    #[arg(long, default_value = "target/peers-venv/bin/python")]
    python: PathBuf,
    /// Peers to run; all unless given.
    #[arg(long, value_delimiter = ',', default_values_t = PEERS.map(str::to_owned))]
    peers: Vec<String>,
    /// Threads for each contestant.
    #[arg(long, default_value_t = NonZeroUsize::new(2).unwrap_or(NonZeroUsize::MIN))]
    threads: NonZeroUsize,
    /// Pairs to score, from the start of the file.
    #[arg(long, default_value_t = 512)]
    pairs: usize,
    /// Pairs to a turn.
    #[arg(long, default_value_t = DEFAULT_SLICE)]
    slice: usize,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    /// Median over slices, and the least and the most.
    pairs_per_s: [f64; 3],
    /// Our f32 engine's rate over this one's: median over slices, and the least and the most.
    assay_f32_is_faster_by: [f64; 3],
    /// Largest difference of a score from our f32 engine's, and the root mean square.
    score_error: [f64; 2],
    load_s: f64,
    first_batch_s: f64,
    peak_rss_bytes: Option<u64>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let pairs = pairs::read(&args.requests, args.pairs)?;
    let pairs_file = args.peers_model.join("pairs.json");
    std::fs::write(&pairs_file, serde_json::to_vec(&pairs)?)
        .with_context(|| format!("cannot write {}: run bench/peers/export.py first", pairs_file.display()))?;
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    for precision in Precision::ALL {
        contestants.push(Box::new(Ours::load(args, precision, &pairs)?));
    }
    for name in &args.peers {
        contestants.push(Box::new(Peer::start(args, name, &pairs_file)?));
    }
    let mut turns: Vec<Vec<(f64, usize)>> = vec![Vec::new(); contestants.len()];
    let mut scores: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    for first in (0..pairs.len()).step_by(args.slice.max(1)) {
        let slice = first..(first + args.slice).min(pairs.len());
        for (index, contestant) in contestants.iter_mut().enumerate() {
            let turn = contestant.score(slice.clone())?;
            turns[index].push((turn.seconds, slice.len()));
            scores[index].extend(turn.scores);
        }
    }
    let lines: Vec<Line> = contestants
        .into_iter()
        .enumerate()
        .map(|(index, contestant)| {
            let rates = turns[index].iter().map(|&(seconds, pairs)| pairs as f64 / seconds);
            let ratios = turns[index].iter().zip(&turns[0]).map(|((theirs, _), (ours, _))| theirs / ours);
            let (name, load_s, first_batch_s) = contestant.start_up();
            Ok(Line {
                pairs_per_s: median_and_range(rates),
                assay_f32_is_faster_by: median_and_range(ratios),
                score_error: score_error(&scores[index], &scores[0])?,
                name,
                load_s,
                first_batch_s,
                peak_rss_bytes: contestant.stop()?,
            })
        })
        .collect::<anyhow::Result<_>>()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        print(&lines, pairs.len(), args.slice, args.threads);
    }
    Ok(())
}

/// What one turn took, and its scores.
#[derive(Debug, Deserialize)]
struct Turn {
    seconds: f64,
    scores: Vec<f64>,
}

/// Who scores pairs.
trait Contestant {
    /// Name, seconds to load, seconds of the first batch.
    fn start_up(&self) -> (String, f64, f64);
    fn score(&mut self, slice: Range<usize>) -> anyhow::Result<Turn>;
    /// Ends it, and tells the most memory that it had resident, if it is a process of its own.
    fn stop(self: Box<Self>) -> anyhow::Result<Option<u64>>;
}

struct Ours {
    engine: CpuEngine,
    rows: PackedBatch,
    load_s: f64,
    first_batch_s: f64,
}

impl Ours {
    fn load(args: &Args, precision: Precision, pairs: &[(String, String)]) -> anyhow::Result<Self> {
        let started = std::time::Instant::now();
        let weights = checkpoint::load(&args.model, args.adapter.as_deref())?;
        let options = CpuOptions { threads: Some(args.threads), precision, ..CpuOptions::default() };
        let engine = CpuEngine::new(weights, options)?;
        let load_s = started.elapsed().as_secs_f64();
        let rows = pairs::tokenise(&args.model, engine.config().max_position_embeddings, pairs)?;
        let mut ours = Self { engine, rows, load_s, first_batch_s: 0.0 };
        ours.first_batch_s = ours.score(0..32.min(pairs.len()))?.seconds;
        Ok(ours)
    }
}

impl Contestant for Ours {
    fn start_up(&self) -> (String, f64, f64) {
        (format!("assay {}", self.engine.info().precision), self.load_s, self.first_batch_s)
    }

    fn score(&mut self, slice: Range<usize>) -> anyhow::Result<Turn> {
        let (mut outputs, mut elapsed) = (Vec::new(), Duration::ZERO);
        let mut batch = PackedBatch::default();
        for row in slice {
            let row = self.rows.row(row);
            if batch.tokens() + row.ids.len() > self.engine.max_batch_tokens() {
                elapsed += self.engine.run(&batch, &mut outputs)?.elapsed;
                batch.clear();
            }
            batch.push(row)?;
        }
        elapsed += self.engine.run(&batch, &mut outputs)?.elapsed;
        Ok(Turn { seconds: elapsed.as_secs_f64(), scores: outputs.into_iter().map(f64::from).collect() })
    }

    fn stop(self: Box<Self>) -> anyhow::Result<Option<u64>> {
        Ok(None)
    }
}

/// A Python process.
struct Peer {
    name: String,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    ready: Ready,
}

#[derive(Debug, Deserialize)]
struct Ready {
    load_s: f64,
    first_batch_s: f64,
}

#[derive(Debug, Deserialize)]
struct Stopped {
    peak_rss_bytes: u64,
}

impl Peer {
    fn start(args: &Args, name: &str, pairs_file: &Path) -> anyhow::Result<Self> {
        let mut process = Command::new(&args.python)
            .arg("bench/peers/peer.py")
            .args(["--peer", name, "--threads", &args.threads.to_string()])
            .arg("--model")
            .arg(&args.peers_model)
            .arg("--pairs")
            .arg(pairs_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {} for {name}", args.python.display()))?;
        let input = process.stdin.take().context("standard input is a pipe")?;
        let output = BufReader::new(process.stdout.take().context("standard output is a pipe")?);
        let ready = Ready { load_s: 0.0, first_batch_s: 0.0 };
        let mut peer = Self { name: name.to_owned(), process, input, output, ready };
        peer.ready = peer.receive()?;
        Ok(peer)
    }

    fn receive<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("{} ended: run bench/peers/peer.py --peer {} by hand to see why", self.name, self.name);
        }
        serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.name))
    }
}

impl Contestant for Peer {
    fn start_up(&self) -> (String, f64, f64) {
        (self.name.clone(), self.ready.load_s, self.ready.first_batch_s)
    }

    fn score(&mut self, slice: Range<usize>) -> anyhow::Result<Turn> {
        writeln!(self.input, r#"{{"first": {}, "count": {}}}"#, slice.start, slice.len())?;
        self.receive()
    }

    fn stop(self: Box<Self>) -> anyhow::Result<Option<u64>> {
        let Self { name, mut process, input, mut output, .. } = *self;
        drop(input);
        let mut line = String::new();
        output.read_line(&mut line)?;
        process.wait()?;
        let stopped: Stopped = serde_json::from_str(&line).with_context(|| format!("{name} said {line:?}"))?;
        Ok(Some(stopped.peak_rss_bytes))
    }
}

fn median_and_range(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    [at(values.len() / 2), at(0), at(values.len().saturating_sub(1))]
}

fn score_error(scores: &[f64], expected: &[f64]) -> anyhow::Result<[f64; 2]> {
    if scores.len() != expected.len() {
        bail!("{} scores for {} pairs", scores.len(), expected.len());
    }
    let differences = || scores.iter().zip(expected).map(|(score, expected)| (score - expected).abs());
    let square: f64 = differences().map(|difference| difference * difference).sum();
    Ok([differences().fold(0.0, f64::max), (square / scores.len().max(1) as f64).sqrt()])
}

fn print(lines: &[Line], pairs: usize, slice: usize, threads: NonZeroUsize) {
    println!("{pairs} pairs in turns of {slice}, {threads} threads; median (least to most) over slices\n");
    println!(
        "| | pairs/s | ms a turn | assay f32 is faster by | largest score error | rms | load s | first batch s | peak RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for line in lines {
        let [rate, slowest, fastest] = line.pairs_per_s;
        let [ratio, least, most] = line.assay_f32_is_faster_by;
        let [largest, rms] = line.score_error;
        let rss = line.peak_rss_bytes.map_or("".to_owned(), |bytes| (bytes >> 20).to_string());
        println!(
            "| {} | {rate:.1} ({slowest:.1} to {fastest:.1}) | {:.1} | {ratio:.2} ({least:.2} to {most:.2}) | {largest:.1e} | \
             {rms:.1e} | {:.2} | {:.2} | {rss} |",
            line.name,
            slice as f64 / rate * 1e3,
            line.load_s,
            line.first_batch_s
        );
    }
}
