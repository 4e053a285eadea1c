//! A serving tenant: one loaded version behind the tenant's concurrency limit.

use std::sync::Arc;
use std::time::Instant;

use super::concurrency::ConcurrencyLimit;
use super::meter::{Meter, Usage};
use super::{Deployment, TenantName};
use crate::device::Account;
use crate::guest::{Call, CallCost, Guest, Models};
use crate::limits::{RequestLimits, TokenRate};
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

    /// Answers a request within the tenant's limits. Dropping the future releases everything.
    ///
    /// # Errors
    /// See [`RerankError`]; the variant shows whose fault it is.
    pub async fn rerank(&self, request: Request) -> Result<Response, RerankError> {
        let (arrived, documents) = (Instant::now(), request.documents.len());
        let mut cost = CallCost::default();
        let response = self.within_concurrency(request, arrived, &mut cost).await;
        self.meter.count(response.is_ok(), documents, &cost, arrived.elapsed());
        response
    }

    async fn within_concurrency(
        &self,
        request: Request,
        arrived: Instant,
        cost: &mut CallCost,
    ) -> Result<Response, RerankError> {
        // Checked before the wait, so that a request that is too large fails at once.
        let request = self.limits.admit(request)?;
        let late = |_| RerankError::DeadlineExceeded { limit: self.limits.max_wall };
        let _permit = tokio::time::timeout(self.limits.max_wall, self.concurrency.enter()).await.map_err(late)??;
        let (models, account, rate) = (&self.models, &self.account, Some(Arc::clone(&self.rate)));
        let call = Call { request, arrived, models, account, rate };
        let (response, used) = self.guest.call(call).await;
        *cost = used;
        response
    }

    /// The tenant's current and past use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let (running, waiting) = self.concurrency.occupancy();
        let device = self.models.default.device();
        let device_time = device.meter().device_time_of(self.name.as_str());
        Usage {
            running,
            waiting,
            queued_tokens: device.waiting_tokens_of(self.name.as_str()) as u64,
            burst_tokens_left: self.rate.available(Instant::now()),
            device_time_ms: u64::try_from(device_time.as_millis()).unwrap_or(u64::MAX),
            idle_instances: self.guest.idle_instances() as u64,
            is_snapshotted: self.guest.is_snapshotted(),
            ..self.meter.usage()
        }
    }
}
