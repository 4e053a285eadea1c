//! One request: finds an instance for it, calls it, and says what it cost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bindings::TenantPre;
use super::convert;
use super::inference::{Budget, Purpose, Used};
use super::instance::{Cost, Instance, Start, StoreData, time_left};
use super::models::Models;
use crate::device::Account;
use crate::limits::{AdmittedRequest, RequestLimits, TokenRate};
use crate::model::ModelInfo;
use crate::rerank::{Request, RerankError, Response, Timings};

/// Prepared instances kept for a guest without a snapshot: enough that two requests at once do not wait for `prepare`.
const WARM_INSTANCES: usize = 2;

/// A request and everything that it runs under.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// The request, and what the guest may use for it.
    pub request: AdmittedRequest<'a>,
    /// When it arrived: its wall-clock time counts from then.
    pub arrived: Instant,
    /// The models that the guest may open.
    pub models: &'a Models,
    /// The account that its rows are charged to.
    pub account: &'a Account,
    /// The tenant's tokens per second; unlimited if absent.
    pub rate: Option<Arc<TokenRate>>,
}

/// What a request cost, answered or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCost {
    /// Rows sent to the device.
    pub rows: u64,
    /// Tokens sent to the device.
    pub tokens: u64,
    /// Memory of the guest at the end.
    pub memory_bytes: u64,
    /// Processor time of the guest, in whole epoch ticks.
    pub cpu: Duration,
}

/// A guest that is compiled and linked, and its idle instances.
pub(super) struct Program {
    pub(super) pre: TenantPre<StoreData>,
    pub(super) start: Start,
    pub(super) pool: InstancePool,
    max_prepare_cpu: Duration,
    idle: Mutex<Vec<Idle>>,
    warming_up: AtomicBool,
}

/// Room for instances, shared by all guests of a runtime.
#[derive(Debug, Clone)]
pub(super) struct InstancePool {
    /// A permit for each instance.
    pub(super) instances: Arc<Semaphore>,
    /// A permit for each idle instance.
    pub(super) idle: Arc<Semaphore>,
}

