//! `report.json`: what a run measured. `docs/report.md` explains every field.
//!
//! The version rises when a field is removed or changes its meaning, not when one is added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stats::{Bar, Summary};

/// The value of `schema` in every report.
pub const SCHEMA: &str = "assay-bench/report";

/// The version that this program writes, and the only one that it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// A run of a scenario. Times are in milliseconds and throughput in pairs per second unless a name says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The scenario's name.
    pub scenario: String,
    /// What it shows.
    pub about: String,
    /// When the run began, in UTC.
    pub timestamp: String,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// Where it ran.
    pub machine: Machine,
    /// What the requests were sent to.
    pub target: Target,
    /// Where the requests came from.
    pub load_source: String,
    /// The processor's matrix multiplication, measured before and after the run; absent if another device computes.
    pub ceiling: Option<Ceiling>,
    /// In the order of the scenario.
    pub configurations: Vec<ConfigurationReport>,
}

/// Facts about the machine and the command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Its cores, as the system counts them.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// System and version.
    pub os: String,
    /// Instruction set.
    pub arch: String,
    /// Versions of this program and of the host library.
    pub versions: BTreeMap<String, String>,
    /// The commit of the working directory, with `-dirty` where files differ from it; absent outside a repository.
    pub commit: Option<String>,
    /// The command line.
    pub command: Vec<String>,
}

/// What requests were sent to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// `in process`, or the service's URL.
    pub driver: String,
    /// The model's name.
    pub model: String,
    /// Content hash of its files.
    pub model_revision: String,
    /// `cpu` or `gpu`; `unknown` over HTTP.
    pub engine: String,
    /// The device in its own words: processor and instruction set, or adapter, backend and driver.
    pub device: String,
    /// Numbers as stored and multiplied.
    pub precision: String,
    /// Threads that compute; 0 if another device computes, or if unknown.
    pub threads: usize,
}

/// The speed of matrix multiplication on the processor, by a fast library.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Rows of the left matrix.
    pub m: usize,
    /// Columns of the left matrix.
    pub k: usize,
    /// Columns of the right matrix.
    pub n: usize,
    /// 10⁹ floating-point operations per second, over the measured runs; the largest is the ceiling.
    pub gflop_per_s: Summary,
}

/// One configuration, run several times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationReport {
    /// Its name.
    pub name: String,
    /// Documents of a request; absent if the file decides or tenants differ.
    pub batch: Option<u32>,
    /// Requests in flight at once; absent in an open loop or if tenants differ.
    pub concurrency: Option<u32>,
    /// The plan of each tenant.
    pub tenants: Vec<TenantReport>,
    /// Starts, from nothing to readiness.
    pub starts: Vec<StartReport>,
    /// Requests before timing began.
    pub warmup: Warmup,
    /// The start of an instance: requests without documents. No values if the guest refuses them.
    pub instance_start_ms: Summary,
    /// Every repeat, in order.
    pub repeats: Vec<Repeat>,
    /// The index of the repeat with the median time, which the tables show.
    pub median_repeat: usize,
}

/// The plan of one tenant, and its load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantReport {
    /// Its name.
    pub name: String,
    /// Its guest: `standard`, or the file's name.
    pub guest: String,
    /// Its model.
    #[serde(default)]
    pub model: String,
    /// When it sends requests, in words.
    pub pace: String,
    /// Intended requests per second of an open loop.
    pub rate_per_s: Option<f64>,
    /// Its requests.
    pub load: LoadReport,
}

/// The different requests of a load, by the tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Different requests.
    pub requests: u64,
    /// Their pairs.
    pub pairs: u64,
    /// Their useful tokens.
    pub tokens: u64,
    /// Rows that are cut to fit.
    pub truncated: u64,
    /// Tokens of a row.
    pub row_tokens: Summary,
    /// For each request, what padding its rows to the longest would waste, in percent of the padded batch.
    pub padded_waste_percent: Summary,
    /// Useful floating-point operations of all requests.
    pub useful_flops: u64,
    /// The same for padded rows.
    pub padded_flops: u64,
    /// Native tokenisation of each request.
    pub native_tokenize_ms: Summary,
}

