//! Tenants' components: compiled once, prepared once, instantiated afresh for every request.
//!
//! The only module that names wasmtime. [`runtime`] owns the engine, the epoch clock and the [`cache`] of compiled code;
//! [`snapshot`] runs `prepare` and keeps what it left; [`instance`] is an instance in a store of its own, with every limit
//! set; [`call`] runs one request in one; [`inference`] is what a guest may call. A guest sees nothing else of the host:
//! [`wasi`] is there for languages that cannot do without it, and grants nothing.

mod bindings;
mod cache;
mod call;
mod convert;
mod inference;
mod instance;
mod runtime;
mod snapshot;
mod wasi;

pub use call::{Call, CallCost};
pub use inference::{Models, Unlisted};
pub use runtime::{
    DEFAULT_MAX_INSTANCES, DEFAULT_MAX_PREPARE_CPU, Guest, GuestError, GuestRuntime, MAX_COMPONENT_BYTES,
    RuntimeOptions, read_component,
};

/// The standard guest that this program carries; `None` in a program that was built without `cargo xtask build`.
#[must_use]
pub fn standard() -> Option<&'static [u8]> {
    #[cfg(standard_guest)]
    return Some(include_bytes!(env!("ASSAY_STANDARD_GUEST")));
    #[cfg(not(standard_guest))]
    None
}
