//! Counts and maxima of requests: a tenant's, for `assay tenant show`, and those of all tenants.
//!
//! [`Meters`] gives each tenant its meter. A bounded number of tenants are told by name, so that what reports on a
//! server is bounded however many tenants it has.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::TenantName;
use crate::guest::CallCost;
use crate::rerank::RerankError;
use crate::telemetry::Histogram;
use crate::telemetry::histogram::SECONDS;
use crate::telemetry::traces::Outcome;

/// Default for the most tenants that are told by name: each takes some twenty series.
pub const DEFAULT_MAX_NAMED_TENANTS: usize = 200;

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
    /// Documents of answered requests.
    pub documents: u64,
    /// Rows sent to the device.
    pub rows: u64,
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
    /// Why they do not.
    pub no_snapshot: Option<String>,
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

impl Usage {
    /// Requests by how they ended, each with the word that reports have for it.
    #[must_use]
    pub fn outcomes(&self) -> [(&'static str, u64); 7] {
        [
            ("answered", self.answered),
            ("refused", self.refused),
            ("turned-away", self.turned_away),
            ("cancelled", self.cancelled),
            ("late", self.late),
            ("guest-fault", self.guest_faults),
            ("host-fault", self.host_faults),
        ]
    }

    /// What is counted here and not in the others: sums only, and of each at least nothing.
    #[must_use]
    pub fn without<'a>(mut self, others: impl Iterator<Item = &'a Self>) -> Self {
        for other in others {
            let less = |sum: &mut u64, part: u64| *sum = sum.saturating_sub(part);
            less(&mut self.answered, other.answered);
            less(&mut self.failed, other.failed);
            less(&mut self.refused, other.refused);
            less(&mut self.turned_away, other.turned_away);
            less(&mut self.cancelled, other.cancelled);
            less(&mut self.late, other.late);
            less(&mut self.guest_faults, other.guest_faults);
            less(&mut self.host_faults, other.host_faults);
            less(&mut self.documents, other.documents);
            less(&mut self.rows, other.rows);
            less(&mut self.tokens, other.tokens);
            less(&mut self.guest_cpu_ms, other.guest_cpu_ms);
        }
        self
    }
}

/// Where answered requests' time went, by stage, in seconds. The stages add up to the total.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    /// Waiting for a permit, and for the body.
    pub admission: Histogram,
    /// In the guest and around it.
    pub guest: Histogram,
    /// Rows waiting for the device.
    pub queue: Histogram,
    /// Rows on the device.
    pub inference: Histogram,
    /// All of it.
    pub total: Histogram,
}

impl Default for Stages {
    fn default() -> Self {
        let [admission, guest, queue, inference, total] = std::array::from_fn(|_| Histogram::new(SECONDS));
        Self { admission, guest, queue, inference, total }
    }
}

impl Stages {
    /// Each stage with its name.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &Histogram); 5] {
        [
            ("admission", &self.admission),
            ("guest", &self.guest),
            ("queue", &self.queue),
            ("inference", &self.inference),
            ("total", &self.total),
        ]
    }
}

/// Where one answered request's time went.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StageTimes {
    pub(super) admission: Duration,
    pub(super) guest: Duration,
    pub(super) queue: Duration,
    pub(super) inference: Duration,
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

impl Ending {
    /// How its span ends.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Answered => Outcome::Done,
            Self::Refused => Outcome::Refused("refused"),
            Self::TurnedAway => Outcome::Refused("turned-away"),
            Self::Cancelled => Outcome::Refused("cancelled"),
            Self::Late => Outcome::Failed("late"),
            Self::GuestFault => Outcome::Failed("guest-fault"),
            Self::HostFault => Outcome::Failed("host-fault"),
        }
    }
}

