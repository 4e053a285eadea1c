//! Finds the fastest kernel variants on a device: timed once for a model's shapes and cached on disk.
//!
//! The cache is a JSON file that the caller names. Its key contains everything that affects the result: adapter,
//! backend and driver, the shaders' [version](super::shader::VERSION), the number format and the model's widths.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::adapter::{AdapterDescription, KernelFamily};
use super::choices::{Choices, NormChoice, norm_choices};
use super::device::GpuDevice;
use super::error::GpuError;
use super::layout::{Layout, Storage};
use super::op::{Buffers, Extent, Op};
use super::opened::OpenDevice;
use super::ops::attention::{self, Attention, AttentionBuffers, AttentionShape};
use super::ops::gemm::{COOPERATIVE_ROWS, Epilogue, Gemm, GemmBuffers, GemmShape, GemmVariant};
use super::ops::gemm_norm::{GemmNorm, GemmNormBuffers};
use super::ops::layer_norm::{LayerNorm, LayerNormBuffers};
use super::pass;
use super::shader;
use super::timing::fastest;
use crate::architecture::Architecture;
use crate::engine::Precision;

/// Tokens in the sample batch: enough to fill a large GPU, few enough to take milliseconds.
const SAMPLE_TOKENS: usize = 4096;
/// Tokens in each of its rows.
const SAMPLE_ROW_TOKENS: usize = 100;
/// Runs per variant; the fastest counts.
const REPEATS: u32 = 5;

/// Source of the kernel choices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TuneCache {
    /// Not timed: the variants expected to be fastest.
    #[default]
    Defaults,
    /// Timed at each load.
    Memory,
    /// Timed once and cached in this file. If the file cannot be read or written, tuning runs without it.
    File(PathBuf),
    /// The choices cached in this file, or else the variants expected to be fastest.
    Remembered(PathBuf),
}

/// Result of the timing.
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

/// The model that kernels are timed for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) architecture: &'a Architecture,
    pub(super) layout: &'a Layout,
    pub(super) family: KernelFamily,
    pub(super) max_batch_tokens: usize,
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

/// Times every variant of the device's own kernel family for a model.
///
/// # Errors
/// The kernels lack a part of the model, the driver refuses a kernel, or the device has no memory for a sample batch.
pub fn tune(
    device: &GpuDevice,
    architecture: &Architecture,
    precision: Precision,
    max_batch_tokens: usize,
) -> Result<TuneTable, GpuError> {
    let layout = Layout::new(architecture, Storage::try_from(precision)?)?;
    let family = device.description().kernel_family();
    time_all(&*device.opened()?, Subject { architecture, layout: &layout, family, max_batch_tokens })
}

/// Keeps choices for a model in a cache file, beside those of other devices and models, in place of what it had for
/// this one.
///
/// # Errors
/// The file cannot be written.
pub fn remember(
    path: &Path,
    device: &GpuDevice,
    architecture: &Architecture,
    precision: Precision,
    choices: &Choices,
) -> Result<(), RememberError> {
    let storage = Storage::try_from(precision)?;
    let layout = Layout::new(architecture, storage).map_err(GpuError::from)?;
    let key = key(device.description(), choices.family, architecture, &layout);
    write(path, key, choices).map_err(|source| RememberError::Write { path: path.to_owned(), source })
}

/// Why choices were not stored.
#[derive(Debug, thiserror::Error)]
pub enum RememberError {
    /// The engine cannot make these choices.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The file cannot be written.
    #[error("{} cannot be written: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl TuneCache {
    /// The choices for a model on `gpu`.
    pub(super) fn choose(&self, gpu: &OpenDevice, subject: Subject<'_>) -> Result<Choices, GpuError> {
        let Subject { architecture, layout, family, .. } = subject;
        let untimed = || Choices::untimed(gpu.description(), family, layout);
        let (path, then) = match self {
            Self::Defaults => return Ok(untimed()),
            Self::Memory => return Ok(time_all(gpu, subject)?.choices),
            Self::File(path) => (path, Otherwise::Tune),
            Self::Remembered(path) => (path, Otherwise::Defaults),
        };
        let key = key(gpu.description(), family, architecture, layout);
        let file = CacheFile::read(path);
        let cached = file.entries.get(&key).and_then(|cached| cached.choices(gpu.description(), family, layout));
        match (cached, then) {
            (Some(choices), _) => Ok(choices),
            (None, Otherwise::Defaults) => Ok(untimed()),
            (None, Otherwise::Tune) => {
                let choices = time_all(gpu, subject)?.choices;
                // Without the cache, the next load takes a second longer.
                let _ = write(path, key, &choices);
                Ok(choices)
            }
        }
    }
}

/// What to do if the cache has no entry.
enum Otherwise {
    Tune,
    Defaults,
}

fn write(path: &Path, key: String, choices: &Choices) -> std::io::Result<()> {
    let mut file = CacheFile::read(path);
    file.entries.insert(key, CachedChoices::from(choices));
    let bytes = serde_json::to_vec_pretty(&file)?;
    // Writes a temporary file and renames it, so readers never see half a file. Its name contains the process id, so
    // two writers do not share it.
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path))
}

