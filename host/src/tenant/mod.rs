//! Tenants: who they are, what they have deployed, what they may use, and how changes reach requests.
//!
//! [`registry`] and [`blobs`] are what survives the process; [`compile`] makes a component ready in a process of its own;
//! [`platform`] deploys, rolls back and serves; [`concurrency`] and [`meter`] bound and count a tenant's requests;
//! [`admin`] defines the requests for changes, [`client`] and [`server`] carry them over a socket. Knows requests, guests
//! and models; never HTTP, never wasmtime.

pub mod admin;
mod blobs;
pub mod client;
pub mod compile;
mod concurrency;
mod keys;
mod limits;
mod live;
mod meter;
mod name;
mod platform;
mod registry;
#[cfg(unix)]
pub mod server;

pub use keys::{KeyHash, KeyRecord, NewKey};
pub use limits::{LimitsError, MAX_LIMITS_BYTES, TenantLimits};
pub use live::LiveTenant;
pub use meter::Usage;
pub use name::{NameError, TenantName};
pub use platform::{Platform, PlatformOptions};
pub use registry::{Action, Deployment, Event, Registry, RegistryError, TenantRecord};
