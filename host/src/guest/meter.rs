//! What a request costs, counted while it runs, so that one that is cancelled is counted too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cpu_time::CpuMeter;

/// What a request costs, answered or not. It can be read at any time.
#[derive(Debug, Default)]
pub struct CallMeter {
    rows: AtomicU64,
    tokens: AtomicU64,
    memory_bytes: AtomicU64,
    cpu: Arc<CpuMeter>,
    calls: Mutex<Calls>,
}

/// What tenants cost that a request's guest called.
#[derive(Debug, Default)]
struct Calls {
    /// Those that have ended.
    ended: Charge,
    /// The one in progress: a guest waits for one at a time.
    current: Option<Arc<CallMeter>>,
}

/// What counts for a request beside its own guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) tokens: u64,
    pub(super) cpu: Duration,
}

/// A reading of a [`CallMeter`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCost {
    /// Rows sent to the device.
    pub rows: u64,
    /// Tokens sent to the device.
    pub tokens: u64,
    /// Memory of the guest at the end.
    pub memory_bytes: u64,
    /// Processor time of the guest and of the host on its behalf.
    pub cpu: Duration,
}

impl CallMeter {
    /// What the request has cost so far.
    #[must_use]
    pub fn cost(&self) -> CallCost {
        CallCost {
            rows: self.rows.load(Ordering::Relaxed),
            tokens: self.tokens.load(Ordering::Relaxed),
            memory_bytes: self.memory_bytes.load(Ordering::Relaxed),
            cpu: self.cpu.spent(),
        }
    }

    /// The meter of a call that begins.
    pub(super) fn begin_call(&self) -> Arc<Self> {
        let meter = Arc::<Self>::default();
        let mut calls = self.calls();
        calls.end();
        calls.current = Some(Arc::clone(&meter));
        meter
    }

    /// The call in progress has ended.
    pub(super) fn end_call(&self) {
        self.calls().end();
    }

    /// What the calls cost so far, each with the calls of its own.
    pub(super) fn called(&self) -> Charge {
        let calls = self.calls();
        let current = calls.current.as_ref().map_or_else(Charge::default, |current| current.in_all());
        Charge { tokens: calls.ended.tokens + current.tokens, cpu: calls.ended.cpu + current.cpu }
    }

    /// What counts for its caller.
    fn in_all(&self) -> Charge {
        let (own, called) = (self.cost(), self.called());
        Charge { tokens: own.tokens + called.tokens, cpu: own.cpu + called.cpu }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        // Each change leaves the sums consistent.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts rows for the device.
    pub(super) fn sent(&self, rows: u64, tokens: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// Takes back rows that the device did not take.
    pub(super) fn refused(&self, rows: u64, tokens: u64) {
        self.rows.fetch_sub(rows, Ordering::Relaxed);
        self.tokens.fetch_sub(tokens, Ordering::Relaxed);
    }

    pub(super) fn set_memory(&self, bytes: u64) {
        self.memory_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn cpu(&self) -> &Arc<CpuMeter> {
        &self.cpu
    }
}

impl Calls {
    fn end(&mut self) {
        let Some(ended) = self.current.take() else { return };
        let Charge { tokens, cpu } = ended.in_all();
        self.ended.tokens += tokens;
        self.ended.cpu += cpu;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callees_cost_counts_for_every_caller_above_while_it_runs_and_afterwards() {
        let first = CallMeter::default();
        first.sent(1, 5);
        let second = first.begin_call();
        let third = second.begin_call();
        third.sent(1, 20);
        assert_eq!((first.called().tokens, second.called().tokens, first.cost().tokens), (20, 20, 5));
        second.end_call();
        second.sent(1, 300);
        // A call that was given up counts when the next one begins.
        let next = first.begin_call();
        next.sent(1, 4_000);
        assert_eq!(first.called().tokens, 4_320);
        next.refused(1, 4_000);
        first.end_call();
        assert_eq!((first.called().tokens, second.called().tokens), (320, 20));
    }
}
