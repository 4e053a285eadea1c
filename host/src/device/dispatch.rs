//! The thread that owns a device's engines: submits the queue's batches and delivers the results.
//!
//! It builds the next batches while the device computes, as many as the engines allow in flight, and never waits while
//! there is work: while it waits for a batch and has room for another, it looks at the queue many times a millisecond.
//! Batches in flight may belong to different engines; they are finished in the order of submission. A
//! fault of an engine fails only the requests in the affected batch.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use assay_kernels::{BatchReport, Engine, Ticket};

use super::fair_queueing::ModelId;
use super::queue::BatchPlan;
use super::score::{DeviceFault, ScoreError};
use super::shared::{Change, Shared};
use super::spans::BatchFacts;
use crate::telemetry::traces::Outcome;

/// How long the thread waits for a batch before it looks at the queue again, while there is room for another batch.
const WAIT: Duration = Duration::from_micros(200);

#[derive(Debug)]
pub(super) struct Dispatch {
    shared: Arc<Shared>,
    engines: HashMap<ModelId, Box<dyn Engine>>,
    /// Oldest first.
    in_flight: VecDeque<InFlight>,
    /// Latest known start of a batch on the device.
    busy_since: Instant,
}

#[derive(Debug)]
struct InFlight {
    ticket: Ticket,
    plan: BatchPlan,
}

enum Next {
    Change(Change),
    Submit(BatchPlan),
    /// Wait for the oldest batch, for a moment.
    Wait,
    Finish(InFlight),
    Stop,
}

