//! Reports are true: a driver with known delays, in virtual time.

mod common;

use std::sync::Arc;
use std::time::Duration;

use assay_bench::driver::{Driver, Gauge, Reply};
use assay_bench::report::schema::Ceiling;
use assay_bench::run::measure::{self, RawRepeat};
use assay_bench::run::pace::{Drive, Record, Schedule, TenantRun, drive};
use assay_bench::run::sample::{ProcessProbe, SAMPLE_INTERVAL, Sample, sample};
use assay_bench::scenario::Arrivals;
use common::{FakeDriver, pool, run};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const SERVICE: Duration = Duration::from_millis(50);

#[track_caller]
fn assert_near(actual: f64, truth: f64, what: &str) {
    assert!((actual / truth - 1.0).abs() < 0.02, "{what} is reported as {actual}, but is {truth}");
}

#[tokio::test(start_paused = true)]
async fn a_closed_loop_reports_the_drivers_own_delay_and_rate() {
    let schedule = Schedule::Closed { workers: 1, requests: Some(200) };
    let (_, repeat) = run(FakeDriver::new(1, SERVICE), schedule, 8).await;
    for (value, what) in
        [(repeat.latency_ms.avg, "mean"), (repeat.latency_ms.p50, "P50"), (repeat.latency_ms.p99, "P99")]
    {
        assert_near(value, 50.0, what);
    }
    assert_near(repeat.throughput.average, 160.0, "throughput");
    assert_near(repeat.throughput.per_request.p50, 160.0, "throughput per request");
    assert_near(repeat.throughput.per_second.avg, 160.0, "throughput per second");
    assert_near(repeat.work.gflop_per_s, 20.0, "FLOP/s");
    let mut report = common::report(vec![repeat.clone()]);
    report.set_ceiling(Ceiling::of(vec![99.0, 100.0, 98.0]));
    let share = report.configurations[0].repeats[0].work.ceiling_percent.unwrap();
    assert_near(share, 20.0, "share of the ceiling, which is the best that was reached");
    assert_eq!((repeat.requests, repeat.pairs, repeat.tokens), (200, 1_600, 16_000));
}

#[tokio::test(start_paused = true)]
async fn workers_that_wait_for_one_slot_report_their_wait() {
    let schedule = Schedule::Closed { workers: 4, requests: Some(400) };
    let (_, repeat) = run(FakeDriver::new(1, SERVICE), schedule, 8).await;
    assert_near(repeat.latency_ms.p50, 200.0, "P50 of four that share a slot");
    assert_near(repeat.queue_ms.p50, 150.0, "queue wait");
    assert_near(repeat.inference_ms.avg, 50.0, "inference");
    assert_near(repeat.throughput.average, 160.0, "throughput");
}

#[tokio::test(start_paused = true)]
async fn an_open_loop_below_capacity_reports_the_drivers_own_delay_and_the_intended_rate() {
    let schedule = Schedule::open(10.0, Arrivals::Uniform, 300, 1);
    let (_, repeat) = run(FakeDriver::new(1, SERVICE), schedule, 8).await;
    assert_near(repeat.latency_ms.avg, 50.0, "mean");
    assert_near(repeat.latency_ms.p99, 50.0, "P99");
    assert_near(repeat.throughput.average, 80.0, "throughput");
}

/// M/D/1: with random arrivals at half the capacity, the mean wait is ρ / (2 (1 − ρ)) services (Pollaczek and
/// Khinchine).
#[tokio::test(start_paused = true)]
async fn random_arrivals_wait_as_queueing_theory_says() {
    let schedule = Schedule::open(10.0, Arrivals::Poisson, 60_000, 11);
    let (_, repeat) = run(FakeDriver::new(1, SERVICE), schedule, 1).await;
    assert_near(repeat.latency_ms.avg, 75.0, "mean latency");
    assert_near(repeat.throughput.average, 10.0, "throughput");
}

#[tokio::test(start_paused = true)]
async fn a_stall_delays_every_request_of_an_open_loop() {
    let stalled = || FakeDriver::new(1, SERVICE).with_stall(Duration::from_secs(10), Duration::from_secs(2));
    let (_, open) = run(stalled(), Schedule::open(10.0, Arrivals::Uniform, 400, 1), 8).await;
    // 20 requests should start during the stall, and later ones wait for the backlog.
    let late = open.samples.latency_ms.iter().filter(|&&latency| latency > 100.0).count();
    assert!((35..=41).contains(&late), "{late} requests were late");
    assert!(open.latency_ms.p99 > 1_500.0, "the open loop's P99 hides the stall: {:?}", open.latency_ms);
    assert_near(open.latency_ms.max, 2_050.0, "the longest wait");

    // In a closed loop the same stall delays one request: coordinated omission.
    let (_, closed) = run(stalled(), Schedule::Closed { workers: 1, requests: Some(400) }, 8).await;
    assert_near(closed.latency_ms.p99, 50.0, "the closed loop's P99");
}

