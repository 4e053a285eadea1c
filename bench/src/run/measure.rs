//! From records and samples to the figures of one repeat.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::pace::{Drive, Record};
use super::sample::Sample;
use crate::driver::{Reply, Stages};
use crate::load::{Pool, Prepared};
use crate::report::schema::{
    Band, Dashboard, LoadReport, Repeat, Samples, SeriesPoint, TenantRepeat, Throughput, Work,
};
use crate::stats::{self, Summary};

/// The records and samples of one run, and what the figures need besides.
#[derive(Debug)]
pub struct RawRepeat<'a> {
    /// The records.
    pub drive: &'a Drive,
    /// The samples, with the first and the last.
    pub samples: &'a [Sample],
    /// Name and requests of each tenant.
    pub tenants: &'a [(String, std::sync::Arc<Pool>)],
    /// Cores of the machine.
    pub cores: usize,
    /// The start of an instance; it is subtracted from the guest's time.
    pub instance_start: Duration,
}

/// An answered request.
#[derive(Clone, Copy)]
struct Answered<'a> {
    record: &'a Record,
    reply: Reply,
    request: &'a Prepared,
}

impl Answered<'_> {
    fn latency_ms(&self) -> f64 {
        ms(self.record.latency())
    }

    fn pairs_per_s(&self) -> f64 {
        self.request.pairs() as f64 / self.record.latency().as_secs_f64().max(1e-9)
    }
}

/// Milliseconds.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The figures of the different requests of a load.
#[must_use]
pub fn load(pool: &Pool) -> LoadReport {
    let requests = pool.requests();
    let sum = |figure: fn(&Prepared) -> u64| requests.iter().map(figure).sum();
    LoadReport {
        requests: requests.len() as u64,
        pairs: sum(Prepared::pairs),
        tokens: sum(Prepared::tokens),
        truncated: sum(|request| u64::from(request.truncated)),
        row_tokens: Summary::of(requests.iter().flat_map(|request| &request.row_tokens).copied().map(f64::from)),
        padded_waste_percent: Summary::of(requests.iter().map(Prepared::padded_waste_percent)),
        useful_flops: sum(|request| request.useful_flops),
        padded_flops: sum(|request| request.padded_flops),
        native_tokenize_ms: Summary::of(requests.iter().map(|request| ms(request.tokenize))),
    }
}

/// The figures of one repeat.
#[must_use]
pub fn repeat(raw: &RawRepeat<'_>) -> Repeat {
    let answered: Vec<Answered<'_>> = raw.drive.records.iter().filter_map(|record| answered(raw, record)).collect();
    let elapsed_s = raw.drive.elapsed.as_secs_f64().max(1e-9);
    let latencies: Vec<f64> = answered.iter().map(Answered::latency_ms).collect();
    let stage = |figure: &dyn Fn(Stages) -> Duration| {
        Summary::of(answered.iter().filter_map(|answer| answer.reply.stages).map(|stages| ms(figure(stages))))
    };
    let points: Vec<(f64, f64)> = answered.iter().map(|answer| (answer.latency_ms(), answer.pairs_per_s())).collect();
    let pairs = answered.iter().map(|answer| answer.request.pairs()).sum::<u64>();
    let latency_ms = Summary::of(latencies.iter().copied());
    let by_guest: Option<Vec<u64>> = answered.iter().map(|answer| answer.reply.tokens).collect();
    let series = series(raw, &answered);
    Repeat {
        elapsed_s,
        requests: raw.drive.records.len() as u64,
        pairs,
        tokens: answered.iter().map(|answer| answer.request.tokens()).sum(),
        tokens_by_guest: by_guest.map(|tokens| tokens.iter().sum()),
        errors: errors(raw.drive.records.iter()),
        first_ms: answered
            .iter()
            .find(|answer| (answer.record.tenant, answer.record.sequence) == (0, 0))
            .map(Answered::latency_ms),
        service_ms: Summary::of(answered.iter().map(|answer| ms(answer.record.done - answer.record.sent))),
        send_lag_ms: Summary::of(answered.iter().map(|answer| ms(answer.record.sent - answer.record.intended))),
        latency_histogram: stats::bars(&latencies),
        percentile_curve: stats::percentile_curve(&latencies),
        throughput: Throughput {
            average: pairs as f64 / elapsed_s,
            per_request: Summary::of(answered.iter().map(Answered::pairs_per_s)),
            per_second: Summary::of(per_second(&answered, elapsed_s)),
        },
        tokenize_ms: stage(&|stages| stages.guest.saturating_sub(raw.instance_start)),
        guest_ms: stage(&|stages| stages.guest),
        queue_ms: stage(&|stages| stages.queue),
        inference_ms: stage(&|stages| stages.inference),
        bands: bands(&latency_ms, &points),
        correlation: stats::correlation(&points),
        work: work(raw, &answered, elapsed_s),
        by_tenant: by_tenant(raw, &answered, elapsed_s),
        dashboard: dashboard(raw.samples, &series),
        series,
        samples: samples(&answered),
        latency_ms,
    }
}

