//! Scenarios: what to run, as TOML, decoded and checked once.
//!
//! A scenario is a list of configurations, which run one after the other, each several times. Several are built in;
//! their files are examples to start from. See `docs/performance.md`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The built-in scenarios, as listed.
const BUILTIN: [&str; 9] = [
    include_str!("../scenarios/baseline.toml"),
    include_str!("../scenarios/sweep.toml"),
    include_str!("../scenarios/small.toml"),
    include_str!("../scenarios/long.toml"),
    include_str!("../scenarios/mixed-tenants.toml"),
    include_str!("../scenarios/noisy-neighbour.toml"),
    include_str!("../scenarios/two-models.toml"),
    include_str!("../scenarios/cold-start.toml"),
    include_str!("../scenarios/overload.toml"),
];

/// Default seed. Any number would do, as long as it stays the same.
pub const DEFAULT_SEED: u64 = 42;

/// Default repeats of each configuration: the fewest with a median and a spread.
pub const DEFAULT_REPEATS: u32 = 3;

/// Default requests of each tenant before timing begins: the first fills caches, the second what the first left cold.
pub const DEFAULT_WARMUP_REQUESTS: u32 = 2;

/// Default number of different requests: as in the baseline's report.
pub const DEFAULT_DISTINCT_REQUESTS: u32 = 100;

/// What to run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, and the report's title.
    pub name: String,
    /// One sentence on what it shows.
    pub about: String,
    /// Seed of the generated load and of random arrivals.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// How often each configuration is run.
    #[serde(default = "default_repeats")]
    pub repeats: u32,
    /// Requests of each tenant before timing begins, reported apart.
    #[serde(default = "default_warmup")]
    pub warmup_requests: u32,
    /// Whether every repeat loads the model and compiles the guests again.
    #[serde(default)]
    pub start: Start,
    /// The model; the store's default if absent.
    pub model: Option<String>,
    /// The engine.
    #[serde(default)]
    pub engine: EngineSection,
    /// The generated load, unless requests come from a file.
    #[serde(default)]
    pub load: LoadSection,
    /// Configurations by batch and concurrency, before the others.
    pub sweep: Option<Sweep>,
    /// Single configurations.
    #[serde(default, rename = "configuration")]
    configurations: Vec<ConfigurationSection>,
}

/// Whether repeats share a loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Yes: the model is loaded and the guests are compiled once.
    #[default]
    Shared,
    /// No: every repeat loads and compiles again, with an empty cache and without warm-up.
    Fresh,
}

/// Settings of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSection {
    /// Threads that compute; one for each fast physical core if absent.
    pub threads: Option<NonZeroUsize>,
    /// Most tokens in one batch; the host's default if absent.
    pub max_batch_tokens: Option<usize>,
}

/// Lengths of texts in tokens, without a pair's three special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Lengths {
    /// Always the same.
    Fixed {
        /// The length.
        tokens: u32,
    },
    /// Every length from the shortest to the longest, equally often.
    Uniform {
        /// The shortest.
        min: u32,
        /// The longest.
        max: u32,
    },
    /// Log-normal, like the lengths of natural passages.
    LogNormal {
        /// The median.
        median: u32,
        /// Standard deviation of the length's logarithm.
        sigma: f64,
        /// The shortest: shorter draws become this.
        min: u32,
        /// The longest: longer draws become this.
        max: u32,
    },
}

/// The generated load.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadSection {
    /// Different requests, used in turn.
    pub distinct_requests: u32,
    /// Length of a query.
    pub query: Lengths,
    /// Length of a document.
    pub document: Lengths,
}

impl Default for LoadSection {
    fn default() -> Self {
        Self {
            distinct_requests: DEFAULT_DISTINCT_REQUESTS,
            query: Lengths::LogNormal { median: 9, sigma: 0.35, min: 3, max: 32 },
            // These lengths waste 42 % on padding in batches of 32, as in the baseline's report.
            document: Lengths::LogNormal { median: 61, sigma: 0.325, min: 8, max: 400 },
        }
    }
}

