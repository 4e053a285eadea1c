//! The same requests through one more layer each time, to measure the cost of every layer.
//!
//! Question: what do scheduler, tokenising, sandbox and HTTP add to the engine? Baseline: the engine called with ready
//! rows, cut into batches as the scheduler cuts them. Excluded: loading, compiling, a warm-up round. Each request goes
//! through all layers before the next, so that a machine that slows down slows all of them; differences are taken
//! request by request.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use assay::device::{Account, LoadedModel};
use assay::model::ModelStore;
use assay::rerank::Request;
use assay_kernels::{CheckedBatch, Engine, PackedBatch};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::driver::{Driver, HttpDriver, InProcessDriver, InProcessOptions, Loopback, TenantSetup};
use crate::load::{LoadSource, NativeTokenizer, Prepared, RowCosts};
use crate::progress::Progress;
use crate::run::TargetOptions;
use crate::run::measure::ms;
use crate::stats::{self, Interval, Summary};

/// Fixed, so that equal measurements have equal intervals.
const SEED: u64 = 7;

/// What to measure.
#[derive(Debug, Clone)]
pub struct OverheadOptions {
    /// The host, and optionally a running service for the last layer.
    pub target: TargetOptions,
    /// What to send.
    pub source: LoadSource,
    /// Documents of a request.
    pub batch: Option<u32>,
    /// Different requests, at most.
    pub requests: usize,
    /// Rounds over all of them, after one warm-up round.
    pub rounds: usize,
    /// Whether to draw a bar.
    pub progress: Progress,
}

/// What one layer costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// The outermost part that is called.
    pub name: &'static str,
    /// A request through it.
    pub request_ms: Summary,
    /// What it adds to a request over the layer that it is compared with: the median with its confidence; absent for the
    /// first.
    pub adds_ms: Option<Interval>,
}

/// One way to compute a request.
enum Route {
    Engine,
    Scheduler,
    Native,
    Guest,
    Loopback,
    Bytes,
    Service(HttpDriver),
}

struct Bench {
    engine: Box<dyn Engine>,
    tokenizer: NativeTokenizer,
    costs: RowCosts,
    model: Arc<LoadedModel>,
    host: InProcessDriver,
    loopback: Loopback,
    outputs: Vec<f32>,
}

/// Measures every layer. After `stop` is cancelled it finishes the current request and returns what it has.
///
/// # Errors
/// Something cannot be loaded, or a request fails: a layer that fails cannot be compared.
pub async fn measure(options: &OverheadOptions, stop: &CancellationToken) -> Result<Vec<Layer>> {
    let mut bench = Bench::load(&options.target).await?;
    let pool = options.source.pool(options.batch, &bench.tokenizer, &bench.costs)?;
    let requests = &pool.requests()[..options.requests.clamp(1, pool.requests().len())];
    let mut routes = vec![Route::Engine, Route::Scheduler, Route::Native, Route::Guest, Route::Loopback, Route::Bytes];
    if let Some(service) = &options.target.service {
        routes.push(Route::Service(HttpDriver::new(&service.url, service.keys.clone())?));
    }
    let rounds = options.rounds.max(1) + 1;
    let steps = (rounds * routes.len() * requests.len()) as u64;
    let bar = options.progress.bar("layer by layer".to_owned(), Some(steps));
    // Of each route, in the same order of rounds and requests.
    let mut times = vec![Vec::new(); routes.len()];
    'rounds: for round in 0..rounds {
        for (number, request) in requests.iter().enumerate() {
            let mut ms_by_route = vec![0.0; routes.len()];
            for turn in 0..routes.len() {
                if stop.is_cancelled() {
                    break 'rounds;
                }
                // Each route is first, second, … equally often, so that what one leaves in caches affects all others
                // alike.
                let route = (turn + number + round) % routes.len();
                ms_by_route[route] = ms(bench.time(&routes[route], request).await?);
                bar.inc(1);
            }
            if round > 0 {
                times.iter_mut().zip(ms_by_route).for_each(|(times, ms)| times.push(ms));
            }
        }
    }
    bar.finish_and_clear();
    Ok(layers(&routes, &times))
}

fn layers(routes: &[Route], times: &[Vec<f64>]) -> Vec<Layer> {
    let layer = |(index, route): (usize, &Route)| {
        let before = match route {
            Route::Engine | Route::Bytes => None,
            // Native tokenising calls the bare engine, not the scheduler.
            Route::Native => Some(0),
            // The guest adds the sandbox, and the scheduler, to native tokenising.
            Route::Scheduler | Route::Guest | Route::Loopback => Some(index - 1),
            // Like the server in this process, it is compared with the guest in process.
            Route::Service(_) => Some(index - 3),
        };
        let differences: Option<Vec<f64>> = before
            .map(|before| times[index].iter().zip(&times[before]).map(|(with, without)| with - without).collect());
        Layer {
            name: route.name(),
            request_ms: Summary::of(times[index].iter().copied()),
            adds_ms: differences.and_then(|differences| median(&differences)),
        }
    };
    routes.iter().enumerate().map(layer).collect()
}

