//! What one engine has done so far: counters that anybody may read and only the dispatch thread writes.
//!
//! The bench and the metrics read them to tell how busy the device is. They take no part in any decision.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use assay_kernels::{BatchReport, DeviceMemory};

/// Totals since the engine was made. The difference of two readings tells what happened between them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MeterReading {
    /// Batches computed.
    pub batches: u64,
    /// Batches that the engine failed.
    pub failed_batches: u64,
    /// Rows computed.
    pub rows: u64,
    /// Tokens computed: all useful.
    pub tokens: u64,
    /// Useful floating-point operations, by formula.
    pub useful_flops: u64,
    /// Time with at least one batch on the device, the batch in flight included.
    pub busy: Duration,
    /// Time that the device says it worked, where it can tell.
    pub device_time: Duration,
}

/// Counts batches as they are submitted and finished.
#[derive(Debug)]
pub struct Meter {
    memory: DeviceMemory,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reading: MeterReading,
    in_flight: usize,
    busy_since: Option<Instant>,
}

impl Meter {
    pub(super) fn new(memory: DeviceMemory) -> Self {
        Self { memory, state: Mutex::default() }
    }

    /// Memory that the engine holds; the same for as long as it lives.
    #[must_use]
    pub fn memory(&self) -> DeviceMemory {
        self.memory
    }

    /// The totals up to now.
    #[must_use]
    pub fn read(&self) -> MeterReading {
        let state = self.lock();
        let mut reading = state.reading;
        if let Some(since) = state.busy_since {
            reading.busy += since.elapsed();
        }
        reading
    }

    /// A batch is about to be submitted.
    pub(super) fn submitted(&self, now: Instant) {
        let mut state = self.lock();
        state.in_flight += 1;
        state.busy_since.get_or_insert(now);
    }

    /// A batch has left the device; `None` where it failed.
    pub(super) fn finished(&self, report: Option<&BatchReport>) {
        let mut state = self.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        if state.in_flight == 0
            && let Some(since) = state.busy_since.take()
        {
            state.reading.busy += since.elapsed();
        }
        let reading = &mut state.reading;
        match report {
            None => reading.failed_batches += 1,
            Some(report) => {
                reading.batches += 1;
                reading.rows += report.rows as u64;
                reading.tokens += report.tokens as u64;
                reading.useful_flops += report.useful_flops;
                reading.device_time += report.device_time.unwrap_or_default();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters stay whole whatever panics elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_overlap_keep_the_device_busy_once() {
        let meter = Meter::new(DeviceMemory::default());
        let long_ago = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        meter.submitted(long_ago);
        meter.submitted(Instant::now());
        let busy = meter.read().busy.as_secs_f64();
        assert!((10.0..11.0).contains(&busy), "a batch in flight counts: {busy}");
        meter.finished(Some(&BatchReport { rows: 2, tokens: 7, useful_flops: 9, ..Default::default() }));
        meter.finished(None);
        let reading = meter.read();
        assert!((10.0..11.0).contains(&reading.busy.as_secs_f64()), "overlap is not counted twice: {reading:?}");
        let counted = (reading.batches, reading.failed_batches, reading.rows, reading.tokens, reading.useful_flops);
        assert_eq!(counted, (1, 1, 2, 7, 9));
        assert_eq!(meter.read().busy, reading.busy, "an idle device gains no busy time");
    }
}