impl CacheFile {
    /// The file's entries. A missing or damaged file counts as empty and is rewritten.
    fn read(path: &Path) -> Self {
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}

impl CachedChoices {
    fn choices(&self, adapter: &AdapterDescription, family: KernelFamily, layout: &Layout) -> Option<Choices> {
        let find = |name: &str, columns| {
            let candidates = GemmVariant::candidates(adapter, family, columns, layout.storage);
            candidates.into_iter().find(|variant| variant.name() == name)
        };
        let attention_queries = self.attention_queries;
        if !attention::thread_counts(family).contains(&attention_queries)
            || !norm_choices(family, layout).contains(&self.norm)
        {
            return None;
        }
        Some(Choices {
            family,
            qkv: find(&self.qkv, layout.states.stride)?,
            hidden: find(&self.hidden, layout.states.stride)?,
            intermediate: find(&self.intermediate, layout.intermediate_columns())?,
            output: find(&self.output, layout.states.stride)?,
            attention_queries,
            norm: self.norm,
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

/// Times every variant of the subject's family.
fn time_all(gpu: &OpenDevice, subject: Subject<'_>) -> Result<TuneTable, GpuError> {
    let Subject { architecture, layout, family, .. } = subject;
    let sample = Sample::new(gpu, subject)?;
    let (h, i, columns) = (layout.states.stride, layout.intermediate_stride(), layout.intermediate_columns());
    let end = pass::intermediate_epilogue(&architecture.block.mlp);
    let mut entries = Vec::new();
    let mut choices = Choices::untimed(gpu.description(), family, layout);
    choices.qkv = sample.gemm("qkv", GemmShape::new(h, 3 * h, Epilogue::Bias), h, &mut entries)?;
    choices.hidden = sample.gemm("hidden", GemmShape::new(h, h, Epilogue::Residual), h, &mut entries)?;
    choices.intermediate = sample.gemm("intermediate", GemmShape::new(h, columns, end), columns, &mut entries)?;
    choices.output = sample.gemm("output", GemmShape::new(i, h, Epilogue::Residual), h, &mut entries)?;
    choices.attention_queries = sample.attention(&mut entries)?;
    choices.norm = sample.norm(choices.output, &mut entries)?;
    Ok(TuneTable { device: gpu.description().to_string(), entries, choices })
}

/// Buffers to time kernels on. They contain zeros: no kernel's speed depends on the contents.
struct Sample<'a> {
    gpu: &'a OpenDevice,
    subject: Subject<'a>,
    tokens: usize,
    wide: wgpu::Buffer,
    narrow: wgpu::Buffer,
    other: wgpu::Buffer,
    weight: wgpu::Buffer,
    params: wgpu::Buffer,
}

impl<'a> Sample<'a> {
    fn new(gpu: &'a OpenDevice, subject: Subject<'a>) -> Result<Self, GpuError> {
        let Subject { layout, max_batch_tokens, .. } = subject;
        let (hidden, number) = (layout.states.stride, layout.storage.bytes());
        let widest = layout.intermediate_columns().max(3 * hidden);
        let tokens = max_batch_tokens.min(SAMPLE_TOKENS);
        let rows = tokens.next_multiple_of(COOPERATIVE_ROWS);
        let make = |label, bytes: usize| gpu.buffer(label, bytes as u64, wgpu::BufferUsages::STORAGE);
        gpu.scoped(|| {
            Ok(Self {
                gpu,
                subject,
                tokens,
                wide: make("tune wide", rows * widest * number)?,
                narrow: make("tune narrow", rows * hidden * number)?,
                other: make("tune other", rows * hidden * number)?,
                weight: make("tune weight", hidden * widest * number)?,
                // A bias of any width, or the bias and norm of a fused kernel; always f32.
                params: make("tune parameters", 4 * widest)?,
            })
        })
    }

    fn time<'b, B>(&self, op: &impl Op, buffers: B, extent: &Extent) -> Result<(Duration, u64), GpuError>
    where
        B: Buffers<wgpu::BufferBinding<'b>>,
    {
        let pipeline = self.gpu.pipeline(&op.pipeline())?;
        let work = op.work(extent);
        let time = fastest(self.gpu, &pipeline, &self.gpu.bind(&pipeline, buffers), &work, REPEATS)?;
        Ok((time, work.flops))
    }

    fn every_token(&self) -> Extent {
        Extent { rows: self.tokens as u32, ..Extent::default() }
    }

    fn gemm_buffers(&self, op: &Gemm, shape: &GemmShape) -> GemmBuffers<wgpu::BufferBinding<'_>> {
        let (a, y) = if shape.k > shape.n { (&self.wide, &self.narrow) } else { (&self.narrow, &self.wide) };
        GemmBuffers {
            a: whole(a),
            w: whole(&self.weight),
            bias: whole(&self.params),
            residual: whole(&self.other),
            y: whole(y),
            w_next: from(&self.weight, op.second_row()),
        }
    }

    fn gemm(
        &self,
        kernel: &'static str,
        shape: GemmShape,
        columns: usize,
        entries: &mut Vec<TuneEntry>,
    ) -> Result<GemmVariant, GpuError> {
        let Subject { layout, family, .. } = self.subject;
        let variants = GemmVariant::candidates(self.gpu.description(), family, columns, layout.storage);
        let mut timed = Vec::new();
        for variant in variants {
            let op = Gemm::new(shape, variant, layout.storage);
            let (time, flops) = self.time(&op, self.gemm_buffers(&op, &shape), &self.every_token())?;
            timed.push((variant, TuneEntry { kernel, variant: variant.name(), time, flops, chosen: false }));
        }
        Ok(choose(timed, entries))
    }

    fn attention(&self, entries: &mut Vec<TuneEntry>) -> Result<u32, GpuError> {
        let Subject { layout, family, .. } = self.subject;
        let rows = (self.tokens / SAMPLE_ROW_TOKENS).max(1);
        let row_tokens = self.tokens.min(SAMPLE_ROW_TOKENS);
        let offsets: Vec<u32> = (0..=rows).map(|row| (row * row_tokens) as u32).collect();
        let (mut tiles, mut timed) = (Vec::new(), Vec::new());
        for &threads in attention::thread_counts(family) {
            attention::query_tiles(&offsets, threads, &mut tiles);
            let shape = AttentionShape::all(layout);
            let op = Attention { shape, threads, storage: layout.storage, family };
            let list = bytemuck::cast_slice(&tiles);
            let list = self.gpu.buffer_with("tune query tiles", list, wgpu::BufferUsages::STORAGE)?;
            let buffers = AttentionBuffers {
                q: whole(&self.wide),
                kv: whole(&self.wide),
                query_tiles: whole(&list),
                context: whole(&self.narrow),
            };
            let extent = Extent {
                rows: (rows * row_tokens) as u32,
                query_tiles: tiles.len() as u32,
                query_keys: (rows * row_tokens * row_tokens) as u64,
            };
            let (time, flops) = self.time(&op, buffers, &extent)?;
            let variant = format!("{threads} queries");
            timed.push((threads, TuneEntry { kernel: "attention", variant, time, flops, chosen: false }));
        }
        Ok(choose(timed, entries))
    }

    /// Times the output GEMM and its LayerNorm, as one kernel and as two.
    fn norm(&self, gemm: GemmVariant, entries: &mut Vec<TuneEntry>) -> Result<NormChoice, GpuError> {
        let Subject { architecture, layout, family, .. } = self.subject;
        let (states, k, eps) = (layout.states, layout.intermediate_stride(), architecture.block.norm.eps);
        let mut timed = Vec::new();
        for &choice in norm_choices(family, layout) {
            let (time, flops) = match choice {
                NormChoice::Fused => {
                    let op = GemmNorm { states, k, inputs: k, eps };
                    let buffers = GemmNormBuffers {
                        a: whole(&self.wide),
                        w: whole(&self.weight),
                        params: whole(&self.params),
                        residual: whole(&self.other),
                        y: whole(&self.narrow),
                        w_next: from(&self.weight, op.second_row()),
                    };
                    self.time(&op, buffers, &self.every_token())?
                }
                NormChoice::Separate => {
                    let shape = GemmShape::new(k, states.stride, Epilogue::Residual);
                    let op = Gemm::new(shape, gemm, layout.storage);
                    let buffers =
                        GemmBuffers { a: whole(&self.wide), y: whole(&self.narrow), ..self.gemm_buffers(&op, &shape) };
                    let (gemm_time, flops) = self.time(&op, buffers, &self.every_token())?;
                    let op = LayerNorm { rows: states, eps, family };
                    let buffers =
                        LayerNormBuffers { x: whole(&self.narrow), norm: whole(&self.params), y: whole(&self.other) };
                    let (norm_time, _) = self.time(&op, buffers, &self.every_token())?;
                    (gemm_time + norm_time, flops)
                }
            };
            let variant = format!("{choice:?}").to_lowercase();
            timed.push((choice, TuneEntry { kernel: "output + norm", variant, time, flops, chosen: false }));
        }
        Ok(choose(timed, entries))
    }
}

fn whole(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

fn from(buffer: &wgpu::Buffer, offset: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { offset, ..whole(buffer) }
}

/// Marks and returns the fastest. Every kernel has a variant for every adapter, so there always is one.
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

fn key(adapter: &AdapterDescription, family: KernelFamily, architecture: &Architecture, layout: &Layout) -> String {
    let AdapterDescription { name, backend, driver, .. } = adapter;
    let Layout { states, heads, storage, mlp, norm_placement, .. } = layout;
    format!(
        "{name} | {backend} | {driver} | {family:?} kernels {:016x} | {} | hidden {} heads {heads} intermediate {} {} \
         {mlp:?} norms {norm_placement:?}",
        shader::VERSION,
        storage.name(),
        states.width,
        layout.intermediate_stride(),
        architecture.block.mlp.activation.name(),
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
