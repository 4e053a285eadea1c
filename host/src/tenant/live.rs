//! A serving tenant: one loaded version behind the tenant's concurrency limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::concurrency::{ConcurrencyLimit, Permit};
use super::meter::{Ended, Ending, Meter, Meters, StageTimes, Usage};
use super::{Deployment, TenantName};
use crate::guest::{Call, CallMeter, CallTerms, Guest, HeldMemory, Links, Membership, Models, Payer, Reranks};
use crate::limits::{AdmittedRequest, CALL_DEPTHS, MAX_CHAIN_DEPTH, RequestLimits, TokenRate};
use crate::model::{DefaultScores, ModelInfo};
use crate::rerank::{Activation, CallError, Request, RerankError, Response, Timings};
use crate::telemetry::RequestLines;
use crate::telemetry::traces::{Field, Outcome, Span, Told};

/// One version of a tenant, ready for requests. A request stays on the version it began on. All versions of a tenant
/// share its concurrency limit, meter and rate.
#[derive(Debug)]
pub struct LiveTenant {
    name: TenantName,
    deployment: Deployment,
    guest: Guest,
    models: Models,
    links: Links,
    limits: Arc<RequestLimits>,
    payer: Payer,
    rate: Arc<TokenRate>,
    /// By depth of calls.
    concurrency: Gates,
    meter: Arc<Meter>,
    /// Counts the requests of all tenants.
    all: Arc<Meter>,
    /// Bytes of the bodies of its requests.
    body_bytes: Arc<TokenRate>,
    /// Bounds the log's lines about its requests.
    lines: Arc<RequestLines>,
    /// Whether the guest honours each setting that was asked for so far. The names are constants of the host's own.
    honoured: Mutex<HashMap<&'static str, bool>>,
    /// Its place and memory among all guests.
    _membership: Membership,
}

/// Bounds a tenant's requests of callers outside, and its calls at each depth. One who waits for a place holds a permit,
/// and one who calls another tenant waits for its permit with a place. So each depth has permits of its own, as it has
/// places: those that wait, wait for a deeper one.
type Gates = [Arc<ConcurrencyLimit>; CALL_DEPTHS];

/// Bytes of bodies that a tenant's callers may send a second, as a steady rate and at once. It is far more than any
/// model can rank, and less than what would keep the connections' threads from other tenants.
const MAX_BODY_BYTES_PER_S: u64 = 16 << 20;

/// Bytes that are read without delay after a pause: the largest body.
const BODY_BURST_BYTES: u64 = 64 << 20;

/// A value that none of the settings with a meaning of their own can have.
const NO_VALUE: &str = "?";

/// The parts of a version.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) name: TenantName,
    pub(super) deployment: Deployment,
    pub(super) guest: Guest,
    pub(super) models: Models,
    pub(super) links: Links,
}

impl LiveTenant {
    /// Prepares a version to serve. It takes over the shared parts of the version `before` it.
    pub(super) fn new(parts: Parts, before: Option<&Self>, meters: &Meters) -> Self {
        let Parts { name, deployment, guest, models, links } = parts;
        let limits = &deployment.limits;
        let (rate_limit, burst) = (limits.max_tokens_per_s, limits.burst_tokens);
        let same_rate = before.filter(|before| {
            (before.deployment.limits.max_tokens_per_s, before.deployment.limits.burst_tokens) == (rate_limit, burst)
        });
        let rate = match same_rate {
            Some(before) => Arc::clone(&before.rate),
            None => Arc::new(TokenRate::new(rate_limit, burst, Instant::now())),
        };
        let (max_running, max_waiting) = (limits.max_concurrent_requests, limits.max_waiting_requests);
        let concurrency: Gates = match before {
            Some(before) => before.concurrency.clone(),
            None => std::array::from_fn(|_| ConcurrencyLimit::new(max_running, max_waiting)),
        };
        concurrency.iter().for_each(|gate| gate.set(max_running, max_waiting));
        let meter = before.map_or_else(|| meters.of(&name), |before| Arc::clone(&before.meter));
        let all = Arc::clone(meters.all());
        let body_bytes = match before {
            Some(before) => Arc::clone(&before.body_bytes),
            None => Arc::new(TokenRate::new(MAX_BODY_BYTES_PER_S, BODY_BURST_BYTES, Instant::now())),
        };
        let lines = before.map_or_else(Arc::default, |before| Arc::clone(&before.lines));
        let (request, payer) = (limits.request(), limits.payer(name.as_str(), Some(Arc::clone(&rate))));
        let membership = guest.join(&payer.account.tenant, !limits.callers.is_empty());
        let (limits, honoured) = (Arc::new(request), Mutex::default());
        Self {
            name,
            guest,
            models,
            links,
            limits,
            payer,
            rate,
            concurrency,
            meter,
            all,
            body_bytes,
            lines,
            honoured,
            deployment,
            _membership: membership,
        }
    }