impl Dispatch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, engines: HashMap::new(), in_flight: VecDeque::new(), busy_since: Instant::now() }
    }

    /// Works until the device closes. A bug of this thread's own costs the requests that wait now, and not the device.
    pub(super) fn run(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            self.shared.lock().queue.fail_all(&ScoreError::Device(DeviceFault::Panicked));
            while let Some(InFlight { ticket, plan }) = self.in_flight.pop_front() {
                // Nothing waits for it any more, but its engine does: for its ticket.
                let _ = catch_unwind(AssertUnwindSafe(|| self.outputs(&plan, ticket, &mut Vec::new())));
                self.shared.meter.failed(&plan);
                tell(&plan, None, Outcome::Failed("panicked"));
            }
        }
    }

    fn work(&mut self) {
        loop {
            match self.next() {
                Next::Change(change) => self.change(change),
                Next::Submit(plan) => self.submit(plan),
                Next::Wait => self.wait(),
                Next::Finish(oldest) => self.finish(oldest),
                Next::Stop => return,
            }
        }
    }

    /// The next step. Changes come first, because batches of new models follow them; then submit while there is room
    /// and work, else finish a batch in flight, else wait. With room for another batch, waiting goes by moments.
    fn next(&mut self) -> Next {
        let mut state = self.shared.lock();
        loop {
            if !state.changes.is_empty() {
                return Next::Change(state.changes.remove(0));
            }
            if self.in_flight.len() < self.max_in_flight()
                && !state.closing
                && let Some(plan) = state.queue.next_batch(Instant::now())
            {
                return Next::Submit(plan);
            }
            if self.in_flight.len() < self.max_in_flight() && !state.closing && !self.in_flight.is_empty() {
                return Next::Wait;
            }
            if let Some(oldest) = self.in_flight.pop_front() {
                return Next::Finish(oldest);
            }
            if state.closing {
                state.queue.fail_all(&ScoreError::Device(DeviceFault::ShutDown));
                return Next::Stop;
            }
            state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Most batches of all engines in flight together: the smallest limit of any engine.
    fn max_in_flight(&self) -> usize {
        self.engines.values().map(|engine| engine.max_in_flight()).min().unwrap_or(0).max(1)
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Add { model, engine } => {
                self.engines.insert(model, engine);
            }
            Change::Remove { model, dropped } => {
                while self.in_flight.iter().any(|batch| batch.plan.model == model)
                    && let Some(oldest) = self.in_flight.pop_front()
                {
                    self.finish(oldest);
                }
                if let Some(engine) = self.engines.remove(&model) {
                    // An engine that panics while dropped is gone anyway.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
                }
                self.shared.meter.forget(model);
                // The caller may have hung up.
                let _ = dropped.send(());
            }
        }
    }

    fn submit(&mut self, plan: BatchPlan) {
        let now = Instant::now();
        if self.in_flight.is_empty() {
            self.busy_since = now;
        }
        self.shared.meter.submitted(now);
        let Some(engine) = self.engines.get_mut(&plan.model) else { return self.fail(&plan, DeviceFault::Unloaded) };
        // A bug in an engine must fail only this batch, not every later request.
        match catch_unwind(AssertUnwindSafe(|| engine.submit(&plan.batch))) {
            Ok(Ok(ticket)) => self.in_flight.push_back(InFlight { ticket, plan }),
            Ok(Err(error)) => self.fail(&plan, DeviceFault::Engine(Arc::new(error))),
            Err(_) => self.fail(&plan, DeviceFault::Panicked),
        }
    }

    /// Finishes the oldest batch if it is done within a moment.
    fn wait(&mut self) {
        let Some(InFlight { ticket, plan }) = self.in_flight.front() else { return };
        let Some(engine) = self.engines.get_mut(&plan.model) else { return self.finish_oldest() };
        // An engine that panics here does so again when the batch is finished, or has lost it.
        if catch_unwind(AssertUnwindSafe(|| engine.wait(ticket, WAIT))).unwrap_or(true) {
            self.finish_oldest();
        }
    }

    fn finish_oldest(&mut self) {
        if let Some(oldest) = self.in_flight.pop_front() {
            self.finish(oldest);
        }
    }

    fn finish(&mut self, InFlight { ticket, plan }: InFlight) {
        let mut outputs = Vec::new();
        let finished = self.outputs(&plan, ticket, &mut outputs);
        let now = Instant::now();
        match finished {
            Ok(report) => {
                let took = report.device_time.unwrap_or(now - self.busy_since);
                self.complete(&plan, &report, &outputs, took, now);
            }
            Err(fault) => self.fail(&plan, fault),
        }
        self.busy_since = now;
    }

    fn outputs(
        &mut self,
        plan: &BatchPlan,
        ticket: Ticket,
        outputs: &mut Vec<f32>,
    ) -> Result<BatchReport, DeviceFault> {
        let engine = self.engines.get_mut(&plan.model).ok_or(DeviceFault::Unloaded)?;
        let finished = catch_unwind(AssertUnwindSafe(|| engine.finish(ticket, outputs)));
        let report = finished.map_err(|_| DeviceFault::Panicked)?;
        let report = report.map_err(|error| DeviceFault::Engine(Arc::new(error)))?;
        if outputs.len() == plan.batch.rows() * engine.shape().outputs {
            Ok(report)
        } else {
            Err(DeviceFault::LostOutputs)
        }
    }

    fn complete(&self, plan: &BatchPlan, report: &BatchReport, outputs: &[f32], took: Duration, now: Instant) {
        self.shared.meter.finished(plan, report, took);
        self.shared.lock().queue.complete(plan, outputs, took, now);
        tell(plan, Some(took), Outcome::Done);
    }

    fn fail(&self, plan: &BatchPlan, fault: DeviceFault) {
        self.shared.meter.failed(plan);
        self.shared.lock().queue.fail(plan, &ScoreError::Device(fault));
        tell(plan, None, Outcome::Failed("device"));
    }
}

/// Records a batch's span, if it has one.
fn tell(plan: &BatchPlan, took: Option<Duration>, outcome: Outcome) {
    if let Some(span) = &plan.span {
        let (rows, tokens, tenants) = (plan.batch.rows(), plan.batch.tokens(), plan.tenants());
        span.end(BatchFacts { rows, tokens, tenants, took }, outcome);
    }
}
