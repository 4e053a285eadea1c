//! Tenants' components: compiled once, instantiated afresh for every request.
//!
//! The only module that names wasmtime. [`runtime`] owns the engine, the epoch clock and the cache of compiled code;
//! [`call`] runs one request in a store of its own, under memory, processor and wall-clock limits; [`inference`] is
//! what a guest may call. A guest sees nothing else of the host: no files, no clock, no randomness, no network.

mod bindings;
mod cache;
mod call;
mod convert;
mod inference;
mod runtime;

pub use runtime::{DEFAULT_MAX_INSTANCES, Guest, GuestError, GuestRuntime, MAX_COMPONENT_BYTES, RuntimeOptions};

/// The standard guest that this program carries; `None` in a program that was built without `cargo xtask build`.
#[must_use]
pub fn standard() -> Option<&'static [u8]> {
    #[cfg(standard_guest)]
    return Some(include_bytes!(env!("ASSAY_STANDARD_GUEST")));
    #[cfg(not(standard_guest))]
    None
}
