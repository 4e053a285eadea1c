//! What a run sends requests to, opened once: the model for its facts, and drivers made from it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use assay::device::{DeviceOptions, LoadedModel};
use assay::model::ModelStore;
use assay_kernels::BertConfig;

use crate::driver::{Driver, HttpDriver, InProcessDriver, InProcessOptions, Started};
use crate::load::NativeTokenizer;
use crate::report::schema::Target;
use crate::scenario::{Scenario, Start};

/// What to send requests to.
#[derive(Debug, Clone)]
pub struct TargetOptions {
    /// Where models and compiled guests are kept. Over HTTP the model is read too, to count tokens.
    pub data_dir: PathBuf,
    /// The model, in place of the scenario's.
    pub model: Option<String>,
    /// How the engine is made, before what the scenario says of threads and batches.
    pub engine: DeviceOptions,
    /// A guest wherever a tenant names none.
    pub guest: Option<PathBuf>,
    /// A running service in place of this process.
    pub service: Option<Service>,
}

/// A running service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Where it listens.
    pub url: String,
    /// Bearer keys, by tenant.
    pub keys: Vec<String>,
    /// Its process, if it runs on this machine: whose processor time and memory are sampled.
    pub pid: Option<u32>,
}

/// The opened target.
#[derive(Debug)]
pub struct Host {
    options: InProcessOptions,
    service: Option<Service>,
    tokenizer: NativeTokenizer,
    config: BertConfig,
    target: Target,
    /// Absent over HTTP, and where every repeat loads anew.
    shared: Option<(Arc<LoadedModel>, std::time::Duration)>,
}

impl Host {
    /// Reads the model, and loads it unless each repeat is to do so anew.
    ///
    /// # Errors
    /// There is no such model, or it is damaged.
    pub fn open(options: &TargetOptions, scenario: &Scenario) -> Result<Self> {
        let engine = DeviceOptions {
            threads: options.engine.threads.or(scenario.engine.threads),
            max_batch_tokens: scenario.engine.max_batch_tokens.or(options.engine.max_batch_tokens),
            ..options.engine.clone()
        };
        let in_process = InProcessOptions {
            data_dir: options.data_dir.clone(),
            model: options.model.clone().or_else(|| scenario.model.clone()),
            engine,
            guest: options.guest.clone(),
        };
        match &options.service {
            None => Self::in_process(in_process, scenario.start),
            Some(service) => Self::remote(in_process, service.clone()),
        }
    }

    fn in_process(options: InProcessOptions, start: Start) -> Result<Self> {
        let began = std::time::Instant::now();
        let model = options.load_model()?;
        let loaded = began.elapsed();
        let config = model.config().clone();
        let tokenizer = NativeTokenizer::new(model.tokenizer(), config.max_position_embeddings)?;
        let engine = model.engine();
        let target = Target {
            driver: "in process".to_owned(),
            model: model.name().to_owned(),
            model_revision: model.manifest().revision.clone(),
            engine: engine.name.to_owned(),
            device: engine.device.clone(),
            precision: engine.precision.to_owned(),
            threads: engine.threads,
        };
        let shared = (start == Start::Shared).then_some((model, loaded));
        Ok(Self { options, service: None, tokenizer, config, target, shared })
    }

    fn remote(options: InProcessOptions, service: Service) -> Result<Self> {
        let stored = ModelStore::new(&options.data_dir)
            .open(options.model.as_deref())
            .context("the model is needed here too, to count the tokens that are sent")?;
        let weights = assay_kernels::checkpoint::load(stored.dir(), stored.adapter_dir().as_deref())?;
        let path = stored.dir().join("tokenizer.json");
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let tokenizer = NativeTokenizer::new(&bytes, weights.config.max_position_embeddings)?;
        let unknown = || "unknown".to_owned();
        let target = Target {
            driver: service.url.clone(),
            model: stored.manifest.name.clone(),
            model_revision: stored.manifest.revision.clone(),
            engine: unknown(),
            device: unknown(),
            precision: unknown(),
            threads: 0,
        };
        Ok(Self { options, service: Some(service), tokenizer, config: weights.config, target, shared: None })
    }

    /// A driver for tenants with these guests, and what starting it took where anything was started.
    ///
    /// # Errors
    /// The model or a guest cannot be loaded.
    pub async fn driver(&self, guests: &[Option<PathBuf>], start: Start) -> Result<(Arc<dyn Driver>, Option<Started>)> {
        if let Some(service) = &self.service {
            return Ok((Arc::new(HttpDriver::new(&service.url, service.keys.clone())?), None));
        }
        let shared = self.shared.clone().filter(|_| start == Start::Shared);
        let (options, guests) = (self.options.clone(), guests.to_vec());
        // Compiling takes seconds, which the runtime's threads must not be kept from their tasks for.
        let started = tokio::task::spawn_blocking(move || match shared {
            Some((model, model_load)) => {
                let cache = options.data_dir.join("compiled");
                let (driver, guest_load) = InProcessDriver::with_model(model, &options, &guests, &cache)?;
                anyhow::Ok((driver, Started { model_load, guest_load }))
            }
            None => {
                let empty = tempfile::tempdir()?;
                InProcessDriver::start(&options, &guests, empty.path())
            }
        });
        let (driver, started) = started.await??;
        Ok((Arc::new(driver), Some(started)))
    }

    /// Facts for the report.
    #[must_use]
    pub fn describe(&self) -> Target {
        self.target.clone()
    }

    /// Whether the ceiling of this machine's processor is that of the device.
    #[must_use]
    pub fn computes_on_this_processor(&self) -> bool {
        self.target.engine == "cpu"
    }

    /// Counts tokens.
    #[must_use]
    pub fn tokenizer(&self) -> &NativeTokenizer {
        &self.tokenizer
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The process that computes, as far as it can be known.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.service.as_ref().and_then(|service| service.pid).unwrap_or_else(std::process::id)
    }
}
