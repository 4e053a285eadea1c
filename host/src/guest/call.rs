//! One request: an instance for it, the call, and what became of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bindings::TenantPre;
use super::convert;
use super::inference::{Budget, Models, Purpose, Used};
use super::session::{Cost, Session, Start, State, time_left};
use crate::limits::{RequestLimits, TokenRate};
use crate::rerank::{GuestFault, Request, RerankError, Response, Timings};
use crate::scheduler::Account;

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
    pub(super) places: Places,
    idle: Mutex<Vec<Idle>>,
}

/// Room for instances, shared by all guests of a runtime.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// One for each instance that the pool holds.
    pub(super) instances: Arc<Semaphore>,
    /// Those of them that idle instances may take.
    pub(super) idle: Arc<Semaphore>,
}

#[derive(Debug)]
struct Idle {
    session: Session,
    _place: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("start", &self.start).field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl Program {
    pub(super) fn new(pre: TenantPre<State>, start: Start, places: Places) -> Self {
        Self { pre, start, places, idle: Mutex::new(Vec::new()) }
    }

    /// Runs one request. Dropping the future stops the guest at its next epoch tick and takes its rows out of the
    /// queue.
    pub(super) async fn rerank(&self, call: Call<'_>, cost: &mut CallCost) -> Result<Response, RerankError> {
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
        &self,
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
        let mut session = self.session(purpose, limits).await?;
        let (documents, top_n) = (request.documents.len(), request.top_n);
        let reranker = session.tenant.assay_rerank_reranker();
        let answer = reranker.call_rerank(&mut session.store, &convert::request(request)).await;
        let state = session.store.data();
        let used = state.inference.used.clone();
        let Cost { memory_bytes, cpu } = state.cost();
        *cost = CallCost { rows: used.rows, tokens: used.tokens, memory_bytes: memory_bytes as u64, cpu };
        // Whatever trapped is gone with its store.
        let answer = answer.map_err(|error| state.fault(&error, limits))?;
        self.keep(session, limits);
        match answer {
            Ok(answer) => Ok((convert::response(answer, documents, top_n)?, used)),
            Err(error) => Err(match (convert::error(error, limits), used.device_fault) {
                // The contract has no word for it, so the guest was told that the host is overloaded.
                (RerankError::Overloaded { .. }, Some(fault)) => RerankError::DeviceFailed(fault),
                (error, _) => error,
            }),
        }
    }

    async fn session(&self, purpose: Purpose, limits: &RequestLimits) -> Result<Session, RerankError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(Idle { mut session, .. }) = idle {
            session.begin(purpose);
            return Ok(session);
        }
        let place = Arc::clone(&self.places.instances).acquire_owned().await;
        let place = place.map_err(|_| RerankError::Internal("the guest runtime has shut down".to_owned()))?;
        Session::open(&self.pre, self.start, purpose, limits, place).await
    }

    /// Keeps an instance for the next request, if the tenant lets an instance serve another, it holds nothing of the
    /// host's, and there is room for an idle one.
    fn keep(&self, mut session: Session, limits: &RequestLimits) {
        session.served += 1;
        if session.served >= limits.max_requests_per_instance || session.store.data().inference.open_models() > 0 {
            return;
        }
        if let Ok(place) = Arc::clone(&self.places.idle).try_acquire_owned() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(Idle { session, _place: place });
        }
    }
}

/// Checks what `prepare` left behind before a snapshot is made of it.
pub(super) fn check_prepared(state: &State) -> Result<(), GuestFault> {
    match state.inference.open_models() {
        0 => Ok(()),
        open => Err(GuestFault::LeftOpen(open)),
    }
}