    /// Why instances do not start from a snapshot of the guest's memory; `None` if they do.
    pub(super) fn no_snapshot(&self) -> Option<String> {
        self.guest.no_snapshot().map(str::to_owned)
    }

    /// The parts of this version with another record: the same guest and models under other limits.
    pub(super) fn parts_with(&self, deployment: Deployment) -> Parts {
        let (guest, models, links) = (self.guest.clone(), self.models.clone(), self.links.clone());
        Parts { name: self.name.clone(), deployment, guest, models, links }
    }

    /// The tenant's name.
    #[must_use]
    pub fn name(&self) -> &TenantName {
        &self.name
    }

    /// The bounds on the log's lines about its requests.
    #[must_use]
    pub fn lines(&self) -> &RequestLines {
        &self.lines
    }

    /// The version.
    #[must_use]
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// The bounds that a request runs under.
    #[must_use]
    pub fn limits(&self) -> &RequestLimits {
        &self.limits
    }

    /// The model that the guest gets when it names none.
    #[must_use]
    pub fn model(&self) -> &ModelInfo {
        self.models.default.info()
    }

    /// How scores are given if a request does not say: as the model was added. `None` means that its files say nothing.
    #[must_use]
    pub fn default_scores(&self) -> Option<Activation> {
        self.model().scores.map(|scores| match scores {
            DefaultScores::Raw => Activation::None,
            DefaultScores::Sigmoid => Activation::Sigmoid,
        })
    }

    /// Waits until the tenant may have another request in work. Nothing of the request need be known yet, so that a
    /// caller who waits takes no memory. The request's wall-clock time begins here.
    ///
    /// # Errors
    /// As many requests wait already as may, or the time ran out.
    pub async fn admit(self: &Arc<Self>) -> Result<Admission, RerankError> {
        self.admit_on(CallTerms::default()).await
    }

    async fn admit_on(self: &Arc<Self>, terms: CallTerms) -> Result<Admission, RerankError> {
        let arrived = Instant::now();
        match self.permit(arrived, &terms).await {
            Ok(permit) => {
                let memory = self.guest.memory(&self.payer);
                Ok(Admission {
                    tenant: Arc::clone(self),
                    _permit: permit,
                    arrived,
                    memory,
                    running: None,
                    is_counted: false,
                    span: terms.span.clone(),
                    terms,
                })
            }
            Err(error) => {
                self.count(&Ended::early(Ending::from(&error), Some(&error), arrived.elapsed()));
                Err(error)
            }
        }
    }

    /// Waits for a permit, holds memory for the texts, and answers a request within the tenant's limits. Dropping the
    /// future releases everything.
    ///
    /// # Errors
    /// See [`RerankError`]: the variant tells whose fault it is.
    pub async fn rerank(self: &Arc<Self>, request: Request) -> Result<Response, RerankError> {
        self.call(request, CallTerms::default()).await
    }

    /// The same for a call of another tenant's guest, on these terms.
    ///
    /// # Errors
    /// As [`rerank`](Self::rerank).
    pub(super) async fn call(self: &Arc<Self>, request: Request, terms: CallTerms) -> Result<Response, RerankError> {
        let mut admission = self.admit_on(terms).await?;
        admission.hold(request.text_bytes())?;
        admission.rerank(request).await
    }

    fn count(&self, ended: &Ended<'_>) {
        self.meter.count(ended);
        self.all.count(ended);
    }

