//! Computes packed batches of encoder models: cross-encoders and embedders.
//!
//! Owns everything between token ids and numbers: the packed batch, the model as a value and its weights, the
//! checkpoint reader, the float64 [`mod@reference`] that every engine is tested against, and the [engines](Engine). Knows
//! nothing of text, WebAssembly, tenants or HTTP.
//!
//! - [`PackedBatch`], [`CheckedBatch`]: rows end to end, without padding.
//! - [`Architecture`], [`Weights`]: the model; [`checkpoint`] reads both from a Hugging Face directory by the rules of
//!   its [family](families).
//! - [`mod@reference`]: the forward pass in float64, slow and plain.
//! - [`Engine`]: the contract of an engine; [`cpu`] and [`gpu`] have one each.

pub mod architecture;
pub mod batch;
pub mod checkpoint;
pub mod cpu;
pub mod engine;
pub mod families;
pub mod flops;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod reference;
pub mod weights;

pub use architecture::{Activation, Architecture, RowShape, Task, TokenTypes, Unsupported};
pub use batch::{BatchError, CheckedBatch, PackedBatch, Row};
pub use cpu::{CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions, InstructionSet};
pub use engine::{BatchReport, DeviceMemory, Engine, EngineError, EngineInfo, Precision, Ticket};
pub use families::ConfigError;
pub use weights::{Model, ReadModel, Weights};
