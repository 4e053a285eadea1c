//! Chooses a device on this machine and its settings.
//!
//! The decision includes its reason, so that users can see why a slow model runs on the wrong device.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use assay_kernels::cpu::{self, Cores};
use assay_kernels::gpu::{
    self, AdapterDescription, AdapterError, AdapterKind, AdapterSelection, GpuDevice, GpuError, GpuOptions,
    RememberError, TuneCache, TuneTable,
};
use assay_kernels::{Architecture, EngineError, Precision};
use clap::ValueEnum;

/// Most tokens per thread in one batch on a processor: within 3 % of the speed of larger batches (docs/kernels-cpu.md),
/// and short enough, about 70 ms, that a request does not wait long behind a running batch.
const BATCH_TOKENS_PER_THREAD: usize = 256;

/// The file in a data directory with the fastest kernel variants of each device.
const TUNE_FILE: &str = "gpu-tune.json";

/// The kind of engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EngineChoice {
    /// A GPU where there is one, the processor otherwise; never a software adapter
    #[default]
    Auto,
    /// A GPU, or a software adapter where there is no GPU
    Gpu,
    /// The processor
    Cpu,
    /// Computes nothing, so that all that surrounds an engine can be measured
    #[value(skip)]
    Puppet,
}

/// Format in which numbers are stored and multiplied. No engine has all: see [`DeviceOptions::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EnginePrecision {
    /// Either engine: exact to rounding
    #[default]
    F32,
    /// GPU only: half the memory, logits within 0.02
    F16,
    /// CPU only: fastest, logits mostly within some hundredths
    Int8,
    /// CPU only: nearly as fast as int8, at a tenth of its error
    Int16,
}

/// How to open a device.
#[derive(Debug, Clone, Default)]
pub struct DeviceOptions {
    /// The kind of engine.
    pub choice: EngineChoice,
    /// Format in which numbers are stored and multiplied.
    pub precision: EnginePrecision,
    /// The adapter of [`EngineChoice::Gpu`]; `None` means the best.
    pub adapter: Option<AdapterSelection>,
    /// Compute threads on the processor; `None` means one for each [fast physical core](Cores::threads).
    pub threads: Option<NonZeroUsize>,
    /// Most tokens in one batch; `None` means the engine's default.
    pub max_batch_tokens: Option<usize>,
    /// File for the fastest kernel variants of a GPU; `None` means no timing.
    pub tune_file: Option<PathBuf>,
    /// Most bytes of the device's memory for models; `None` means the device's default.
    pub memory_bytes: Option<u64>,
}

/// Result of [`DeviceOptions::decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The adapter of the GPU engine; `None` means the CPU engine.
    pub adapter: Option<AdapterDescription>,
    /// The reason.
    pub reason: String,
}

