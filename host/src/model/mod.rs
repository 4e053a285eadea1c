//! Models: directories that are checked when they come in ([`store`]), fetched from a hub ([`hub`]) or put together
//! from a Python package ([`builtin`]). [`device`](crate::device) loads them.

pub mod builtin;
pub mod hub;
mod info;
pub mod manifest;
pub mod store;

pub use info::{ModelInfo, ModelTask};
pub use manifest::{Manifest, Source};
pub use store::{ModelError, ModelStore};
