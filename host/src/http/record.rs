//! What is known of a request when it ends, for the log and the counters: its name, its path, its tenant, how it ended
//! and where its time went.
//!
//! Each request is told of once: when it is answered, or when its caller goes away. Nothing of its body, its key or the
//! path as it was sent gets here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use tracing::{error, info, warn};

use super::error::HttpError;
use crate::rerank::{GuestFault, RerankError, Response, Timings};
use crate::telemetry::logs::ACCESS;
use crate::telemetry::traces::{self, Field, Kind, Outcome, Span, Told, Tracer};
use crate::telemetry::{HttpCounts, LineLimit, RequestId, RequestLines};
use crate::tenant::LiveTenant;

/// What the log calls the status of a request whose caller went away, as nginx does.
const CALLER_GONE: u16 = 499;

/// The header that names a caller's trace.
const TRACEPARENT: HeaderName = HeaderName::from_static(traces::TRACEPARENT);

/// Where requests are told of.
#[derive(Debug)]
pub(super) struct Books {
    counts: Arc<HttpCounts>,
    no_key: LineLimit,
    /// Bounds on the lines about requests for which no tenant answers.
    others: RequestLines,
    /// Bounds the lines about faults of the host, whosever request meets them.
    faults: LineLimit,
    /// Where sampled requests' spans go.
    tracer: Option<Arc<Tracer>>,
}

impl Books {
    pub(super) fn new(counts: &Arc<HttpCounts>, tracer: Option<Arc<Tracer>>) -> Arc<Self> {
        let (no_key, others, faults) = Default::default();
        Arc::new(Self { counts: Arc::clone(counts), no_key, others, faults, tracer })
    }
}

/// A request, from its head to its answer.
#[derive(Debug)]
pub(super) struct Record {
    books: Arc<Books>,
    id: RequestId,
    began: Instant,
    method: &'static str,
    path: &'static str,
    dialect: &'static str,
    tenant: Option<Arc<LiveTenant>>,
    documents: usize,
    tokens: u64,
    rows: u64,
    timings: Timings,
    failure: Option<Failure>,
    status: Option<StatusCode>,
    /// Its span, if it is sampled.
    span: Option<Span>,
}

/// Why a request was not answered, without anything of its contents.
#[derive(Debug, Clone)]
struct Failure {
    kind: &'static str,
    limit: Option<&'static str>,
    guest: Option<GuestFault>,
    /// The tenant that the guest calls and that cannot answer.
    callee: Option<Arc<str>>,
}

impl Record {
    /// A request whose head has arrived.
    pub(super) fn new(books: &Arc<Books>, id: RequestId, method: &Method) -> Self {
        Self {
            books: Arc::clone(books),
            id,
            began: Instant::now(),
            method: known_method(method),
            path: "-",
            dialect: "-",
            tenant: None,
            documents: 0,
            tokens: 0,
            rows: 0,
            timings: Timings::default(),
            failure: None,
            status: None,
            span: None,
        }
    }

    /// The request's name.
    pub(super) fn id(&self) -> &RequestId {
        &self.id
    }

    /// Its path, as the table of routes has it.
    pub(super) fn routed(&mut self, path: &'static str) {
        self.path = path;
    }

    /// The tenant that it is for. From here on it may have a span: callers whose key is refused get none.
    pub(super) fn of_tenant(&mut self, tenant: &Arc<LiveTenant>, headers: &HeaderMap) {
        self.tenant = Some(Arc::clone(tenant));
        let Some(tracer) = &self.books.tracer else { return };
        let mut parents = headers.get_all(TRACEPARENT).iter();
        // Of several, none is known to be the right one.
        let parent = parents.next().filter(|_| parents.next().is_none());
        self.span = tracer.request(parent.map(HeaderValue::as_bytes));
    }

