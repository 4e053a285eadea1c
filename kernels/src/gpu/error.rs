//! Why the GPU engine cannot be made or cannot go on.

use crate::architecture;
use crate::engine::EngineError;

/// Why the GPU engine cannot be made or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No adapter fits the selection.
    #[error("no GPU adapter {wanted}: found {found}")]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// The adapters that there are.
        found: String,
    },
    /// The adapter lacks something that the kernels need.
    #[error("adapter {adapter} does not support {what}: {remedy}")]
    Unsupported {
        /// The adapter.
        adapter: String,
        /// What it lacks.
        what: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// The model has a part that the engine does not compute.
    #[error(transparent)]
    Part(#[from] architecture::Unsupported),
    /// The model has a shape that the kernels do not compute.
    #[error("the GPU engine does not compute a model with {what}: use the CPU engine")]
    Shape {
        /// The dimension at fault.
        what: String,
    },
    /// A buffer would be larger than the adapter can bind.
    #[error("{what} needs {bytes} bytes but the adapter takes at most {limit} in one buffer: lower the token budget")]
    TooLarge {
        /// The buffer.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The adapter's limit.
        limit: u64,
    },
    /// The device has no memory left.
    #[error("the device is out of memory: {0}; lower the token budget, or use f16")]
    OutOfMemory(String),
    /// The device was lost: reset, unplugged, or taken away by its driver.
    #[error("the device was lost: {0}")]
    Lost(String),
    /// Anything else that the driver or wgpu says.
    #[error("{0}")]
    Device(String),
}

impl From<GpuError> for EngineError {
    fn from(error: GpuError) -> Self {
        Self::Device(error.to_string())
    }
}

impl From<wgpu::Error> for GpuError {
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { source } => Self::OutOfMemory(source.to_string()),
            other => Self::Device(other.to_string()),
        }
    }
}