#[tokio::test(start_paused = true)]
async fn failures_count_by_kind_and_in_no_other_figure() {
    let driver = FakeDriver::new(1, SERVICE).failing_every(4);
    let (drive, repeat) = run(driver, Schedule::open(10.0, Arrivals::Uniform, 100, 1), 8).await;
    assert_eq!(drive.records.len(), 100);
    assert_eq!(repeat.errors.get("overloaded"), Some(&25));
    assert_eq!((repeat.requests, repeat.latency_ms.count, repeat.pairs), (100, 75, 600));
    assert_near(repeat.latency_ms.avg, 50.0, "mean of the answered ones");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_without_a_number_runs_until_the_others_are_done() {
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver::new(8, SERVICE));
    let tenants = [
        TenantRun { pool: pool(2, 1), schedule: Schedule::Closed { workers: 1, requests: Some(20) } },
        TenantRun { pool: pool(2, 1), schedule: Schedule::Closed { workers: 2, requests: None } },
    ];
    let drive = drive(&driver, &tenants, None, &CancellationToken::new(), |_| {}).await;
    let count = |tenant| drive.records.iter().filter(|record| record.tenant == tenant).count();
    assert_eq!(count(0), 20);
    assert!((38..=40).contains(&count(1)), "{} requests beside 20", count(1));
    assert_near(drive.elapsed.as_secs_f64(), 1.0, "time");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_ends_at_once_and_keeps_its_records() {
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver::new(1, SERVICE));
    let stop = CancellationToken::new();
    let soon = stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(1_020)).await;
        soon.cancel();
    });
    let began = Instant::now();
    let schedule = Schedule::Closed { workers: 1, requests: Some(1_000) };
    let drive = drive(&driver, &[TenantRun { pool: pool(1, 1), schedule }], None, &stop, |_| {}).await;
    assert_eq!(drive.records.len(), 20);
    assert_near(began.elapsed().as_secs_f64(), 1.02, "time until it stopped");
}

#[tokio::test(start_paused = true)]
async fn no_request_starts_after_the_limit_and_those_in_flight_finish() {
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver::new(1, SERVICE));
    for schedule in
        [Schedule::Closed { workers: 1, requests: Some(1_000) }, Schedule::open(20.0, Arrivals::Uniform, 1_000, 1)]
    {
        let tenants = [TenantRun { pool: pool(1, 1), schedule }];
        let max = Some(Duration::from_millis(475));
        let drive = drive(&driver, &tenants, max, &CancellationToken::new(), |_| {}).await;
        assert_eq!(drive.records.len(), 10);
        assert_near(drive.elapsed.as_secs_f64(), 0.5, "time");
    }
}

#[tokio::test(start_paused = true)]
async fn samples_are_taken_every_tenth_of_a_second_and_at_the_end() {
    let driver: Arc<dyn Driver> = Arc::new(FakeDriver::new(1, SERVICE));
    let until = CancellationToken::new();
    let sampler = tokio::spawn(sample(driver, ProcessProbe::new(std::process::id()), until.clone()));
    sleep(Duration::from_millis(1_050)).await;
    until.cancel();
    let (samples, _) = sampler.await.unwrap();
    assert_eq!(samples.len(), 12, "eleven ticks from 0 to 1 s, and the end");
    assert_near((samples[10].at - samples[0].at).as_secs_f64(), 10.0 * SAMPLE_INTERVAL.as_secs_f64(), "ten intervals");
    assert!(samples.iter().all(|sample| sample.rss_bytes > 1_000_000), "this process has memory");
}

#[test]
fn device_time_counts_while_every_tenant_is_sending() {
    let s = Duration::from_secs;
    let record = |tenant, sent| Record {
        tenant,
        sequence: 0,
        intended: s(sent),
        sent: s(sent),
        done: s(sent + 1),
        outcome: Ok(Reply::default()),
    };
    // The second tenant sends its last request after five seconds: what the first gets later is no contest.
    let drive = Drive { records: vec![record(0, 1), record(1, 5), record(0, 8)], elapsed: s(10) };
    let at = |at, times: [u64; 2]| Sample {
        at: s(at),
        gauge: Gauge { device_time_by_tenant: times.map(s).to_vec(), ..Gauge::default() },
        ..Sample::default()
    };
    let samples = [at(0, [10, 20]), at(4, [13, 21]), at(6, [14, 22]), at(9, [20, 22])];
    let tenants = ["first", "second"].map(|name| (name.to_owned(), pool(4, 1)));
    let raw =
        RawRepeat { drive: &drive, samples: &samples, tenants: &tenants, cores: 2, instance_start: Duration::ZERO };
    let by_tenant = measure::repeat(&raw).by_tenant;
    let shares = by_tenant.iter().map(|tenant| (tenant.device_time_s.unwrap(), tenant.device_share_percent.unwrap()));
    assert_eq!(shares.collect::<Vec<_>>(), [(3.0, 75.0), (1.0, 25.0)]);
}
