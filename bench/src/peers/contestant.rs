//! The programs that take turns: Assay's engine in this process, and peers in processes of their own.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use assay_kernels::{CheckedBatch, CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, Engine, Precision, checkpoint};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::set_up::{Prepared, SCRIPTS_DIR};
use crate::pairs::{self, ModelFiles};

/// Pairs of the first batch.
const FIRST_BATCH: usize = 32;

/// The time of one turn, and its scores.
#[derive(Debug, Deserialize)]
pub(super) struct Turn {
    pub(super) seconds: f64,
    /// The first label's logit of each pair.
    pub(super) scores: Vec<f64>,
}

/// A program that scores pairs.
pub(super) trait Contestant {
    /// Name, seconds to load, seconds of the first batch.
    fn start_up(&self) -> (String, f64, f64);
    fn score(&mut self, slice: Range<usize>) -> anyhow::Result<Turn>;
    /// Ends it. Returns its peak resident memory if it is another process.
    fn stop(self: Box<Self>) -> anyhow::Result<Option<u64>>;
}

/// Assay's engine on the processor.
pub(super) struct Ours {
    engine: CpuEngine,
    rows: CheckedBatch,
    load_s: f64,
    first_batch_s: f64,
}

impl Ours {
    pub(super) fn load(
        files: &ModelFiles,
        precision: Precision,
        threads: NonZeroUsize,
        pairs: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        let weights = checkpoint::load(&files.dir, files.adapter.as_deref())?;
        let device = CpuDevice::new(CpuDeviceOptions { threads: Some(threads), ..CpuDeviceOptions::default() })?;
        let engine = CpuEngine::load(&device, weights, CpuOptions { precision, ..CpuOptions::default() })?;
        let load_s = started.elapsed().as_secs_f64();
        let shape = engine.shape();
        let rows = pairs::tokenise(&files.dir, shape.max_tokens, pairs)?.check(&shape)?;
        let mut ours = Self { engine, rows, load_s, first_batch_s: 0.0 };
        ours.first_batch_s = ours.score(0..FIRST_BATCH.min(pairs.len()))?.seconds;
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
        let scores = outputs.iter().step_by(self.rows.shape().outputs).copied().map(f64::from).collect();
        Ok(Turn { seconds: elapsed.as_secs_f64(), scores })
    }

    fn stop(self: Box<Self>) -> anyhow::Result<Option<u64>> {
        Ok(None)
    }
}

/// A Python process.
pub(super) struct Peer {
    name: String,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Where its messages go.
    log: PathBuf,
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
    /// Starts a peer, which loads the model and scores one batch.
    ///
    /// # Errors
    /// It cannot run the model; the error ends with its own last line.
    pub(super) fn start(
        prepared: &Prepared,
        name: &str,
        threads: NonZeroUsize,
        max_tokens: usize,
    ) -> anyhow::Result<Self> {
        let log = prepared.exported.join(format!("{name}.log"));
        let messages = File::create(&log).with_context(|| log.display().to_string())?;
        let mut process = Command::new(&prepared.python)
            .arg(format!("{SCRIPTS_DIR}/peer.py"))
            .args(["--peer", name, "--threads", &threads.to_string(), "--max-length", &max_tokens.to_string()])
            .arg("--model")
            .arg(&prepared.model)
            .arg("--exported")
            .arg(&prepared.exported)
            .arg("--pairs")
            .arg(&prepared.pairs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(messages)
            .spawn()
            .with_context(|| format!("cannot start {} for {name}", prepared.python.display()))?;
        let input = process.stdin.take().context("standard input is a pipe")?;
        let output = BufReader::new(process.stdout.take().context("standard output is a pipe")?);
        let ready = Ready { load_s: 0.0, first_batch_s: 0.0 };
        let mut peer = Self { name: name.to_owned(), process, input, output, log, ready };
        peer.ready = peer.receive()?;
        Ok(peer)
    }

    fn receive<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            // Its exit code says no more than its last words.
            self.process.wait()?;
            let messages = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last = messages.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it gave no reason");
            bail!("{}: {last}", self.name);
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
