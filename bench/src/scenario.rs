//! Scenarios: what to run, as TOML, decoded and checked once.
//!
//! A scenario is a list of configurations that are run one after the other, each several times over. Several built-in
//! ones are part of the program; any of their files is an example to start from. See `docs/performance.md`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The built-in scenarios, in the order in which they are listed.
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

/// Seed of whatever is drawn at random, where a scenario names none: any number would do, it only has to stay.
pub const DEFAULT_SEED: u64 = 42;

/// Repeats of each configuration: the least that shows a spread and has a median.
pub const DEFAULT_REPEATS: u32 = 3;

/// Requests of each tenant before timing begins: the first pays for cold caches, the second for what it left.
pub const DEFAULT_WARMUP_REQUESTS: u32 = 2;

/// Different requests that a generator makes: as many as the baseline's report has.
pub const DEFAULT_DISTINCT_REQUESTS: u32 = 100;

/// What to run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, the report's title.
    pub name: String,
    /// One sentence on what it shows.
    pub about: String,
    /// Seed of the generated load and of random arrivals.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// How often each configuration is run.
    #[serde(default = "default_repeats")]
    pub repeats: u32,
    /// Requests of each tenant before timing begins; reported apart.
    #[serde(default = "default_warmup")]
    pub warmup_requests: u32,
    /// Whether every repeat loads the model and compiles the guests anew.
    #[serde(default)]
    pub start: Start,
    /// The model; the store's default where absent.
    pub model: Option<String>,
    /// How the engine is made.
    #[serde(default)]
    pub engine: EngineSection,
    /// The generated load; a file of requests takes its place.
    #[serde(default)]
    pub load: LoadSection,
    /// Configurations by batch and concurrency, before the listed ones.
    pub sweep: Option<Sweep>,
    /// Configurations one by one.
    #[serde(default, rename = "configuration")]
    configurations: Vec<ConfigurationSection>,
}

/// Whether repeats share a loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The model is loaded and the guests are compiled once.
    #[default]
    Shared,
    /// Every repeat loads and compiles anew, with nothing cached, and has no warm-up.
    Fresh,
}

/// How the engine is made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSection {
    /// Threads that compute; one for each core where absent.
    pub threads: Option<NonZeroUsize>,
    /// Most tokens in one batch; the host's default where absent.
    pub max_batch_tokens: Option<usize>,
}

/// Lengths in tokens, drawn for each text. They count the text's own tokens; a pair has three special ones more.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Lengths {
    /// Always the same.
    Fixed {
        /// The length.
        tokens: u32,
    },
    /// Every length between the two, both included, equally often.
    Uniform {
        /// The shortest.
        min: u32,
        /// The longest.
        max: u32,
    },
    /// Log-normal: what lengths of natural passages look like.
    LogNormal {
        /// Half of the texts are shorter.
        median: u32,
        /// Standard deviation of the length's logarithm.
        sigma: f64,
        /// Shorter draws are raised to this.
        min: u32,
        /// Longer draws are cut to this.
        max: u32,
    },
}

/// The generated load.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadSection {
    /// Different requests; they are used in turn when more are sent.
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
            // These give the 42 % padding waste in batches of 32 that the baseline's report has.
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
    /// Requests in work at once.
    pub concurrency: Vec<u32>,
    /// Pairs of each configuration, at least; every worker sends one request or more.
    pub pairs: u32,
}

/// One configuration as the file has it: of several tenants, or of one whose settings stand here.
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
    /// No request is begun after this many seconds.
    pub max_seconds: Option<f64>,
    /// Who sends what; at least one has a number of requests, or there is `max_seconds`.
    pub tenants: Vec<TenantPlan>,
}

/// What one tenant sends.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantPlan {
    /// The tenant's name.
    pub name: String,
    /// Its guest; the standard one where absent.
    pub guest: Option<PathBuf>,
    /// Its model.
    pub model: TenantModel,
    /// Documents of a request; as the file of requests has them where absent.
    pub batch: Option<u32>,
    /// When requests are sent.
    pub pace: Pace,
    /// How many; where absent, until every tenant that has a number is done.
    pub requests: Option<u32>,
}

/// Which model a tenant uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantModel {
    /// A model of the store; the scenario's where absent.
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
    /// Closed loop: each of so many workers sends the next request when it has the answer to its last.
    Closed {
        /// Workers.
        concurrency: u32,
    },
    /// Open loop: requests are sent at their time, whatever has been answered.
    Open {
        /// How many in a second.
        rate: Rate,
        /// How they are spread.
        arrivals: Arrivals,
    },
}

/// Requests per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// This many.
    PerSecond(f64),
    /// This multiple of what a closed loop reaches, measured first.
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
    /// It is not TOML of this shape, or contradicts itself.
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
    /// There is neither, or the file is no scenario.
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

    /// Batch and concurrency of a configuration that has one tenant in a closed loop: a point of a sweep.
    #[must_use]
    pub fn point(&self) -> Option<(Option<u32>, u32)> {
        match self.tenants.as_slice() {
            [TenantPlan { batch, pace: Pace::Closed { concurrency }, .. }] => Some((*batch, *concurrency)),
            _ => None,
        }
    }
}

/// As the baseline's report names its configurations.
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
            ensure!(own == empty, "{}: settings of tenants stand both in it and in its [[tenant]]s", what());
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
    fn every_built_in_scenario_is_sound_and_has_its_own_name() {
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
    fn a_sweep_gives_every_worker_a_request() {
        let sweep = Sweep { batch: vec![1, 128], concurrency: vec![1, 64], pairs: 256 };
        let requests: Vec<_> = sweep.configurations().map(|plan| plan.tenants[0].requests.unwrap()).collect();
        assert_eq!(requests, [256, 256, 2, 64]);
    }

    #[test]
    fn contradictions_are_named() {
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
                "stand both in it",
            ),
        ];
        for (body, expected) in cases {
            let error = Scenario::parse(&format!("name = \"x\"\nabout = \"y\"\n{body}")).unwrap_err();
            let message = format!("{error:#}");
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
