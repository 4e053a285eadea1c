//! Spans of requests and of the device's batches, for a collector that speaks OpenTelemetry's protocol (OTLP).
//!
//! - [`options`]: where spans go, and how many requests have some.
//! - [`parent`]: the trace that a caller's request belongs to, by its header `traceparent`.
//! - [`span`]: what a span is and when it is recorded.
//! - [`export`]: a thread of its own sends spans, with bounds on what waits and how long a try takes.
//!
//! A request that is not sampled has no span, allocates nothing for it and costs a look at one header. A span holds
//! names, kinds and numbers, never a text, a document, a key or a guest's words. Knows no requests, tenants or HTTP.

mod export;
mod options;
mod parent;
mod span;

pub use export::TracerError;
pub use options::{Endpoint, EndpointError, Protocol, SampleRatio, SampleRatioError, TraceOptions};
pub use span::{Field, Kind, Link, Outcome, Span, Told, Tracer};

/// The header that names a caller's trace: <https://www.w3.org/TR/trace-context/>.
pub const TRACEPARENT: &str = "traceparent";

/// Most links of a span, as OpenTelemetry's own default has it.
pub const MAX_LINKS: usize = 128;
