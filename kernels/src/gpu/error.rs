//! Why the GPU engine cannot be made or cannot go on.

use std::sync::Arc;

use super::adapter::AdapterError;
use crate::architecture::Unsupported;
use crate::engine::{EngineError, Precision};

/// Why the GPU engine cannot be made or cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GpuError {
    /// No adapter can be used.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The driver cannot open the adapter.
    #[error("adapter {adapter} cannot be opened: {source}")]
    Open {
        /// The adapter.
        adapter: String,
        /// The driver's answer.
        source: Arc<wgpu::RequestDeviceError>,
    },
    /// The model has a part that the kernels do not compute.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The kernels do not store numbers in this precision.
    #[error("the gpu engine does not compute in {}: it has f32, f16", .0.name())]
    Precision(Precision),
    /// The token budget exceeds what one dispatch takes.
    #[error(
        "batches of {tokens} tokens are longer than this model's kernels take: lower the token budget or the model's \
         longest row to at most {limit}"
    )]
    BatchTooLong {
        /// The token budget, or the model's longest row if that is more.
        tokens: usize,
        /// Most tokens that a dispatch takes.
        limit: usize,
    },
    /// A buffer would be larger than the adapter can bind.
    #[error("{what} needs {bytes} bytes but the adapter takes at most {limit} in one buffer: {remedy}")]
    TooLarge {
        /// The buffer.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The adapter's limit.
        limit: u64,
        /// How to make it smaller.
        remedy: &'static str,
    },
    /// The device has no memory left.
    #[error("the device is out of memory; lower the token budget, or use f16")]
    OutOfMemory(#[source] Option<Arc<wgpu::Error>>),
    /// The device was lost: reset, unplugged, or taken away by its driver.
    #[error("the device was lost: {0}")]
    Lost(Loss),
    /// The driver refuses a kernel.
    #[error("kernel {kernel}: {source}")]
    Kernel {
        /// The kernel's name.
        kernel: String,
        /// What is wrong.
        source: Box<GpuError>,
    },
    /// Tuning found no variant of a kernel that computes right numbers.
    #[error(
        "every variant of kernel {kernel} computes wrong numbers on this device, off by {error:.1e} of the largest or \
         more where {tolerance:.0e} is allowed: use the CPU engine, and report the device and its driver"
    )]
    WrongNumbers {
        /// The kernel.
        kernel: &'static str,
        /// The smallest error of any variant.
        error: f64,
        /// The largest that counts as right.
        tolerance: f64,
    },
    /// A buffer cannot be written or read by the processor.
    #[error("buffer {buffer} cannot be mapped: {source}")]
    Map {
        /// The buffer.
        buffer: &'static str,
        /// wgpu's reason.
        source: wgpu::MapRangeError,
    },
    /// The model cannot be loaded again after a fault.
    #[error("the model cannot be read again after a fault: {0}")]
    ReadAgain(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// Anything else that the driver or wgpu reports.
    #[error("{0}")]
    Driver(Arc<wgpu::Error>),
}

/// How the loss of a device was noticed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Loss {
    /// The driver reported it.
    #[error("{message} ({reason:?})")]
    Reported {
        /// wgpu's reason.
        reason: wgpu::DeviceLostReason,
        /// The driver's words.
        message: String,
    },
    /// Waiting for its work failed.
    #[error("{0}")]
    Wait(Arc<wgpu::PollError>),
    /// An output buffer could not be mapped.
    #[error("a buffer could not be mapped")]
    Unmapped,
    /// The batch was in flight when another fault ended the device.
    #[error("with this batch")]
    WithBatch,
}

impl GpuError {
    /// Whether an adapter that fails to take a model with this error is of no more use to any other.
    pub(super) fn ends_opening(&self) -> bool {
        match self {
            Self::Lost(_) | Self::Map { .. } | Self::Driver(_) => true,
            Self::Kernel { source, .. } => source.ends_opening(),
            Self::Adapter(_)
            | Self::Open { .. }
            | Self::Unsupported(_)
            | Self::Precision(_)
            | Self::BatchTooLong { .. }
            | Self::TooLarge { .. }
            | Self::ReadAgain(_)
            | Self::WrongNumbers { .. }
            | Self::OutOfMemory(_) => false,
        }
    }
}

impl From<Loss> for GpuError {
    fn from(loss: Loss) -> Self {
        Self::Lost(loss)
    }
}

impl From<wgpu::PollError> for GpuError {
    fn from(error: wgpu::PollError) -> Self {
        Self::Lost(Loss::Wait(Arc::new(error)))
    }
}

impl From<wgpu::Error> for GpuError {
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { .. } => Self::OutOfMemory(Some(Arc::new(error))),
            other => Self::Driver(Arc::new(other)),
        }
    }
}

impl From<GpuError> for EngineError {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::Unsupported(part) => Self::Unsupported(part),
            GpuError::Precision(precision) => {
                Self::Precision { engine: "gpu", precision, supported: &[Precision::F32, Precision::F16] }
            }
            other => Self::Device(other.to_string()),
        }
    }
}
