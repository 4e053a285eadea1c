//! What a request costs, counted while it runs, so that one that is cancelled is counted too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cpu_time::CpuMeter;

/// What a request costs, answered or not. It can be read at any time.
#[derive(Debug, Default)]
pub struct CallMeter {
    rows: AtomicU64,
    tokens: AtomicU64,
    memory_bytes: AtomicU64,
    cpu: Arc<CpuMeter>,
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