fn answered<'a>(raw: &RawRepeat<'a>, record: &'a Record) -> Option<Answered<'a>> {
    let reply = *record.outcome.as_ref().ok()?;
    let request = raw.tenants[record.tenant].1.get(record.sequence);
    Some(Answered { record, reply, request })
}

fn errors<'a>(records: impl Iterator<Item = &'a Record>) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for failure in records.filter_map(|record| record.outcome.as_ref().err()) {
        *errors.entry(failure.kind.clone()).or_default() += 1;
    }
    errors
}

/// Pairs completed in each whole second, without the last, incomplete one.
fn per_second(answered: &[Answered<'_>], elapsed_s: f64) -> Vec<f64> {
    let mut seconds = vec![0.0; elapsed_s as usize];
    for answer in answered {
        if let Some(pairs) = seconds.get_mut(answer.record.done.as_secs() as usize) {
            *pairs += answer.request.pairs() as f64;
        }
    }
    seconds
}

/// Cut by rank, so that each range has its share of the requests even if many latencies are equal.
fn bands(latency: &Summary, points: &[(f64, f64)]) -> Vec<Band> {
    let Summary { p50, p75, p90, .. } = *latency;
    let mut sorted = points.to_vec();
    sorted.sort_by(|left, right| left.0.total_cmp(&right.0));
    let rank = |percent: usize| (sorted.len() * percent).div_ceil(100);
    let ranges = [
        (format!("< {p50:.1}ms (P50)"), 0..rank(50)),
        (format!("{p50:.1}-{p75:.1}ms (P50-P75)"), rank(50)..rank(75)),
        (format!("{p75:.1}-{p90:.1}ms (P75-P90)"), rank(75)..rank(90)),
        (format!(">= {p90:.1}ms (P90+)"), rank(90)..sorted.len()),
    ];
    let throughput = |ranks: Range<usize>| Summary::of(sorted[ranks].iter().map(|&(_, throughput)| throughput));
    ranges.into_iter().map(|(range, ranks)| Band { range, throughput: throughput(ranks) }).collect()
}

fn work(raw: &RawRepeat<'_>, answered: &[Answered<'_>], elapsed_s: f64) -> Work {
    let sum = |figure: fn(&Prepared) -> u64| answered.iter().map(|answer| figure(answer.request)).sum::<u64>() as f64;
    let (tokens, padded_tokens) = (sum(Prepared::tokens), sum(Prepared::padded_tokens));
    let gflop = sum(|request| request.useful_flops) / 1e9;
    let gauges = raw.samples.first().zip(raw.samples.last()).map(|(first, last)| (&first.gauge, &last.gauge));
    let busy_s = gauges.and_then(|(first, last)| Some((last.device_busy? - first.device_busy?).as_secs_f64()));
    let batches = gauges.and_then(|(first, last)| Some(last.batches? - first.batches?));
    let computed = gauges.and_then(|(first, last)| Some(last.tokens? - first.tokens?));
    let gflop_per_s = gflop / elapsed_s;
    Work {
        tokens_per_s: tokens / elapsed_s,
        gflop_per_s,
        gflop_per_s_busy: busy_s.filter(|&busy| busy > 0.0).map(|busy| gflop / busy),
        ceiling_percent: None,
        padding_waste_percent: 0.0,
        padded_waste_percent: if padded_tokens > 0.0 { 100.0 * (1.0 - tokens / padded_tokens) } else { 0.0 },
        batches,
        tokens_per_batch: batches
            .zip(computed)
            .filter(|&(batches, _)| batches > 0)
            .map(|(batches, tokens)| tokens as f64 / batches as f64),
    }
}

fn by_tenant(raw: &RawRepeat<'_>, answered: &[Answered<'_>], elapsed_s: f64) -> Vec<TenantRepeat> {
    let device_s = device_times_s(raw).unwrap_or_default();
    let all_device_s: f64 = device_s.iter().sum();
    let tenant = |(number, (name, _)): (usize, &(String, _))| {
        let records = || raw.drive.records.iter().filter(|record| record.tenant == number);
        let mine = || answered.iter().filter(|answer| answer.record.tenant == number);
        let pairs = mine().map(|answer| answer.request.pairs()).sum::<u64>();
        TenantRepeat {
            name: name.clone(),
            requests: records().count() as u64,
            pairs,
            errors: errors(records()),
            latency_ms: Summary::of(mine().map(Answered::latency_ms)),
            queue_ms: Summary::of(mine().filter_map(|answer| answer.reply.stages).map(|stages| ms(stages.queue))),
            throughput: pairs as f64 / elapsed_s,
            device_time_s: device_s.get(number).copied(),
            device_share_percent: device_s.get(number).filter(|_| all_device_s > 0.0).map(|s| 100.0 * s / all_device_s),
        }
    };
    raw.tenants.iter().enumerate().map(tenant).collect()
}

