//! The GPU engine: fused WGSL kernels through wgpu, on Metal, Vulkan and DX12.
//!
//! Owns the device, the pipelines and every buffer of one model. All of them are made when the model loads: serving
//! creates no pipeline, no bind group and no buffer, and no shape of batch ever causes a recompile, because sizes travel
//! as immediates. A batch is one compute pass in one submission; three may be in flight.
//!
//! - [`adapters`], [`auto`]: which devices there are, what each supports, and the one to take by itself.
//! - [`GpuEngine`]: implements [`Engine`](crate::Engine).
//! - [`TuneCache`], [`tune`]: which kernel variants are fastest on this device.
//! - [`ops`]: one kernel each, with its bindings, grid and cost by formula; [`shader`]: every variant's source.
//!
//! It never sees a software adapter as a GPU unless told to, and it never falls back silently.

pub mod adapter;
pub mod device;
pub mod engine;
pub mod error;
pub mod kernel;
pub mod layout;
pub mod model;
pub mod ops;
mod plan;
pub mod shader;
mod slots;
mod supports;
pub mod tune;

pub use adapter::{AdapterDescription, AdapterKind, AdapterSelection, AutoChoice, adapters, auto, find};
pub use device::GpuDevice;
pub use engine::{GpuEngine, GpuOptions};
pub use error::GpuError;
pub use layout::Precision;
pub use tune::{TuneCache, TuneTable, remember, tune};
