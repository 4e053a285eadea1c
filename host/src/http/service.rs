//! A request's path: the tenant from the head, its permit, the body within its bounds, and its answer in the caller's
//! dialect, which [`asking`](super::asking) gets from the tenant.
//!
//! Nothing of a body is read before its sender is known and may have another request in work. A caller who goes away
//! drops the future, which takes the request's rows out of the queue.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::answer::{self, Afterwards, Answer};
use super::asking::{ask, decode};
use super::body;
use super::connections::Connection;
use super::cors::Cors;
use super::dashboard::{self, Streams};
use super::deadlines::Deadlines;
use super::dialect::{Choice, Dialect, Vllm};
use super::error::HttpError;
use super::facts;
use super::fields::quoted;
use super::openapi;
use super::page;
use super::record::{Books, Record};
use super::routes::{self, Endpoint};
use super::{Keyless, ServeOptions};
use crate::limits::TokenRate;
use crate::metrics;
use crate::telemetry::RequestId;
use crate::tenant::{Activity, Caller, Counts, LiveTenant, Platform};

/// The name of a request, taken from it if it is well-formed, and in every answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long a request waits for its tenant to start.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Requests a second that are told without delay that their key is unknown, so that guessing keys keeps no thread busy.
const REFUSED_KEYS_PER_S: u64 = 100;

/// The longest that such an answer waits.
const MAX_REFUSED_WAIT: Duration = Duration::from_secs(1);

/// Room in a body for what is not text: names of fields, commas, quotes.
const BODY_OVERHEAD_BYTES: usize = 64 << 10;

/// What answers requests, shared by all connections.
#[derive(Debug)]
pub(super) struct Service {
    platform: Arc<Platform>,
    keyless: Option<Keyless>,
    deadlines: Deadlines,
    cors: Cors,
    /// Whether its port speaks TLS.
    is_secure: bool,
    /// Requests whose key was refused.
    refused_keys: TokenRate,
    draining: AtomicBool,
    books: Arc<Books>,
    pub(super) streams: Streams,
}

/// A service for one connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionService {
    pub(super) service: Arc<Service>,
    pub(super) connection: Arc<Connection>,
    pub(super) door: Door,
}

/// Which port a connection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// The one for callers.
    Callers,
    /// The one for metrics, whose callers need no key and get nothing else.
    Metrics,
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<Answer>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (service, connection, door) = (Arc::clone(&self.service), Arc::clone(&self.connection), self.door);
        let in_request = connection.request();
        Box::pin(async move {
            // Requests that arrived together are answered in turns with those of other connections.
            tokio::task::consume_budget().await;
            let origin = service.cors.origin(request.headers());
            let id = RequestId::of(request.headers().get(&REQUEST_ID).map(HeaderValue::as_bytes));
            let mut record = Record::new(&service.books, id, request.method());
            let mut response = match door {
                Door::Callers => service.answer(request, &mut record).await,
                Door::Metrics => service.answer_scraper(&request, &mut record).await,
            };
            service.cors.mark(origin, &mut response);
            // A well-formed name is always a header's value.
            if let Ok(id) = HeaderValue::from_str(record.id().as_str()) {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            record.answered(response.status());
            if response.status() == StatusCode::UNAUTHORIZED {
                connection.stands_by();
                tokio::time::sleep(service.refused_keys.pace(1, std::time::Instant::now()).min(MAX_REFUSED_WAIT)).await;
            }
            if service.draining.load(Ordering::Relaxed) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response.body_mut().leaving(service.deadlines.answer, in_request);
            Ok(response)
        })
    }
}

impl Service {
    pub(super) fn new(platform: Arc<Platform>, options: ServeOptions, is_secure: bool) -> Self {
        let ServeOptions { deadlines, keyless, cors, tracer, .. } = options;
        let refused_keys = TokenRate::new(REFUSED_KEYS_PER_S, REFUSED_KEYS_PER_S, std::time::Instant::now());
        let (books, streams) = (Books::new(platform.http_counts(), tracer), Streams::new(&platform));
        Self {
            platform,
            keyless,
            deadlines,
            cors,
            is_secure,
            refused_keys,
            draining: AtomicBool::new(false),
            books,
            streams,
        }
    }

    /// Takes the dashboard's samples until the future is dropped.
    pub(super) async fn sample(&self) {
        self.streams.dashboard.run(&self.platform).await;
    }