impl From<&RerankError> for Ending {
    fn from(error: &RerankError) -> Self {
        match error {
            RerankError::InvalidInput(_)
            | RerankError::TooLarge { .. }
            | RerankError::AccessDenied(_)
            | RerankError::ModelNotFound(_) => Self::Refused,
            RerankError::Overloaded { .. } | RerankError::TooManyRequests { .. } | RerankError::Deferred { .. } => {
                Self::TurnedAway
            }
            RerankError::DeadlineExceeded { .. } | RerankError::Late { .. } => Self::Late,
            RerankError::Guest(_) => Self::GuestFault,
            RerankError::Unavailable { .. } | RerankError::Internal(_) => Self::HostFault,
        }
    }
}

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Ended<'a> {
    pub(super) ending: Ending,
    /// Why it failed, if an error says it.
    pub(super) error: Option<&'a RerankError>,
    pub(super) documents: usize,
    pub(super) cost: CallCost,
    pub(super) wall: Duration,
    /// Where its time went, if it was answered.
    pub(super) times: Option<StageTimes>,
}

impl<'a> Ended<'a> {
    /// A request that cost nothing and had no answer.
    pub(super) fn early(ending: Ending, error: Option<&'a RerankError>, wall: Duration) -> Self {
        Self { ending, error, documents: 0, cost: CallCost::default(), wall, times: None }
    }
}

/// Counts requests.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    usage: Usage,
    guest_cpu: Duration,
    stages: Stages,
    faults: BTreeMap<&'static str, u64>,
    limits: BTreeMap<&'static str, u64>,
}

/// A reading of a meter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// The counts. Current values are 0.
    pub usage: Usage,
    /// Where answered requests' time went.
    pub stages: Stages,
    /// Faults of guests by kind.
    pub faults: BTreeMap<String, u64>,
    /// Requests that met a limit, by its name.
    pub limits: BTreeMap<String, u64>,
}

impl Meter {
    /// Counts an ended request.
    pub(super) fn count(&self, ended: &Ended<'_>) {
        let Ended { ending, error, documents, cost, wall, times } = ended;
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { usage, guest_cpu, stages, faults, limits } = &mut *counts;
        *guest_cpu += cost.cpu;
        *match ending {
            Ending::Answered => &mut usage.answered,
            Ending::Refused => &mut usage.refused,
            Ending::TurnedAway => &mut usage.turned_away,
            Ending::Cancelled => &mut usage.cancelled,
            Ending::Late => &mut usage.late,
            Ending::GuestFault => &mut usage.guest_faults,
            Ending::HostFault => &mut usage.host_faults,
        } += 1;
        usage.failed += u64::from(*ending != Ending::Answered);
        usage.documents += if *ending == Ending::Answered { *documents as u64 } else { 0 };
        usage.rows += cost.rows;
        usage.tokens += cost.tokens;
        let most = |mark: &mut u64, value: u64| *mark = (*mark).max(value);
        most(&mut usage.most_documents, *documents as u64);
        most(&mut usage.most_request_rows, cost.rows);
        most(&mut usage.most_request_tokens, cost.tokens);
        most(&mut usage.most_memory_bytes, cost.memory_bytes);
        most(&mut usage.most_guest_cpu_ms, millis(cost.cpu));
        most(&mut usage.most_wall_ms, millis(*wall));
        if let Some(StageTimes { admission, guest, queue, inference }) = times {
            stages.admission.observe(admission.as_secs_f64());
            stages.guest.observe(guest.as_secs_f64());
            stages.queue.observe(queue.as_secs_f64());
            stages.inference.observe(inference.as_secs_f64());
            stages.total.observe((*admission + *guest + *queue + *inference).as_secs_f64());
        }
        if let Some(RerankError::Guest(fault)) = error {
            *faults.entry(fault.kind()).or_default() += 1;
        }
        if let Some(limit) = error.and_then(RerankError::limit) {
            *limits.entry(limit).or_default() += 1;
        }
    }

    /// The counts. The caller fills in the current values.
    pub(super) fn usage(&self) -> Usage {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.usage()
    }

