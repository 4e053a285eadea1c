//! A serving tenant: one loaded version behind the tenant's concurrency limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::concurrency::{ConcurrencyLimit, Permit};
use super::meter::{Meter, Usage};
use super::{Deployment, TenantName};
use crate::device::Account;
use crate::guest::{Call, CallCost, Guest, Models};
use crate::limits::{AdmittedRequest, RequestLimits, TokenRate};
use crate::model::ModelInfo;
use crate::rerank::{Request, RerankError, Response};

/// One version of a tenant, ready for requests. A request stays on the version it began on. All versions of a tenant
/// share its concurrency limit, meter and rate.
#[derive(Debug)]
pub struct LiveTenant {
    name: TenantName,
    deployment: Deployment,
    guest: Guest,
    models: Models,
    limits: RequestLimits,
    account: Account,
    rate: Arc<TokenRate>,
    concurrency: Arc<ConcurrencyLimit>,
    meter: Arc<Meter>,
}

/// The parts of a version.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) name: TenantName,
    pub(super) deployment: Deployment,
    pub(super) guest: Guest,
    pub(super) models: Models,
}

impl LiveTenant {
    /// Prepares a version to serve. It takes over the shared parts of the version `before` it.
    pub(super) fn new(parts: Parts, before: Option<&Self>) -> Self {
        let Parts { name, deployment, guest, models } = parts;
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
        let concurrency = match before {
            Some(before) => Arc::clone(&before.concurrency),
            None => ConcurrencyLimit::new(max_running, max_waiting),
        };
        concurrency.set(max_running, max_waiting);
        let meter = before.map_or_else(Arc::default, |before| Arc::clone(&before.meter));
        let (request, account) = (limits.request(), limits.account(name.as_str()));
        Self { name, guest, models, limits: request, account, rate, concurrency, meter, deployment }
    }

    /// The tenant's name.
    #[must_use]
    pub fn name(&self) -> &TenantName {
        &self.name
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

    /// Waits until the tenant may have another request in work. Nothing of the request need be known yet, so that a
    /// caller who waits takes no memory. The request's wall-clock time begins here.
    ///
    /// # Errors
    /// As many requests wait already as may, or the time ran out.
    pub async fn admit(self: &Arc<Self>) -> Result<Admission, RerankError> {
        let arrived = Instant::now();
        match self.permit().await {
            Ok(permit) => Ok(Admission { tenant: Arc::clone(self), _permit: permit, arrived, counted: false }),
            Err(error) => {
                self.meter.count(false, 0, &CallCost::default(), arrived.elapsed());
                Err(error)
            }
        }
    }

    /// Waits for a permit and answers a request within the tenant's limits. Dropping the future releases everything.
    ///
    /// # Errors
    /// See [`RerankError`]: the variant tells whose fault it is.
    pub async fn rerank(self: &Arc<Self>, request: Request) -> Result<Response, RerankError> {
        self.admit().await?.rerank(request).await
    }

    async fn permit(&self) -> Result<Permit, RerankError> {
        let late = |_| RerankError::DeadlineExceeded { limit: self.limits.max_wall };
        tokio::time::timeout(self.limits.max_wall, self.concurrency.enter()).await.map_err(late)?
    }

    async fn call(&self, request: AdmittedRequest<'_>, arrived: Instant) -> (Result<Response, RerankError>, CallCost) {
        let (models, account, rate) = (&self.models, &self.account, Some(Arc::clone(&self.rate)));
        self.guest.call(Call { request, arrived, models, account, rate }).await
    }

    /// The tenant's current and past use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let (running, waiting) = self.concurrency.occupancy();
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
            idle_instances: self.guest.idle_instances() as u64,
            is_snapshotted: self.guest.is_snapshotted(),
            ..self.meter.usage()
        }
    }
}

/// A request that may be in work: it holds its tenant's permit until it is dropped.
#[derive(Debug)]
pub struct Admission {
    tenant: Arc<LiveTenant>,
    _permit: Permit,
    arrived: Instant,
    counted: bool,
}

impl Admission {
    /// Answers a request within the tenant's limits. Dropping the future gives everything back but the permit.
    ///
    /// # Errors
    /// Whose fault it is tells the variant: see [`RerankError`].
    pub async fn rerank(&mut self, request: Request) -> Result<Response, RerankError> {
        let (tenant, arrived, documents) = (&self.tenant, self.arrived, request.documents.len());
        let (response, cost) = match tenant.limits.admit(request) {
            Ok(request) => tenant.call(request, arrived).await,
            Err(error) => (Err(error), CallCost::default()),
        };
        tenant.meter.count(response.is_ok(), documents, &cost, arrived.elapsed());
        self.counted = true;
        response
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.counted {
            // Its body was no request, or its caller has gone.
            self.tenant.meter.count(false, 0, &CallCost::default(), self.arrived.elapsed());
        }
    }
}