    /// Refuses every request from now on.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.streams.end();
    }

    async fn answer(&self, request: Request<Incoming>, record: &mut Record) -> Response<Answer> {
        let (head, body) = request.into_parts();
        let (method, headers) = (&head.method, &head.headers);
        if let Some(answer) = self.cors.preflight(method, headers) {
            return answer;
        }
        let found = routes::find(method, head.uri.path());
        if let Ok((path, _)) = found {
            record.routed(path);
        }
        let answered = match found.map(|(_, endpoint)| endpoint) {
            Ok(Endpoint::Health) => Ok(answer::json(StatusCode::OK, br#"{"status":"ok"}"#.to_vec())),
            Ok(Endpoint::Index) => Ok(answer::json(StatusCode::OK, facts::index())),
            Ok(Endpoint::OpenApi) => Ok(answer::json(StatusCode::OK, openapi::bytes())),
            Err(error) => Err(error),
            Ok(Endpoint::Ready) => Ok(self.ready()),
            Ok(Endpoint::Metrics) => match self.is_operator(headers) {
                true => self.metrics().await,
                false => Err(HttpError::NotOperator),
            },
            Ok(Endpoint::Docs) => Ok(answer::html(page::page(&self.origin(headers)), page::POLICY)),
            Ok(Endpoint::Dashboard) => Ok(dashboard::page()),
            _ if self.draining.load(Ordering::Relaxed) => Err(HttpError::Draining),
            Ok(Endpoint::DashboardEvents) if method == Method::HEAD => {
                let (path, method) = ("/dashboard/events", quoted(method.as_str()));
                Err(HttpError::Method { path, method, allowed: "GET" })
            }
            Ok(Endpoint::DashboardEvents) => self.streams.open(key(headers)),
            // Its clients are OpenAI's, which want an error as an object; vLLM's is theirs.
            Ok(Endpoint::Models) => match self.tenant(headers) {
                Ok(called) => Ok(answer::json(StatusCode::OK, facts::models(&called.tenant))),
                Err(error) => return fail(record, &error, Some(&Vllm), Afterwards::Stays),
            },
            Ok(Endpoint::Info) => self.tenant(headers).map(|it| answer::json(StatusCode::OK, facts::info(&it.tenant))),
            Ok(Endpoint::Rank(choice)) => return self.score(headers, body, choice, record).await,
            Ok(Endpoint::Score(dialect)) => {
                return self.score(headers, body, Choice::Named(dialect), record).await;
            }
        };
        match answered {
            Ok(mut response) if method == Method::HEAD => {
                let length = std::mem::replace(response.body_mut(), Answer::new(Vec::new())).len();
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
                response
            }
            Ok(response) => response,
            Err(error) => fail(record, &error, None, Afterwards::Stays),
        }
    }

    /// Answers at the port for metrics.
    async fn answer_scraper(&self, request: &Request<Incoming>, record: &mut Record) -> Response<Answer> {
        const METRICS: &str = "/metrics";
        let answered = match request.uri().path() {
            METRICS => {
                record.routed(METRICS);
                match routes::find(request.method(), METRICS) {
                    Ok(_) => self.metrics().await,
                    Err(error) => Err(error),
                }
            }
            other => Err(HttpError::NotFound { path: quoted(other), served: format!("there is {METRICS}") }),
        };
        answered.unwrap_or_else(|error| fail(record, &error, None, Afterwards::Stays))
    }

    /// All counters, in Prometheus' format.
    async fn metrics(&self) -> Result<Response<Answer>, HttpError> {
        let platform = Arc::clone(&self.platform);
        // It reads files of the system.
        let text = tokio::task::spawn_blocking(move || metrics::text(platform.snapshot())).await;
        match text {
            Ok(Ok(text)) => Ok(answer::text(text, metrics::CONTENT_TYPE)),
            Ok(Err(_)) | Err(_) => Err(HttpError::Panicked),
        }
    }

    /// Whether a request has the operator's key.
    fn is_operator(&self, headers: &HeaderMap) -> bool {
        key(headers).is_some_and(|key| self.platform.is_operator(key))
    }

    /// How the caller reached the server, for examples on a page.
    fn origin(&self, headers: &HeaderMap) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b".:-[]".contains(byte);
        let host = headers.get(HOST).map(HeaderValue::as_bytes).filter(|host| host.iter().all(is_part));
        let host = host.and_then(|host| std::str::from_utf8(host).ok()).unwrap_or("127.0.0.1:8790");
        format!("{scheme}://{host}")
    }

    /// Whether every tenant that can serve does, with their counts.
    fn ready(&self) -> Response<Answer> {
        let Counts { starting, serving, failed, device_fails } = self.platform.counts();
        let (status, word) = match (self.draining.load(Ordering::Relaxed), device_fails, starting) {
            (true, ..) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            (false, true, _) => (StatusCode::SERVICE_UNAVAILABLE, "device fails"),
            (false, false, 0) => (StatusCode::OK, "ready"),
            (false, false, _) => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        };
        let counts = json!({ "status": word, "starting": starting, "serving": serving, "failed": failed });
        let mut response = answer::json(status, counts.to_string().into_bytes());
        if status != StatusCode::OK {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// The tenant that a request is for, from its head alone.
    fn tenant(&self, headers: &HeaderMap) -> Result<Called, HttpError> {
        let Some(Caller { tenant: name, stop }) = key(headers).and_then(|key| self.platform.caller(key)) else {
            let keyless = self.keyless.as_ref().ok_or(HttpError::Unauthorized)?;
            return Ok(Called { tenant: keyless.tenant(&self.platform)?, stop: None });
        };
        match self.platform.activity(&name) {
            Some(Activity::Serving(tenant)) => Ok(Called { tenant, stop: Some(stop) }),
            Some(Activity::Starting) => Err(HttpError::Starting),
            Some(Activity::Failed(reason)) => Err(HttpError::Unavailable { tenant: name, reason }),
            // Removed since the key was looked up.
            None => Err(HttpError::Unauthorized),
        }
    }

    /// The tenant that a request is for, once it has started, if that is soon. A server that takes another's place loads
    /// its tenants in less, so that their callers wait and are not refused.
    async fn started_tenant(&self, headers: &HeaderMap) -> Result<Called, HttpError> {
        let (mut changes, deadline) = (self.platform.changes(), Instant::now() + START_PATIENCE);
        loop {
            match self.tenant(headers) {
                Err(HttpError::Starting) => match timeout_at(deadline, changes.changed()).await {
                    Ok(Ok(())) => {}
                    _ => return Err(HttpError::Starting),
                },
                called => return called,
            }
        }
    }

    /// Answers a request for scores, unless its key is taken away meanwhile.
    async fn score(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        choice: Choice,
        record: &mut Record,
    ) -> Response<Answer> {
        let called = match self.draining.load(Ordering::Relaxed) {
            true => Err(HttpError::Draining),
            false => self.started_tenant(headers).await,
        };
        let Called { tenant, stop } = match called {
            Ok(called) => called,
            Err(error) => return fail(record, &error, choice.known(), Afterwards::Closes),
        };
        record.of_tenant(&tenant, headers);
        let stopped = async {
            match &stop {
                Some(stop) => stop.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stopped => fail(record, &HttpError::Unauthorized, choice.known(), Afterwards::Closes),
            response = self.score_for(tenant, headers, body, choice, record) => response,
        }
    }

    async fn score_for(
        &self,
        tenant: Arc<LiveTenant>,
        headers: &HeaderMap,
        body: Incoming,
        choice: Choice,
        record: &mut Record,
    ) -> Response<Answer> {
        let known = choice.known();
        let read = async {
            let allowed = max_body_bytes(&tenant);
            body::check(headers, &body, allowed)?;
            let mut admission = tenant.admit().await?;
            admission.traced(record.span());
            // Decoding takes at most twice as much again.
            let hold = |bytes: usize| admission.hold(bytes.saturating_mul(3)).map(|()| admission.pace(bytes));
            let bytes = body::read(body, allowed, &self.deadlines, hold).await?;
            Ok((admission, bytes))
        };
        let (mut admission, bytes) = match read.await {
            Ok(read) => read,
            Err(error) => return fail(record, &error, known, Afterwards::Closes),
        };
        let decoded = decode(bytes, choice, &tenant).await;
        let answered = match decoded {
            Ok(decoded) => {
                admission.hold_only(decoded.bytes());
                let dialect = decoded.dialect;
                record.asks(dialect.name(), decoded.documents);
                ask(&mut admission, &tenant, decoded, record).await.map_err(|error| (Some(dialect), error))
            }
            Err(error) => Err(error),
        };
        match answered {
            Ok(response) => response.map(|answer| answer.holding(admission)),
            Err((dialect, error)) => fail(record, &error, dialect, Afterwards::Stays),
        }
    }
}

/// Tells the caller, and the record, why a request is not answered.
fn fail(
    record: &mut Record,
    error: &HttpError,
    dialect: Option<&'static dyn Dialect>,
    afterwards: Afterwards,
) -> Response<Answer> {
    record.failed(error);
    answer::error(error, dialect, afterwards)
}

/// Whom a request is for.
#[derive(Debug)]
struct Called {
    tenant: Arc<LiveTenant>,
    /// Cancelled when its key is taken away.
    stop: Option<CancellationToken>,
}

/// The key in `Authorization: Bearer KEY`; some clients send the key by itself.
fn key(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    match value.split_once(' ') {
        None => Some(value),
        Some((scheme, key)) => scheme.eq_ignore_ascii_case("bearer").then(|| key.trim()),
    }
}

/// Most bytes of a body: the tenant's texts, with room for JSON's escapes.
fn max_body_bytes(tenant: &LiveTenant) -> usize {
    tenant.limits().max_request_bytes.saturating_mul(2).saturating_add(BODY_OVERHEAD_BYTES)
}
