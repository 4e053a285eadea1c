//! Finds the fastest kernel variants on a device: timed once for a model's shapes and cached on disk. [`sample`] times
//! and checks them; a variant with wrong numbers is never taken.
//!
//! [`sample`]: super::sample
//!
//! The cache is a JSON file that the caller names. Its key contains everything that affects the result: adapter,
//! backend and driver, the shaders' [version](super::shader::VERSION), the number format and the model's widths.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::adapter::{AdapterDescription, KernelFamily};
use super::choices::{BySize, Choices, NormChoice, Size, norm_candidates};
use super::device::GpuDevice;
use super::error::GpuError;
pub use super::judge::TuneEntry;
use super::layout::{Layout, Storage};
use super::opened::OpenDevice;
use super::ops::attention;
use super::ops::gemm::{Epilogue, GemmShape, GemmVariant};
use super::pass;
use super::sample::{Sample, Subject};
use super::shader;
use crate::architecture::Architecture;
use crate::engine::Precision;

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
    /// Those that [`tune`](fn@tune) found for this model's shape, on this device and in this precision.
    Chosen(BySize<Choices>),
}

/// Result of the timing.
#[derive(Debug, Clone, PartialEq)]
pub struct TuneTable {
    /// The device.
    pub device: String,
    /// Every variant timed, grouped by kernel.
    pub entries: Vec<TuneEntry>,
    /// The fastest of each, for small and large batches.
    pub choices: BySize<Choices>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct CacheFile {
    entries: std::collections::BTreeMap<String, BySize<CachedChoices>>,
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

/// Times every variant of a kernel family for a model; `None` means the device's own.
///
/// # Errors
/// The kernels lack a part of the model, the driver refuses a kernel, no variant of one computes right numbers, or the
/// device has no memory for a sample batch.
pub fn tune(
    device: &GpuDevice,
    architecture: &Architecture,
    precision: Precision,
    max_batch_tokens: usize,
    family: Option<KernelFamily>,
) -> Result<TuneTable, GpuError> {
    let layout = Layout::new(architecture, Storage::try_from(precision)?)?;
    let family = family.unwrap_or(device.description().kernel_family());
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
    choices: &BySize<Choices>,
) -> Result<(), RememberError> {
    let storage = Storage::try_from(precision)?;
    let layout = Layout::new(architecture, storage).map_err(GpuError::from)?;
    let key = key(device.description(), choices.large.family, architecture, &layout);
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
    pub(super) fn choose(&self, gpu: &OpenDevice, subject: Subject<'_>) -> Result<BySize<Choices>, GpuError> {
        let Subject { architecture, layout, family, .. } = subject;
        let untimed = || BySize::both(Choices::untimed(gpu.description(), family, layout));
        let (path, then) = match self {
            Self::Defaults => return Ok(untimed()),
            Self::Chosen(choices) => return Ok(*choices),
            Self::Memory => return Ok(time_all(gpu, subject)?.choices),
            Self::File(path) => (path, Otherwise::Tune),
            Self::Remembered(path) => (path, Otherwise::Defaults),
        };
        let key = key(gpu.description(), family, architecture, layout);
        let file = CacheFile::read(path);
        let cached = file.entries.get(&key).and_then(|cached| {
            let choices = |cached: &CachedChoices| cached.choices(gpu.description(), family, layout);
            Some(BySize { small: choices(&cached.small)?, large: choices(&cached.large)? })
        });
        match (cached, then) {
            (Some(choices), _) => Ok(choices),
            (None, Otherwise::Defaults) => Ok(untimed()),
            (None, Otherwise::Tune) => {
                let choices = time_all(gpu, subject)?.choices;
                // Without the cache, the next load takes some seconds longer.
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

fn write(path: &Path, key: String, choices: &BySize<Choices>) -> std::io::Result<()> {
    let mut file = CacheFile::read(path);
    let cached = BySize { small: (&choices.small).into(), large: (&choices.large).into() };
    file.entries.insert(key, cached);
    let bytes = serde_json::to_vec_pretty(&file)?;
    // The file that a link names is replaced, not the link; nothing but a file is replaced at all.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if std::fs::metadata(&path).is_ok_and(|there| !there.is_file()) {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "something else than a file is there"));
    }
    // Writes a temporary file and renames it, so readers never see half a file. Its name contains the process id, so
    // two writers do not share it.
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, &path)).inspect_err(|_| {
        // Absent if it could not even be created.
        let _ = std::fs::remove_file(&beside);
    })
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
        if !attention::candidates(adapter, family).contains(&attention_queries)
            || !norm_candidates(adapter, family, layout).contains(&self.norm)
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
    let qkv = GemmShape::new(h, 3 * h, Epilogue::Bias);
    let qkv = match architecture.rotations().first() {
        Some(&rotary) => sample.rotary_gemm("qkv", qkv, rotary, h, &mut entries)?,
        None => sample.gemm("qkv", qkv, h, &mut entries)?,
    };
    let hidden = sample.gemm("hidden", GemmShape::new(h, h, Epilogue::Residual), h, &mut entries)?;
    let intermediate = sample.gemm("intermediate", GemmShape::new(h, columns, end), columns, &mut entries)?;
    let output = sample.gemm("output", GemmShape::new(i, h, Epilogue::Residual), h, &mut entries)?;
    let queries = sample.attention(&mut entries)?;
    let norm = sample.norm(output, &mut entries)?;
    let choices = |size: Size| Choices {
        family,
        qkv: *qkv.get(size),
        hidden: *hidden.get(size),
        intermediate: *intermediate.get(size),
        output: *output.get(size),
        attention_queries: *queries.get(size),
        norm: *norm.get(size),
    };
    let choices = BySize { small: choices(Size::Small), large: choices(Size::Large) };
    Ok(TuneTable { device: gpu.description().to_string(), entries, choices })
}

fn key(adapter: &AdapterDescription, family: KernelFamily, architecture: &Architecture, layout: &Layout) -> String {
    let AdapterDescription { name, backend, driver, .. } = adapter;
    let Layout { states, heads, storage, mlp, norm_placement, .. } = layout;
    let positions = if architecture.rotations().is_empty() { "" } else { " rotary" };
    format!(
        "{name} | {backend} | {driver} | {family:?} kernels {:016x} | {} | hidden {} heads {heads} intermediate {} {} \
         {mlp:?} norms {norm_placement:?}{positions}",
        shader::VERSION,
        storage.name(),
        states.width,
        layout.intermediate_stride(),
        architecture.block.mlp.activation.name(),
    )
}

impl fmt::Display for TuneTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.device)?;
        writeln!(
            f,
            "{:<14} {:<14} {:>7} {:>10} {:>10} {:>9}",
            "kernel", "variant", "tokens", "ms", "GFLOP/s", "error"
        )?;
        for entry in &self.entries {
            let seconds = entry.time.as_secs_f64();
            writeln!(
                f,
                "{:<14} {:<14} {:>7} {:>10.3} {:>10.1} {:>9.1e}{}",
                entry.kernel,
                entry.variant,
                entry.tokens,
                seconds * 1e3,
                entry.flops as f64 / seconds / 1e9,
                entry.error,
                match (entry.right, entry.chosen) {
                    (false, _) => "  wrong numbers, never chosen",
                    (true, true) => "  chosen",
                    (true, false) => "",
                }
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices() -> BySize<Choices> {
        let variant = GemmVariant::Software { threads: 64 };
        BySize::both(Choices {
            family: KernelFamily::Software,
            qkv: variant,
            hidden: variant,
            intermediate: variant,
            output: variant,
            attention_queries: 64,
            norm: NormChoice::Separate,
        })
    }

    #[test]
    fn a_cache_that_cannot_be_placed_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tune.json");
        std::fs::create_dir(&path).unwrap();
        write(&path, "key".to_owned(), &choices()).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("tune.json"), dir.path().join("file"));
        std::fs::write(&file, "{}").unwrap();
        std::os::unix::fs::symlink(&file, &path).unwrap();
        write(&path, "key".to_owned(), &choices()).unwrap();
        assert!(path.is_symlink());
        assert_eq!(CacheFile::read(&file).entries.len(), 1);
    }
}