/// Device time of each tenant's rows while every tenant was sending: what is left of one after another has stopped is
/// no contest. `None` if the driver cannot see it.
fn device_times_s(raw: &RawRepeat<'_>) -> Option<Vec<f64>> {
    let last_sent =
        |tenant| raw.drive.records.iter().filter(|record| record.tenant == tenant).map(|record| record.sent).max();
    let until = (0..raw.tenants.len()).map(last_sent).min()??;
    let (first, last) = (raw.samples.first()?, raw.samples.iter().rev().find(|sample| sample.at <= until)?);
    let times = first.gauge.device_time_by_tenant.iter().zip(&last.gauge.device_time_by_tenant);
    let times: Vec<f64> = times.map(|(before, after)| after.saturating_sub(*before).as_secs_f64()).collect();
    (times.len() == raw.tenants.len()).then_some(times)
}

/// One point for each sample but the first: what happened since the one before.
fn series(raw: &RawRepeat<'_>, answered: &[Answered<'_>]) -> Vec<SeriesPoint> {
    let mut rest = answered;
    let point = |pair: &[Sample]| {
        let (before, now) = (&pair[0], &pair[1]);
        // Records are in the order of completion. The last sample is taken when all are done, by a clock that may have
        // started a little later than theirs.
        let is_last = raw.samples.last().is_some_and(|last| last.at == now.at);
        let done = |answer: &&Answered<'_>| is_last || answer.record.done <= now.at;
        let here = rest.iter().take_while(done).count();
        let (completed, later) = rest.split_at(here);
        rest = later;
        let width_s = (now.at - before.at).as_secs_f64().max(1e-9);
        let mean = |figure: &dyn Fn(&Answered<'_>) -> Option<f64>| {
            let values: Vec<f64> = completed.iter().filter_map(figure).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let stage = |figure: &dyn Fn(Stages) -> Duration| mean(&|answer| Some(ms(figure(answer.reply.stages?))));
        let busy = before.gauge.device_busy.zip(now.gauge.device_busy);
        let cpu = now.cpu_time.saturating_sub(before.cpu_time).as_secs_f64();
        SeriesPoint {
            at_s: now.at.as_secs_f64(),
            device_memory_mb: now.gauge.device_memory_bytes.map(megabytes),
            device_utilization_percent: busy
                .map(|(before, now)| (100.0 * now.saturating_sub(before).as_secs_f64() / width_s).min(100.0)),
            // The system counts processor time in ticks of 10 ms, which may belong to the next interval.
            cpu_percent: (100.0 * cpu / width_s / raw.cores.max(1) as f64).min(100.0),
            rss_mb: megabytes(now.rss_bytes),
            waiting_tokens: now.gauge.waiting_tokens,
            completed: completed.len() as u64,
            pairs_per_s: completed.iter().map(|answer| answer.request.pairs()).sum::<u64>() as f64 / width_s,
            latency_ms: mean(&|answer| Some(answer.latency_ms())),
            tokenize_ms: stage(&|stages| stages.guest.saturating_sub(raw.instance_start)),
            guest_ms: stage(&|stages| stages.guest),
            queue_ms: stage(&|stages| stages.queue),
            inference_ms: stage(&|stages| stages.inference),
            padded_waste_percent: mean(&|answer| Some(answer.request.padded_waste_percent())),
        }
    };
    raw.samples.windows(2).map(point).collect()
}

/// 10⁶ bytes, as the baseline's report counts them.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn dashboard(samples: &[Sample], series: &[SeriesPoint]) -> Dashboard {
    // Without the last interval, which may be very short: its rates are noise.
    let whole = &series[..series.len().saturating_sub(1).max(series.len().min(1))];
    Dashboard {
        device_memory_mb: Summary::of(series.iter().filter_map(|point| point.device_memory_mb)),
        device_utilization_percent: Summary::of(whole.iter().filter_map(|point| point.device_utilization_percent)),
        cpu_percent: Summary::of(whole.iter().map(|point| point.cpu_percent)),
        rss_mb: Summary::of(samples.iter().map(|sample| megabytes(sample.rss_bytes))),
        waiting_tokens: Summary::of(
            samples.iter().filter_map(|sample| sample.gauge.waiting_tokens).map(|tokens| tokens as f64),
        ),
    }
}

fn samples(answered: &[Answered<'_>]) -> Samples {
    // Microseconds are precise enough, and keep the file small.
    let round = |value: f64, digits: f64| (value * digits).round() / digits;
    Samples {
        tenant: answered.iter().map(|answer| answer.record.tenant).collect(),
        done_s: answered.iter().map(|answer| round(answer.record.done.as_secs_f64(), 1e6)).collect(),
        latency_ms: answered.iter().map(|answer| round(answer.latency_ms(), 1e3)).collect(),
        service_ms: answered.iter().map(|answer| round(ms(answer.record.done - answer.record.sent), 1e3)).collect(),
        pairs: answered.iter().map(|answer| answer.request.pairs()).collect(),
    }
}
