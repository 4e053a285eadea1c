//! Rows of many requests onto one engine.
//!
//! One dispatch thread owns the engine. Callers hand over whole requests; the [`queue`] cuts them into batches within
//! the engine's token budget and puts several small requests into one batch. Nothing waits while the device is idle,
//! and rows whose caller has gone are dropped before they cost anything.

mod meter;
mod queue;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use assay_kernels::{Engine, EngineError, PackedBatch, Ticket};
use tokio::sync::oneshot;

pub use meter::{Meter, MeterReading};

use queue::{BatchPlan, Job, Queue};

/// Most tokens that wait for one engine: about ten seconds of work on two processor cores, thousands of pairs.
pub const DEFAULT_MAX_QUEUED_TOKENS: usize = 1 << 18;

/// A request's numbers and where its time went.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// `[rows, outputs]`, row-major, in the order of the rows.
    pub outputs: Vec<f32>,
    /// From the call until the first row was on the device, and between batches.
    pub queue: Duration,
    /// While rows were on the device.
    pub inference: Duration,
}

/// Why a request was not computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// The rows do not fit the model.
    #[error("{0}")]
    Rows(String),
    /// Too many tokens wait already.
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
    /// The engine failed, or the scheduler is shutting down; trying again is sensible.
    #[error("{0}")]
    Engine(String),
}

/// Hands rows to one engine's dispatch thread. Dropping it ends the thread after the batch in flight.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    config: assay_kernels::BertConfig,
    dispatch: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    meter: Meter,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    closing: bool,
    /// A slow estimate of the engine's speed, for `retry_after`.
    tokens_per_s: f64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
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
        let for_thread = Arc::clone(&shared);
        let dispatch = std::thread::Builder::new()
            .name("assay-dispatch".to_owned())
            .spawn(move || Dispatch { shared: for_thread, engine, in_flight: Vec::new() }.run())?;
        Ok(Self { shared, config, dispatch: Some(dispatch) })
    }

    /// What the engine has done so far.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.shared.meter
    }

    /// Tokens that wait for the engine now.
    #[must_use]
    pub fn waiting_tokens(&self) -> usize {
        self.shared.lock().queue.waiting_tokens()
    }

    /// Computes the rows; they may share batches with other requests' rows. Dropping the future takes the rows that
    /// have not started out of the queue.
    ///
    /// # Errors
    /// The rows do not fit the model, the queue is full (the request is refused whole), or the engine failed.
    pub async fn score(&self, rows: PackedBatch) -> Result<Scored, ScoreError> {
        rows.check(&self.config).map_err(|error| ScoreError::Rows(error.to_string()))?;
        if rows.rows() == 0 {
            return Ok(Scored { outputs: Vec::new(), queue: Duration::ZERO, inference: Duration::ZERO });
        }
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            let tokens_per_s = state.tokens_per_s;
            state.queue.admit(Job::new(rows, reply), tokens_per_s)?;
        }
        self.shared.wake.notify_one();
        answer.await.unwrap_or_else(|_| Err(ScoreError::Engine("the scheduler has shut down".to_owned())))
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

struct Dispatch {
    shared: Arc<Shared>,
    engine: Box<dyn Engine>,
    /// Oldest first.
    in_flight: Vec<InFlight>,
}

struct InFlight {
    ticket: Ticket,
    plan: BatchPlan,
    submitted: Instant,
}

impl Dispatch {
    fn run(mut self) {
        loop {
            match self.next_plan() {
                Next::Submit(plan) => self.submit(plan),
                Next::Finish => self.finish(),
                Next::Stop => return,
            }
        }
    }

    /// The next thing to do: submit while there is room and work, else finish what is in flight, else wait.
    fn next_plan(&self) -> Next {
        let mut state = self.shared.lock();
        loop {
            if self.in_flight.len() < self.engine.max_in_flight()
                && !state.closing
                && let Some(plan) = state.queue.next_batch(Instant::now())
            {
                return Next::Submit(plan);
            }
            if !self.in_flight.is_empty() {
                return Next::Finish;
            }
            if state.closing {
                state.queue.fail_all(&ScoreError::Engine("the scheduler has shut down".to_owned()));
                return Next::Stop;
            }
            state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn submit(&mut self, plan: BatchPlan) {
        let submitted = Instant::now();
        self.shared.meter.submitted(submitted);
        // A bug in an engine must cost the batch that met it, not every request after it.
        let ticket = std::panic::catch_unwind(AssertUnwindSafe(|| self.engine.submit(&plan.batch)));
        match ticket {
            Ok(Ok(ticket)) => self.in_flight.push(InFlight { ticket, plan, submitted }),
            Ok(Err(error)) => self.fail(&plan, &error),
            Err(_) => self.fail(&plan, &EngineError::Device("the engine panicked".to_owned())),
        }
    }

    fn finish(&mut self) {
        let InFlight { ticket, plan, submitted } = self.in_flight.remove(0);
        let mut outputs = Vec::new();
        let report = std::panic::catch_unwind(AssertUnwindSafe(|| self.engine.finish(ticket, &mut outputs)));
        match report {
            Ok(Ok(report)) if outputs.len() == plan.batch.rows() * self.engine.config().outputs => {
                self.shared.meter.finished(Some(&report));
                let elapsed = submitted.elapsed();
                let mut state = self.shared.lock();
                let speed = plan.batch.tokens() as f64 / elapsed.as_secs_f64().max(1e-6);
                state.tokens_per_s += 0.2 * (speed - state.tokens_per_s);
                state.queue.complete(plan, &outputs, Instant::now());
            }
            Ok(Ok(_)) => self.fail(&plan, &EngineError::Device("the engine lost some of its outputs".to_owned())),
            Ok(Err(error)) => self.fail(&plan, &error),
            Err(_) => self.fail(&plan, &EngineError::Device("the engine panicked".to_owned())),
        }
    }

    fn fail(&self, plan: &BatchPlan, error: &EngineError) {
        self.shared.meter.finished(None);
        self.shared.lock().queue.fail(plan, &ScoreError::Engine(error.to_string()));
    }
}

enum Next {
    Submit(BatchPlan),
    Finish,
    Stop,
}
