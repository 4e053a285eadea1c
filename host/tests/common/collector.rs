//! A collector of traces that speaks OTLP, with the protocol's own types, and keeps what it gets.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test may panic")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tonic::codegen::Service;

/// A collector on a port of its own.
pub struct Collector {
    pub address: SocketAddr,
    kept: Kept,
    // Ends the collector.
    _runtime: Runtime,
}

/// What came.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Batch>>>);

struct Batch {
    spans: ExportTraceServiceRequest,
    /// Names and values of headers.
    head: String,
}

impl Kept {
    fn keep(&self, spans: ExportTraceServiceRequest, head: String) {
        self.0.lock().unwrap().push(Batch { spans, head });
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let head = format!("{:?}", request.metadata());
        self.keep(request.into_inner(), head);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Speaks gRPC.
    pub fn grpc() -> Self {
        let kept = Kept::default();
        let service = TraceServiceServer::new(kept.clone());
        Self::start(kept, move |stream| {
            let service = service.clone();
            async move {
                let answer = service_fn(move |request: Request<Incoming>| service.clone().call(request));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // The exporter goes away when it likes.
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            }
        })
    }

    /// Speaks protocol buffers over HTTP.
    pub fn http() -> Self {
        let kept = Kept::default();
        let keep = kept.clone();
        Self::start(kept, move |stream| {
            let keep = keep.clone();
            async move {
                let answer = service_fn(move |request| answer(keep.clone(), request));
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            }
        })
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        kept: Kept,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { address, kept, _runtime: runtime }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let kept = self.kept.0.lock().unwrap();
        let resources = kept.iter().flat_map(|batch| batch.spans.resource_spans.clone());
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// Everything so far as text: heads, resources, and every field of every span.
    pub fn everything(&self) -> String {
        let kept = self.kept.0.lock().unwrap();
        kept.iter().map(|batch| format!("{}\n{:?}\n", batch.head, batch.spans)).collect()
    }
}

/// Takes spans that were posted.
async fn answer(kept: Kept, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    assert_eq!(request.uri().path(), "/v1/traces");
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let head = format!("{:?}", request.headers());
    let body = request.into_body().collect().await?.to_bytes();
    kept.keep(ExportTraceServiceRequest::decode(body).unwrap(), head);
    Ok(Response::new(ExportTraceServiceResponse::default().encode_to_vec().into()))
}

/// The value of an attribute, as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        any_value::Value::StringValue(text) => Some(text),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        any_value::Value::DoubleValue(number) => Some(number.to_string()),
        other => Some(format!("{:?}", AnyValue { value: Some(other) })),
    }
}

/// An id, as headers write it.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
