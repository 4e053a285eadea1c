//! Which kernel variants are fastest on a device: timed once for the shapes that a model runs, remembered on disk.
//!
//! The cache is a JSON file that the caller names. Its key holds everything that an answer depends on: adapter, backend
//! and driver, the shaders' [version](super::shader::VERSION), the number format and the model's widths.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::device::GpuDevice;
use super::error::GpuError;
use super::kernel::{Extent, Kernel, Op, Work};
use super::layout::{Layout, Precision};
use super::ops::Target;
use super::ops::attention::{self, Attention, AttentionShape};
use super::ops::gemm::{COOPERATIVE_ROWS, Epilogue, Gemm, GemmShape, GemmVariant};
use super::ops::gemm_norm::{self, GemmNorm};
use super::ops::layer_norm::LayerNorm;
use super::shader;

/// Tokens in the batch that variants are timed on: enough to fill a large GPU, little enough to take milliseconds.
const SAMPLE_TOKENS: usize = 4096;
/// Tokens in a row of that batch.
const SAMPLE_ROW_TOKENS: usize = 100;
/// Any value does: no kernel's speed depends on it.
const SAMPLE_EPS: f64 = 1e-12;
/// Runs of which the fastest counts.
const REPEATS: u32 = 5;

/// The kernel variants of one model on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choices {
    /// For query, key and value.
    pub qkv: GemmVariant,
    /// For hidden to hidden.
    pub hidden: GemmVariant,
    /// For hidden to intermediate.
    pub intermediate: GemmVariant,
    /// For intermediate to hidden.
    pub output: GemmVariant,
    /// Queries to an attention tile.
    pub attention_queries: u32,
    /// Whether LayerNorm is fused into the GEMM before it.
    pub norm: NormChoice,
    /// The family that all these are of.
    pub target: Target,
}

/// Whether LayerNorm is fused into the GEMM before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormChoice {
    /// One kernel: a workgroup holds whole rows.
    Fused,
    /// Two kernels.
    Separate,
}

/// Where choices come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TuneCache {
    /// Not timed: the variants that are expected to be best.
    #[default]
    Defaults,
    /// Timed at each load.
    Memory,
    /// Timed once, and remembered in this file. A file that cannot be read or written is done without.
    File(PathBuf),
    /// Those that this file remembers; where it has none, the variants that are expected to be best.
    Remembered(PathBuf),
}

/// What timing found.
#[derive(Debug, Clone, PartialEq)]
pub struct TuneTable {
    /// The device.
    pub device: String,
    /// Every variant timed, grouped by kernel.
    pub entries: Vec<TuneEntry>,
    /// The fastest of each.
    pub choices: Choices,
}

/// One variant of one kernel, timed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TuneEntry {
    /// Which of the model's kernels: `qkv`, `hidden`, `intermediate`, `output`, `attention` or `output + norm`.
    pub kernel: &'static str,
    /// The variant's name.
    pub variant: String,
    /// Fastest run.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
    /// Floating-point operations of a run.
    pub flops: u64,
    /// The fastest of its kernel.
    pub chosen: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct CacheFile {
    entries: std::collections::BTreeMap<String, CachedChoices>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CachedChoices {
    qkv: String,
    hidden: String,
    intermediate: String,
    output: String,
    attention_queries: u32,
    norm: NormChoice,
}

impl TuneCache {
    /// The choices for a model of `layout` on `gpu`.
    pub(super) fn choose(
        &self,
        gpu: &GpuDevice,
        target: Target,
        layout: &Layout,
        max_batch_tokens: usize,
    ) -> Result<Choices, GpuError> {
        let (path, then) = match self {
            Self::Defaults => return Ok(Choices::untimed(gpu, target, layout)),
            Self::Memory => return Ok(tune(gpu, target, layout, max_batch_tokens)?.choices),
            Self::File(path) => (path, Otherwise::Tune),
            Self::Remembered(path) => (path, Otherwise::Defaults),
        };
        let file = CacheFile::read(path);
        let cached = file.entries.get(&key(gpu, target, layout));
        match (cached.and_then(|cached| cached.choices(gpu, target, layout)), then) {
            (Some(choices), _) => Ok(choices),
            (None, Otherwise::Defaults) => Ok(Choices::untimed(gpu, target, layout)),
            (None, Otherwise::Tune) => {
                let choices = tune(gpu, target, layout, max_batch_tokens)?.choices;
                // Failing to remember costs a second at the next load.
                let _ = remember(path, gpu, layout, &choices);
                Ok(choices)
            }
        }
    }
}

/// What to do where a cache has no answer.
enum Otherwise {
    Tune,
    Defaults,
}

/// Keeps choices in a cache file, beside those of other devices and models, in place of what it had for this one.
///
/// # Errors
/// The file cannot be written.
pub fn remember(path: &Path, gpu: &GpuDevice, layout: &Layout, choices: &Choices) -> std::io::Result<()> {
    let mut file = CacheFile::read(path);
    file.entries.insert(key(gpu, choices.target, layout), CachedChoices::from(choices));
    let bytes = serde_json::to_vec_pretty(&file)?;
    // Written beside and renamed, so that a reader never sees half a file; the name is this process's own, so that two
    // writers do not share it.
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path))
}