/// Every batch size with every concurrency.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Documents of a request.
    pub batch: Vec<u32>,
    /// Requests in flight at once.
    pub concurrency: Vec<u32>,
    /// Least pairs of each configuration; every worker sends at least one request.
    pub pairs: u32,
}

/// One configuration of the file, with several tenants, or with the settings of one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigurationSection {
    name: Option<String>,
    batch: Option<u32>,
    concurrency: Option<u32>,
    rate_per_s: Option<f64>,
    load_factor: Option<f64>,
    arrivals: Option<Arrivals>,
    requests: Option<u32>,
    max_seconds: Option<f64>,
    guest: Option<PathBuf>,
    model: Option<String>,
    layers_times: Option<NonZeroUsize>,
    #[serde(default, rename = "tenant")]
    tenants: Vec<TenantSection>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantSection {
    name: String,
    batch: Option<u32>,
    concurrency: Option<u32>,
    rate_per_s: Option<f64>,
    load_factor: Option<f64>,
    arrivals: Option<Arrivals>,
    requests: Option<u32>,
    guest: Option<PathBuf>,
    model: Option<String>,
    layers_times: Option<NonZeroUsize>,
}

/// One configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Unique within the scenario.
    pub name: String,
    /// No request starts after this many seconds.
    pub max_seconds: Option<f64>,
    /// The tenants. At least one has a number of requests, or there is `max_seconds`.
    pub tenants: Vec<TenantPlan>,
}

/// What one tenant sends.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantPlan {
    /// The tenant's name.
    pub name: String,
    /// Its guest; the standard one if absent.
    pub guest: Option<PathBuf>,
    /// Its model.
    pub model: TenantModel,
    /// Documents of a request; as in the file of requests if absent.
    pub batch: Option<u32>,
    /// When requests are sent.
    pub pace: Pace,
    /// The number of requests; if absent, until every tenant with a number is done.
    pub requests: Option<u32>,
}

/// Which model a tenant uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantModel {
    /// A model of the store; the scenario's if absent.
    pub name: Option<String>,
    /// How many times over it has that model's layers: 1 is the model itself, and a larger one is for timing only.
    pub layers_times: NonZeroUsize,
}

impl Default for TenantModel {
    fn default() -> Self {
        Self { name: None, layers_times: NonZeroUsize::MIN }
    }
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Closed loop: each worker sends its next request when it has the answer to its last.
    Closed {
        /// Workers.
        concurrency: u32,
    },
    /// Open loop: requests are sent by a schedule, answered or not.
    Open {
        /// Their rate.
        rate: Rate,
        /// How they are spread in time.
        arrivals: Arrivals,
    },
}

/// Requests per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// This many.
    PerSecond(f64),
    /// This multiple of the rate of a closed loop, which is measured first.
    OfCapacity(f64),
}

/// How an open loop's requests are spread in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// Independent users: exponential gaps.
    #[default]
    Poisson,
    /// Equal gaps.
    Uniform,
}

fn default_seed() -> u64 {
    DEFAULT_SEED
}

fn default_repeats() -> u32 {
    DEFAULT_REPEATS
}

