//! Telemetry's tools: what a server writes to its log, and the forms in which it counts.
//!
//! - [`logs`]: where lines go, in which form, and which are left out. The only module that names the subscriber.
//! - [`line_limit`]: bounds how many lines of one kind are written.
//! - [`request_id`]: the name of a request in lines and answers.
//!
//! A line never holds a text, a document or a key: it names kinds, limits, tenants and numbers. Knows no requests,
//! tenants or HTTP.

mod line_limit;
pub mod logs;
mod request_id;

pub use line_limit::LineLimit;
pub use request_id::RequestId;
