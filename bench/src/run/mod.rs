//! Runs a scenario, from its first configuration to the report.
//!
//! For each configuration: get a driver, warm up, measure the start of an instance alone, then run the timed repeats
//! with a sampler beside them. [`measure`] computes the figures.

pub mod measure;
pub mod pace;
pub mod sample;
mod target;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use assay::rerank::Request;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::driver::Driver;
use crate::load::{LoadSource, Pool};
use crate::machine::measure_ceiling;
use crate::progress::Progress;
use crate::report::schema::{
    Ceiling, ConfigurationReport, Machine, Repeat, Report, SCHEMA, SCHEMA_VERSION, StartReport, TenantReport, Warmup,
};
use crate::scenario::{Configuration, Pace, Rate, Scenario, Start, TenantPlan};
use crate::stats::Summary;
use measure::{RawRepeat, ms};
use pace::{Schedule, TenantRun, drive};
use sample::{ProcessProbe, sample};
pub use target::{Host, Service, TargetOptions};

/// Requests without documents that measure the start of an instance: enough for a median.
const INSTANCE_PROBES: usize = 15;

/// Closed-loop workers when capacity is measured: enough to keep guests and device busy.
const CAPACITY_WORKERS: u32 = 4;

/// Requests when capacity is measured.
const CAPACITY_REQUESTS: usize = 24;

/// How to run a scenario.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// What to send requests to.
    pub target: TargetOptions,
    /// A file of requests in place of the scenario's generator.
    pub requests: Option<PathBuf>,
    /// Repeats, in place of the scenario's.
    pub repeats: Option<u32>,
    /// Most requests of each tenant, if fewer than in the scenario.
    pub max_requests: Option<u32>,
    /// Whether to draw bars.
    pub progress: Progress,
}

/// Runs every configuration and reports. If `stop` is cancelled, the report has the part that was run.
///
/// # Errors
/// The scenario contradicts itself, or the target cannot be started. A failed request is counted, and is no error.
pub async fn run(scenario: &Scenario, options: &RunOptions, stop: &CancellationToken) -> Result<Report> {
    let source = match &options.requests {
        Some(path) => LoadSource::File(path.clone()),
        None => LoadSource::Generated { seed: scenario.seed, section: scenario.load.clone() },
    };
    let machine = Machine::detect();
    let host = Host::open(&options.target, scenario)?;
    let on_processor = host.computes_on_this_processor();
    let before = if on_processor { measure_ceiling()? } else { Vec::new() };
    let timestamp = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let mut runner =
        Runner { scenario, options, source: &source, host, machine: &machine, stop, capacities: Vec::new() };
    let mut configurations = Vec::new();
    for configuration in scenario.configurations()? {
        if stop.is_cancelled() {
            break;
        }
        configurations.push(runner.configuration(&configuration).await?);
    }
    let target = runner.host.describe();
    let mut report = Report {
        schema: SCHEMA.to_owned(),
        schema_version: SCHEMA_VERSION,
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        timestamp,
        interrupted: stop.is_cancelled(),
        machine,
        target,
        load_source: source.describe(),
        ceiling: None,
        configurations,
    };
    if on_processor {
        report.set_ceiling(Ceiling::of([before, measure_ceiling()?].concat()));
    }
    Ok(report)
}

struct Runner<'a> {
    scenario: &'a Scenario,
    options: &'a RunOptions,
    source: &'a LoadSource,
    host: Host,
    machine: &'a Machine,
    stop: &'a CancellationToken,
    /// Requests per second that a closed loop reaches, by batch.
    capacities: Vec<(Option<u32>, f64)>,
}

/// A driver that is ready, and how long that took.
struct Ready {
    driver: Arc<dyn Driver>,
    start: Option<StartReport>,
}