fn default_warmup() -> u32 {
    DEFAULT_WARMUP_REQUESTS
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// It is not TOML of this form, or contradicts itself.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        ensure!(scenario.repeats > 0, "repeats is 0: a scenario runs at least once");
        ensure!(scenario.load.distinct_requests > 0, "load.distinct_requests is 0: there is nothing to send");
        let configurations = scenario.configurations()?;
        ensure!(!configurations.is_empty(), "there is neither a [sweep] nor a [[configuration]]");
        for (index, configuration) in configurations.iter().enumerate() {
            let name = &configuration.name;
            let twice = configurations[..index].iter().any(|earlier| earlier.name == *name);
            ensure!(!twice, "two configurations are called {name:?}: give one of them another name");
        }
        Ok(scenario)
    }

    /// A built-in scenario by its name, or one from a file.
    ///
    /// # Errors
    /// There is neither, or the file is not a scenario.
    pub fn find(name_or_path: &str) -> Result<Self> {
        for builtin in Self::builtin()? {
            if builtin.name == name_or_path {
                return Ok(builtin);
            }
        }
        let path = Path::new(name_or_path);
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("{name_or_path} is neither a built-in scenario (see `assay-bench scenarios`) nor a file")
        })?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Every built-in scenario.
    ///
    /// # Errors
    /// None in a program whose tests pass.
    pub fn builtin() -> Result<Vec<Self>> {
        BUILTIN.iter().map(|text| Self::parse(text)).collect()
    }

    /// The configurations, those of the sweep first.
    ///
    /// # Errors
    /// A configuration contradicts itself; the message names it.
    pub fn configurations(&self) -> Result<Vec<Configuration>> {
        let swept = self.sweep.iter().flat_map(Sweep::configurations).map(Ok);
        swept.chain(self.configurations.iter().map(ConfigurationSection::check)).collect()
    }
}

impl Sweep {
    fn configurations(&self) -> impl Iterator<Item = Configuration> + '_ {
        let pairs = self.batch.iter().flat_map(|&batch| self.concurrency.iter().map(move |&workers| (batch, workers)));
        pairs.map(|(batch, concurrency)| {
            let requests = self.pairs.div_ceil(batch.max(1)).max(concurrency);
            let pace = Pace::Closed { concurrency };
            Configuration::of_one(None, Some(batch), pace, requests)
        })
    }
}

impl Configuration {
    fn of_one(name: Option<String>, batch: Option<u32>, pace: Pace, requests: u32) -> Self {
        let name = name.unwrap_or_else(|| default_name(batch, pace));
        let (tenant, model) = ("default".to_owned(), TenantModel::default());
        let tenant = TenantPlan { name: tenant, guest: None, model, batch, pace, requests: Some(requests) };
        Self { name, max_seconds: None, tenants: vec![tenant] }
    }

    /// Batch and concurrency, if the configuration has one tenant in a closed loop: a point of a sweep.
    #[must_use]
    pub fn point(&self) -> Option<(Option<u32>, u32)> {
        match self.tenants.as_slice() {
            [TenantPlan { batch, pace: Pace::Closed { concurrency }, .. }] => Some((*batch, *concurrency)),
            _ => None,
        }
    }
}

/// A name as in the baseline's report.
fn default_name(batch: Option<u32>, pace: Pace) -> String {
    let batch = batch.map_or_else(|| "as filed".to_owned(), |batch| batch.to_string());
    match pace {
        Pace::Closed { concurrency } => format!("batch={batch}, concurrency={concurrency}"),
        Pace::Open { rate: Rate::PerSecond(rate), .. } => format!("batch={batch}, {rate} requests/s"),
        Pace::Open { rate: Rate::OfCapacity(factor), .. } => format!("batch={batch}, load factor {factor}"),
    }
}

impl ConfigurationSection {
    fn check(&self) -> Result<Configuration> {
        let own = TenantSection {
            name: "default".to_owned(),
            batch: self.batch,
            concurrency: self.concurrency,
            rate_per_s: self.rate_per_s,
            load_factor: self.load_factor,
            arrivals: self.arrivals,
            requests: self.requests,
            guest: self.guest.clone(),
            model: self.model.clone(),
            layers_times: self.layers_times,
        };
        let what = || format!("configuration {}", self.name.as_deref().unwrap_or("without a name"));
        if !self.tenants.is_empty() {
            let empty = TenantSection { name: own.name.clone(), ..TenantSection::default() };
            ensure!(own == empty, "{}: a tenant's settings are both in it and in its [[tenant]]s", what());
            ensure!(self.name.is_some(), "a configuration of several tenants needs a name");
        }
        let sections = if self.tenants.is_empty() { std::slice::from_ref(&own) } else { &self.tenants };
        let tenants: Vec<TenantPlan> =
            sections.iter().map(TenantSection::check).collect::<Result<_>>().with_context(what)?;
        ensure!(
            self.max_seconds.is_some() || tenants.iter().any(|tenant| tenant.requests.is_some()),
            "{}: no tenant has a number of requests, and there is no max_seconds",
            what()
        );
        let name = self.name.clone().unwrap_or_else(|| default_name(tenants[0].batch, tenants[0].pace));
        Ok(Configuration { name, max_seconds: self.max_seconds, tenants })
    }
}

