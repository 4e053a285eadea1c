//! Rows of many tenants' requests onto the engines of one device.
//!
//! One dispatch thread owns the engines ([`dispatch`](super::dispatch)). Callers hand over whole requests, which are
//! admitted whole or refused whole. The [`queue`](super::queue) cuts them into batches of one model and several tenants,
//! in the order that [`fair_queueing`](super::fair_queueing) gives. Nothing waits while the device is idle, and rows
//! whose caller has gone or is late are dropped before they cost anything.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use assay_kernels::{CheckedBatch, Engine, EngineError};
use tokio::sync::oneshot;

use super::dispatch::{Change, Dispatch};
use super::fair_queueing::{ModelId, RequestId};
use super::meter::Meter;
use super::queue::{Arrival, ModelCosts, Queue, row_flops};

/// Most tokens of one tenant that wait for the device: half a minute of work on two processor cores, thousands of pairs.
pub const DEFAULT_MAX_TENANT_QUEUED_TOKENS: usize = 1 << 18;

/// Most tokens of all tenants together that wait for the device: several times as much, so that a tenant which fills its
/// own part leaves room for the others.
pub const DEFAULT_MAX_QUEUED_TOKENS: usize = 8 * DEFAULT_MAX_TENANT_QUEUED_TOKENS;

/// A tenant's share of the device where nothing else is said. A hundred, so that there is room for less.
pub const DEFAULT_WEIGHT: u32 = 100;

/// For whom rows are computed, and what that tenant is entitled to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The tenant's name: requests of the same name have one share of the device together, whatever their models.
    pub tenant: Arc<str>,
    /// The tenant's share of the device against that of the others which have rows waiting.
    pub weight: u32,
    /// Most tokens of the tenant's that wait.
    pub max_queued_tokens: usize,
}

impl Default for Account {
    fn default() -> Self {
        Self { tenant: "".into(), weight: DEFAULT_WEIGHT, max_queued_tokens: DEFAULT_MAX_TENANT_QUEUED_TOKENS }
    }
}

/// A request's numbers and where its time went.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// `[rows, outputs]`, row-major, in the order of the rows.
    pub outputs: Vec<f32>,
    /// While rows were on the device.
    pub inference: Duration,
}

/// Why a request was not computed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScoreError {
    /// Too many tokens wait already, of the tenant's or of all.
    #[error("the queue is full")]
    Overloaded {
        /// When there may be room again.
        retry_after: Duration,
    },
    /// The request alone is more than may wait.
    #[error("a request may have {allowed} tokens, this one has {requested}")]
    TooLarge {
        /// The request's tokens.
        requested: u64,
        /// The most that may wait.
        allowed: u64,
    },
    /// The request's time ran out before its rows were computed.
    #[error("the request's time ran out")]
    DeadlineExceeded,
    /// The device failed at a batch with rows of this request. It goes on: trying again is sensible.
    #[error(transparent)]
    Device(#[from] DeviceFault),
}

/// How the device failed a batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceFault {
    /// The engine says how.
    #[error(transparent)]
    Engine(Arc<EngineError>),
    /// The engine has a bug.
    #[error("the engine panicked")]
    Panicked,
    /// The engine computed fewer numbers than the batch has.
    #[error("the engine lost some of its outputs")]
    LostOutputs,
    /// The model was taken off the device.
    #[error("the model is no longer loaded")]
    Unloaded,
    /// The device is going down with the process.
    #[error("the device has shut down")]
    ShutDown,
}

/// Hands rows to one device's dispatch thread. Dropping it ends the thread after the batches in flight.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    dispatch: Option<JoinHandle<()>>,
}

/// What callers and the dispatch thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) meter: Meter,
    state: Mutex<State>,
    /// Something is to be done.
    pub(super) wake: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    /// Engines that come and go, in order.
    pub(super) changes: Vec<Change>,
    pub(super) closing: bool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed in small steps that leave it whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scheduler {
    /// Starts the dispatch thread of a device without models. At most `max_queued_tokens` tokens wait.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(max_queued_tokens: usize) -> std::io::Result<Self> {
        let state = State { queue: Queue::new(max_queued_tokens), changes: Vec::new(), closing: false };
        let shared = Arc::new(Shared { meter: Meter::default(), state: Mutex::new(state), wake: Condvar::new() });
        let dispatch = Dispatch::new(Arc::clone(&shared));
        let dispatch = std::thread::Builder::new().name("assay-dispatch".to_owned()).spawn(move || dispatch.run())?;
        Ok(Self { shared, dispatch: Some(dispatch) })
    }

    /// Takes rows for a further model from now on.
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

    /// Takes no further rows for a model, fails those that wait, and returns when its engine is dropped, which is after
    /// its batches in flight.
    pub fn remove(&self, model: ModelId) {
        let (dropped, wait) = mpsc::channel();
        let mut state = self.shared.lock();
        state.queue.remove_model(model);
        state.changes.push(Change::Remove { model, dropped });
        drop(state);
        self.shared.wake.notify_one();
        // The thread may be gone, with all engines: that is as good.
        let _ = wait.recv();
    }

    /// Computes rows of a model; they may share batches with other requests' and other tenants' rows. Rows that have
    /// not started by the deadline never do. Dropping the future takes the rows that have not started out of the queue
    /// at once.
    ///
    /// # Errors
    /// The queue is full (the request is refused whole), the deadline passed, the rows were checked for another model,
    /// or the device failed.
    pub async fn score(
        &self,
        model: ModelId,
        rows: CheckedBatch,
        account: &Account,
        deadline: Option<Instant>,
    ) -> Result<Scored, ScoreError> {
        if rows.rows() == 0 {
            return Ok(Scored { outputs: Vec::new(), inference: Duration::ZERO });
        }
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let id = self.shared.lock().queue.admit(Arrival { account, model, rows, deadline, reply, now })?;
        self.shared.wake.notify_one();
        let waiting = Waiting { shared: &self.shared, id };
        let answer = answer.await;
        // Answered: there is nothing left to cancel.
        std::mem::forget(waiting);
        answer.unwrap_or(Err(ScoreError::Device(DeviceFault::ShutDown)))
    }

    /// What the device has done so far.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.shared.meter
    }

    /// Tokens that wait for the device at this moment.
    #[must_use]
    pub fn waiting_tokens(&self) -> usize {
        self.shared.lock().queue.waiting_tokens()
    }

    /// Tokens of a tenant's rows that wait at this moment, for any model.
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
            // The thread catches the engines' panics, so joining fails only if the process is coming down anyway.
            let _ = dispatch.join();
        }
    }
}

/// A caller that waits for its answer. Dropped with the caller's future, it takes the request out of the queue.
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
