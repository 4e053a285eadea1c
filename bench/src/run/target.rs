//! What a run sends requests to, opened once: the models for their facts, and drivers made from them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use assay::device::{DeviceOptions, LoadedModel};
use assay::model::ModelStore;
use assay::model::store::StoredModel;

use crate::driver::{Driver, HttpDriver, InProcessDriver, InProcessOptions, Started, TenantSetup};
use crate::load::{NativeTokenizer, RowCosts, deepen};
use crate::report::schema::Target;
use crate::scenario::{Scenario, Start, TenantModel, TenantPlan};

/// What to send requests to.
#[derive(Debug, Clone)]
pub struct TargetOptions {
    /// Where models and compiled guests are kept. Over HTTP the model is read too, to count tokens.
    pub data_dir: PathBuf,
    /// The model, in place of the scenario's.
    pub model: Option<String>,
    /// How the device is opened, before what the scenario says of threads and batches.
    pub device: DeviceOptions,
    /// The guest of tenants that name none.
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
    /// Its process, if on this machine, to sample its processor time and memory.
    pub pid: Option<u32>,
}

/// The opened target.
#[derive(Debug)]
pub struct Host {
    options: InProcessOptions,
    compiled_dir: PathBuf,
    service: Option<Service>,
    /// The scenario's model first, then those that tenants have instead; in the order of the options.
    models: Vec<HostModel>,
    target: Target,
    /// Absent over HTTP, and if every repeat loads again.
    shared: Option<(Vec<Arc<LoadedModel>>, Duration)>,
    /// Where models were made for this run.
    _made: tempfile::TempDir,
}

/// What this side must know of a model, to count tokens and work.
#[derive(Debug)]
struct HostModel {
    of: TenantModel,
    name: String,
    tokenizer: NativeTokenizer,
    costs: RowCosts,
}

impl Host {
    /// Reads the models, and loads them unless every repeat does.
    ///
    /// # Errors
    /// There is no such model, or it is damaged.
    pub fn open(options: &TargetOptions, scenario: &Scenario) -> Result<Self> {
        let device = DeviceOptions {
            threads: options.device.threads.or(scenario.engine.threads),
            max_batch_tokens: scenario.engine.max_batch_tokens.or(options.device.max_batch_tokens),
            ..options.device.clone()
        };
        let default = options.model.clone().or_else(|| scenario.model.clone());
        let (store, made) = (ModelStore::new(&options.data_dir), tempfile::tempdir()?);
        let mut wanted = vec![TenantModel::default()];
        for tenant in scenario.configurations()?.iter().flat_map(|configuration| &configuration.tenants) {
            if !wanted.contains(&tenant.model) {
                wanted.push(tenant.model.clone());
            }
        }
        let stored = |(number, model): (usize, &TenantModel)| -> Result<StoredModel> {
            let stored = store.open(model.name.as_deref().or(default.as_deref()))?;
            match model.layers_times.get() {
                1 => Ok(stored),
                times => deepen(&stored, times, &made.path().join(number.to_string())),
            }
        };
        let stored: Vec<StoredModel> = wanted.iter().enumerate().map(stored).collect::<Result<_>>()?;
        let in_process = InProcessOptions { device, models: stored, guest: options.guest.clone() };
        let compiled_dir = options.data_dir.join("compiled");
        match &options.service {
            None => Self::in_process(in_process, compiled_dir, wanted, scenario.start, made),
            Some(service) => Self::remote(in_process, compiled_dir, wanted, service.clone(), made),
        }
    }