/// Why no device can be opened, or why it cannot compute a model.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The engine does not have the precision.
    #[error("the {engine} engine does not compute in {precision}: it has {}", .has.join(", "))]
    Precision {
        /// The engine that was asked for.
        engine: EngineChoice,
        /// The precision that was asked for.
        precision: EnginePrecision,
        /// The precisions of that engine.
        has: Vec<&'static str>,
    },
    /// An adapter is given without the GPU engine.
    #[error("an adapter is for the GPU engine, not for {engine}: choose the engine gpu with it")]
    Adapter {
        /// The engine that was asked for.
        engine: EngineChoice,
    },
    /// The precision needs a GPU, and the automatic choice found none.
    #[error("{precision} needs the GPU engine, which was not chosen: {reason}")]
    NoGpu {
        /// The precision that was asked for.
        precision: EnginePrecision,
        /// Why the GPU engine was not chosen.
        reason: String,
    },
    /// No adapter matches.
    #[error("{0}; see `assay devices`, or choose the engine cpu")]
    NoAdapter(GpuError),
    /// The GPU engine cannot be created.
    #[error(transparent)]
    Gpu(GpuError),
    /// The fastest kernel variants cannot be saved.
    #[error(transparent)]
    TuneFile(#[from] RememberError),
    /// The CPU engine cannot be created.
    #[error(transparent)]
    Cpu(#[from] EngineError),
    /// The device's thread cannot be started.
    #[error("the device's thread cannot be started: {0}")]
    Thread(std::io::Error),
}

impl DeviceOptions {
    /// Path of the file with the fastest kernel variants in a data directory.
    #[must_use]
    pub fn tune_file(data_dir: &Path) -> PathBuf {
        data_dir.join(TUNE_FILE)
    }

    /// Whether the options are consistent. Does not look at the machine.
    ///
    /// # Errors
    /// The engine lacks the precision, or an adapter is given for an engine other than the GPU's.
    pub fn check(&self) -> Result<(), DeviceError> {
        let (engine, precision) = (self.choice, self.precision);
        let has = match engine {
            EngineChoice::Gpu if precision.gpu().is_none() => {
                [Precision::F32, Precision::F16].map(Precision::name).to_vec()
            }
            EngineChoice::Cpu if precision.cpu().is_none() => {
                cpu::PRECISIONS.iter().map(|precision| precision.name()).collect()
            }
            _ => Vec::new(),
        };
        if !has.is_empty() {
            return Err(DeviceError::Precision { engine, precision, has });
        }
        if engine != EngineChoice::Gpu && self.adapter.is_some() {
            return Err(DeviceError::Adapter { engine });
        }
        Ok(())
    }

    /// Chooses the engine for this machine, with the reason.
    ///
    /// # Errors
    /// As [`check`](Self::check), no adapter matches, or the precision needs a GPU and there is none.
    pub fn decide(&self) -> Result<Decision, DeviceError> {
        self.check()?;
        let precision = self.precision;
        match self.choice {
            EngineChoice::Cpu => Ok(Decision { adapter: None, reason: "chosen by name".to_owned() }),
            EngineChoice::Puppet => Ok(Decision { adapter: None, reason: "for measurements".to_owned() }),
            EngineChoice::Gpu => {
                let adapter = gpu::find(&self.selection()).map_err(GpuError::from)?;
                let reason = match adapter.kind {
                    AdapterKind::Software => {
                        "chosen by name: a software adapter, which computes on the processor; the CPU engine is faster"
                    }
                    _ => "chosen by name",
                };
                Ok(Decision { adapter: Some(adapter), reason: reason.to_owned() })
            }
            EngineChoice::Auto if precision.gpu().is_none() => {
                Ok(Decision { adapter: None, reason: format!("only the CPU engine computes in {precision}") })
            }
            EngineChoice::Auto => match gpu::auto() {
                gpu::AutoChoice { adapter: None, reason } if precision.cpu().is_none() => {
                    Err(DeviceError::NoGpu { precision, reason })
                }
                gpu::AutoChoice { adapter, reason } => Ok(Decision { adapter, reason }),
            },
        }
    }

    /// Times the GPU engine's kernel variants for a model of this shape, and saves the fastest in the tune file.
    ///
    /// # Errors
    /// As [`decide`](Self::decide), or the adapter fails, or the file cannot be written.
    pub fn tune(&self, architecture: &Architecture) -> Result<TuneTable, DeviceError> {
        let Decision { adapter, reason } = self.decide()?;
        let Some((adapter, precision)) = adapter.zip(self.precision.gpu()) else {
            return Err(DeviceError::NoGpu { precision: self.precision, reason });
        };
        let options = self.gpu_options(&adapter, precision);
        let device = GpuDevice::open(&self.selection())?;
        let table = gpu::tune(&device, architecture, precision, options.max_batch_tokens, None)?;
        if let Some(path) = &self.tune_file {
            gpu::remember(path, &device, architecture, precision, &table.choices)?;
        }
        Ok(table)
    }

    /// Compute threads on the processor.
    pub(super) fn processor_threads(&self) -> usize {
        self.threads.unwrap_or_else(|| Cores::detect().threads()).get()
    }

    /// Most tokens in a batch on the processor.
    pub(crate) fn processor_batch_tokens(&self) -> usize {
        BATCH_TOKENS_PER_THREAD * self.processor_threads()
    }

    pub(super) fn gpu_options(&self, adapter: &AdapterDescription, precision: Precision) -> GpuOptions {
        let software = adapter.kind == AdapterKind::Software;
        let otherwise = if software { self.processor_batch_tokens() } else { gpu::DEFAULT_MAX_BATCH_TOKENS };
        let tune = match &self.tune_file {
            None => TuneCache::Defaults,
            // Timing takes a second on a GPU but ten or more on a software adapter, so there only `assay tune` times.
            Some(path) if software => TuneCache::Remembered(path.clone()),
            Some(path) => TuneCache::File(path.clone()),
        };
        GpuOptions {
            precision,
            max_batch_tokens: self.max_batch_tokens.unwrap_or(otherwise),
            tune,
            ..GpuOptions::default()
        }
    }

    /// The adapters that may be used. `--engine gpu` uses any adapter, software ones too.
    pub(super) fn selection(&self) -> AdapterSelection {
        match (self.choice, &self.adapter) {
            (_, Some(adapter)) => adapter.clone(),
            (EngineChoice::Gpu, None) => AdapterSelection::Any,
            (EngineChoice::Auto | EngineChoice::Cpu | EngineChoice::Puppet, None) => AdapterSelection::Gpu,
        }
    }
}

impl DeviceError {
    /// Whether the GPU engine lacks a part of the model. The CPU engine may have it.
    #[must_use]
    pub fn is_lacking_on_gpu(&self) -> bool {
        matches!(self, Self::Gpu(GpuError::Unsupported(_)))
    }
}

impl From<GpuError> for DeviceError {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::Adapter(AdapterError::NotFound { .. }) => Self::NoAdapter(error),
            _ => Self::Gpu(error),
        }
    }
}

