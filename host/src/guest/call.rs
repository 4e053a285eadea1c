//! One request: an instance for it, the call, and what became of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bindings::TenantPre;
use super::convert;
use super::inference::{Budget, Models, Purpose, Used};
use super::instance::{Cost, Instance, Start, State, time_left};
use crate::device::Account;
use crate::limits::{RequestLimits, TokenRate};
use crate::model::ModelInfo;
use crate::rerank::{Request, RerankError, Response, Timings};

/// Prepared instances that are kept for a guest without a snapshot: enough that requests which come one after the other,
/// or two at once, do not wait for `prepare`.
const WARM_INSTANCES: usize = 2;

/// Everything that one request runs under.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// The request.
    pub request: Request,
    /// When it came: its wall-clock time counts from here.
    pub arrived: Instant,
    /// What the guest may use for it.
    pub limits: &'a RequestLimits,
    /// The models that it may open.
    pub models: &'a Models,
    /// For whom rows are computed.
    pub account: &'a Account,
    /// The tenant's tokens per second; unlimited where absent.
    pub rate: Option<Arc<TokenRate>>,
}

/// What a request cost, whether or not it was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCost {
    /// Rows sent to the device.
    pub rows: u64,
    /// Tokens sent to the device.
    pub tokens: u64,
    /// Memory of the guest at the end.
    pub memory_bytes: u64,
    /// Processor time of the guest, in ticks of the epoch.
    pub cpu: Duration,
}

/// A guest that is compiled and linked, and its idle instances.
pub(super) struct Program {
    pub(super) pre: TenantPre<State>,
    pub(super) start: Start,
    pub(super) pool: InstancePool,
    max_prepare_cpu: Duration,
    idle: Mutex<Vec<Idle>>,
    warming_up: AtomicBool,
}

/// Room for instances, shared by all guests of a runtime.
#[derive(Debug, Clone)]
pub(super) struct InstancePool {
    /// One for each instance that the pool holds.
    pub(super) instances: Arc<Semaphore>,
    /// Those of them that idle instances may take.
    pub(super) idle: Arc<Semaphore>,
}