impl Runner<'_> {
    async fn configuration(&mut self, configuration: &Configuration) -> Result<ConfigurationReport> {
        let pools = self.pools(configuration)?;
        let fresh = self.scenario.start == Start::Fresh;
        let mut ready = self.ready(configuration).await?;
        let warmup = if fresh { no_warmup() } else { self.warm_up(&ready.driver, &pools).await };
        let instance_start_ms = if fresh { Summary::default() } else { probe_instance(&ready.driver).await };
        let (runs, rates) = self.schedules(configuration, &pools, &ready.driver).await;
        let mut starts: Vec<StartReport> = ready.start.into_iter().collect();
        let mut repeats = Vec::new();
        for number in 0..self.options.repeats.unwrap_or(self.scenario.repeats) {
            if self.stop.is_cancelled() {
                break;
            }
            if fresh && number > 0 {
                drop(ready);
                ready = self.ready(configuration).await?;
                starts.extend(ready.start);
            }
            let label = format!("{}, repeat {}", configuration.name, number + 1);
            let repeat = self.repeat(&label, configuration, &runs, &pools, &ready.driver, &instance_start_ms).await;
            repeats.push(repeat);
        }
        let point = configuration.point();
        Ok(ConfigurationReport {
            name: configuration.name.clone(),
            batch: point.and_then(|(batch, _)| batch),
            concurrency: point.map(|(_, concurrency)| concurrency),
            tenants: tenants(configuration, &pools, &rates, &self.host),
            starts,
            warmup,
            instance_start_ms,
            median_repeat: median(&repeats),
            repeats,
        })
    }

    fn pools(&self, configuration: &Configuration) -> Result<Vec<(String, Arc<Pool>)>> {
        let pool = |tenant: &TenantPlan| {
            let (tokenizer, costs) = self.host.facts(&tenant.model);
            let pool = self.source.pool(tenant.batch, tokenizer, costs)?;
            Ok((tenant.name.clone(), Arc::new(pool)))
        };
        configuration.tenants.iter().map(pool).collect()
    }

    async fn ready(&self, configuration: &Configuration) -> Result<Ready> {
        let (driver, started) = self.host.driver(&configuration.tenants, self.scenario.start).await?;
        let start = started.map(|started| StartReport {
            model_load_ms: ms(started.model_load),
            guest_load_ms: ms(started.guest_load),
        });
        Ok(Ready { driver, start })
    }

    /// The first requests of every tenant, one after the other.
    async fn warm_up(&self, driver: &Arc<dyn Driver>, pools: &[(String, Arc<Pool>)]) -> Warmup {
        let mut latencies = Vec::new();
        let mut errors = BTreeMap::new();
        for (tenant, (_, pool)) in pools.iter().enumerate() {
            for sequence in 0..self.scenario.warmup_requests as usize {
                let began = Instant::now();
                let outcome = tokio::select! {
                    () = self.stop.cancelled() => break,
                    outcome = driver.call(tenant, &pool.get(sequence).request) => outcome,
                };
                match outcome {
                    Ok(_) => latencies.push(ms(began.elapsed())),
                    Err(failure) => *errors.entry(failure.kind).or_default() += 1,
                }
            }
        }
        Warmup { first_ms: latencies.first().copied(), latency_ms: Summary::of(latencies), errors }
    }

    async fn repeat(
        &self,
        label: &str,
        configuration: &Configuration,
        runs: &[TenantRun],
        pools: &[(String, Arc<Pool>)],
        driver: &Arc<dyn Driver>,
        instance_start_ms: &Summary,
    ) -> Repeat {
        let total: usize = runs.iter().filter_map(|run| run.schedule.requests()).sum();
        let bar = self.options.progress.bar(label.to_owned(), (total > 0).then_some(total as u64));
        let until = CancellationToken::new();
        let probe = ProcessProbe::new(self.host.pid());
        let sampler = tokio::spawn(sample(Arc::clone(driver), probe, until.clone()));
        let max = configuration.max_seconds.map(Duration::from_secs_f64);
        let counted = |tenant: usize| runs[tenant].schedule.requests().is_some();
        let done = |record: &pace::Record| bar.inc(u64::from(counted(record.tenant)));
        let drive = drive(driver, runs, max, self.stop, done).await;
        until.cancel();
        let samples = sampler.await.map_or_else(|_| Vec::new(), |(samples, _)| samples);
        bar.finish_and_clear();
        measure::repeat(&RawRepeat {
            drive: &drive,
            samples: &samples,
            tenants: pools,
            cores: self.machine.cores,
            instance_start: Duration::from_secs_f64(instance_start_ms.p50 / 1e3),
        })
    }

    /// When each tenant sends, and the intended rates of open loops.
    async fn schedules(
        &mut self,
        configuration: &Configuration,
        pools: &[(String, Arc<Pool>)],
        driver: &Arc<dyn Driver>,
    ) -> (Vec<TenantRun>, Vec<Option<f64>>) {
        let (mut runs, mut rates) = (Vec::new(), Vec::new());
        for (number, (tenant, (_, pool))) in configuration.tenants.iter().zip(pools).enumerate() {
            let most = self.options.max_requests.unwrap_or(u32::MAX);
            let requests = tenant.requests.map(|requests| requests.min(most));
            let (schedule, rate) = match tenant.pace {
                Pace::Closed { concurrency } => {
                    let requests = requests.map(|requests| requests as usize);
                    (Schedule::Closed { workers: concurrency, requests }, None)
                }
                Pace::Open { rate, arrivals } => {
                    let rate = match rate {
                        Rate::PerSecond(rate) => rate,
                        Rate::OfCapacity(factor) => factor * self.capacity(number, tenant, pool, driver).await,
                    };
                    let seed = self.scenario.seed.wrapping_add(number as u64);
                    (Schedule::open(rate, arrivals, requests.unwrap_or(0), seed), Some(rate))
                }
            };
            runs.push(TenantRun { pool: Arc::clone(pool), schedule });
            rates.push(rate);
        }
        (runs, rates)
    }

    /// Requests per second in a closed loop, measured once for each batch size.
    async fn capacity(
        &mut self,
        number: usize,
        tenant: &TenantPlan,
        pool: &Arc<Pool>,
        driver: &Arc<dyn Driver>,
    ) -> f64 {
        if let Some((_, capacity)) = self.capacities.iter().find(|(batch, _)| *batch == tenant.batch) {
            return *capacity;
        }
        let bar = self.options.progress.bar("measuring capacity".to_owned(), Some(CAPACITY_REQUESTS as u64));
        let schedule = Schedule::Closed { workers: CAPACITY_WORKERS, requests: Some(CAPACITY_REQUESTS) };
        // A tenant's number selects its guest. The tenants before it send nothing.
        let idle = TenantRun { pool: Arc::clone(pool), schedule: Schedule::Open { starts: Arc::from([]) } };
        let mut runs = vec![idle; number];
        runs.push(TenantRun { pool: Arc::clone(pool), schedule });
        let drive = drive(driver, &runs, None, self.stop, |_| bar.inc(1)).await;
        bar.finish_and_clear();
        let answered = drive.records.iter().filter(|record| record.outcome.is_ok()).count().max(1);
        let capacity = answered as f64 / drive.elapsed.as_secs_f64().max(1e-3);
        self.capacities.push((tenant.batch, capacity));
        capacity
    }
}