#[derive(Debug)]
struct Idle {
    instance: Instance,
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("start", &self.start).field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl Program {
    pub(super) fn new(pre: TenantPre<StoreData>, start: Start, pool: InstancePool, max_prepare_cpu: Duration) -> Self {
        let (idle, warming_up) = (Mutex::default(), AtomicBool::new(false));
        Self { pre, start, pool, max_prepare_cpu, idle, warming_up }
    }

    /// Runs one request. Dropping the future stops the guest at its next epoch tick and takes its rows out of the
    /// queue.
    pub(super) async fn rerank(self: &Arc<Self>, call: Call<'_>, cost: &mut CallCost) -> Result<Response, RerankError> {
        let Call { request, arrived, models, account, rate } = call;
        let (request, limits) = request.into_parts();
        let deadline = arrived + limits.max_wall;
        let budget = Budget {
            models: models.clone(),
            account: account.clone(),
            rate,
            deadline,
            max_rows: limits.max_request_rows,
            max_tokens: limits.max_request_tokens,
        };
        let late = RerankError::DeadlineExceeded { limit: limits.max_wall };
        let answer = self.answer(request, budget, limits, cost);
        let answered = tokio::time::timeout(time_left(deadline), answer).await;
        let (mut response, used) = answered.map_err(|_| late)??;
        let (total, device) = (arrived.elapsed(), used.queue + used.inference);
        let guest = total.saturating_sub(device);
        response.timings = Timings { guest, queue: used.queue, inference: used.inference, total };
        Ok(response)
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request,
        budget: Budget,
        limits: &RequestLimits,
        cost: &mut CallCost,
    ) -> Result<(Response, Used), RerankError> {
        let info = Arc::clone(budget.models.default.info());
        let mut instance = self.instance(&info, Purpose::Request(budget), limits).await?;
        let (documents, top_n) = (request.documents.len(), request.top_n);
        let reranker = instance.tenant.assay_rerank_reranker();
        let answer = reranker.call_rerank(&mut instance.store, &convert::request(request)).await;
        let state = instance.store.data();
        let used = state.inference.used.clone();
        let Cost { memory_bytes, cpu } = state.cost();
        *cost = CallCost { rows: used.rows, tokens: used.tokens, memory_bytes: memory_bytes as u64, cpu };
        // An instance that trapped is dropped here, with its store.
        let answer = answer.map_err(|error| state.fault(&error, limits))?;
        self.keep(instance, limits);
        match answer {
            Ok(answer) => Ok((convert::response(&answer, documents, top_n)?, used)),
            Err(error) => Err(match (convert::error(error, limits), used.device_fault) {
                // The contract has no such error: the guest was told that the host is overloaded.
                (RerankError::Overloaded { .. }, Some(fault)) => RerankError::DeviceFailed(fault),
                (error, _) => error,
            }),
        }
    }

    async fn instance(
        self: &Arc<Self>,
        info: &Arc<ModelInfo>,
        purpose: Purpose,
        limits: &RequestLimits,
    ) -> Result<Instance, RerankError> {
        let instance = match (self.idle_for(limits), self.start) {
            (Some(mut instance), _) => {
                instance.begin(purpose, limits);
                instance
            }
            (None, Start::Snapshotted) => Instance::open(&self.pre, purpose, limits, self.permit().await?).await?,
            (None, Start::Prepare) => {
                let (permit, preparing) = (self.permit().await?, self.preparing(limits));
                let mut instance = Instance::prepare(&self.pre, Arc::clone(info), &preparing, permit).await?;
                instance.begin(purpose, limits);
                instance
            }
        };
        if self.start == Start::Prepare {
            self.warm_up(info, limits);
        }
        Ok(instance)
    }

    /// An idle instance that may serve another request. Drops those that have served too many, which happens after the
    /// tenant's limit was lowered.
    fn idle_for(&self, limits: &RequestLimits) -> Option<Instance> {
        let mut idle = self.idle();
        while let Some(Idle { instance, .. }) = idle.pop() {
            if instance.served < limits.max_requests_per_instance {
                return Some(instance);
            }
            drop_in_background(instance);
        }
        None
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, RerankError> {
        let permit = Arc::clone(&self.pool.instances).acquire_owned().await;
        permit.map_err(|_| RerankError::Internal("the guest runtime has shut down".to_owned()))
    }

    /// Limits for `prepare`, which has its own processor time: no request pays for it.
    fn preparing(&self, limits: &RequestLimits) -> RequestLimits {
        RequestLimits { max_guest_cpu: self.max_prepare_cpu, ..limits.clone() }
    }

    /// Prepares instances for the next requests in the background, up to [`WARM_INSTANCES`].
    fn warm_up(self: &Arc<Self>, info: &Arc<ModelInfo>, limits: &RequestLimits) {
        if self.warming_up.swap(true, Ordering::Relaxed) {
            return;
        }
        let (program, info, limits) = (Arc::clone(self), Arc::clone(info), self.preparing(limits));
        tokio::spawn(async move {
            // A failure is not reported: the next request meets it too, and reports it.
            while program.idle().len() < WARM_INSTANCES && program.warm_one(&info, &limits).await.is_some() {}
            program.warming_up.store(false, Ordering::Relaxed);
        });
    }

    async fn warm_one(&self, info: &Arc<ModelInfo>, limits: &RequestLimits) -> Option<()> {
        let idle = Arc::clone(&self.pool.idle).try_acquire_owned().ok()?;
        let permit = Arc::clone(&self.pool.instances).try_acquire_owned().ok()?;
        let prepared = Instance::prepare(&self.pre, Arc::clone(info), limits, permit);
        let instance = tokio::time::timeout(limits.max_wall, prepared).await.ok()?.ok()?;
        self.idle().push(Idle { instance, _permit: idle });
        Some(())
    }

    pub(super) fn idle_count(&self) -> usize {
        self.idle().len()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an instance for the next request if its tenant allows that, it has no model open, and there is room for an
    /// idle one.
    fn keep(&self, mut instance: Instance, limits: &RequestLimits) {
        instance.served += 1;
        let may_serve = instance.served < limits.max_requests_per_instance;
        if may_serve
            && instance.store.data().inference.open_models() == 0
            && let Ok(permit) = Arc::clone(&self.pool.idle).try_acquire_owned()
        {
            self.idle().push(Idle { instance, _permit: permit });
        } else {
            drop_in_background(instance);
        }
    }
}

/// Freeing an instance's memory takes longer than making it, and no answer should wait for that.
fn drop_in_background(instance: Instance) {
    tokio::spawn(async move { drop(instance) });
}