impl CacheFile {
    /// What the file has. One that is absent or damaged has nothing: it is written anew.
    fn read(path: &Path) -> Self {
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}

impl Choices {
    /// The variants that are expected to be best, without timing any.
    #[must_use]
    pub fn untimed(gpu: &GpuDevice, target: Target, layout: &Layout) -> Self {
        let first = |columns| GemmVariant::candidates(gpu, target, columns, layout.precision)[0];
        Self {
            qkv: first(layout.hidden_padded),
            hidden: first(layout.hidden_padded),
            intermediate: first(layout.intermediate_padded),
            output: first(layout.hidden_padded),
            attention_queries: attention::thread_counts(target.attention())[0],
            norm: norm_choices(target, layout)[0],
            target,
        }
    }
}

impl CachedChoices {
    fn choices(&self, gpu: &GpuDevice, target: Target, layout: &Layout) -> Option<Choices> {
        let find = |name: &str, columns| {
            GemmVariant::candidates(gpu, target, columns, layout.precision)
                .into_iter()
                .find(|variant| variant.name() == name)
        };
        let attention_queries = self.attention_queries;
        if !attention::thread_counts(target.attention()).contains(&attention_queries)
            || !norm_choices(target, layout).contains(&self.norm)
        {
            return None;
        }
        Some(Choices {
            qkv: find(&self.qkv, layout.hidden_padded)?,
            hidden: find(&self.hidden, layout.hidden_padded)?,
            intermediate: find(&self.intermediate, layout.intermediate_padded)?,
            output: find(&self.output, layout.hidden_padded)?,
            attention_queries,
            norm: self.norm,
            target,
        })
    }
}

impl From<&Choices> for CachedChoices {
    fn from(choices: &Choices) -> Self {
        Self {
            qkv: choices.qkv.name(),
            hidden: choices.hidden.name(),
            intermediate: choices.intermediate.name(),
            output: choices.output.name(),
            attention_queries: choices.attention_queries,
            norm: choices.norm,
        }
    }
}

/// Times every variant of `target` for a model of `layout` on `gpu`.
///
/// # Errors
/// The layout is not one that kernels can compute, the driver refuses a kernel, or there is no memory for a sample batch.
pub fn tune(gpu: &GpuDevice, target: Target, layout: &Layout, max_batch_tokens: usize) -> Result<TuneTable, GpuError> {
    layout.check()?;
    let bench = Bench::new(gpu, target, layout, max_batch_tokens.min(SAMPLE_TOKENS))?;
    let (h, i) = (layout.hidden_padded, layout.intermediate_padded);
    let mut entries = Vec::new();
    let mut choices = Choices::untimed(gpu, target, layout);
    choices.qkv = bench.gemm("qkv", GemmShape::new(h, 3 * h, Epilogue::Bias), h, &mut entries)?;
    choices.hidden = bench.gemm("hidden", GemmShape::new(h, h, Epilogue::Residual), h, &mut entries)?;
    choices.intermediate = bench.gemm("intermediate", GemmShape::new(h, i, Epilogue::Gelu), i, &mut entries)?;
    choices.output = bench.gemm("output", GemmShape::new(i, h, Epilogue::Residual), h, &mut entries)?;
    choices.attention_queries = bench.attention(&mut entries)?;
    choices.norm = bench.norm(choices.output, &mut entries)?;
    Ok(TuneTable { device: gpu.description().to_string(), entries, choices })
}

/// The fastest of `repeats` dispatches, each in a submission of its own.
pub(crate) fn fastest(
    gpu: &GpuDevice,
    kernel: &Kernel,
    bind_group: &wgpu::BindGroup,
    work: &Work,
    repeats: u32,
) -> Result<Duration, GpuError> {
    let mut best = Duration::MAX;
    // One run more than asked for: the first pays for what the driver puts off.
    for _ in 0..=repeats {
        let start = Instant::now();
        gpu.run_one(kernel, bind_group, work)?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// Buffers to time kernels on. Their contents are zeros: no kernel's speed depends on them.
struct Bench<'a> {
    gpu: &'a GpuDevice,
    target: Target,
    layout: &'a Layout,
    tokens: usize,
    wide: wgpu::Buffer,
    narrow: wgpu::Buffer,
    other: wgpu::Buffer,
    weight: wgpu::Buffer,
    bias: wgpu::Buffer,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a GpuDevice, target: Target, layout: &'a Layout, tokens: usize) -> Result<Self, GpuError> {
        let (hidden, bytes) = (layout.hidden_padded, layout.precision.bytes());
        let widest = layout.intermediate_padded.max(3 * hidden);
        let rows = tokens.next_multiple_of(COOPERATIVE_ROWS);
        let make = |label, numbers: usize| gpu.buffer(label, (numbers * bytes) as u64, wgpu::BufferUsages::STORAGE);
        gpu.scoped(|| {
            Ok(Self {
                gpu,
                target,
                layout,
                tokens,
                wide: make("tune wide", rows * widest)?,
                narrow: make("tune narrow", rows * hidden)?,
                other: make("tune other", rows * hidden)?,
                weight: make("tune weight", hidden * widest)?,
                bias: make("tune bias", 4 * widest / bytes)?,
            })
        })
    }

    fn gemm(
        &self,
        kernel: &'static str,
        shape: GemmShape,
        columns: usize,
        entries: &mut Vec<TuneEntry>,
    ) -> Result<GemmVariant, GpuError> {
        let extent = Extent { rows: self.tokens as u32, ..Extent::default() };
        let (a, y) = if shape.k > shape.n { (&self.wide, &self.narrow) } else { (&self.narrow, &self.wide) };
        let variants = GemmVariant::candidates(self.gpu, self.target, columns, self.layout.precision);
        let mut timed = Vec::new();
        for variant in variants {
            let gemm = Gemm::new(self.gpu, shape, variant, self.layout.precision)?;
            let group = gemm.bind(self.gpu, [a, &self.weight, &self.bias, &self.other, y]);
            let work = gemm.work(&extent);
            let time = fastest(self.gpu, gemm.kernel(), &group, &work, REPEATS)?;
            timed
                .push((variant, TuneEntry { kernel, variant: variant.name(), time, flops: work.flops, chosen: false }));
        }
        Ok(choose(timed, entries))
    }

    fn attention(&self, entries: &mut Vec<TuneEntry>) -> Result<u32, GpuError> {
        let rows = (self.tokens / SAMPLE_ROW_TOKENS).max(1);
        let row_tokens = self.tokens.min(SAMPLE_ROW_TOKENS);
        let offsets: Vec<u32> = (0..=rows).map(|row| (row * row_tokens) as u32).collect();
        let shape = AttentionShape::all(self.layout);
        let (mut tiles, mut timed) = (Vec::new(), Vec::new());
        for &threads in attention::thread_counts(self.target.attention()) {
            attention::tiles(&offsets, threads, &mut tiles);
            let op = Attention::new(self.gpu, shape, self.target, threads, self.layout.precision)?;
            let list = self.gpu.buffer_with("tune tiles", bytemuck::cast_slice(&tiles), wgpu::BufferUsages::STORAGE)?;
            let group = op.bind(self.gpu, &self.wide, &self.wide, list.as_entire_buffer_binding(), &self.narrow);
            let extent = Extent {
                rows: (rows * row_tokens) as u32,
                tiles: tiles.len() as u32,
                query_keys: (rows * row_tokens * row_tokens) as u64,
            };
            let work = op.work(&extent);
            let time = fastest(self.gpu, op.kernel(), &group, &work, REPEATS)?;
            let variant = format!("{threads} queries");
            timed.push((threads, TuneEntry { kernel: "attention", variant, time, flops: work.flops, chosen: false }));
        }
        Ok(choose(timed, entries))
    }

    /// Times the output GEMM and its LayerNorm, as one kernel and as two.
    fn norm(&self, gemm: GemmVariant, entries: &mut Vec<TuneEntry>) -> Result<NormChoice, GpuError> {
        let (h, i) = (self.layout.hidden_padded, self.layout.intermediate_padded);
        let extent = Extent { rows: self.tokens as u32, ..Extent::default() };
        let mut timed = Vec::new();
        for &choice in norm_choices(self.target, self.layout) {
            let (time, flops) = match choice {
                NormChoice::Fused => {
                    let op = GemmNorm::new(self.gpu, *self.layout, (i, i), SAMPLE_EPS)?;
                    let group = op.bind(self.gpu, [&self.wide, &self.weight, &self.bias, &self.other, &self.narrow]);
                    let work = op.work(&extent);
                    (fastest(self.gpu, op.kernel(), &group, &work, REPEATS)?, work.flops)
                }
                NormChoice::Separate => {
                    let shape = GemmShape::new(i, h, Epilogue::Residual);
                    let op = Gemm::new(self.gpu, shape, gemm, self.layout.precision)?;
                    let group = op.bind(self.gpu, [&self.wide, &self.weight, &self.bias, &self.other, &self.narrow]);
                    let norm = LayerNorm::new(self.gpu, *self.layout, SAMPLE_EPS, self.target)?;
                    let norm_group = norm.bind(self.gpu, [&self.narrow, &self.bias, &self.bias, &self.other]);
                    let (work, norm_work) = (op.work(&extent), norm.work(&extent));
                    let time = fastest(self.gpu, op.kernel(), &group, &work, REPEATS)?
                        + fastest(self.gpu, norm.kernel(), &norm_group, &norm_work, REPEATS)?;
                    (time, work.flops)
                }
            };
            let variant = format!("{choice:?}").to_lowercase();
            timed.push((choice, TuneEntry { kernel: "output + norm", variant, time, flops, chosen: false }));
        }
        Ok(choose(timed, entries))
    }
}

/// Marks the fastest and returns it. There is always one: every kernel has a variant for every adapter.
fn choose<T: Copy>(mut timed: Vec<(T, TuneEntry)>, entries: &mut Vec<TuneEntry>) -> T {
    let mut best = 0;
    for index in 1..timed.len() {
        if timed[index].1.time < timed[best].1.time {
            best = index;
        }
    }
    timed[best].1.chosen = true;
    let chosen = timed[best].0;
    entries.extend(timed.into_iter().map(|(_, entry)| entry));
    chosen
}

/// Ways to take LayerNorm that are worth timing; the first is the one to take untimed.
fn norm_choices(target: Target, layout: &Layout) -> &'static [NormChoice] {
    match target {
        Target::Gpu if gemm_norm::fits(layout) => &[NormChoice::Fused, NormChoice::Separate],
        _ => &[NormChoice::Separate],
    }
}

fn key(gpu: &GpuDevice, target: Target, layout: &Layout) -> String {
    let adapter = gpu.description();
    let Layout { hidden, intermediate_padded, heads, precision, .. } = layout;
    let precision: &Precision = precision;
    format!(
        "{} | {} | {} | {target:?} kernels {:016x} | {} | hidden {hidden} heads {heads} intermediate {intermediate_padded}",
        adapter.name,
        adapter.backend,
        adapter.driver,
        shader::VERSION,
        precision.name(),
    )
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl fmt::Display for TuneTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.device)?;
        writeln!(f, "{:<14} {:<14} {:>10} {:>10}", "kernel", "variant", "ms", "GFLOP/s")?;
        for entry in &self.entries {
            let seconds = entry.time.as_secs_f64();
            writeln!(
                f,
                "{:<14} {:<14} {:>10.3} {:>10.1}{}",
                entry.kernel,
                entry.variant,
                seconds * 1e3,
                entry.flops as f64 / seconds / 1e9,
                if entry.chosen { "  chosen" } else { "" }
            )?;
        }
        Ok(())
    }
}
