//! Tenants' components: compiled once, prepared once, instantiated afresh for every request.
//!
//! The only module that names wasmtime. [`runtime`] owns the engine, the epoch [`clock`] and the [`cache`] of compiled
//! code. [`snapshot`] runs `prepare` and keeps the memory that it leaves. [`instance`] is an instance in a store of its
//! own, with every limit set; [`pool`] has the places and the memory of all instances, divided by [`room`], and [`idle`]
//! the instances that wait. [`call`] runs one request in an instance, on [`threads`] where [`turns`] decides whose guest
//! computes; [`meter`] and [`cpu_time`] count what it costs, [`reading`] how instances start. [`inference`] is what a guest
//! may call, on the [`models`] that it may open. [`outgoing`] is what components import to call tenants, each behind a
//! [`link`]; [`chain`] makes a guest's calls. [`contract`] speaks to every guest in the version of the contract that it
//! was built for. A guest sees nothing else of the host: [`wasi`] exists for languages that need it, and grants
//! nothing; [`last_words`] keeps what a guest prints while it is tried. [`caller`] runs components that are no guests:
//! programs that call tenants.

mod bindings;
mod cache;
mod call;
mod caller;
mod chain;
mod clock;
mod component;
mod contract;
mod convert;
mod cpu_time;
mod error;
mod first_contract;
mod idle;
mod inference;
mod instance;
mod last_words;
mod link;
mod meter;
mod models;
mod outgoing;
mod pool;
mod reading;
mod room;
mod runtime;
mod snapshot;
mod threads;
mod turns;
mod wasi;

pub use call::{Call, Payer};
pub use caller::{CallerComponent, CallerFault, CallerSetting, DEFAULT_MAX_CALLER_MEMORY_BYTES};
pub use component::{MAX_COMPONENT_BYTES, read_component};
pub use error::{EngineError, GuestError};
pub use link::{CallTerms, Link, Links, Reranks};
pub use meter::{CallCost, CallMeter};
pub use models::{Models, Unlisted};
pub use pool::{HeldMemory, Membership};
pub use reading::GuestReading;
pub use runtime::{DEFAULT_MAX_INSTANCES, DEFAULT_MAX_PREPARE_CPU, Guest, GuestRuntime, RuntimeOptions};
pub use turns::CpuShare;

/// The standard guest that this program carries; `None` in a program that was built without `cargo xtask build`.
#[must_use]
pub fn standard() -> Option<&'static [u8]> {
    #[cfg(standard_guest)]
    return Some(include_bytes!(env!("ASSAY_STANDARD_GUEST")));
    #[cfg(not(standard_guest))]
    None
}
