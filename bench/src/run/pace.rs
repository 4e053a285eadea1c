//! Sending requests at the right time and noting when each was meant to start, was sent, and was done.
//!
//! In an open loop latency counts from the intended start. A request that could not be sent in time because the other
//! side, or this one, was stuck is as late as its user would have found it: no coordinated omission (Gil Tene, "How NOT
//! to Measure Latency").

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

/// How long a closed loop's worker waits after a failure: a refused client that came back at once would only measure
/// how fast it can be refused.
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
    /// Each of so many workers sends the next request when it has the answer to its last.
    Closed {
        /// Workers.
        workers: u32,
        /// How many requests; where absent, until every tenant that has a number is done.
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

    /// How many requests there will be, where that is known.
    #[must_use]
    pub fn requests(&self) -> Option<usize> {
        match self {
            Self::Closed { requests, .. } => *requests,
            Self::Open { starts } => Some(starts.len()),
        }
    }
}

/// One request and what became of it. Times count from the start of the run.
#[derive(Debug, Clone)]
pub struct Record {
    /// The tenant's number in the configuration.
    pub tenant: usize,
    /// The request's number within the tenant.
    pub sequence: usize,
    /// When it was to be sent.
    pub intended: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// When the answer was there.
    pub done: Duration,
    /// The answer.
    pub outcome: Result<Reply, Failure>,
}

impl Record {
    /// What its user waited: from the intended start.
    #[must_use]
    pub fn latency(&self) -> Duration {
        self.done.saturating_sub(self.intended)
    }
}

/// What a run left.
#[derive(Debug, Default)]
pub struct Drive {
    /// In the order of completion.
    pub records: Vec<Record>,
    /// From the start until the last tenant with a number of requests was done.
    pub elapsed: Duration,
}

/// What every task of a run shares.
#[derive(Debug, Clone)]
struct Shared {
    driver: Arc<dyn Driver>,
    begun: Instant,
    deadline: Option<Instant>,
    halt: CancellationToken,
    records: UnboundedSender<Record>,
}

/// Runs all tenants side by side. Ends when every tenant that has a number of requests is done, or every tenant where none
/// has; when no request may be begun any more after `max`; or when `stop` is cancelled; requests that are then in work are given up without a
/// record. `done` is called for each record as it comes.
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

    /// Sends one request and records it; tells whether it was answered, or nothing where the run ended first.
    async fn call(&self, tenant: usize, pool: &Pool, sequence: usize, intended: Duration) -> Option<bool> {
        let request = &pool.get(sequence).request;
        let sent = self.begun.elapsed();
        let outcome = tokio::select! {
            () = self.halt.cancelled() => return None,
            outcome = self.driver.call(tenant, request) => outcome,
        };
        let answered = outcome.is_ok();
        // Nobody listens only when the run is being dropped.
        let _ = self.records.send(Record { tenant, sequence, intended, sent, done: self.begun.elapsed(), outcome });
        Some(answered)
    }
}