impl EnginePrecision {
    /// This precision of the GPU engine, if it has it.
    #[must_use]
    pub fn gpu(self) -> Option<Precision> {
        match self {
            Self::F32 => Some(Precision::F32),
            Self::F16 => Some(Precision::F16),
            Self::Int8 | Self::Int16 => None,
        }
    }

    /// This precision of the CPU engine, if it has it.
    #[must_use]
    pub fn cpu(self) -> Option<Precision> {
        match self {
            Self::F32 => Some(Precision::F32),
            Self::Int8 => Some(Precision::Int8),
            Self::Int16 => Some(Precision::Int16),
            Self::F16 => None,
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Puppet => "puppet",
            Self::Auto => "auto",
            Self::Gpu => "gpu",
            Self::Cpu => "cpu",
        })
    }
}

impl fmt::Display for EnginePrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(choice: EngineChoice, precision: EnginePrecision) -> DeviceOptions {
        DeviceOptions { choice, precision, ..DeviceOptions::default() }
    }

    #[test]
    fn an_unsupported_precision_is_refused_with_the_supported_ones() {
        let refused = |choice, precision| options(choice, precision).check().map_err(|error| error.to_string());
        for precision in [EnginePrecision::F32, EnginePrecision::F16] {
            assert_eq!(refused(EngineChoice::Gpu, precision), Ok(()));
        }
        for precision in [EnginePrecision::F32, EnginePrecision::Int8, EnginePrecision::Int16] {
            assert_eq!(refused(EngineChoice::Cpu, precision), Ok(()));
        }
        let no_f16 = "the cpu engine does not compute in f16: it has f32, int8, int16";
        assert_eq!(refused(EngineChoice::Cpu, EnginePrecision::F16), Err(no_f16.to_owned()));
        let no_int8 = "the gpu engine does not compute in int8: it has f32, f16";
        assert_eq!(refused(EngineChoice::Gpu, EnginePrecision::Int8), Err(no_int8.to_owned()));
    }

    #[test]
    fn an_adapter_is_refused_for_the_cpu_engine() {
        let adapter = Some(AdapterSelection::Index(0));
        let options = DeviceOptions { choice: EngineChoice::Cpu, adapter, ..DeviceOptions::default() };
        assert!(matches!(options.check(), Err(DeviceError::Adapter { .. })));
    }

    #[test]
    fn integer_precisions_choose_the_processor_on_every_machine() {
        let decision = options(EngineChoice::Auto, EnginePrecision::Int8).decide();
        assert!(decision.is_ok_and(|decision| decision.adapter.is_none() && decision.reason.contains("int8")));
    }

    #[test]
    fn the_automatic_choice_never_uses_a_software_adapter() {
        let decision = options(EngineChoice::Auto, EnginePrecision::F32).decide();
        let adapter = decision.map(|decision| decision.adapter);
        assert!(adapter.is_ok_and(|adapter| adapter.is_none_or(|adapter| adapter.kind != AdapterKind::Software)));
    }
}