/// The times of one start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StartReport {
    /// Reading the weights and making the engine.
    pub model_load_ms: f64,
    /// Compiling the guests, or finding them compiled.
    pub guest_load_ms: f64,
}

/// Requests before the timed ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warmup {
    /// The very first request after the start.
    pub first_ms: Option<f64>,
    /// Every warm-up request, with the first.
    pub latency_ms: Summary,
    /// Failures by kind.
    pub errors: BTreeMap<String, u64>,
}

/// One run of a configuration. Failed requests count only in `requests` and `errors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Repeat {
    /// From the start until the last tenant with a number of requests was done.
    pub elapsed_s: f64,
    /// Requests that were answered or failed.
    pub requests: u64,
    /// Pairs of the answered ones.
    pub pairs: u64,
    /// Their useful tokens by the tokenizer.
    pub tokens: u64,
    /// Their useful tokens by the guests' count; absent if they give none.
    pub tokens_by_guest: Option<u64>,
    /// Failures by kind.
    pub errors: BTreeMap<String, u64>,
    /// Latency of the first tenant's first request, if answered: after a fresh start, the first request of all.
    pub first_ms: Option<f64>,
    /// From the intended start to the answer.
    pub latency_ms: Summary,
    /// From sending to the answer: latency by a closed loop's definition.
    pub service_ms: Summary,
    /// From the intended start to sending: how late the request was sent.
    pub send_lag_ms: Summary,
    /// Latencies counted.
    pub latency_histogram: Vec<Bar>,
    /// Latency at percentiles, `[percent, ms]`.
    pub percentile_curve: Vec<(f64, f64)>,
    /// Throughput.
    pub throughput: Throughput,
    /// In the guest and around it, without the instance's start.
    pub tokenize_ms: Summary,
    /// In the guest and around it.
    pub guest_ms: Summary,
    /// Rows waiting for the device.
    pub queue_ms: Summary,
    /// Rows on the device.
    pub inference_ms: Summary,
    /// Latency ranges and the throughput in them.
    pub bands: Vec<Band>,
    /// Correlation of a request's latency with its throughput.
    pub correlation: Option<f64>,
    /// Useful work.
    pub work: Work,
    /// By tenant, in the order of the configuration.
    pub by_tenant: Vec<TenantRepeat>,
    /// Summaries of the samples.
    pub dashboard: Dashboard,
    /// The samples.
    pub series: Vec<SeriesPoint>,
    /// Every answered request.
    pub samples: Samples,
}

/// Pairs per second by three definitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// All pairs over the whole time.
    pub average: f64,
    /// Each request's pairs over its latency.
    pub per_request: Summary,
    /// Pairs completed in each whole second.
    pub per_second: Summary,
}

/// Requests whose latency lies in a range of percentiles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Band {
    /// The range in words.
    pub range: String,
    /// Their throughput, per request.
    pub throughput: Summary,
}

/// Useful work, which excludes padding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Useful tokens per second.
    pub tokens_per_s: f64,
    /// 10⁹ useful floating-point operations per second, over the whole time.
    pub gflop_per_s: f64,
    /// The same while a batch was on the device.
    pub gflop_per_s_busy: Option<f64>,
    /// `gflop_per_s` in percent of the ceiling.
    pub ceiling_percent: Option<f64>,
    /// Padding that was computed, in percent: 0 if rows are packed.
    pub padding_waste_percent: f64,
    /// Padding that batches padded request by request would have computed, in percent of all their tokens.
    pub padded_waste_percent: f64,
    /// Batches on the device.
    pub batches: Option<u64>,
    /// Useful tokens of a batch, on average.
    pub tokens_per_batch: Option<f64>,
}

