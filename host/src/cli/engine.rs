//! The options that choose and open a device, the same for every command that loads a model.

use std::num::NonZeroUsize;
use std::path::Path;

use assay_kernels::EngineError;
use assay_kernels::gpu::{AdapterSelection, GpuError};
use bytesize::ByteSize;

use super::error::CliError;
use crate::device::{DeviceError, DeviceOptions, EngineChoice, EnginePrecision};

/// Most compute threads: more than any processor has cores, and few enough that all can be started.
const MAX_THREADS: usize = 1_024;

/// Least memory for models.
const MIN_DEVICE_MEMORY_BYTES: u64 = 1 << 20;

/// The options that choose and open a device.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// What computes the model
    #[arg(long, env = "ASSAY_ENGINE", value_enum, default_value_t)]
    engine: EngineChoice,
    /// Numbers as stored and multiplied
    #[arg(long, env = "ASSAY_PRECISION", value_enum, default_value_t)]
    precision: EnginePrecision,
    /// Adapter of --engine gpu, by its number in `assay devices` or a part of its name [default: the best]
    #[arg(long, env = "ASSAY_ADAPTER", value_name = "ADAPTER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    adapter: Option<String>,
    /// Threads that compute on the processor, for all models together [default: one for each fast physical core]
    #[arg(long, env = "ASSAY_THREADS", value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Most of the device's memory that models take, such as 2GiB [default: see `assay devices`]
    #[arg(long, env = "ASSAY_DEVICE_MEMORY", value_name = "SIZE")]
    device_memory: Option<ByteSize>,
}

impl EngineArgs {
    /// The device options. Kernel choices are kept in `data_dir`.
    ///
    /// # Errors
    /// The options are inconsistent.
    pub fn options(&self, data_dir: &Path) -> Result<DeviceOptions, CliError> {
        if let Some(threads) = self.threads.filter(|threads| threads.get() > MAX_THREADS) {
            return Err(CliError::bad_input(format!("--threads is {threads}, and may be at most {MAX_THREADS}")));
        }
        if let Some(size) = self.device_memory.filter(|size| size.as_u64() < MIN_DEVICE_MEMORY_BYTES) {
            return Err(CliError::bad_input(format!("--device-memory is {size}: no model fits less than 1 MiB")));
        }
        let options = DeviceOptions {
            choice: self.engine,
            precision: self.precision,
            adapter: self.adapter.as_deref().map(adapter),
            threads: self.threads,
            max_batch_tokens: None,
            tune_file: Some(DeviceOptions::tune_file(data_dir)),
            memory_bytes: self.device_memory.map(|size| size.as_u64()),
        };
        options.check()?;
        Ok(options)
    }
}

/// An adapter by its number, or by a part of its name.
pub(super) fn adapter(text: &str) -> AdapterSelection {
    text.parse().map_or_else(|_| AdapterSelection::Name(text.to_owned()), AdapterSelection::Index)
}

impl From<EngineError> for CliError {
    fn from(error: EngineError) -> Self {
        DeviceError::from(error).into()
    }
}

impl From<GpuError> for CliError {
    fn from(error: GpuError) -> Self {
        DeviceError::from(error).into()
    }
}

impl From<DeviceError> for CliError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Precision { .. } | DeviceError::Adapter { .. } => Self::bad_input(error.to_string()),
            DeviceError::NoGpu { .. }
            | DeviceError::NoAdapter(_)
            | DeviceError::Gpu(_)
            | DeviceError::TuneFile { .. }
            | DeviceError::Cpu(_)
            | DeviceError::Thread(_) => Self::failed(error.to_string()),
        }
    }
}