    fn in_process(
        options: InProcessOptions,
        compiled_dir: PathBuf,
        wanted: Vec<TenantModel>,
        start: Start,
        made: tempfile::TempDir,
    ) -> Result<Self> {
        let began = Instant::now();
        let loaded = options.load_models()?;
        let load_time = began.elapsed();
        let facts = |(of, model): (TenantModel, &Arc<LoadedModel>)| {
            let tokenizer = NativeTokenizer::new(model.tokenizer(), model.max_tokens())?;
            let costs = RowCosts::new(model.max_tokens(), |tokens| model.row_flops(tokens));
            Ok(HostModel { of, name: model.name().to_owned(), tokenizer, costs })
        };
        let models = wanted.into_iter().zip(&loaded).map(facts).collect::<Result<_>>()?;
        let model = loaded.first().context("no model was loaded")?;
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
        let shared = (start == Start::Shared).then_some((loaded, load_time));
        Ok(Self { options, compiled_dir, service: None, models, target, shared, _made: made })
    }

    fn remote(
        options: InProcessOptions,
        compiled_dir: PathBuf,
        wanted: Vec<TenantModel>,
        service: Service,
        made: tempfile::TempDir,
    ) -> Result<Self> {
        ensure!(
            wanted.iter().all(|model| model.layers_times.get() == 1),
            "layers_times makes a model in this process: a service has models of its own"
        );
        let facts = |(of, stored): (TenantModel, &StoredModel)| {
            let needed = "the model is needed here too, to count the tokens that are sent";
            let (architecture, settings) = (stored.architecture().context(needed)?, stored.settings().context(needed)?);
            let path = stored.dir().join("tokenizer.json");
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let longest = settings.max_tokens.map_or(architecture.max_tokens, |max| max as usize);
            let tokenizer = NativeTokenizer::new(&bytes, longest)?;
            let costs = RowCosts::new(longest, |tokens| assay_kernels::flops::row_flops(&architecture, tokens));
            Ok(HostModel { of, name: stored.manifest.name.clone(), tokenizer, costs })
        };
        let models = wanted.into_iter().zip(&options.models).map(facts).collect::<Result<_>>()?;
        let stored = options.models.first().context("there is no model")?;
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
        Ok(Self { options, compiled_dir, service: Some(service), models, target, shared: None, _made: made })
    }

    /// A driver for these tenants, and what starting it took where anything was started.
    ///
    /// # Errors
    /// A model or a guest cannot be loaded.
    pub async fn driver(&self, tenants: &[TenantPlan], start: Start) -> Result<(Arc<dyn Driver>, Option<Started>)> {
        if let Some(service) = &self.service {
            return Ok((Arc::new(HttpDriver::new(&service.url, service.keys.clone())?), None));
        }
        let setup = |tenant: &TenantPlan| TenantSetup { guest: tenant.guest.clone(), model: self.place(&tenant.model) };
        let tenants: Vec<TenantSetup> = tenants.iter().map(setup).collect();
        let shared = self.shared.clone().filter(|_| start == Start::Shared);
        let (options, cache) = (self.options.clone(), self.compiled_dir.clone());
        // Compiling takes seconds, which the runtime's threads must not be kept from their tasks for.
        let started = tokio::task::spawn_blocking(move || match shared {
            Some((models, model_load)) => {
                let guest = options.guest.as_deref();
                let (driver, guest_load) = InProcessDriver::with_models(&models, guest, &tenants, &cache)?;
                anyhow::Ok((driver, Started { model_load, guest_load }))
            }
            None => {
                let empty = tempfile::tempdir()?;
                InProcessDriver::start(&options, &tenants, empty.path())
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

    /// What counts a model's tokens and work.
    #[must_use]
    pub fn facts(&self, model: &TenantModel) -> (&NativeTokenizer, &RowCosts) {
        let HostModel { tokenizer, costs, .. } = &self.models[self.place(model)];
        (tokenizer, costs)
    }

    /// A model's name.
    #[must_use]
    pub fn model_name(&self, model: &TenantModel) -> String {
        self.models[self.place(model)].name.clone()
    }

    /// Where a model is in the list; the scenario's own for one that no tenant was to have.
    fn place(&self, model: &TenantModel) -> usize {
        self.models.iter().position(|known| known.of == *model).unwrap_or(0)
    }

    /// The process that computes, as far as it can be known.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.service.as_ref().and_then(|service| service.pid).unwrap_or_else(std::process::id)
    }
}
