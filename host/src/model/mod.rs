//! Models: directories that are checked when they come in ([`store`]), fetched from a hub ([`hub`]) or put together
//! from a Python package ([`builtin`]), and loaded onto a device ([`loaded`]).

pub mod builtin;
pub mod hub;
mod info;
pub mod loaded;
pub mod manifest;
pub mod store;

pub use info::{ModelInfo, ModelTask};
pub use loaded::LoadedModel;
pub use manifest::{Manifest, Source};
pub use store::{ModelError, ModelStore};
