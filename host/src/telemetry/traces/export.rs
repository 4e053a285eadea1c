//! Sends spans to the collector, from a thread of its own.
//!
//! The SDK's processor keeps a bounded queue, which a request never waits for: a span that finds it full is lost. Each
//! try to send has a time. What goes wrong is told in the log, now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{RetryPolicy, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter};
use tracing::warn;
use ureq::Agent;

use super::options::{Protocol, TraceOptions};
use crate::telemetry::LineLimit;

/// Most spans that wait: some megabytes, and a second of some hundred requests a second.
const MAX_QUEUED_SPANS: usize = 4_096;

/// Spans sent at once.
const MAX_BATCH_SPANS: usize = 512;

/// The longest that spans wait before they are sent.
const DELAY: Duration = Duration::from_secs(2);

/// Most time of a try with its retries, as OpenTelemetry's own default has it.
const EXPORT_TIME: Duration = Duration::from_secs(10);

/// Most of a collector's answer that is read.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Most characters of an error in the log.
const MAX_ERROR_CHARS: usize = 200;

/// Spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The system gives no threads or sockets.
    #[error("the sender of traces cannot be started: {0}")]
    System(#[from] std::io::Error),
    /// The exporter does not take its settings.
    #[error("traces cannot be sent with these settings: {0}")]
    Settings(String),
}

/// Spans that were given to the exporter's queue, and that left it.
#[derive(Debug, Default)]
pub(super) struct Sent {
    given: AtomicU64,
    taken: AtomicU64,
    lost: AtomicU64,
}

impl Sent {
    /// A span is put into the queue, or lost.
    pub(super) fn given(&self) {
        self.given.fetch_add(1, Ordering::Relaxed);
    }

    /// So many left the queue. Gives how many more were lost than is known yet, because they did not fit in it.
    fn taken(&self, spans: usize) -> u64 {
        let taken = self.taken.fetch_add(spans as u64, Ordering::Relaxed) + spans as u64;
        let (lost, fits) = (self.lost.load(Ordering::Relaxed), MAX_QUEUED_SPANS as u64);
        let more = self.given.load(Ordering::Relaxed).saturating_sub(taken + lost + fits);
        self.lost.store(lost + more, Ordering::Relaxed);
        more
    }
}

/// Starts the thread. Beyond the options it takes OpenTelemetry's variables for headers, the service's name and its
/// resource.
pub(super) fn start(options: &TraceOptions, sent: &Arc<Sent>) -> Result<BatchSpanProcessor, TracerError> {
    let mut exporter = Exporter::new(options, sent)?;
    let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some()
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|attributes| attributes.contains("service.name="));
    let resource = Resource::builder();
    let resource = if is_named { resource } else { resource.with_service_name("assay") }.build();
    exporter.set_resource(&resource);
    let bounds = BatchConfigBuilder::default()
        .with_max_queue_size(MAX_QUEUED_SPANS)
        .with_max_export_batch_size(MAX_BATCH_SPANS)
        .with_scheduled_delay(DELAY)
        .build();
    Ok(BatchSpanProcessor::builder(exporter).with_batch_config(bounds).build())
}

/// Sends batches of spans, one after the other.
#[derive(Debug)]
struct Exporter {
    sender: opentelemetry_otlp::SpanExporter,
    /// Of this exporter alone, so that sending takes no turn of the connections' threads.
    runtime: tokio::runtime::Runtime,
    sent: Arc<Sent>,
    endpoint: String,
    failures: LineLimit,
    losses: LineLimit,
}

impl Exporter {
    fn new(TraceOptions { endpoint, protocol, .. }: &TraceOptions, sent: &Arc<Sent>) -> Result<Self, TracerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let url = endpoint.url(*protocol);
        let retries = RetryPolicy::recommended();
        let builder = opentelemetry_otlp::SpanExporter::builder();
        let sender = {
            // A channel of gRPC belongs to the runtime that it is made in.
            let _entered = runtime.enter();
            match protocol {
                Protocol::Grpc => {
                    let builder = builder.with_tonic().with_retry_policy(retries);
                    builder.with_endpoint(url).with_timeout(EXPORT_TIME).build()
                }
                Protocol::Http => {
                    let builder = builder.with_http().with_retry_policy(retries).with_http_client(Client::new());
                    let builder = builder.with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
                    builder.with_endpoint(url).with_timeout(EXPORT_TIME).build()
                }
            }
        };
        let sender = sender.map_err(|error| TracerError::Settings(error.to_string()))?;
        let (failures, losses) = Default::default();
        Ok(Self { sender, runtime, sent: Arc::clone(sent), endpoint: endpoint.to_string(), failures, losses })
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let count = spans.len();
        let lost = self.sent.taken(count);
        if lost > 0
            && let Some(unwritten) = self.losses.pass(Instant::now())
        {
            warn!(lost, unwritten, "spans were lost: they come faster than the collector takes them");
        }
        // The processor calls this on its own thread and waits for it, outside of any runtime.
        let timed = async { tokio::time::timeout(EXPORT_TIME, self.sender.export(spans)).await };
        let result = self.runtime.block_on(timed).unwrap_or(Err(OTelSdkError::Timeout(EXPORT_TIME)));
        if let Err(error) = &result
            && let Some(unwritten) = self.failures.pass(Instant::now())
        {
            let reason: String = error.to_string().chars().take(MAX_ERROR_CHARS).collect();
            warn!(endpoint = %self.endpoint, reason, spans = count, unwritten, "traces cannot be sent: spans are lost");
        }
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.sender.set_resource(resource);
    }
}

/// Posts spans with the client that also fetches models: it blocks, as the exporter's thread may.
#[derive(Debug)]
struct Client(Agent);

impl Client {
    fn new() -> Self {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(EXPORT_TIME));
        Self(config.max_redirects(0).build().into())
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (head, body) = self.0.run(Request::from_parts(head, &body[..]))?.into_parts();
        let body = body.into_with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}

impl HttpClient for Client {
    fn send_bytes<'me, 'answer>(
        &'me self,
        request: Request<Bytes>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'answer>>
    where
        'me: 'answer,
        Self: 'answer,
    {
        let answer = self.send(request);
        Box::pin(std::future::ready(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_beyond_the_queue_are_counted_as_lost_once() {
        let sent = Sent::default();
        let beyond = 7;
        (0..MAX_QUEUED_SPANS as u64 + 512 + beyond).for_each(|_| sent.given());
        assert_eq!(sent.taken(512), beyond);
        assert_eq!(sent.taken(512), 0);
        assert_eq!(sent.taken(MAX_QUEUED_SPANS - 512), 0);
    }
}
