//! Telemetry's tools: what a server writes to its log, and the forms in which it counts.
//!
//! - [`logs`]: where lines go, in which form, and which are left out. The only module that names the subscriber.
//! - [`line_limit`]: bounds how many lines of one kind are written.
//! - [`traces`]: spans of requests and batches, sent to a collector. The only module that names OpenTelemetry.
//! - [`request_id`]: the name of a request in lines and answers.
//! - [`histogram`]: values by bucket; [`http_counts`]: what happens on the ports; [`process`]: what the system says of
//!   the process.
//!
//! A line never holds a text, a document or a key: it names kinds, limits, tenants and numbers. Knows no requests,
//! tenants or HTTP.

pub mod histogram;
mod http_counts;
mod line_limit;
pub mod logs;
mod process;
mod request_id;
pub mod traces;

pub use histogram::Histogram;
pub use http_counts::{Happening, HttpCounts, HttpReading};
pub use line_limit::{LineLimit, RequestLines};
pub use process::{Process, ProcessReading};
pub use request_id::RequestId;