    async fn permit(&self, arrived: Instant, terms: &CallTerms) -> Result<Permit, RerankError> {
        let late = |_| RerankError::DeadlineExceeded { limit: self.limits.max_wall };
        let own = arrived + self.limits.max_wall;
        let deadline = terms.deadline.map_or(own, |callers| callers.min(own));
        let gate = &self.concurrency[terms.depth.min(MAX_CHAIN_DEPTH)];
        tokio::time::timeout_at(deadline.into(), gate.enter()).await.map_err(late)?
    }

    /// Runs work of the host on behalf of the tenant, in its turns among the guests. `None` if the work panicked.
    pub async fn work<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        self.guest.work(&self.payer, work).await
    }

    /// The tenant's current and past use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let occupancy = self.concurrency.iter().map(|gate| gate.occupancy());
        let (running, waiting) = occupancy.fold((0, 0), |sum, gate| (sum.0 + gate.0, sum.1 + gate.1));
        let devices = self.models.devices();
        let tenant = self.name.as_str();
        let device_time: Duration = devices.iter().map(|device| device.meter().device_time_of(tenant)).sum();
        let queued_tokens: usize = devices.iter().map(|device| device.waiting_tokens_of(tenant)).sum();
        Usage {
            running,
            waiting,
            queued_tokens: queued_tokens as u64,
            burst_tokens_left: self.rate.available(Instant::now()),
            device_time_ms: u64::try_from(device_time.as_millis()).unwrap_or(u64::MAX),
            guest_memory_bytes: self.guest.memory_of(tenant),
            idle_instances: self.guest.idle_instances() as u64,
            is_snapshotted: self.guest.is_snapshotted(),
            no_snapshot: self.no_snapshot(),
            ..self.meter.usage()
        }
    }
}

impl Reranks for LiveTenant {
    fn ask(self: Arc<Self>, request: Request, terms: CallTerms) -> BoxFuture<'static, Result<Response, CallError>> {
        Box::pin(async move { Ok(self.call(request, terms).await?) })
    }
}

/// A request that may be in work: it holds its tenant's permit, and the memory of its texts, until it is dropped.
#[derive(Debug)]
pub struct Admission {
    tenant: Arc<LiveTenant>,
    _permit: Permit,
    arrived: Instant,
    memory: HeldMemory,
    /// The call in progress.
    running: Option<Running>,
    is_counted: bool,
    /// The request's span, if it is sampled.
    span: Option<Span>,
    /// What its caller leaves it.
    terms: CallTerms,
}

/// A call of the tenant's guest.
#[derive(Debug)]
struct Running {
    meter: Arc<CallMeter>,
    documents: usize,
    began: Instant,
    /// Its span, within the request's.
    span: Option<Span>,
}

impl Running {
    /// Records the call's span, if it has one.
    fn tell(&self, outcome: Outcome) {
        let Some(span) = &self.span else { return };
        let cost = self.meter.cost();
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let fields = vec![
            Field::new("assay.documents", number(self.documents as u64)),
            Field::new("assay.rows", number(cost.rows)),
            Field::new("assay.tokens", number(cost.tokens)),
            Field::new("assay.guest_cpu_seconds", cost.cpu.as_secs_f64()),
        ];
        span.end(Told { fields, outcome, ..Told::now("guest", self.began) });
    }
}

impl Admission {
    /// Has the spans of this request's stages recorded within its own, if it has one.
    pub fn traced(&mut self, span: Option<&Span>) {
        self.span = span.cloned();
    }

    /// Holds memory of the tenant's for the request's texts.
    ///
    /// # Errors
    /// [`RerankError::TooManyRequests`] with the limit that leaves no room.
    pub fn hold(&mut self, bytes: usize) -> Result<(), RerankError> {
        self.memory.take(bytes as u64)
    }

    /// Gives back all but so much of the memory that it holds.
    pub fn hold_only(&mut self, bytes: usize) {
        self.memory.shrink_to(bytes as u64);
    }

    /// How long to wait before more bytes of bodies are read, after these.
    #[must_use]
    pub fn pace(&self, bytes: usize) -> Duration {
        self.tenant.body_bytes.pace(bytes as u64, Instant::now())
    }