#[derive(Debug)]
struct Idle {
    instance: Instance,
    _slot: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("start", &self.start).field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl Program {
    pub(super) fn new(pre: TenantPre<State>, start: Start, pool: InstancePool, max_prepare_cpu: Duration) -> Self {
        let (idle, warming_up) = (Mutex::default(), AtomicBool::new(false));
        Self { pre, start, pool, max_prepare_cpu, idle, warming_up }
    }

    /// Runs one request. Dropping the future stops the guest at its next epoch tick and takes its rows out of the
    /// queue.
    pub(super) async fn rerank(self: &Arc<Self>, call: Call<'_>, cost: &mut CallCost) -> Result<Response, RerankError> {
        let (limits, arrived) = (call.limits, call.arrived);
        limits.admit(&call.request)?;
        let deadline = arrived + limits.max_wall;
        let late = RerankError::DeadlineExceeded { limit: limits.max_wall };
        let answered = tokio::time::timeout(time_left(deadline), self.answer(call, deadline, cost)).await;
        let (mut response, used) = answered.map_err(|_| late)??;
        let (total, device) = (arrived.elapsed(), used.queue + used.inference);
        let guest = total.saturating_sub(device);
        response.timings = Timings { guest, queue: used.queue, inference: used.inference, total };
        Ok(response)
    }

    async fn answer(
        self: &Arc<Self>,
        call: Call<'_>,
        deadline: Instant,
        cost: &mut CallCost,
    ) -> Result<(Response, Used), RerankError> {
        let Call { request, limits, models, account, rate, .. } = call;
        let purpose = Purpose::Request(Budget {
            models: models.clone(),
            account: account.clone(),
            rate,
            deadline,
            max_rows: limits.max_request_rows,
            max_tokens: limits.max_request_tokens,
        });
        let mut instance = self.instance(models.default.info(), purpose, limits).await?;
        let (documents, top_n) = (request.documents.len(), request.top_n);
        let reranker = instance.tenant.assay_rerank_reranker();
        let answer = reranker.call_rerank(&mut instance.store, &convert::request(request)).await;
        let state = instance.store.data();
        let used = state.inference.used.clone();
        let Cost { memory_bytes, cpu } = state.cost();
        *cost = CallCost { rows: used.rows, tokens: used.tokens, memory_bytes: memory_bytes as u64, cpu };
        // Whatever trapped is gone with its store.
        let answer = answer.map_err(|error| state.fault(&error, limits))?;
        self.keep(instance, limits);
        match answer {
            Ok(answer) => Ok((convert::response(&answer, documents, top_n)?, used)),
            Err(error) => Err(match (convert::error(error, limits), used.device_fault) {
                // The contract has no word for it, so the guest was told that the host is overloaded.
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
            (None, Start::Snapshotted) => Instance::open(&self.pre, purpose, limits, self.slot().await?).await?,
            (None, Start::Prepare) => {
                let (slot, preparing) = (self.slot().await?, self.preparing(limits));
                let mut instance = Instance::prepare(&self.pre, Arc::clone(info), &preparing, slot).await?;
                instance.begin(purpose, limits);
                instance
            }
        };
        if self.start == Start::Prepare {
            self.warm_up(info, limits);
        }
        Ok(instance)
    }

    /// An idle instance that may serve another request. The tenant may have lowered how many since it was kept: one that
    /// has served too many is gone.
    fn idle_for(&self, limits: &RequestLimits) -> Option<Instance> {
        let mut idle = self.idle();
        while let Some(Idle { instance, .. }) = idle.pop() {
            if instance.served < limits.max_requests_per_instance {
                return Some(instance);
            }
            give_back(instance);
        }
        None
    }

    async fn slot(&self) -> Result<OwnedSemaphorePermit, RerankError> {
        let slot = Arc::clone(&self.pool.instances).acquire_owned().await;
        slot.map_err(|_| RerankError::Internal("the guest runtime has shut down".to_owned()))
    }

    /// What an instance is prepared under: `prepare` is the guest's cost, and not the request's that happens to need it.
    fn preparing(&self, limits: &RequestLimits) -> RequestLimits {
        RequestLimits { max_guest_cpu: self.max_prepare_cpu, ..limits.clone() }
    }

    /// Prepares instances for the requests to come, as many as are kept warm, while this request goes on.
    fn warm_up(self: &Arc<Self>, info: &Arc<ModelInfo>, limits: &RequestLimits) {
        if self.warming_up.swap(true, Ordering::Relaxed) {
            return;
        }
        let (program, info, limits) = (Arc::clone(self), Arc::clone(info), self.preparing(limits));
        tokio::spawn(async move {
            // What goes wrong here goes wrong in the next request too, which says so.
            while program.idle().len() < WARM_INSTANCES && program.warm_one(&info, &limits).await.is_some() {}
            program.warming_up.store(false, Ordering::Relaxed);
        });
    }

    async fn warm_one(&self, info: &Arc<ModelInfo>, limits: &RequestLimits) -> Option<()> {
        let idle = Arc::clone(&self.pool.idle).try_acquire_owned().ok()?;
        let slot = Arc::clone(&self.pool.instances).try_acquire_owned().ok()?;
        let prepared = Instance::prepare(&self.pre, Arc::clone(info), limits, slot);
        let instance = tokio::time::timeout(limits.max_wall, prepared).await.ok()?.ok()?;
        self.idle().push(Idle { instance, _slot: idle });
        Some(())
    }

    pub(super) fn idle_count(&self) -> usize {
        self.idle().len()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an instance for the next request, if the tenant lets an instance serve another, it holds nothing of the
    /// host's, and there is room for an idle one.
    fn keep(&self, mut instance: Instance, limits: &RequestLimits) {
        instance.served += 1;
        let may_serve = instance.served < limits.max_requests_per_instance;
        if may_serve
            && instance.store.data().inference.open_models() == 0
            && let Ok(slot) = Arc::clone(&self.pool.idle).try_acquire_owned()
        {
            self.idle().push(Idle { instance, _slot: slot });
        } else {
            give_back(instance);
        }
    }
}

/// To give an instance's memory back takes longer than to make it: no answer waits for that.
fn give_back(instance: Instance) {
    tokio::spawn(async move { drop(instance) });
}
