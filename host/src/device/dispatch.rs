//! The thread that owns an engine: submits what the queue packs, hands out what the engine computes.
//!
//! It builds the next batch while the device computes one, as deep as the engine takes, and never waits while there is
//! work. A fault of the engine costs the requests of the batch that met it, and nothing else.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use assay_kernels::{Engine, EngineError, Ticket};

use super::queue::BatchPlan;
use super::scheduler::{ScoreError, Shared};

/// How much of the estimate of the engine's speed the newest batch makes.
const SPEED_SMOOTHING: f64 = 0.2;

#[derive(Debug)]
pub(super) struct Dispatch {
    shared: Arc<Shared>,
    engine: Box<dyn Engine>,
    /// Oldest first.
    in_flight: VecDeque<InFlight>,
    /// When the device was last known to begin on a batch.
    busy_since: Instant,
}

#[derive(Debug)]
struct InFlight {
    ticket: Ticket,
    plan: BatchPlan,
}

enum Next {
    Submit(BatchPlan),
    Finish(InFlight),
    Stop,
}

impl Dispatch {
    pub(super) fn new(shared: Arc<Shared>, engine: Box<dyn Engine>) -> Self {
        Self { shared, engine, in_flight: VecDeque::new(), busy_since: Instant::now() }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.next() {
                Next::Submit(plan) => self.submit(plan),
                Next::Finish(oldest) => self.finish(oldest),
                Next::Stop => return,
            }
        }
    }

    /// The next thing to do: submit while there is room and work, else finish what is in flight, else wait.
    fn next(&mut self) -> Next {
        let mut state = self.shared.lock();
        loop {
            if self.in_flight.len() < self.engine.max_in_flight().max(1)
                && !state.closing
                && let Some(plan) = state.queue.next_batch(Instant::now())
            {
                return Next::Submit(plan);
            }
            if let Some(oldest) = self.in_flight.pop_front() {
                return Next::Finish(oldest);
            }
            if state.closing {
                state.queue.fail_all(&ScoreError::Engine("the scheduler has shut down".to_owned()));
                return Next::Stop;
            }
            state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn submit(&mut self, plan: BatchPlan) {
        let now = Instant::now();
        if self.in_flight.is_empty() {
            self.busy_since = now;
        }
        self.shared.meter.submitted(now);
        // A bug in an engine must cost the batch that met it, not every request after it.
        let ticket = std::panic::catch_unwind(AssertUnwindSafe(|| self.engine.submit(&plan.batch)));
        match ticket {
            Ok(Ok(ticket)) => self.in_flight.push_back(InFlight { ticket, plan }),
            Ok(Err(error)) => self.fail(&plan, &error.to_string()),
            Err(_) => self.fail(&plan, "the engine panicked"),
        }
    }

    fn finish(&mut self, InFlight { ticket, plan }: InFlight) {
        let mut outputs = Vec::new();
        let finished = std::panic::catch_unwind(AssertUnwindSafe(|| self.engine.finish(ticket, &mut outputs)));
        let now = Instant::now();
        match finished.unwrap_or_else(|_| Err(EngineError::Device("the engine panicked".to_owned()))) {
            Ok(report) if outputs.len() == plan.batch.rows() * self.engine.config().outputs => {
                self.shared.meter.finished(Some(&report));
                let elapsed_s = (now - self.busy_since).as_secs_f64().max(1e-6);
                let mut state = self.shared.lock();
                state.tokens_per_s += SPEED_SMOOTHING * (plan.batch.tokens() as f64 / elapsed_s - state.tokens_per_s);
                state.queue.complete(&plan, &outputs, now);
            }
            Ok(_) => self.fail(&plan, "the engine lost some of its outputs"),
            Err(error) => self.fail(&plan, &error.to_string()),
        }
        self.busy_since = now;
    }

    fn fail(&self, plan: &BatchPlan, message: &str) {
        self.shared.meter.finished(None);
        self.shared.lock().queue.fail(plan, &ScoreError::Engine(message.to_owned()));
    }
}
