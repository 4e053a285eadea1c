//! Question: how fast is the CPU engine compared with Python programs that run the same model on the same processor?
//!
//! Baseline: each peer of `bench/peers/peer.py`, with the same merged weights, the same pairs in the same order, and
//! the same number of threads. All load the model and run one batch first. Then they take turns, a slice of the pairs
//! each, so that changes of the processor's speed affect all alike. Excluded: loading, the first batch (reported
//! apart), and tokenising, unless a peer's function takes text. Scores are compared with the f32 engine's.
//!
//! `cargo run --release -p assay-bench -- peers --requests FILE`, in the repository's root. The first run installs what
//! the peers need below `target/`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use assay_kernels::cpu::PRECISIONS;
use assay_kernels::{CheckedBatch, CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, Engine, Precision, checkpoint};
use clap::Args as ClapArgs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::pairs::{self, ModelFiles};

/// Pairs in a turn: a few seconds for the slowest contestant.
const DEFAULT_SLICE: usize = 128;

/// Most turns of each size but the first: enough to show latency.
const MAX_TURNS: usize = 40;

/// Documents at the top of a ranking that are compared.
const TOP: usize = 10;

/// The peers' programs, from the repository's root.
const SCRIPTS_DIR: &str = "bench/peers";

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
    #[command(flatten)]
    model: pairs::ModelArgs,
    /// A Python that has `bench/peers/requirements.txt` [default: one that is set up in target/peers-venv]
    #[arg(long)]
    python: Option<PathBuf>,
    /// Peers to run; all unless given.
    #[arg(long, value_delimiter = ',', default_values_t = PEERS.map(str::to_owned))]
    peers: Vec<String>,
    /// Threads for each contestant.
    #[arg(long, default_value_t = NonZeroUsize::new(2).unwrap_or(NonZeroUsize::MIN))]
    threads: NonZeroUsize,
    /// Pairs to score, from the start of the file.
    #[arg(long, default_value_t = 512)]
    pairs: usize,
    /// Pairs to a turn; several sizes, such as 128,1,10, are measured one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [DEFAULT_SLICE], value_parser = clap::value_parser!(usize))]
    slice: Vec<usize>,
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
    /// Our f32 engine's rate divided by this one's: median over slices, and the least and the most.
    assay_f32_is_faster_by: [f64; 3],
    /// Milliseconds of a turn: median over slices, and the least and the most.
    ms_a_turn: [f64; 3],
    /// Largest difference of a score from our f32 engine's, and the root mean square.
    score_error: [f64; 2],
    ranking: Option<Ranking>,
    load_s: f64,
    first_batch_s: f64,
    peak_rss_bytes: Option<u64>,
}

/// Agreement of rankings with our f32 engine's: means over queries with at least two documents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Ranking {
    /// Kendall's rank correlation (tau-a): 1 if every two documents are in the same order.
    kendall_tau: f64,
    /// Share of queries with the same best document.
    top_1: f64,
    /// Share of the ten best documents that are the same.
    top_10_overlap: f64,
}

/// Turns of one size.
#[derive(Debug, Serialize)]
struct Table {
    slice: usize,
    pairs: usize,
    threads: NonZeroUsize,
    lines: Vec<Line>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.slice.contains(&0) {
        bail!("a turn has at least one pair");
    }
    let pairs = pairs::read(&args.requests, args.pairs)?;
    let files = args.model.files()?;
    let peers = Peers::set_up(args.python.as_deref(), &files, &pairs)?;
    let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
    for &precision in PRECISIONS {
        contestants.push(Box::new(Ours::load(args, &files, precision, &pairs)?));
    }
    for name in &args.peers {
        contestants.push(Box::new(Peer::start(&peers, name, args.threads)?));
    }
    let mut tables = Vec::new();
    for (number, &slice) in args.slice.iter().enumerate() {
        let turns = pairs.len() / slice;
        let turns = if number == 0 { turns } else { turns.min(MAX_TURNS) };
        let pairs = &pairs[..(turns.max(1) * slice).min(pairs.len())];
        let lines = take_turns(&mut contestants, pairs, slice)?;
        tables.push(Table { slice, pairs: pairs.len(), threads: args.threads, lines });
    }
    for (index, contestant) in contestants.into_iter().enumerate() {
        let peak_rss_bytes = contestant.stop()?;
        tables.iter_mut().for_each(|table| table.lines[index].peak_rss_bytes = peak_rss_bytes);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&tables)?);
    } else {
        tables.iter().for_each(print);
    }
    Ok(())
}