/// The median of values with its confidence.
pub(crate) fn median(values: &[f64]) -> Option<Interval> {
    let middle = |mut values: Vec<f64>| stats::quantile(&mut values, 0.5);
    stats::bootstrap(middle(values.to_vec())?, SEED, |draws| {
        middle(values.iter().map(|_| *draws.one(values)).collect())
    })
}

impl Route {
    fn name(&self) -> &'static str {
        match self {
            Self::Engine => "engine, ready rows",
            Self::Scheduler => "scheduler, ready rows",
            Self::Native => "native tokenization and engine",
            Self::Guest => "guest in process",
            Self::Loopback => "HTTP, server in this process",
            Self::Bytes => "as many bytes over TCP, without HTTP",
            Self::Service(_) => "HTTP, running service and full client",
        }
    }
}

impl Bench {
    async fn load(target: &TargetOptions) -> Result<Self> {
        let options = InProcessOptions {
            device: target.device.clone(),
            models: vec![ModelStore::new(&target.data_dir).open(target.model.as_deref())?],
            guest: target.guest.clone(),
        };
        let engine = options.bare_engine()?;
        let cache: &Path = &target.data_dir.join("compiled");
        let models = options.load_models()?;
        let model = Arc::clone(models.first().context("no model was loaded")?);
        let tenants = [TenantSetup::default()];
        let (host, _) = InProcessDriver::with_models(&models, target.guest.as_deref(), &tenants, cache)?;
        let tokenizer = NativeTokenizer::new(model.tokenizer(), model.max_tokens())?;
        let costs = RowCosts::new(model.max_tokens(), |tokens| model.row_flops(tokens));
        let loopback = Loopback::start(&options).await.context("the server in this process")?;
        Ok(Self { engine, tokenizer, costs, model, host, loopback, outputs: Vec::new() })
    }

    async fn time(&mut self, route: &Route, prepared: &Prepared) -> Result<Duration> {
        let request: &Request = &prepared.request;
        match route {
            Route::Engine => {
                let rows = self.tokenizer.rows(request)?.batch;
                let began = Instant::now();
                self.compute(rows)?;
                Ok(began.elapsed())
            }
            Route::Native => {
                let began = Instant::now();
                let rows = self.tokenizer.rows(request)?.batch;
                self.compute(rows)?;
                Ok(began.elapsed())
            }
            Route::Scheduler => {
                let model = Arc::clone(&self.model);
                let rows = self.tokenizer.rows(request)?.batch.check(model.shape())?;
                let began = Instant::now();
                model.score(rows, &Account::default(), None).await?;
                Ok(began.elapsed())
            }
            Route::Guest => call(&self.host, request).await.context("the guest in process"),
            Route::Loopback => self.loopback.time(request).context("the server in this process"),
            Route::Bytes => self.loopback.time_bytes(request).context("the connection in this process"),
            Route::Service(service) => call(service, request).await.context("the service over HTTP"),
        }
    }

    /// Rows cut into batches in their order, as full as the token budget allows.
    fn compute(&mut self, rows: PackedBatch) -> Result<()> {
        self.outputs.clear();
        let rows = rows.check(&self.engine.shape())?;
        let mut batch = CheckedBatch::with_capacity(rows.shape(), 0, 0);
        for (index, row) in rows.iter().enumerate() {
            if batch.rows() > 0 && batch.tokens() + row.ids.len() > self.engine.max_batch_tokens() {
                self.engine.run(&batch, &mut self.outputs)?;
                batch.clear();
            }
            batch.append(&rows, index..index + 1)?;
        }
        if batch.rows() > 0 {
            self.engine.run(&batch, &mut self.outputs)?;
        }
        Ok(())
    }
}

async fn call(driver: &dyn Driver, request: &Request) -> Result<Duration> {
    let began = Instant::now();
    driver.call(0, request).await.map_err(|failure| anyhow!("{}: {}", failure.kind, failure.message))?;
    Ok(began.elapsed())
}

/// The layers as a table.
#[must_use]
pub fn table(layers: &[Layer]) -> String {
    let rows: Vec<Vec<String>> = layers
        .iter()
        .map(|layer| {
            let Summary { avg, p50, p95, count, .. } = layer.request_ms;
            let (adds, confidence) = match layer.adds_ms {
                None => (String::new(), String::new()),
                Some(Interval { value, low, high }) => (format!("{value:+.3}"), format!("{low:+.3} to {high:+.3}")),
            };
            let figures = [avg, p50, p95].map(|value| format!("{value:.3}"));
            [vec![layer.name.to_owned()], figures.to_vec(), vec![adds, confidence, count.to_string()]].concat()
        })
        .collect();
    crate::table::markdown(&["layer", "avg ms", "P50 ms", "P95 ms", "adds ms", "95 % confidence", "requests"], &rows)
}
