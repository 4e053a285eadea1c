//! Computes packed batches of a BERT cross-encoder.
//!
//! Owns everything between token ids and numbers: the packed batch, the model's shape and weights, reading them from
//! a checkpoint, the float64 [`reference`] that every engine is held to, and the [engines](Engine) themselves. It knows
//! nothing of text, WebAssembly, tenants or HTTP.
//!
//! - [`PackedBatch`]: rows end to end, never padded.
//! - [`BertConfig`], [`BertWeights`]: the model; [`checkpoint`] reads both from a Hugging Face directory.
//! - [`reference`]: the same forward pass in float64, slow and plain.
//! - [`Engine`]: the contract of what computes a batch on one device; [`cpu`] has the first.

pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod engine;
pub mod flops;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod reference;
pub mod weights;

pub use batch::{BatchError, PackedBatch, Row};
pub use config::{BertConfig, Task};
pub use cpu::{CpuEngine, CpuOptions, InstructionSet, Precision};
pub use engine::{BatchReport, DeviceMemory, Engine, EngineError, EngineInfo, Ticket};
pub use weights::BertWeights;