/// Lets all contestants score the pairs, a slice at a time.
fn take_turns(
    contestants: &mut [Box<dyn Contestant>],
    pairs: &[(String, String)],
    slice: usize,
) -> anyhow::Result<Vec<Line>> {
    let mut turns: Vec<Vec<(f64, usize)>> = vec![Vec::new(); contestants.len()];
    let mut scores: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    for first in (0..pairs.len()).step_by(slice) {
        let slice = first..(first + slice).min(pairs.len());
        for (index, contestant) in contestants.iter_mut().enumerate() {
            let turn = contestant.score(slice.clone())?;
            turns[index].push((turn.seconds, slice.len()));
            scores[index].extend(turn.scores);
        }
    }
    let line = |index: usize| {
        let rates = turns[index].iter().map(|&(seconds, pairs)| pairs as f64 / seconds);
        let ratios = turns[index].iter().zip(&turns[0]).map(|((theirs, _), (ours, _))| theirs / ours);
        let (name, load_s, first_batch_s) = contestants[index].start_up();
        Ok(Line {
            pairs_per_s: median_and_range(rates),
            ms_a_turn: median_and_range(turns[index].iter().map(|&(seconds, _)| seconds * 1e3)),
            assay_f32_is_faster_by: median_and_range(ratios),
            score_error: score_error(&scores[index], &scores[0])?,
            ranking: ranking(pairs, &scores[index], &scores[0]),
            name,
            load_s,
            first_batch_s,
            peak_rss_bytes: None,
        })
    };
    (0..contestants.len()).map(line).collect()
}

/// Compares rankings query by query; `None` if no query has two documents.
fn ranking(pairs: &[(String, String)], scores: &[f64], expected: &[f64]) -> Option<Ranking> {
    let (mut sum, mut queries, mut first) = ([0.0; 3], 0, 0);
    for group in pairs.chunk_by(|(query, _), (next, _)| query == next) {
        let range = first..first + group.len();
        first = range.end;
        if group.len() < 2 {
            continue;
        }
        let (mine, theirs) = (&scores[range.clone()], &expected[range]);
        let (best, expected_best) = (best(mine), best(theirs));
        let shared = best.iter().filter(|document| expected_best.contains(document)).count();
        sum[0] += kendall_tau(mine, theirs);
        sum[1] += f64::from(u8::from(best[0] == expected_best[0]));
        sum[2] += shared as f64 / best.len() as f64;
        queries += 1;
    }
    let [kendall_tau, top_1, top_10_overlap] = sum.map(|sum| sum / f64::from(queries));
    (queries > 0).then_some(Ranking { kendall_tau, top_1, top_10_overlap })
}

/// The best documents, best first; equal ones keep their order.
fn best(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(TOP);
    order
}

/// Concordant minus discordant pairs of documents, over all pairs. Kendall, "A new measure of rank correlation",
/// Biometrika 30 (1938).
fn kendall_tau(a: &[f64], b: &[f64]) -> f64 {
    let (mut agreement, mut all) = (0.0, 0.0);
    for i in 0..a.len() {
        for j in 0..i {
            agreement += ((a[i] - a[j]) * (b[i] - b[j])).partial_cmp(&0.0).map_or(0.0, |order| f64::from(order as i8));
            all += 1.0;
        }
    }
    agreement / all
}

/// What the peers need: a Python with their packages, the model in their format, and the pairs.
#[derive(Debug)]
struct Peers {
    python: PathBuf,
    model: PathBuf,
    pairs: PathBuf,
}

impl Peers {
    /// Installs and exports what is missing.
    fn set_up(python: Option<&Path>, files: &ModelFiles, pairs: &[(String, String)]) -> anyhow::Result<Self> {
        if !Path::new(SCRIPTS_DIR).is_dir() {
            bail!("there is no {SCRIPTS_DIR} here: run this in the repository's root");
        }
        let python = match python {
            Some(python) => python.to_owned(),
            None => install()?,
        };
        let root = Path::new("target/peers");
        let model = root.join("model");
        let made_of = format!("{files:?}\n{}", include_str!("../peers/export.py"));
        once(&root.join("model.made-of"), &made_of, || {
            eprintln!("exporting the model for the peers");
            let mut export = Command::new(&python);
            export.arg(format!("{SCRIPTS_DIR}/export.py")).arg("--model").arg(&files.dir).arg("--out").arg(&model);
            if let Some(adapter) = &files.adapter {
                export.arg("--adapter").arg(adapter);
            }
            succeed(&mut export)
        })?;
        let file = root.join("pairs.json");
        std::fs::write(&file, serde_json::to_vec(pairs)?).with_context(|| file.display().to_string())?;
        Ok(Self { python, model, pairs: file })
    }
}

