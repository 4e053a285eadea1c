//! Counts and maxima of a tenant's requests, for `assay tenant show`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guest::CallCost;

/// A tenant's use now and since the server started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Requests answered.
    pub answered: u64,
    /// Requests failed, for any reason.
    pub failed: u64,
    /// Tokens sent to the device.
    pub tokens: u64,
    /// Device time of its rows, over all models.
    #[serde(default)]
    pub device_time_ms: u64,
    /// Requests that run now.
    pub running: u64,
    /// Requests that wait to run now.
    pub waiting: u64,
    /// Tokens waiting for the device now.
    pub queued_tokens: u64,
    /// Tokens left in the burst now.
    pub burst_tokens_left: u64,
    /// Prepared instances that wait for a request now.
    pub idle_instances: u64,
    /// Whether instances start from a snapshot of the guest's memory.
    pub is_snapshotted: bool,
    /// Most documents of a request so far.
    pub most_documents: u64,
    /// Most rows of a request so far.
    pub most_request_rows: u64,
    /// Most tokens of a request so far.
    pub most_request_tokens: u64,
    /// Most memory of the guest so far.
    pub most_memory_bytes: u64,
    /// Most processor time of the guest in a request so far.
    pub most_guest_cpu_ms: u64,
    /// Longest request so far.
    pub most_wall_ms: u64,
}

/// Counts one tenant's requests.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<Usage>);

impl Meter {
    /// Counts an ended request.
    pub(super) fn count(&self, answered: bool, documents: usize, cost: &CallCost, wall: Duration) {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut usage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            usage.answered += 1;
        } else {
            usage.failed += 1;
        }
        usage.tokens += cost.tokens;
        let most = |mark: &mut u64, value: u64| *mark = (*mark).max(value);
        most(&mut usage.most_documents, documents as u64);
        most(&mut usage.most_request_rows, cost.rows);
        most(&mut usage.most_request_tokens, cost.tokens);
        most(&mut usage.most_memory_bytes, cost.memory_bytes);
        most(&mut usage.most_guest_cpu_ms, millis(cost.cpu));
        most(&mut usage.most_wall_ms, millis(wall));
    }

    /// The counts. The caller fills in the current values.
    pub(super) fn usage(&self) -> Usage {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
