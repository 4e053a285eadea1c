//! Question: how fast is the CPU engine compared with Python programs that run the same model on the same processor?
//!
//! Baseline: each peer of `bench/peers/peer.py`, with the same weights, the same pairs in the same order, and the same
//! number of threads. All load the model and run one batch first. Then they take turns, a slice of the pairs each, so
//! that changes of the processor's speed affect all alike. Excluded: loading, the first batch (reported apart), and
//! tokenising, unless a peer's function takes text. Scores are compared with the f32 engine's. The model may be of any
//! family, or have random weights in the sizes of a known one.
//!
//! `cargo run --release -p assay-bench -- peers --requests FILE`, in the repository's root. The first run installs what
//! the peers need below `target/`.

mod agreement;
mod contestant;
mod set_up;
mod table;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use assay::device::EnginePrecision;
use assay_kernels::{Precision, checkpoint};
use clap::Args as ClapArgs;

use crate::pairs::{self, ModelFiles};
use agreement::{ranking, score_error};
use contestant::{Contestant, Ours, Peer};
use set_up::Peers;
use table::{Line, Table};

/// Pairs in a turn: a few seconds for the slowest contestant.
const DEFAULT_SLICE: usize = 128;

/// Most turns of each size but the first: enough to show latency.
const MAX_TURNS: usize = 40;

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
    /// Models of random weights in the sizes of known ones, one after the other; a name that is not known is answered
    /// with those that are
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with_all = ["model", "adapter"])]
    shape: Vec<String>,
    /// A Python that has `bench/peers/requirements.txt` [default: one that is set up in target/peers-venv]
    #[arg(long)]
    python: Option<PathBuf>,
    /// Peers to run; all unless given.
    #[arg(long, value_delimiter = ',', default_values_t = PEERS.map(str::to_owned), value_parser = PEERS)]
    peers: Vec<String>,
    /// Precisions of Assay's engine beside f32.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [EnginePrecision::Int8, EnginePrecision::Int16])]
    also: Vec<EnginePrecision>,
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

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.slice.contains(&0) {
        bail!("a turn has at least one pair");
    }
    let mut precisions = vec![Precision::F32];
    for &precision in args.also.iter().filter(|&&precision| precision != EnginePrecision::F32) {
        precisions.push(precision.cpu().with_context(|| format!("the processor does not compute in {precision}"))?);
    }
    let pairs = pairs::read(&args.requests, args.pairs)?;
    let peers = Peers::set_up(args.python.as_deref(), &pairs)?;
    let mut tables = Vec::new();
    if args.shape.is_empty() {
        let files = args.model.files()?;
        let name = files.dir.display().to_string();
        tables.extend(contest(args, &name, &files, &precisions, &peers, &pairs)?);
    }
    for name in &args.shape {
        let shaped = peers.shape(name)?;
        let name = format!("the shape of {name}");
        tables.extend(contest(args, &name, &shaped.files(), &precisions, &peers, &pairs)?);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&tables)?);
    } else {
        tables.iter().for_each(Table::print);
    }
    Ok(())
}

/// Has all contestants score one model's pairs, in turns of each size.
fn contest(
    args: &Args,
    name: &str,
    files: &ModelFiles,
    precisions: &[Precision],
    peers: &Peers,
    pairs: &[(String, String)],
) -> anyhow::Result<Vec<Table>> {
    let with_int8 = args.peers.iter().any(|peer| peer.contains("int8"));
    let prepared = peers.export(files, with_int8)?;
    let max_tokens = checkpoint::read_adapted_config(&files.dir, files.adapter.as_deref())?.max_tokens;
    let rows = pairs::tokenise(&files.dir, max_tokens, pairs)?;
    let tokens = rows.tokens() as f64 / rows.rows().max(1) as f64;
    let (mut contestants, mut left_out): (Vec<Box<dyn Contestant>>, Vec<String>) = (Vec::new(), Vec::new());
    for &precision in precisions {
        contestants.push(Box::new(Ours::load(files, precision, args.threads, pairs)?));
    }
    for name in &args.peers {
        match Peer::start(&prepared, name, args.threads, max_tokens) {
            Ok(peer) => contestants.push(Box::new(peer)),
            Err(error) => left_out.push(format!("{error:#}")),
        }
    }
    let mut tables = Vec::new();
    for (number, &slice) in args.slice.iter().enumerate() {
        let turns = pairs.len() / slice;
        let turns = if number == 0 { turns } else { turns.min(MAX_TURNS) };
        let pairs = &pairs[..(turns.max(1) * slice).min(pairs.len())];
        let lines = take_turns(&mut contestants, pairs, slice)?;
        let (model, threads, left_out) = (name.to_owned(), args.threads, left_out.clone());
        tables.push(Table { model, slice, pairs: pairs.len(), tokens, threads, lines, left_out });
    }
    for (index, contestant) in contestants.into_iter().enumerate() {
        let peak_rss_bytes = contestant.stop()?;
        tables.iter_mut().for_each(|table| table.lines[index].peak_rss_bytes = peak_rss_bytes);
    }
    Ok(tables)
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

fn median_and_range(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    [at(values.len() / 2), at(0), at(values.len().saturating_sub(1))]
}
