//! Rows of many tenants' requests onto one engine.
//!
//! One dispatch thread owns the engine ([`dispatch`](super::dispatch)). Callers hand over whole requests, which are
//! admitted whole or refused whole; the [`queue`](super::queue) cuts them into batches within the engine's token budget,
//! several tenants' rows to a batch. Nothing waits while the device is idle, and rows whose caller has gone or is late
//! are dropped before they cost anything.
//!
//! Knows rows, tokens and weights; never text, guests or limits files.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use assay_kernels::{BertConfig, Engine, PackedBatch};
use tokio::sync::oneshot;

use super::deficit_round_robin::RequestId;
use super::dispatch::Dispatch;
use super::meter::Meter;
use super::queue::{Arrival, Queue};

/// Most tokens of one tenant that wait for one engine: half a minute of work on two processor cores, thousands of pairs.
pub const DEFAULT_MAX_TENANT_QUEUED_TOKENS: usize = 1 << 18;

/// Most tokens of all tenants together that wait for one engine: several times as much, so that a tenant which fills its
/// own part leaves room for the others.
pub const DEFAULT_MAX_QUEUED_TOKENS: usize = 8 * DEFAULT_MAX_TENANT_QUEUED_TOKENS;

/// A tenant's share of the device where nothing else is said. A hundred, so that there is room for less.
pub const DEFAULT_WEIGHT: u32 = 100;

/// For whom rows are computed, and what that tenant is entitled to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The tenant's name: requests of the same name share one place in the order of turns.
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// The rows do not fit the model.
    #[error("{0}")]
    Rows(String),
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
    /// The engine failed at a batch with rows of this request, or the scheduler is shutting down. The engine goes on:
    /// trying again is sensible.
    #[error("{0}")]
    Engine(String),
}

/// Hands rows to one engine's dispatch thread. Dropping it ends the thread after the batches in flight.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    config: BertConfig,
    dispatch: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) meter: Meter,
    state: Mutex<State>,
    pub(super) wake: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) closing: bool,
    /// A slow estimate of the engine's speed, for `retry_after`.
    pub(super) tokens_per_s: f64,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed in small steps that leave it whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scheduler {
    /// Starts the dispatch thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(engine: Box<dyn Engine>, max_queued_tokens: usize) -> std::io::Result<Self> {
        let config = engine.config().clone();
        let queue = Queue::new(engine.max_batch_tokens(), max_queued_tokens);
        let state = State { queue, closing: false, tokens_per_s: 1_000.0 };
        let meter = Meter::new(engine.memory());
        let shared = Arc::new(Shared { meter, state: Mutex::new(state), wake: Condvar::new() });
        let dispatch = Dispatch::new(Arc::clone(&shared), engine);
        let dispatch = std::thread::Builder::new().name("assay-dispatch".to_owned()).spawn(move || dispatch.run())?;
        Ok(Self { shared, config, dispatch: Some(dispatch) })
    }

    /// Computes the rows; they may share batches with other requests' and other tenants' rows. Rows that have not
    /// started by the deadline never do. Dropping the future takes the rows that have not started out of the queue at
    /// once.
    ///
    /// # Errors
    /// The rows do not fit the model, the queue is full (the request is refused whole), the deadline passed, or the
    /// engine failed.
    pub async fn score(
        &self,
        rows: PackedBatch,
        account: &Account,
        deadline: Option<Instant>,
    ) -> Result<Scored, ScoreError> {
        rows.check(&self.config).map_err(|error| ScoreError::Rows(error.to_string()))?;
        if rows.rows() == 0 {
            return Ok(Scored { outputs: Vec::new(), inference: Duration::ZERO });
        }
        let (reply, answer) = oneshot::channel();
        let id = {
            let mut state = self.shared.lock();
            let (now, tokens_per_s) = (Instant::now(), state.tokens_per_s);
            state.queue.admit(Arrival { account, rows, deadline, reply, now, tokens_per_s })?
        };
        self.shared.wake.notify_one();
        let waiting = Waiting { shared: &self.shared, id };
        let answer = answer.await;
        // Answered: there is nothing left to cancel.
        std::mem::forget(waiting);
        answer.unwrap_or_else(|_| Err(ScoreError::Engine("the scheduler has shut down".to_owned())))
    }

    /// What the engine has done so far.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.shared.meter
    }

    /// Tokens that wait for the engine at this moment.
    #[must_use]
    pub fn waiting_tokens(&self) -> usize {
        self.shared.lock().queue.waiting_tokens()
    }

    /// Tokens of a tenant's rows that wait at this moment.
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
            // The thread catches the engine's panics, so joining fails only if the process is coming down anyway.
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
