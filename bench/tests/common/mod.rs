//! The default model, a driver with known delays, and requests without a tokenizer.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use assay::rerank::Request;
use assay_bench::driver::{Driver, Failure, Gauge, Reply, Stages};
use assay_bench::load::{Pool, Prepared};
use assay_bench::report::schema::{
    ConfigurationReport, Machine, Repeat, Report, SCHEMA, SCHEMA_VERSION, StartReport, Target, TenantReport, Warmup,
};
use assay_bench::run::measure::{self, RawRepeat};
use assay_bench::run::pace::{Drive, Schedule, TenantRun, drive};
use assay_bench::stats::Summary;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// The data directory of the tests; a skip says why.
pub(crate) fn data_dir() -> Option<PathBuf> {
    let given = std::env::var_os("ASSAY_DATA_DIR").map(PathBuf::from);
    let dir = given.clone().unwrap_or_else(testdata::data_dir);
    if dir.join("models/default").is_file() {
        return Some(dir);
    }
    assert!(given.is_none(), "ASSAY_DATA_DIR holds no default model: `assay model pull` brings it in");
    let reason = format!("{} holds no default model; `cargo xtask test` fetches it", dir.display());
    testdata::skip(testdata::Cause::NotSetUp, &reason);
    None
}

/// A driver that serves `slots` requests at once, each in the time `service`, and stalls once.
#[derive(Debug)]
pub(crate) struct FakeDriver {
    slots: Semaphore,
    service: Duration,
    stall: Option<(Instant, Duration)>,
    fails_every: Option<u64>,
    calls: AtomicU64,
    begun: Instant,
}

impl FakeDriver {
    pub(crate) fn new(slots: usize, service: Duration) -> Self {
        let slots = Semaphore::new(slots);
        Self { slots, service, stall: None, fails_every: None, calls: AtomicU64::new(0), begun: Instant::now() }
    }

    /// Stalls for `length`, starting `after` the start.
    pub(crate) fn with_stall(mut self, after: Duration, length: Duration) -> Self {
        self.stall = Some((self.begun + after, length));
        self
    }

    /// Fails every `calls`th request at once.
    pub(crate) fn failing_every(mut self, calls: u64) -> Self {
        self.fails_every = Some(calls);
        self
    }
}

impl Driver for FakeDriver {
    fn call<'a>(&'a self, _tenant: usize, request: &'a Request) -> BoxFuture<'a, Result<Reply, Failure>> {
        async move {
            let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
            if self.fails_every.is_some_and(|every| number.is_multiple_of(every)) {
                return Err(Failure { kind: "overloaded".to_owned(), message: String::new() });
            }
            let arrived = Instant::now();
            let _slot = self.slots.acquire().await;
            if let Some((from, length)) = self.stall
                && (from..from + length).contains(&Instant::now())
            {
                sleep_until(from + length).await;
            }
            let queue = arrived.elapsed();
            sleep(self.service).await;
            let stages = Stages { guest: Duration::ZERO, queue, inference: self.service };
            let pairs = request.documents.len() as u64;
            Ok(Reply { pairs, tokens: Some(10 * pairs), stages: Some(stages) })
        }
        .boxed()
    }

    fn gauge(&self) -> Gauge {
        Gauge {
            device_memory_bytes: Some(5_000_000),
            device_busy: Some(self.begun.elapsed() / 2),
            ..Default::default()
        }
    }
}

/// `requests` requests of `pairs` documents of ten tokens.
pub(crate) fn pool(requests: usize, pairs: usize) -> Arc<Pool> {
    let prepared = Prepared {
        request: Arc::new(Request { documents: vec!["text".to_owned(); pairs], ..Default::default() }),
        row_tokens: vec![10; pairs],
        truncated: 0,
        useful_flops: 1_000_000_000,
        padded_flops: 1_000_000_000,
        tokenize: Duration::ZERO,
    };
    Arc::new(Pool::new(vec![prepared; requests]))
}

/// Runs one tenant with the driver, without samples.
pub(crate) async fn run(driver: FakeDriver, schedule: Schedule, pairs: usize) -> (Drive, Repeat) {
    let driver: Arc<dyn Driver> = Arc::new(driver);
    let tenants = [TenantRun { pool: pool(4, pairs), schedule }];
    let drive = drive(&driver, &tenants, None, &CancellationToken::new(), |_| {}).await;
    let repeat = figures(&drive, pairs);
    (drive, repeat)
}

/// The figures of a run of one tenant.
pub(crate) fn figures(drive: &Drive, pairs: usize) -> Repeat {
    measure::repeat(&RawRepeat {
        drive,
        samples: &[],
        tenants: &[("default".to_owned(), pool(4, pairs))],
        cores: 2,
        instance_start: Duration::ZERO,
    })
}

/// A report of one configuration with these repeats.
pub(crate) fn report(repeats: Vec<Repeat>) -> Report {
    let summary = Summary::default();
    let configuration = ConfigurationReport {
        name: "batch=8, concurrency=1".to_owned(),
        batch: Some(8),
        concurrency: Some(1),
        tenants: vec![TenantReport {
            name: "default".to_owned(),
            guest: "standard".to_owned(),
            model: "none".to_owned(),
            pace: "closed loop, 1 at a time".to_owned(),
            rate_per_s: None,
            load: measure::load(&pool(4, 8)),
        }],
        starts: vec![StartReport { model_load_ms: 1.0, guest_load_ms: 2.0 }],
        warmup: Warmup { first_ms: Some(60.0), latency_ms: summary, errors: BTreeMap::new() },
        instance_start_ms: summary,
        median_repeat: 0,
        repeats,
    };
    Report {
        schema: SCHEMA.to_owned(),
        schema_version: SCHEMA_VERSION,
        scenario: "fake".to_owned(),
        about: "Known delays.".to_owned(),
        timestamp: "2026-01-01 00:00:00 UTC".to_owned(),
        interrupted: false,
        machine: Machine::detect(),
        target: Target {
            driver: "fake".to_owned(),
            model: "none".to_owned(),
            model_revision: String::new(),
            engine: "cpu".to_owned(),
            device: "none".to_owned(),
            precision: "f32".to_owned(),
            threads: 1,
        },
        load_source: "generated, seed 1".to_owned(),
        ceiling: None,
        configurations: vec![configuration],
    }
}