    /// Its span, if it is sampled.
    pub(super) fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }

    /// Its dialect, and how many documents it has.
    pub(super) fn asks(&mut self, dialect: &'static str, documents: usize) {
        (self.dialect, self.documents) = (dialect, documents);
    }

    /// The tenant's answer to it, or to one of its parts.
    pub(super) fn ranked(&mut self, response: &Response) {
        self.tokens += response.usage.tokens;
        self.rows += u64::from(response.usage.rows);
        let Timings { guest, queue, inference, total } = response.timings;
        self.timings.guest += guest;
        self.timings.queue += queue;
        self.timings.inference += inference;
        self.timings.total += total;
    }

    /// Why it is not answered.
    pub(super) fn failed(&mut self, error: &HttpError) {
        let guest = match error {
            HttpError::Rerank(RerankError::Guest(fault)) => Some(fault.clone()),
            _ => None,
        };
        let callee = match error {
            HttpError::Rerank(RerankError::Deferred { callee: Some(callee), .. }) => Some(Arc::clone(&callee.tenant)),
            HttpError::Rerank(RerankError::Late { callee: Some(tenant) }) => Some(Arc::clone(tenant)),
            _ => None,
        };
        self.failure = Some(Failure { kind: error.kind(), limit: error.limit(), guest, callee });
    }

    /// It is answered with this status.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    fn tenant(&self) -> &str {
        self.tenant.as_ref().map_or("-", |tenant| tenant.name().as_str())
    }

    /// Records the request's span, if it has one.
    fn trace(&self, status: u16) {
        let Some(span) = &self.span else { return };
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut fields = vec![
            Field::new("http.request.method", self.method),
            Field::new("http.route", self.path),
            Field::new("http.response.status_code", i64::from(status)),
            Field::new("assay.request_id", self.id.as_str().to_owned()),
            Field::new("assay.tenant", self.tenant().to_owned()),
            Field::new("assay.dialect", self.dialect),
            Field::new("assay.documents", number(self.documents as u64)),
            Field::new("assay.rows", number(self.rows)),
            Field::new("assay.tokens", number(self.tokens)),
        ];
        if let Some(tenant) = &self.tenant {
            fields.push(Field::new("assay.model", tenant.model().name.clone()));
        }
        let outcome = match &self.failure {
            Some(failure) if status >= 500 => Outcome::Failed(failure.kind),
            Some(failure) => Outcome::Refused(failure.kind),
            None if status == CALLER_GONE => Outcome::Refused("cancelled"),
            None => Outcome::Done,
        };
        let name = format!("{} {}", self.method, self.path).into();
        span.end(Told { name, kind: Kind::Server, fields, outcome, ..Told::now("", self.began) });
    }

    /// A line for a failure that somebody should look at: at most a few of a kind and tenant.
    fn tell_of(&self, failure: &Failure) {
        let (limit, now) = (failure.limit.unwrap_or("-"), Instant::now());
        let (request_id, tenant) = (&self.id, self.tenant());
        let lines = self.tenant.as_ref().map_or(&self.books.others, |tenant| tenant.lines());
        match failure.kind {
            "no-key" => {
                if let Some(unwritten) = self.books.no_key.pass(now) {
                    warn!(%request_id, path = self.path, unwritten, "a caller without a valid key was refused");
                }
            }
            "guest" => {
                let Some(unwritten) = lines.guest.pass(now) else { return };
                match &failure.guest {
                    Some(fault) => {
                        let (fault, cause) = (fault.kind(), trap(fault));
                        warn!(%request_id, tenant, fault, cause, limit, unwritten, "the guest failed");
                    }
                    None => warn!(%request_id, tenant, unwritten, "the guest has its caller try again, or gives up"),
                }
            }
            "limit" => {
                if let Some(unwritten) = lines.limit.pass(now) {
                    warn!(%request_id, tenant, limit, unwritten, "a limit was met");
                }
            }
            "callee" => {
                if let (Some(callee), Some(unwritten)) = (&failure.callee, lines.callee.pass(now)) {
                    warn!(%request_id, tenant, %callee, unwritten, "a tenant that the guest calls cannot answer");
                }
            }
            "host" | "device" => {
                if let Some(unwritten) = self.books.faults.pass(now) {
                    error!(%request_id, tenant, kind = failure.kind, unwritten, "the host failed");
                }
            }
            _ => {}
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(failure) = &self.failure {
            self.tell_of(failure);
        }
        let status = self.status.map_or(CALLER_GONE, |status| status.as_u16());
        self.books.counts.request(self.dialect, status);
        self.trace(status);
        let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 1e2;
        let Timings { guest, queue, inference, .. } = self.timings;
        info!(
            target: ACCESS,
            request_id = %self.id,
            method = self.method,
            path = self.path,
            dialect = self.dialect,
            tenant = self.tenant(),
            status,
            failure = self.failure.as_ref().map_or("-", |failure| failure.kind),
            trace_id = self.span.as_ref().map(|span| tracing::field::display(span.trace_id())),
            documents = self.documents,
            tokens = self.tokens,
            total_ms = ms(self.began.elapsed()),
            guest_ms = ms(guest),
            queue_ms = ms(queue),
            inference_ms = ms(inference),
            "request"
        );
    }
}

/// What trapped, where the words are WebAssembly's own; a guest's are not repeated.
fn trap(fault: &GuestFault) -> &str {
    match fault {
        GuestFault::Trapped(cause) => cause.strip_prefix("wasm trap: ").unwrap_or("-"),
        _ => "-",
    }
}

/// A method's name, if it is one of HTTP's own.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        _ => "-",
    }
}
