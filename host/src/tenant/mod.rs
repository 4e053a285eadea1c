//! Tenants: their names, deployments and limits, and how changes take effect.
//!
//! [`registry`], with its [`records`], and [`blobs`] persist tenants. [`platform`] looks tenants up and carries out
//! changes: [`serving`] has the tables that requests look up, [`deploy`] puts versions into service, [`garbage`]
//! removes what no version needs and no change in progress has pinned ([`pins`]), [`describe`] answers questions.
//! [`links`] checks links between tenants, which make a [`link_graph`], and carries calls through them. [`compile`]
//! compiles a component in a separate process. [`concurrency`] and [`meter`] bound and count a tenant's requests,
//! [`snapshot`] reads all counters into a [`reading`], [`operator_key`] opens them over HTTP. [`admin`] defines the
//! requests for changes; [`client`] and [`server`] carry them over a socket, and [`calls`] the calls of programs.
//! Knows requests, guests and models; never HTTP, never wasmtime.

pub mod admin;
mod blobs;
#[cfg(unix)]
mod calls;
pub mod client;
pub mod compile;
mod compiles;
mod concurrency;
mod deploy;
mod describe;
mod garbage;
mod keys;
mod limits;
mod link_graph;
mod links;
mod live;
mod meter;
mod name;
mod operator_key;
mod pins;
mod platform;
mod reading;
mod records;
mod registry;
#[cfg(unix)]
pub mod server;
mod serving;
mod snapshot;

#[cfg(unix)]
pub use calls::{CallsInWork, ServedTenant};
pub use compiles::CompileReading;
pub use garbage::DEFAULT_KEEP_VERSIONS;
pub use keys::{KeyHash, KeyRecord, NewKey, NewKeyError};
pub use limits::{LimitsError, MAX_LIMITS_BYTES, TenantLimits};
pub use live::{Admission, LiveTenant};
pub use meter::{DEFAULT_MAX_NAMED_TENANTS, RequestCounts, Stages, Usage};
pub use name::{NameError, TenantName};
pub use platform::{Platform, PlatformOptions, held_models_in};
pub use reading::{Snapshot, TenantReading};
pub use records::{Action, Deployment, Event, TenantLink, TenantRecord};
pub use registry::{Registry, RegistryError};
pub use serving::{Activity, Caller, Counts, KeylessLoad, START_RETRY_AFTER};