    /// Counts a request that is not even passed on, for this reason.
    pub fn refuse(&mut self, error: &RerankError) {
        self.count(&Ended::early(Ending::from(error), Some(error), self.arrived.elapsed()));
    }

    /// Answers a request within the tenant's limits. Dropping the future gives everything back but the permit.
    ///
    /// # Errors
    /// Whose fault it is tells the variant: see [`RerankError`].
    pub async fn rerank(&mut self, request: Request) -> Result<Response, RerankError> {
        // A caller's meter is for one request; of several that came together, each has its own.
        let meter = std::mem::take(&mut self.terms.meter);
        let (tenant, documents) = (Arc::clone(&self.tenant), request.documents.len());
        let began = Instant::now();
        // Of several requests that came together, the first one is said to have waited.
        let admission = if self.is_counted { Duration::ZERO } else { began - self.arrived };
        let response = match tenant.limits.admit(request) {
            Ok(request) => {
                self.admitted(began);
                let span = self.span.as_ref().map(Span::child);
                self.running = Some(Running { meter: Arc::clone(&meter), documents, began, span: span.clone() });
                tenant.guest.call(self.call(request, &meter, span)).await
            }
            Err(error) => Err(error),
        };
        let (ending, times) = match &response {
            Ok(response) => {
                let Timings { queue, inference, .. } = response.timings;
                let guest = began.elapsed().saturating_sub(queue + inference);
                (Ending::Answered, Some(StageTimes { admission, guest, queue, inference }))
            }
            Err(error) => (Ending::from(error), None),
        };
        let (cost, wall) = (meter.cost(), self.arrived.elapsed());
        self.count(&Ended { ending, error: response.as_ref().err(), documents, cost, wall, times });
        response
    }

    /// Whether the tenant's guest honours one of the settings that the contract names. It is asked once, with a value
    /// that the setting cannot have and without documents: a guest that knows the setting refuses it by name.
    ///
    /// # Errors
    /// The guest could not be asked.
    pub async fn honours(&mut self, setting: &'static str) -> Result<bool, RerankError> {
        let tenant = Arc::clone(&self.tenant);
        let honoured = || tenant.honoured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&is_honoured) = honoured().get(setting) {
            return Ok(is_honoured);
        }
        let settings = vec![(setting.to_owned(), NO_VALUE.to_owned())];
        let request = tenant.limits.admit(Request { settings, ..Request::default() })?;
        let is_honoured = match tenant.guest.call(self.call(request, &Arc::default(), None)).await {
            Ok(_) => false,
            Err(RerankError::InvalidInput(message)) => message.contains(setting),
            Err(error) => return Err(error),
        };
        honoured().insert(setting, is_honoured);
        Ok(is_honoured)
    }

    fn call(&self, request: AdmittedRequest, meter: &Arc<CallMeter>, span: Option<Span>) -> Call {
        let LiveTenant { models, links, payer, .. } = &*self.tenant;
        let (models, links, payer) = (models.clone(), links.clone(), payer.clone());
        let terms = CallTerms { meter: Arc::clone(meter), span, ..self.terms.clone() };
        Call { request, arrived: self.arrived, models, links, payer, terms }
    }

    /// Records the span of the time until the first call of the guest, or until there is none.
    fn admitted(&self, ended: Instant) {
        if let (Some(span), false) = (&self.span, self.is_counted) {
            span.child().end(Told { ended, ..Told::now("admission", self.arrived) });
        }
    }

    fn count(&mut self, ended: &Ended<'_>) {
        match self.running.take() {
            Some(running) => running.tell(ended.ending.outcome()),
            None => self.admitted(Instant::now()),
        }
        self.tenant.count(ended);
        self.is_counted = true;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        match &self.running {
            // Its caller has gone.
            Some(Running { meter, documents, .. }) => {
                let (cost, wall, documents) = (meter.cost(), self.arrived.elapsed(), *documents);
                let ending = Ending::Cancelled;
                self.count(&Ended { ending, error: None, documents, cost, wall, times: None });
            }
            // Its body did not come, or was no request.
            None if !self.is_counted => self.count(&Ended::early(Ending::Refused, None, self.arrived.elapsed())),
            None => {}
        }
    }
}