/// A virtual environment with the pinned packages.
fn install() -> anyhow::Result<PathBuf> {
    let venv = Path::new("target/peers-venv");
    let python = venv.join("bin/python");
    once(&venv.join("requirements.txt"), include_str!("../peers/requirements.txt"), || {
        eprintln!("installing the peers in {}: minutes, and gigabytes on Linux", venv.display());
        succeed(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        succeed(Command::new(&python).args(pip).arg(format!("{SCRIPTS_DIR}/requirements.txt")))
    })?;
    Ok(python)
}

/// Does `work`, unless the file `stamp` says that it was done with the same `made_of`.
fn once(stamp: &Path, made_of: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if std::fs::read_to_string(stamp).is_ok_and(|stamp| stamp == made_of) {
        return Ok(());
    }
    if let Some(dir) = stamp.parent() {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    work()?;
    std::fs::write(stamp, made_of).with_context(|| stamp.display().to_string())
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    // Standard output is only for the table.
    let status = command.stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// The time of one turn, and its scores.
#[derive(Debug, Deserialize)]
struct Turn {
    seconds: f64,
    scores: Vec<f64>,
}

/// A program that scores pairs.
trait Contestant {
    /// Name, seconds to load, seconds of the first batch.
    fn start_up(&self) -> (String, f64, f64);
    fn score(&mut self, slice: Range<usize>) -> anyhow::Result<Turn>;
    /// Ends it. Returns its peak resident memory if it is another process.
    fn stop(self: Box<Self>) -> anyhow::Result<Option<u64>>;
}

struct Ours {
    engine: CpuEngine,
    rows: CheckedBatch,
    load_s: f64,
    first_batch_s: f64,
}

impl Ours {
    fn load(args: &Args, files: &ModelFiles, precision: Precision, pairs: &[(String, String)]) -> anyhow::Result<Self> {
        let started = std::time::Instant::now();
        let weights = checkpoint::load(&files.dir, files.adapter.as_deref())?;
        let options = CpuDeviceOptions { threads: Some(args.threads), ..CpuDeviceOptions::default() };
        let device = CpuDevice::new(options)?;
        let engine = CpuEngine::load(&device, weights, CpuOptions { precision, ..CpuOptions::default() })?;
        let load_s = started.elapsed().as_secs_f64();
        let shape = engine.shape();
        let rows = pairs::tokenise(&files.dir, shape.max_tokens, pairs)?.check(&shape)?;
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
        let mut batch = CheckedBatch::with_capacity(self.rows.shape(), 0, 0);
        for row in slice {
            if batch.tokens() + self.rows.row(row).ids.len() > self.engine.max_batch_tokens() {
                elapsed += self.engine.run(&batch, &mut outputs)?.elapsed;
                batch.clear();
            }
            batch.append(&self.rows, row..row + 1)?;
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
    fn start(peers: &Peers, name: &str, threads: NonZeroUsize) -> anyhow::Result<Self> {
        let mut process = Command::new(&peers.python)
            .arg(format!("{SCRIPTS_DIR}/peer.py"))
            .args(["--peer", name, "--threads", &threads.to_string()])
            .arg("--model")
            .arg(&peers.model)
            .arg("--pairs")
            .arg(&peers.pairs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {} for {name}", peers.python.display()))?;
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

fn print(Table { slice, pairs, threads, lines }: &Table) {
    println!("{pairs} pairs in turns of {slice}, {threads} threads; median (least to most) over turns\n");
    println!(
        "| | pairs/s | ms a turn | assay f32 is faster by | largest score error | rms | Kendall tau | same first | \
         same ten | load s | first batch s | peak RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for line in lines {
        let [rate, slowest, fastest] = line.pairs_per_s;
        let [ms, quickest, longest] = line.ms_a_turn;
        let [ratio, least, most] = line.assay_f32_is_faster_by;
        let [largest, rms] = line.score_error;
        let rss = line.peak_rss_bytes.map_or("".to_owned(), |bytes| (bytes >> 20).to_string());
        let ranking = line.ranking.map_or(" | | ".to_owned(), |ranking| {
            let Ranking { kendall_tau, top_1, top_10_overlap } = ranking;
            format!("{kendall_tau:.3} | {top_1:.2} | {top_10_overlap:.2}")
        });
        println!(
            "| {} | {rate:.1} ({slowest:.1} to {fastest:.1}) | {ms:.1} ({quickest:.1} to {longest:.1}) | \
             {ratio:.2} ({least:.2} to {most:.2}) | {largest:.1e} | {rms:.1e} | {ranking} | {:.2} | {:.2} | {rss} |",
            line.name, line.load_s, line.first_batch_s
        );
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(queries: &[&str]) -> Vec<(String, String)> {
        queries.iter().map(|&query| (query.to_owned(), String::new())).collect()
    }

    #[test]
    fn rankings_are_compared_query_by_query() {
        let pairs = pairs(&["a", "a", "a", "b", "b", "alone"]);
        let expected = [3.0, 2.0, 1.0, 1.0, 2.0, 9.0];
        let same = ranking(&pairs, &[30.0, 20.0, 10.0, -1.0, 0.0, 0.0], &expected).unwrap();
        assert_eq!(same, Ranking { kendall_tau: 1.0, top_1: 1.0, top_10_overlap: 1.0 });
        // Swaps two of the first query's three documents, and both of the second's.
        let other = ranking(&pairs, &[2.0, 3.0, 1.0, 2.0, 1.0, 9.0], &expected).unwrap();
        assert_eq!(other.top_1, 0.0);
        assert!((other.kendall_tau - (1.0 / 3.0 - 1.0) / 2.0).abs() < 1e-12);
        assert_eq!(ranking(&pairs[5..], &[1.0], &[1.0]), None);
    }
}
