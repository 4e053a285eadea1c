//! Schedules rows of many tenants' requests onto the engines of one device.
//!
//! One dispatch thread owns the engines ([`dispatch`](super::dispatch)). Callers submit whole requests, which are
//! admitted or refused whole. The [`queue`](super::queue) cuts them into batches of one model and several tenants, in
//! the order of [`fair_queueing`](super::fair_queueing). Nothing waits while the device is idle, and rows of late or
//! abandoned requests are dropped before they are computed.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use assay_kernels::{CheckedBatch, Engine};
use tokio::sync::oneshot;

use super::dispatch::Dispatch;
use super::fair_queueing::{ModelId, RequestId};
use super::meter::Meter;
use super::queue::{Arrival, ModelCosts, row_flops};
use super::score::{Account, DeviceFault, ScoreError, Scored};
use super::shared::{Change, Shared};
use super::spans::{Visit, Visiting};
use crate::limits::DEFAULT_MAX_TENANT_QUEUED_TOKENS;
use crate::telemetry::traces::Span;

/// Default for the most waiting tokens of all tenants: several times one tenant's limit, so that a tenant at its limit
/// leaves room for others.
pub const DEFAULT_MAX_QUEUED_TOKENS: usize = 8 * DEFAULT_MAX_TENANT_QUEUED_TOKENS;

/// Hands rows to one device's dispatch thread. Dropping it ends the thread after the batches in flight.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    dispatch: Option<JoinHandle<()>>,
}

impl Scheduler {
    /// Starts the dispatch thread of a device, without models. At most `max_queued_tokens` tokens may wait.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(max_queued_tokens: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(max_queued_tokens));
        let dispatch = Dispatch::new(Arc::clone(&shared));
        let dispatch = std::thread::Builder::new().name("assay-dispatch".to_owned()).spawn(move || dispatch.run())?;
        Ok(Self { shared, dispatch: Some(dispatch) })
    }

    /// Adds a model.
    #[must_use]
    pub fn add(&self, engine: Box<dyn Engine>) -> ModelId {
        let row_flops = row_flops(&*engine);
        self.add_with(engine, row_flops)
    }

    /// As [`add`](Self::add), for an engine whose [`row_flops`] are known.
    pub(super) fn add_with(&self, engine: Box<dyn Engine>, row_flops: Arc<[u64]>) -> ModelId {
        let costs = ModelCosts { shape: engine.shape(), max_batch_tokens: engine.max_batch_tokens(), row_flops };
        let mut state = self.shared.lock();
        let model = state.queue.add_model(costs);
        state.changes.push(Change::Add { model, engine });
        drop(state);
        self.shared.wake.notify_one();
        model
    }

    /// Removes a model and fails its waiting rows. Returns when its engine is dropped, after its batches in flight.
    pub fn remove(&self, model: ModelId) {
        let (dropped, wait) = mpsc::channel();
        let mut state = self.shared.lock();
        state.queue.remove_model(model);
        state.changes.push(Change::Remove { model, dropped });
        drop(state);
        self.shared.wake.notify_one();
        // If the thread is gone, so are all engines.
        let _ = wait.recv();
    }

    /// Computes rows of a model, possibly in batches with rows of other requests and tenants. Rows that have not
    /// started by the deadline are not computed. Dropping the future removes rows that have not started from the queue
    /// at once.
    ///
    /// # Errors
    /// The queue is full (the whole request is refused), the deadline passed, the rows were checked for another model,
    /// or the device failed.
    pub async fn score(
        &self,
        model: ModelId,
        rows: CheckedBatch,
        account: &Account,
        deadline: Option<Instant>,
    ) -> Result<Scored, ScoreError> {
        self.score_with(model, rows, account, deadline, None).await
    }

    /// As [`score`](Self::score), with spans of the queue and of the device within `span`, whose rows are the named
    /// model's.
    pub(super) async fn score_within(
        &self,
        model: ModelId,
        rows: CheckedBatch,
        account: &Account,
        deadline: Option<Instant>,
        (span, name): (&Span, &str),
    ) -> Result<Scored, ScoreError> {
        let mut visiting = Visiting::new(span, name, (rows.rows(), rows.tokens()));
        let scored = self.score_with(model, rows, account, deadline, Some(visiting.visit())).await;
        visiting.ended(&scored);
        scored
    }

    async fn score_with(
        &self,
        model: ModelId,
        rows: CheckedBatch,
        account: &Account,
        deadline: Option<Instant>,
        visit: Option<Arc<Visit>>,
    ) -> Result<Scored, ScoreError> {
        if rows.rows() == 0 {
            return Ok(Scored { outputs: Vec::new(), inference: Duration::ZERO });
        }
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let id = self.shared.lock().queue.admit(Arrival { account, model, rows, deadline, reply, now, visit })?;
        self.shared.wake.notify_one();
        let waiting = Waiting { shared: &self.shared, id };
        let answer = answer.await;
        // The request is answered, so there is nothing left to cancel.
        std::mem::forget(waiting);
        answer.unwrap_or(Err(ScoreError::Device(DeviceFault::ShutDown)))
    }

    /// Counters of the device's work.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.shared.meter
    }

    /// Tokens that wait for the device now.
    #[must_use]
    pub fn waiting_tokens(&self) -> usize {
        self.shared.lock().queue.waiting_tokens()
    }

    /// Requests with rows that wait now, and since when the oldest has waited.
    #[must_use]
    pub fn waiting_requests(&self) -> (usize, Option<Instant>) {
        self.shared.lock().queue.waiting_requests()
    }

    /// Tokens of a tenant's rows that wait now, for any model.
    #[must_use]
    pub fn waiting_tokens_of(&self, tenant: &str) -> usize {
        self.shared.lock().queue.waiting_tokens_of(tenant)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(dispatch) = self.dispatch.take() {
            // The thread catches the engines' panics, so joining fails only if the process is ending anyway.
            let _ = dispatch.join();
        }
    }
}

/// A waiting caller. Dropping it with the caller's future removes the request from the queue.
#[derive(Debug)]
struct Waiting<'a> {
    shared: &'a Shared,
    id: RequestId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.lock().queue.cancel(self.id);
    }
}