fn no_warmup() -> Warmup {
    Warmup { first_ms: None, latency_ms: Summary::default(), errors: BTreeMap::new() }
}

/// Sends requests without documents, which cost only the instance and its tokenizer.
async fn probe_instance(driver: &Arc<dyn Driver>) -> Summary {
    let empty = Request { query: "instance".to_owned(), ..Default::default() };
    let mut starts = Vec::new();
    for _ in 0..INSTANCE_PROBES {
        let began = Instant::now();
        if driver.call(0, &empty).await.is_err() {
            break;
        }
        starts.push(ms(began.elapsed()));
    }
    Summary::of(starts)
}

fn tenants(
    configuration: &Configuration,
    pools: &[(String, Arc<Pool>)],
    rates: &[Option<f64>],
    host: &Host,
) -> Vec<TenantReport> {
    let of = |number: usize| {
        let (tenant, rate) = (&configuration.tenants[number], rates[number]);
        TenantReport {
            name: tenant.name.clone(),
            guest: tenant.guest.as_ref().map_or_else(
                || "standard".to_owned(),
                |path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            ),
            model: host.model_name(&tenant.model),
            pace: match (tenant.pace, rate) {
                (Pace::Closed { concurrency }, _) => format!("closed loop, {concurrency} at a time"),
                (Pace::Open { arrivals, .. }, rate) => {
                    format!("open loop, {:.2} requests/s, {arrivals:?} arrivals", rate.unwrap_or(0.0)).to_lowercase()
                }
            },
            rate_per_s: rate,
            load: measure::load(&pools[number].1),
        }
    };
    (0..configuration.tenants.len()).map(of).collect()
}

/// The repeat of median time; of two middle ones the faster.
fn median(repeats: &[Repeat]) -> usize {
    let mut order: Vec<usize> = (0..repeats.len()).collect();
    order.sort_by(|&left, &right| repeats[left].elapsed_s.total_cmp(&repeats[right].elapsed_s));
    order.get(repeats.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}