/// One tenant's part of a repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantRepeat {
    /// Its name.
    pub name: String,
    /// Requests that were answered or failed.
    pub requests: u64,
    /// Pairs of the answered ones.
    pub pairs: u64,
    /// Failures by kind.
    pub errors: BTreeMap<String, u64>,
    /// From the intended start to the answer.
    pub latency_ms: Summary,
    /// Rows waiting for the device.
    pub queue_ms: Summary,
    /// All pairs over the whole time.
    pub throughput: f64,
    /// Device time of its rows while every tenant was sending, in seconds; absent if the driver cannot see it.
    #[serde(default)]
    pub device_time_s: Option<f64>,
    /// The same in percent of all tenants' together.
    #[serde(default)]
    pub device_share_percent: Option<f64>,
}

/// Summaries of samples. No values if the driver cannot see them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dashboard {
    /// Memory that models take on the device.
    pub device_memory_mb: Summary,
    /// Share of time with a batch on the device.
    pub device_utilization_percent: Summary,
    /// The process's share of all cores.
    pub cpu_percent: Summary,
    /// The process's resident memory.
    pub rss_mb: Summary,
    /// Tokens that wait for the device.
    pub waiting_tokens: Summary,
}

/// What happened since the sample before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct SeriesPoint {
    /// From the start of the run.
    pub at_s: f64,
    /// Memory that models take on the device.
    pub device_memory_mb: Option<f64>,
    /// Share of time with a batch on the device.
    pub device_utilization_percent: Option<f64>,
    /// The process's share of all cores.
    pub cpu_percent: f64,
    /// The process's resident memory.
    pub rss_mb: f64,
    /// Tokens that wait for the device.
    pub waiting_tokens: Option<u64>,
    /// Requests answered.
    pub completed: u64,
    /// Pairs of the answered requests over the time since the sample before.
    pub pairs_per_s: f64,
    /// Mean of the answered requests; absent without any, like the fields below.
    pub latency_ms: Option<f64>,
    /// As in [`Repeat::tokenize_ms`].
    pub tokenize_ms: Option<f64>,
    /// As in [`Repeat::guest_ms`].
    pub guest_ms: Option<f64>,
    /// As in [`Repeat::queue_ms`].
    pub queue_ms: Option<f64>,
    /// As in [`Repeat::inference_ms`].
    pub inference_ms: Option<f64>,
    /// As in [`Work::padded_waste_percent`].
    pub padded_waste_percent: Option<f64>,
}

/// Every answered request, as columns of equal length, in the order of completion.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// The tenant's number.
    pub tenant: Vec<usize>,
    /// When it was done, from the start of the run.
    pub done_s: Vec<f64>,
    /// From the intended start.
    pub latency_ms: Vec<f64>,
    /// From sending.
    pub service_ms: Vec<f64>,
    /// Its pairs.
    pub pairs: Vec<u64>,
}

impl Ceiling {
    /// Whether something else used the processor meanwhile: the median is then far below the best.
    #[must_use]
    pub fn was_disturbed(&self) -> bool {
        self.gflop_per_s.p50 < 0.8 * self.gflop_per_s.max
    }
}

impl Report {
    /// Sets the ceiling, and each repeat's share of it.
    pub fn set_ceiling(&mut self, ceiling: Ceiling) {
        for repeat in self.configurations.iter_mut().flat_map(|configuration| &mut configuration.repeats) {
            repeat.work.ceiling_percent = Some(100.0 * repeat.work.gflop_per_s / ceiling.gflop_per_s.max);
        }
        self.ceiling = Some(ceiling);
    }
}

impl ConfigurationReport {
    /// The repeat that the tables show; absent if none was finished.
    #[must_use]
    pub fn shown(&self) -> Option<&Repeat> {
        self.repeats.get(self.median_repeat)
    }
}
