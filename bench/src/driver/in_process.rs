//! The host as a library, used as the program `assay` uses it: models from the store, guests compiled, prepared and
//! cached, one fresh instance for each request.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use assay::engine::{ChosenEngine, EngineOptions};
use assay::guest::{self, Call, Guest, GuestRuntime, Models, RuntimeOptions};
use assay::limits::RequestLimits;
use assay::model::{LoadedModel, ModelStore};
use assay::rerank::{GuestFault, Request, RerankError};
use assay::scheduler::Account;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Driver, Failure, Gauge, Reply, Stages};

/// How to set the host up.
#[derive(Debug, Clone)]
pub struct InProcessOptions {
    /// Where models and compiled guests are kept.
    pub data_dir: PathBuf,
    /// The model; the store's default where absent.
    pub model: Option<String>,
    /// How the engine is made.
    pub engine: EngineOptions,
    /// A guest to use wherever a tenant names none; the standard one where absent.
    pub guest: Option<PathBuf>,
}

/// What starting took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Started {
    /// Reading the weights, making the engine, starting its thread.
    pub model_load: Duration,
    /// Setting the runtime up and compiling the guests, or finding them compiled.
    pub guest_load: Duration,
}

/// The host in this process.
#[derive(Debug)]
pub struct InProcessDriver {
    model: Arc<LoadedModel>,
    models: Models,
    tenants: Vec<Tenant>,
    limits: RequestLimits,
    // Dropped last: it gives the guests their clock.
    _runtime: GuestRuntime,
}

/// Tenants have the same weight and no quotas of their own.
#[derive(Debug)]
struct Tenant {
    guest: Guest,
    account: Account,
}

impl InProcessOptions {
    /// Loads the model.
    ///
    /// # Errors
    /// There is no such model, or it is damaged.
    pub fn load_model(&self) -> Result<LoadedModel> {
        let stored = ModelStore::new(&self.data_dir).open(self.model.as_deref())?;
        Ok(LoadedModel::load(&stored, &self.engine)?)
    }

    /// Makes an engine of its own, with nothing in front of it.
    ///
    /// # Errors
    /// There is no such model, or it is damaged.
    pub fn bare_engine(&self) -> Result<Box<dyn assay_kernels::Engine>> {
        let stored = ModelStore::new(&self.data_dir).open(self.model.as_deref())?;
        let weights = assay_kernels::checkpoint::load(stored.dir(), stored.adapter_dir().as_deref())?;
        let ChosenEngine { engine, .. } = self.engine.make(weights)?;
        Ok(engine)
    }
}

impl InProcessDriver {
    /// Loads the model and the guests, one for each tenant: `None` is the standard guest. `cache_dir` is where compiled
    /// guests are kept.
    ///
    /// # Errors
    /// The model or a guest cannot be loaded.
    pub fn start(options: &InProcessOptions, tenants: &[Option<PathBuf>], cache_dir: &Path) -> Result<(Self, Started)> {
        let began = Instant::now();
        let model = Arc::new(options.load_model()?);
        let model_load = began.elapsed();
        let (driver, guest_load) = Self::with_model(model, options, tenants, cache_dir)?;
        Ok((driver, Started { model_load, guest_load }))
    }

    /// Uses a model that is loaded already; tells how long the guests took.
    ///
    /// # Errors
    /// A guest cannot be loaded.
    pub fn with_model(
        model: Arc<LoadedModel>,
        options: &InProcessOptions,
        tenants: &[Option<PathBuf>],
        cache_dir: &Path,
    ) -> Result<(Self, Duration)> {
        let began = Instant::now();
        let runtime = GuestRuntime::new(cache_dir, &RuntimeOptions::default())?;
        let mut loaded: HashMap<Option<&Path>, Guest> = HashMap::new();
        let mut opened = Vec::with_capacity(tenants.len());
        for (number, tenant) in tenants.iter().enumerate() {
            let path = tenant.as_deref().or(options.guest.as_deref());
            let guest = match loaded.get(&path) {
                Some(guest) => guest.clone(),
                None => load(&runtime, path, &model)?,
            };
            loaded.insert(path, guest.clone());
            let account = Account { tenant: number.to_string().into(), ..Account::default() };
            opened.push(Tenant { guest, account });
        }
        let (models, limits) = (Models::only(Arc::clone(&model)), RequestLimits::default());
        let driver = Self { model, models, tenants: opened, limits, _runtime: runtime };
        Ok((driver, began.elapsed()))
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<LoadedModel> {
        &self.model
    }
}

fn load(runtime: &GuestRuntime, path: Option<&Path>, model: &LoadedModel) -> Result<Guest> {
    match (path, guest::standard()) {
        (Some(path), _) => {
            let component = guest::read_component(path)?;
            let guest = runtime.load_prepared(&path.display().to_string(), &component, model.info());
            guest.with_context(|| format!("guest {}", path.display()))
        }
        (None, Some(standard)) => Ok(runtime.load_prepared("the standard guest", standard, model.info())?),
        (None, None) => bail!(
            "this program was built without the standard guest: build it with `cargo xtask build`, or name one with --guest"
        ),
    }
}

impl Driver for InProcessDriver {
    fn call<'a>(&'a self, tenant: usize, request: &'a Request) -> BoxFuture<'a, Result<Reply, Failure>> {
        let Tenant { guest, account } = &self.tenants[tenant];
        let (request, arrived, models) = (request.clone(), Instant::now(), &self.models);
        async move {
            let request = self.limits.admit(request).map_err(|error| failure(&error))?;
            let (response, _) = guest.call(Call { request, arrived, models, account, rate: None }).await;
            let response = response.map_err(|error| failure(&error))?;
            let timings = response.timings;
            let stages = Stages { guest: timings.guest, queue: timings.queue, inference: timings.inference };
            Ok(Reply { pairs: response.hits.len() as u64, tokens: Some(response.usage.tokens), stages: Some(stages) })
        }
        .boxed()
    }

    fn gauge(&self) -> Gauge {
        let scheduler = self.model.scheduler();
        let memory = scheduler.meter().memory();
        let reading = scheduler.meter().read();
        Gauge {
            device_memory_bytes: Some(memory.weights_bytes + memory.arena_bytes + memory.io_bytes),
            device_busy: Some(reading.busy),
            batches: Some(reading.batches),
            tokens: Some(reading.tokens),
            waiting_tokens: Some(scheduler.waiting_tokens() as u64),
        }
    }
}

fn failure(error: &RerankError) -> Failure {
    let kind = match error {
        RerankError::InvalidInput(_) => "invalid input",
        RerankError::TooLarge { .. } => "too large",
        RerankError::AccessDenied(_) => "access denied",
        RerankError::ModelNotFound(_) => "model not found",
        RerankError::Overloaded { .. } => "overloaded",
        RerankError::TooManyRequests { .. } => "too many requests",
        RerankError::DeviceFailed(_) => "device failed",
        RerankError::DeadlineExceeded { .. } => "deadline exceeded",
        RerankError::Guest(GuestFault::Trapped(_)) => "guest trapped",
        RerankError::Guest(_) => "guest fault",
        RerankError::Internal(_) => "internal",
    };
    Failure { kind: kind.to_owned(), message: error.to_string() }
}
