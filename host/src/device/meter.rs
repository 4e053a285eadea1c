//! Counts a device's work: in total, per model and per tenant. Only the dispatch thread writes these counters; all
//! threads may read them.
//!
//! The bench and the metrics read them. No decision depends on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use assay_kernels::BatchReport;
use serde::{Deserialize, Serialize};

use super::fair_queueing::ModelId;
use super::queue::BatchPlan;
use crate::telemetry::Histogram;
use crate::telemetry::histogram::{NUMBERS, SECONDS};

/// Totals since the device was opened or the model was loaded. The difference of two readings covers the time between
/// them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct MeterReading {
    /// Batches computed.
    pub batches: u64,
    /// Batches that failed.
    pub failed_batches: u64,
    /// Rows computed.
    pub rows: u64,
    /// Tokens computed; all are useful.
    pub tokens: u64,
    /// Useful floating-point operations, by formula.
    pub useful_flops: u64,
    /// Tokens that padding every row to the longest of its batch would have added.
    pub padding_avoided: u64,
    /// Time of batches, by the device's clock if it has one, else by the host's.
    pub device_time: Duration,
    /// Most useful floating-point operations a second of any batch: how fast the device was seen to be.
    pub best_flops_per_s: f64,
}

/// What batches were like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batches {
    /// Rows.
    pub rows: Histogram,
    /// Tokens.
    pub tokens: Histogram,
    /// Tenants.
    pub tenants: Histogram,
    /// Seconds on the device.
    pub seconds: Histogram,
}

impl Default for Batches {
    fn default() -> Self {
        let [rows, tokens, tenants] = std::array::from_fn(|_| Histogram::new(NUMBERS));
        Self { rows, tokens, tenants, seconds: Histogram::new(SECONDS) }
    }
}

/// Failed batches in a row after which a device is said to fail. A bug that one request meets makes fewer.
const FAILING_BATCHES: u32 = 3;

/// How long a device is said to fail after its last batch. Then it must be tried again: who asked first whether it is
/// ready would never send it work.
const FAILING_TIME: Duration = Duration::from_secs(10);

/// Counts batches as they are submitted and finished.
#[derive(Debug, Default)]
pub struct Meter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    total: MeterReading,
    models: HashMap<ModelId, MeterReading>,
    tenants: HashMap<Arc<str>, Duration>,
    busy: Duration,
    in_flight: usize,
    busy_since: Option<Instant>,
    /// Batches that failed since one was computed, and when the last of them did.
    failures: u32,
    failed_at: Option<Instant>,
    batches: Batches,
}

impl Meter {
    /// The device's totals.
    #[must_use]
    pub fn read(&self) -> MeterReading {
        self.lock().total
    }

    /// Time with at least one batch on the device, including the batch in flight.
    #[must_use]
    pub fn busy(&self) -> Duration {
        let state = self.lock();
        state.busy + state.busy_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the last batches have all failed, a short while ago.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.lock().is_failing(Instant::now())
    }

    /// What all batches were like.
    #[must_use]
    pub fn batches(&self) -> Batches {
        self.lock().batches.clone()
    }

    /// One model's totals.
    #[must_use]
    pub fn model(&self, model: ModelId) -> MeterReading {
        self.lock().models.get(&model).copied().unwrap_or_default()
    }

    /// Device time of a tenant's rows, over all models. The time of each batch is divided by work.
    #[must_use]
    pub fn device_time_of(&self, tenant: &str) -> Duration {
        self.lock().tenants.get(tenant).copied().unwrap_or_default()
    }

    /// A batch is about to be submitted.
    pub(super) fn submitted(&self, now: Instant) {
        let mut state = self.lock();
        state.in_flight += 1;
        state.busy_since.get_or_insert(now);
    }

    /// A batch has left the device, after `took`.
    pub(super) fn finished(&self, plan: &BatchPlan, report: &BatchReport, took: Duration) {
        let mut state = self.lock();
        state.left();
        state.failures = 0;
        let State { total, models, tenants, batches, .. } = &mut *state;
        let padding_avoided = plan.longest_row() * report.rows as u64;
        let padding_avoided = padding_avoided.saturating_sub(report.tokens as u64);
        let flops_per_s = report.useful_flops as f64 / took.as_secs_f64().max(1e-9);
        for reading in [total, models.entry(plan.model).or_default()] {
            reading.batches += 1;
            reading.rows += report.rows as u64;
            reading.tokens += report.tokens as u64;
            reading.useful_flops += report.useful_flops;
            reading.device_time += took;
            reading.padding_avoided += padding_avoided;
            reading.best_flops_per_s = reading.best_flops_per_s.max(flops_per_s);
        }
        batches.rows.observe(report.rows as f64);
        batches.tokens.observe(report.tokens as f64);
        batches.tenants.observe(plan.tenants() as f64);
        batches.seconds.observe(took.as_secs_f64());
        for (tenant, share) in plan.shares() {
            let part = took.mul_f64(share);
            match tenants.get_mut(tenant) {
                Some(time) => *time += part,
                None => drop(tenants.insert(Arc::clone(tenant), part)),
            }
        }
    }

