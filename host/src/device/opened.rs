//! What the processor, a GPU and the puppet have in common once they are opened.

use std::fmt::Debug;

use assay_kernels::{Architecture, DeviceMemory, Engine, Model, ReadModel};

use super::choose::DeviceError;

/// The part that all models share. A trait object, so that the compiler need not inspect wgpu's types to see that a
/// future that holds a device is `Send`.
pub(super) trait Opened: Debug + Send + Sync {
    /// The engine's name.
    fn name(&self) -> &'static str;

    /// The device's description of itself.
    fn description(&self) -> String;

    /// Compute threads; 0 if the processor only waits.
    fn threads(&self) -> usize;

    /// Memory that a model will take, computed without reading its weights.
    fn memory_needed(&self, architecture: &Architecture) -> Result<DeviceMemory, DeviceError>;

    /// Makes an engine for a model. One that may have to load it again does so with `read`.
    fn engine(&self, model: Model, read: ReadModel) -> Result<Box<dyn Engine>, DeviceError>;
}