    /// The counts, with the times of answered requests.
    pub(super) fn read(&self) -> RequestCounts {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        RequestCounts {
            usage: counts.usage(),
            stages: counts.stages.clone(),
            faults: named(&counts.faults),
            limits: named(&counts.limits),
        }
    }

    /// How long answered requests took.
    pub(super) fn total_times(&self) -> Histogram {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stages.total.clone()
    }
}

impl Counts {
    fn usage(&self) -> Usage {
        Usage { guest_cpu_ms: millis(self.guest_cpu), ..self.usage.clone() }
    }
}

/// The meters of a server: one for all requests, and one for each tenant.
#[derive(Debug)]
pub(super) struct Meters {
    all: Arc<Meter>,
    named: Mutex<HashMap<TenantName, Arc<Meter>>>,
    max_named: usize,
}

impl Meters {
    /// Of so many tenants at most are counts told by name.
    pub(super) fn new(max_named: usize) -> Self {
        Self { all: Arc::default(), named: Mutex::default(), max_named }
    }

    /// The meter of all requests.
    pub(super) fn all(&self) -> &Arc<Meter> {
        &self.all
    }

    /// A tenant's meter. The first tenants since the start are told by name, also after they are removed: a counter
    /// that goes away and comes back would look like a burst.
    pub(super) fn of(&self, tenant: &TenantName) -> Arc<Meter> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        match named.get(tenant) {
            Some(meter) => Arc::clone(meter),
            None if named.len() < self.max_named => {
                let meter = Arc::<Meter>::default();
                named.insert(tenant.clone(), Arc::clone(&meter));
                meter
            }
            None => Arc::default(),
        }
    }

    /// The tenants that are told by name, in the order of their names.
    pub(super) fn named(&self) -> Vec<(TenantName, Arc<Meter>)> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mut named: Vec<_> = named.iter().map(|(name, meter)| (name.clone(), Arc::clone(meter))).collect();
        named.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        named
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered() -> Ended<'static> {
        let times = StageTimes { guest: Duration::from_millis(2), ..StageTimes::default() };
        let cost = CallCost { rows: 3, tokens: 30, ..CallCost::default() };
        let wall = Duration::from_millis(2);
        Ended { ending: Ending::Answered, error: None, documents: 3, cost, wall, times: Some(times) }
    }

    #[test]
    fn only_so_many_tenants_are_named_and_the_others_are_the_rest_of_all() {
        let meters = Meters::new(2);
        for name in ["a", "b", "c", "d"] {
            let meter = meters.of(&name.parse().unwrap());
            meter.count(&answered());
            meters.all().count(&answered());
        }
        let named = meters.named();
        assert_eq!(named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let readings: Vec<Usage> = named.iter().map(|(_, meter)| meter.usage()).collect();
        let others = meters.all().usage().without(readings.iter());
        assert_eq!((others.answered, others.rows, others.tokens, others.documents), (2, 6, 60, 6));
        // One that comes back goes on counting.
        meters.of(&"a".parse().unwrap()).count(&answered());
        assert_eq!(meters.named()[0].1.usage().answered, 2);
    }

    #[test]
    fn faults_and_limits_are_counted_by_name_and_only_answers_are_timed() {
        let meter = Meter::default();
        meter.count(&answered());
        let error = RerankError::from(crate::rerank::GuestFault::CpuTime { limit: Duration::ZERO });
        meter.count(&Ended::early(Ending::from(&error), Some(&error), Duration::ZERO));
        let counts = meter.read();
        assert_eq!((counts.usage.answered, counts.usage.guest_faults, counts.usage.failed), (1, 1, 1));
        assert_eq!((counts.faults["cpu-time"], counts.limits["max_guest_cpu_ms"]), (1, 1));
        assert_eq!((counts.stages.total.count(), counts.stages.queue.count()), (1, 1));
        assert!((counts.stages.total.sum() - 0.002).abs() < 1e-9);
    }
}
