//! The native host: owns the device, and runs tenants' guests in sandboxes. It hands text to guests and leaves
//! tokenization to them.
//!
//! A request goes one way: [`tenant`] admits it, [`guest`] runs the tenant's component, the component calls back for
//! [`inference`](guest), the [`device`] packs rows into batches, and an engine of `assay_kernels` computes them.
//! Dependencies point the same way and no other.
//!
//! - [`rerank`]: the words of a request and its answer, and every way in which it can fail.
//! - [`limits`]: every bound on a request, with its default and the reason for it.
//! - [`model`]: models on disk: adding, checking, listing, pulling.
//! - [`guest`]: components: compiling, caching, and calling them in a store of their own. The only module that names
//!   wasmtime.
//! - [`device`]: what computes: loaded models, and rows of many requests in turns.
//! - [`tenant`]: who may ask for what: deployments, limits, keys, and the registry that keeps them.
//! - [`http`]: requests over HTTP. The only module that knows it.
//! - [`json`]: requests as JSON, as files and HTTP have them.
//! - [`oracle`]: what must hold for any bytes from outside, for fuzzing.
//! - [`machine`]: facts about this machine, for reports.
//! - [`sweep`]: what a clean-up of the data directory removed.
//! - [`dashboard`]: the counters as people read them, over the last hour.
//! - [`metrics`]: the counters in Prometheus' format.
//! - [`telemetry`]: the log, and the forms in which things are counted.
//! - [`cli`]: the command line.
//!
//! A program of one's own embeds all of it with [`Assay`]. These pages show that and what it names. The other modules are
//! public for this project's own programs, tests and measurements, and change as they need.

#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod dashboard;
pub mod device;
mod durable;
mod embed;
#[doc(hidden)]
pub mod guest;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod json;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod machine;
#[doc(hidden)]
pub mod metrics;
pub mod model;
mod oci;
#[doc(hidden)]
pub mod oracle;
mod quiet;
mod redirect;
pub mod rerank;
#[doc(hidden)]
pub mod sweep;
#[doc(hidden)]
pub mod telemetry;
pub mod tenant;

pub use embed::{AskError, Assay, Builder, Tenant, compile_if_asked};
