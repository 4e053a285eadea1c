//! Counts and maxima of a tenant's requests, for `assay tenant show`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guest::CallCost;
use crate::rerank::RerankError;

/// A tenant's use now and since the server started. Every request is counted once: answered, or as one kind of failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Requests answered.
    pub answered: u64,
    /// Requests failed, for any reason: the sum of the kinds below.
    pub failed: u64,
    /// Refused: not a request, over a limit, or of a model that the tenant may not use.
    pub refused: u64,
    /// Turned away for now: too many at once, a full queue, a spent rate, or no memory.
    pub turned_away: u64,
    /// The caller went away, or the operator stopped it.
    pub cancelled: u64,
    /// Out of wall-clock time.
    pub late: u64,
    /// The guest trapped, ran out of a limit of its own, or answered nonsense.
    pub guest_faults: u64,
    /// The device or the host failed.
    pub host_faults: u64,
    /// Tokens sent to the device.
    pub tokens: u64,
    /// Device time of its rows, over all models.
    pub device_time_ms: u64,
    /// Processor time of its guests, and of the host on their behalf.
    pub guest_cpu_ms: u64,
    /// Requests that run now.
    pub running: u64,
    /// Requests that wait to run now.
    pub waiting: u64,
    /// Tokens waiting for the device now.
    pub queued_tokens: u64,
    /// Tokens left in the burst now.
    pub burst_tokens_left: u64,
    /// Bytes that its guests, and texts that wait for them, hold now.
    pub guest_memory_bytes: u64,
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

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Answered,
    Refused,
    TurnedAway,
    Cancelled,
    Late,
    GuestFault,
    HostFault,
}

impl From<&RerankError> for Ending {
    fn from(error: &RerankError) -> Self {
        match error {
            RerankError::InvalidInput(_)
            | RerankError::TooLarge { .. }
            | RerankError::AccessDenied(_)
            | RerankError::ModelNotFound(_) => Self::Refused,
            RerankError::Overloaded { .. } | RerankError::TooManyRequests { .. } => Self::TurnedAway,
            RerankError::DeadlineExceeded { .. } => Self::Late,
            RerankError::Guest(_) => Self::GuestFault,
            RerankError::Unavailable { .. } | RerankError::Internal(_) => Self::HostFault,
        }
    }
}

/// Counts one tenant's requests.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    usage: Usage,
    guest_cpu: Duration,
}

impl Meter {
    /// Counts an ended request.
    pub(super) fn count(&self, ending: Ending, documents: usize, cost: &CallCost, wall: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.guest_cpu += cost.cpu;
        let usage = &mut counts.usage;
        *match ending {
            Ending::Answered => &mut usage.answered,
            Ending::Refused => &mut usage.refused,
            Ending::TurnedAway => &mut usage.turned_away,
            Ending::Cancelled => &mut usage.cancelled,
            Ending::Late => &mut usage.late,
            Ending::GuestFault => &mut usage.guest_faults,
            Ending::HostFault => &mut usage.host_faults,
        } += 1;
        usage.failed += u64::from(ending != Ending::Answered);
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
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Usage { guest_cpu_ms: millis(counts.guest_cpu), ..counts.usage.clone() }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