    /// A batch has failed.
    pub(super) fn failed(&self, plan: &BatchPlan) {
        let mut state = self.lock();
        state.left();
        state.failures = state.failures.saturating_add(1);
        state.failed_at = Some(Instant::now());
        state.total.failed_batches += 1;
        state.models.entry(plan.model).or_default().failed_batches += 1;
    }

    /// A model was unloaded.
    pub(super) fn forget(&self, model: ModelId) {
        self.lock().models.remove(&model);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters stay consistent if another thread panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_failing(&self, now: Instant) -> bool {
        let is_recent = self.failed_at.is_some_and(|at| now.saturating_duration_since(at) < FAILING_TIME);
        self.failures >= FAILING_BATCHES && is_recent
    }

    fn left(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0
            && let Some(since) = self.busy_since.take()
        {
            self.busy += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::plan_of;
    use super::*;

    #[test]
    fn a_device_fails_after_some_failures_in_a_row_and_for_a_while() {
        let (meter, plan) = (Meter::default(), plan_of(ModelId(1), &[("tenant", 1)]));
        let report = BatchReport::default();
        for _ in 1..FAILING_BATCHES {
            meter.failed(&plan);
        }
        assert!(!meter.is_failing());
        meter.finished(&plan, &report, Duration::ZERO);
        meter.failed(&plan);
        assert!(!meter.is_failing(), "those before the success count");
        for _ in 1..FAILING_BATCHES {
            meter.failed(&plan);
        }
        let last = Instant::now();
        assert!(meter.is_failing());
        assert!(!meter.lock().is_failing(last + FAILING_TIME), "nobody would try it again");
        meter.finished(&plan, &report, Duration::ZERO);
        assert!(!meter.is_failing());
    }

    #[test]
    fn batches_that_overlap_keep_the_device_busy_once() {
        let meter = Meter::default();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        meter.submitted(long_ago);
        meter.submitted(Instant::now());
        let busy = meter.busy().as_secs_f64();
        assert!((10.0..11.0).contains(&busy), "a batch in flight counts: {busy}");
        let plan = plan_of(ModelId(1), &[("a", 10)]);
        meter.finished(&plan, &BatchReport::default(), Duration::from_millis(5));
        meter.failed(&plan);
        let busy = meter.busy();
        assert!((10.0..11.0).contains(&busy.as_secs_f64()), "overlap is not counted twice: {busy:?}");
        assert_eq!(meter.busy(), busy, "an idle device gains no busy time");
    }

    #[test]
    fn a_batchs_time_is_divided_by_work_and_counted_for_its_model_and_the_device() {
        let meter = Meter::default();
        let report = BatchReport { rows: 2, tokens: 7, useful_flops: 9, ..Default::default() };
        meter.finished(&plan_of(ModelId(1), &[("a", 30), ("b", 10)]), &report, Duration::from_millis(100));
        meter.finished(&plan_of(ModelId(2), &[("a", 10)]), &report, Duration::from_millis(40));
        meter.failed(&plan_of(ModelId(2), &[("b", 10)]));
        assert_eq!(meter.device_time_of("a"), Duration::from_millis(75 + 40));
        assert_eq!(meter.device_time_of("b"), Duration::from_millis(25));
        assert_eq!(meter.device_time_of("nobody"), Duration::ZERO);
        let MeterReading { batches, failed_batches, rows, tokens, useful_flops, device_time, .. } = meter.read();
        assert_eq!((batches, failed_batches, rows, tokens, useful_flops), (2, 1, 4, 14, 18));
        assert_eq!(device_time, Duration::from_millis(140));
        assert_eq!((meter.model(ModelId(2)).batches, meter.model(ModelId(2)).failed_batches), (1, 1));
        meter.forget(ModelId(2));
        assert_eq!(meter.model(ModelId(2)), MeterReading::default());
        assert_eq!(meter.read().batches, 2, "what a model did stays the device's");
    }
}
