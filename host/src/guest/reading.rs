//! How instances of guests were started, and what guests hold now.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counts how instances are started.
#[derive(Debug, Default)]
pub(super) struct Starts {
    pub(super) snapshotted: AtomicU64,
    pub(super) prepared: AtomicU64,
    pub(super) warm: AtomicU64,
    pub(super) reused: AtomicU64,
}

/// A runtime's guests at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReading {
    /// Requests whose instance started from a snapshot.
    pub snapshotted: u64,
    /// Requests that waited for `prepare`.
    pub prepared: u64,
    /// Requests whose instance had been prepared ahead.
    pub warm: u64,
    /// Requests whose instance had served another one.
    pub reused: u64,
    /// Bytes that guests, and texts that wait for them, hold now.
    pub memory_bytes: u64,
    /// Most that they may hold.
    pub memory_budget_bytes: u64,
    /// Instances now, idle ones too.
    pub instances: u64,
    /// Most instances.
    pub max_instances: u64,
}

impl Starts {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A reading of the counters; what guests hold is the pool's to say.
    pub(super) fn read(&self) -> GuestReading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GuestReading {
            snapshotted: load(&self.snapshotted),
            prepared: load(&self.prepared),
            warm: load(&self.warm),
            reused: load(&self.reused),
            ..GuestReading::default()
        }
    }
}
