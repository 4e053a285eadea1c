//! Sends requests on time, and records when each should have started, was sent, and was done.
//!
//! In an open loop, latency counts from the intended start. So a request that was sent late, because either side was
//! stuck, counts with the delay that its user would have seen: no coordinated omission (Gil Tene, "How NOT to Measure
//! Latency").

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::driver::{Driver, Failure, Reply};
use crate::load::Pool;
use crate::scenario::Arrivals;

/// How long a closed loop's worker waits after a failure: retries at once would only measure how fast the host refuses.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What one tenant sends.
#[derive(Debug, Clone)]
pub struct TenantRun {
    /// Its requests, used in turn.
    pub pool: Arc<Pool>,
    /// When they are sent.
    pub schedule: Schedule,
}

/// When one tenant's requests are sent.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// Each worker sends its next request when it has the answer to its last.
    Closed {
        /// Workers.
        workers: u32,
        /// The number of requests; if absent, until every tenant with a number is done.
        requests: Option<usize>,
    },
    /// At these times from the start, ascending.
    Open {
        /// The intended starts.
        starts: Arc<[Duration]>,
    },
}

impl Schedule {
    /// An open loop of `requests` requests at `rate_per_s`.
    #[must_use]
    pub fn open(rate_per_s: f64, arrivals: Arrivals, requests: u32, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut at = 0.0;
        let starts = (0..requests).map(|_| {
            let start = Duration::from_secs_f64(at);
            let gap: f64 = match arrivals {
                Arrivals::Uniform => 1.0,
                Arrivals::Poisson => Exp1.sample(&mut random),
            };
            at += gap / rate_per_s;
            start
        });
        Self::Open { starts: starts.collect() }
    }

    /// The number of requests, if known.
    #[must_use]
    pub fn requests(&self) -> Option<usize> {
        match self {
            Self::Closed { requests, .. } => *requests,
            Self::Open { starts } => Some(starts.len()),
        }
    }
}

/// One request and its result. Times count from the start of the run.
#[derive(Debug, Clone)]
pub struct Record {
    /// The tenant's number in the configuration.
    pub tenant: usize,
    /// The request's number within the tenant.
    pub sequence: usize,
    /// When it should have been sent.
    pub intended: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// When the answer arrived.
    pub done: Duration,
    /// The answer.
    pub outcome: Result<Reply, Failure>,
}

impl Record {
    /// The user's wait, from the intended start.
    #[must_use]
    pub fn latency(&self) -> Duration {
        self.done.saturating_sub(self.intended)
    }
}

/// The records of a run.
#[derive(Debug, Default)]
pub struct Drive {
    /// In the order of completion.
    pub records: Vec<Record>,
    /// From the start until the last tenant with a number of requests was done.
    pub elapsed: Duration,
}

/// What the tasks of a run share.
#[derive(Debug, Clone)]
struct Shared {
    driver: Arc<dyn Driver>,
    begun: Instant,
    deadline: Option<Instant>,
    halt: CancellationToken,
    records: UnboundedSender<Record>,
}

/// Runs all tenants side by side and calls `done` with each record. Ends when
///
/// - every tenant with a number of requests is done, or every tenant if none has a number;
/// - `max` has passed: no request starts after it, but those in flight are finished;
/// - `stop` is cancelled: requests in flight are cancelled too, and not recorded.
pub async fn drive(
    driver: &Arc<dyn Driver>,
    tenants: &[TenantRun],
    max: Option<Duration>,
    stop: &CancellationToken,
    mut done: impl FnMut(&Record),
) -> Drive {
    let (sender, mut receiver) = unbounded_channel();
    let begun = Instant::now();
    let deadline = max.map(|max| begun + max);
    let shared = Shared { driver: Arc::clone(driver), begun, deadline, halt: stop.child_token(), records: sender };
    let (mut counted, mut uncounted) = (JoinSet::new(), JoinSet::new());
    for (number, tenant) in tenants.iter().enumerate() {
        let tasks = if tenant.schedule.requests().is_some() { &mut counted } else { &mut uncounted };
        spawn(tasks, &shared, number, tenant);
    }
    if counted.is_empty() {
        std::mem::swap(&mut counted, &mut uncounted);
    }
    let halt = shared.halt.clone();
    drop(shared);
    let supervise = async {
        while counted.join_next().await.is_some() {}
        let elapsed = begun.elapsed();
        halt.cancel();
        while uncounted.join_next().await.is_some() {}
        elapsed
    };
    let collect = async {
        let mut records = Vec::new();
        while let Some(record) = receiver.recv().await {
            done(&record);
            records.push(record);
        }
        records
    };
    let (elapsed, records) = tokio::join!(supervise, collect);
    Drive { records, elapsed }
}

fn spawn(tasks: &mut JoinSet<()>, shared: &Shared, number: usize, tenant: &TenantRun) {
    match &tenant.schedule {
        Schedule::Closed { workers, requests } => {
            let next = Arc::new(AtomicUsize::new(0));
            for _ in 0..*workers {
                let most = requests.unwrap_or(usize::MAX);
                tasks.spawn(work(shared.clone(), number, Arc::clone(&tenant.pool), Arc::clone(&next), most));
            }
        }
        Schedule::Open { starts } => {
            tasks.spawn(send_at(shared.clone(), number, Arc::clone(&tenant.pool), Arc::clone(starts)));
        }
    }
}

async fn work(shared: Shared, tenant: usize, pool: Arc<Pool>, next: Arc<AtomicUsize>, most: usize) {
    while !shared.is_over() {
        let sequence = next.fetch_add(1, Ordering::Relaxed);
        if sequence >= most {
            return;
        }
        let intended = shared.begun.elapsed();
        let Some(answered) = shared.call(tenant, &pool, sequence, intended).await else { return };
        if !answered {
            sleep(PAUSE_AFTER_FAILURE).await;
        }
    }
}

async fn send_at(shared: Shared, tenant: usize, pool: Arc<Pool>, starts: Arc<[Duration]>) {
    let mut calls = JoinSet::new();
    for (sequence, &intended) in starts.iter().enumerate() {
        tokio::select! {
            () = shared.halt.cancelled() => break,
            () = sleep_until(shared.begun + intended) => {}
        }
        if shared.is_over() {
            break;
        }
        let (shared, pool) = (shared.clone(), Arc::clone(&pool));
        calls.spawn(async move { shared.call(tenant, &pool, sequence, intended).await });
    }
    while calls.join_next().await.is_some() {}
}

impl Shared {
    fn is_over(&self) -> bool {
        self.halt.is_cancelled() || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Sends one request and records it. Returns whether it was answered, or `None` if the run ended first.
    async fn call(&self, tenant: usize, pool: &Pool, sequence: usize, intended: Duration) -> Option<bool> {
        let request = &pool.get(sequence).request;
        let sent = self.begun.elapsed();
        let outcome = tokio::select! {
            () = self.halt.cancelled() => return None,
            outcome = self.driver.call(tenant, request) => outcome,
        };
        let answered = outcome.is_ok();
        // There is no receiver only while the run is dropped.
        let _ = self.records.send(Record { tenant, sequence, intended, sent, done: self.begun.elapsed(), outcome });
        Some(answered)
    }
}
