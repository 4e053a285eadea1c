//! The options of a server's traces.

use std::sync::Arc;

use clap::ValueEnum;
use tracing::info;

use super::error::CliError;
use crate::telemetry::traces::{Endpoint, Protocol, SampleRatio, TraceOptions, Tracer};

/// Default part of requests that are sampled: as OpenTelemetry has it, all, because whoever names a collector wants to
/// see traces.
const DEFAULT_SAMPLE: &str = "1";

#[derive(Debug, Clone, clap::Args)]
pub(super) struct TraceArgs {
    /// Send traces to this OpenTelemetry collector, such as http://127.0.0.1:4317
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    otlp_endpoint: Option<MaybeEndpoint>,
    /// Form of traces: gRPC, or protocol buffers over HTTP [default: http at port 4318, else grpc]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_name = "PROTOCOL")]
    otlp_protocol: Option<TraceProtocol>,
    /// Part of requests that have a trace, from 0 to 1. Callers that send a traceparent header decide for theirs
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "RATIO", default_value = DEFAULT_SAMPLE)]
    trace_sample: SampleRatio,
}

/// The form of traces, as the command line and OpenTelemetry's variable name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TraceProtocol {
    Grpc,
    #[value(alias = "http/protobuf")]
    Http,
}

/// A collector, or none: a variable that is set to nothing counts as one that is not set.
#[derive(Debug, Clone)]
struct MaybeEndpoint(Option<Endpoint>);

fn endpoint(text: &str) -> Result<MaybeEndpoint, String> {
    if text.is_empty() {
        return Ok(MaybeEndpoint(None));
    }
    text.parse().map(|endpoint| MaybeEndpoint(Some(endpoint))).map_err(|error| format!("{error}"))
}

impl TraceArgs {
    /// What to send, if anything.
    pub(super) fn options(&self) -> Option<TraceOptions> {
        let endpoint = self.otlp_endpoint.clone()?.0?;
        let protocol = match self.otlp_protocol {
            None => endpoint.usual_protocol(),
            Some(TraceProtocol::Grpc) => Protocol::Grpc,
            Some(TraceProtocol::Http) => Protocol::Http,
        };
        Some(TraceOptions { endpoint, protocol, sample: self.trace_sample })
    }

    /// Starts what sends traces, if they are wanted.
    pub(super) fn start(&self) -> Result<Option<Arc<Tracer>>, CliError> {
        let Some(options) = self.options() else { return Ok(None) };
        let tracer = Tracer::start(&options).map_err(|error| CliError::bad_input(format!("traces: {error}")))?;
        info!(endpoint = %options.endpoint, sample = options.sample.get(), "traces are sent");
        Ok(Some(tracer))
    }
}