impl TenantSection {
    fn check(&self) -> Result<TenantPlan> {
        let positive = |number: f64| number > 0.0 && number.is_finite();
        let arrivals = self.arrivals.unwrap_or_default();
        let pace = match (self.concurrency, self.rate_per_s, self.load_factor) {
            (Some(concurrency), None, None) if concurrency > 0 => Pace::Closed { concurrency },
            (None, Some(rate), None) if positive(rate) => Pace::Open { rate: Rate::PerSecond(rate), arrivals },
            (None, None, Some(factor)) if positive(factor) => Pace::Open { rate: Rate::OfCapacity(factor), arrivals },
            _ => bail!(
                "tenant {}: exactly one of concurrency, rate_per_s and load_factor must be given, and be above 0",
                self.name
            ),
        };
        ensure!(self.batch != Some(0), "tenant {}: batch is 0", self.name);
        ensure!(self.requests != Some(0), "tenant {}: requests is 0", self.name);
        let open = matches!(pace, Pace::Open { .. });
        ensure!(self.requests.is_some() || !open, "tenant {}: an open loop needs a number of requests", self.name);
        let (name, guest) = (self.name.clone(), self.guest.clone());
        let layers_times = self.layers_times.unwrap_or(NonZeroUsize::MIN);
        let model = TenantModel { name: self.model.clone(), layers_times };
        Ok(TenantPlan { name, guest, model, batch: self.batch, pace, requests: self.requests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_is_valid_and_has_a_name_of_its_own() {
        let mut names: Vec<String> = Scenario::builtin().unwrap().into_iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), BUILTIN.len());
        names.sort();
        names.dedup();
        assert_eq!(names.len(), BUILTIN.len());
    }

    #[test]
    fn the_baseline_is_the_reports_own_configuration() {
        let scenario = Scenario::find("baseline").unwrap();
        let configurations = scenario.configurations().unwrap();
        assert_eq!(configurations.len(), 1);
        assert_eq!(configurations[0].point(), Some((Some(32), 1)));
        assert_eq!(configurations[0].tenants[0].requests, Some(100));
    }

    #[test]
    fn every_worker_of_a_sweep_sends_a_request() {
        let sweep = Sweep { batch: vec![1, 128], concurrency: vec![1, 64], pairs: 256 };
        let requests: Vec<_> = sweep.configurations().map(|plan| plan.tenants[0].requests.unwrap()).collect();
        assert_eq!(requests, [256, 256, 2, 64]);
    }

    #[test]
    fn a_contradiction_is_refused_by_name() {
        let cases = [
            ("", "neither a [sweep] nor a [[configuration]]"),
            ("[[configuration]]\nconcurrency = 1\nrate_per_s = 2.0\nrequests = 1", "exactly one of"),
            ("[[configuration]]\nrate_per_s = -1.0\nrequests = 1", "exactly one of"),
            ("[[configuration]]\nconcurrency = 1", "no tenant has a number of requests"),
            ("[[configuration]]\nrate_per_s = 1.0", "an open loop needs a number"),
            ("[[configuration]]\nconcurency = 1", "unknown field"),
            (
                "[[configuration]]\nconcurrency = 1\nrequests = 1\n[[configuration]]\nconcurrency = 1\nrequests = 2",
                "two configurations are called",
            ),
            (
                "[[configuration]]\nbatch = 1\n[[configuration.tenant]]\nname = \"a\"\nconcurrency = 1\nrequests = 1",
                "both in it and in its [[tenant]]s",
            ),
        ];
        for (body, expected) in cases {
            let error = Scenario::parse(&format!("name = \"x\"\nabout = \"y\"\n{body}")).unwrap_err();
            let message = format!("{error:#}");
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
