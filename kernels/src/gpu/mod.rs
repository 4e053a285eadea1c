//! The GPU engine: fused WGSL kernels through wgpu, on Metal, Vulkan and DX12.
//!
//! A [`GpuDevice`] is shared by all models on it; a [`GpuEngine`] is one of them. Pipelines, bind groups and buffers
//! are made when a model loads: serving creates no pipeline and no buffer, and no shape of batch ever causes a
//! recompile, because sizes travel as immediates. A batch is one compute pass in one submission; three of a model may
//! be in flight.
//!
//! ```text
//! adapter ◀─ opened ◀─ arena ◀─ device ◀─┐
//! layout, unroll ◀─ shader ◀─ op ◀─ ops ◀─ choices ◀─ pass ◀─ bound ◀─ engine
//!                                           └─ judge ◀─ sample ◀─ tune ◀───┘
//! origin, columns, uploaded, host_words, freed: weights of one model, where they come from and how they are packed
//! scratch, slots: its batches on the way and in flight
//! ```
//!
//! - [`adapters`], [`auto`]: the machine's adapters, what each supports, and the default one.
//! - [`GpuEngine`]: implements [`Engine`](crate::Engine).
//! - [`TuneCache`], [`tune`](fn@tune): the fastest kernel variants on this device.
//! - [`ceilings`]: what the device does at best.
//! - [`shader`]: the table of shaders; [`ops`]: one kernel each, with its buffers, grid and cost by formula.
//! - [`pass`]: the forward pass as a value, readable without a device.
//! - [`predicted`]: how much of the peak a compiler's instructions allow.
//!
//! The engine never uses a software adapter unless asked to, and never falls back silently.

pub mod adapter;
mod arena;
mod bound;
pub mod ceilings;
pub mod choices;
mod columns;
pub mod device;
#[cfg(feature = "drills")]
mod drills;
pub mod engine;
pub mod error;
mod facts;
mod freed;
mod host_words;
mod judge;
pub mod layout;
pub mod op;
pub mod opened;
pub mod ops;
mod origin;
pub mod pass;
pub mod predicted;
mod probe;
mod sample;
mod sample_numbers;
mod scratch;
pub mod shader;
mod slots;
pub mod step;
pub mod timing;
pub mod tune;
mod unroll;
mod uploaded;

pub use adapter::{
    AdapterDescription, AdapterError, AdapterKind, AdapterSelection, AutoChoice, KernelFamily, adapters, auto, find,
};
pub use ceilings::{Ceilings, ReadRate, ceiling};
pub use device::GpuDevice;
pub use engine::{DEFAULT_MAX_BATCH_TOKENS, GpuEngine, GpuOptions};
pub use error::GpuError;
pub use facts::{AdapterFacts, facts};
pub use tune::{RememberError, TuneCache, TuneTable, remember, tune};
