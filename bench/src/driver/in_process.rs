//! The host as a library, used as by the program `assay`: models from the store; guests compiled, prepared and cached;
//! a fresh instance for each request.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use assay::device::{Account, Device, DeviceOptions, LoadedModel};
use assay::guest::{self, Call, CallTerms, Guest, GuestRuntime, Links, Models, Payer, RuntimeOptions};
use assay::limits::RequestLimits;
use assay::model::store::StoredModel;
use assay::rerank::{GuestFault, Request, RerankError, Response};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Driver, Failure, Gauge, Reply, Stages};

/// How to set the host up.
#[derive(Debug, Clone)]
pub struct InProcessOptions {
    /// How the device is opened.
    pub device: DeviceOptions,
    /// The models; the first is that of tenants which name none.
    pub models: Vec<StoredModel>,
    /// The guest of tenants that name none; the standard one if absent.
    pub guest: Option<PathBuf>,
}

/// What one tenant has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantSetup {
    /// Its guest; the options' guest if absent.
    pub guest: Option<PathBuf>,
    /// Its model, by the place in the options' list.
    pub model: usize,
}

/// What starting took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Started {
    /// Opening the device, reading the weights, making the engines.
    pub model_load: Duration,
    /// Setting the runtime up and compiling the guests, or finding them compiled.
    pub guest_load: Duration,
}

/// The host in this process.
#[derive(Debug)]
pub struct InProcessDriver {
    tenants: Vec<Tenant>,
    limits: Arc<RequestLimits>,
    // Dropped last, because it drives the guests' clock.
    _runtime: GuestRuntime,
}

/// Tenants have the same weight and no quotas of their own.
#[derive(Debug)]
struct Tenant {
    guest: Guest,
    models: Models,
    payer: Payer,
}

impl InProcessOptions {
    /// Opens a device and loads the models onto it.
    ///
    /// # Errors
    /// There is no such device, or a model is damaged or does not fit.
    pub fn load_models(&self) -> Result<Vec<Arc<LoadedModel>>> {
        let device = Device::open(&self.device)?;
        Ok(self.models.iter().map(|stored| device.load(stored)).collect::<Result<_, _>>()?)
    }

    /// Makes an engine of the first model, with nothing in front of it.
    ///
    /// # Errors
    /// There is no such device, or the model is damaged.
    pub fn bare_engine(&self) -> Result<Box<dyn assay_kernels::Engine>> {
        let stored = self.models.first().context("there is no model")?;
        Ok(Device::open(&self.device)?.engine(stored)?)
    }
}

impl InProcessDriver {
    /// Loads the models and the tenants' guests. `cache_dir` is where compiled guests are kept.
    ///
    /// # Errors
    /// A model or a guest cannot be loaded.
    pub fn start(options: &InProcessOptions, tenants: &[TenantSetup], cache_dir: &Path) -> Result<(Self, Started)> {
        let began = Instant::now();
        let models = options.load_models()?;
        let model_load = began.elapsed();
        let (driver, guest_load) = Self::with_models(&models, options.guest.as_deref(), tenants, cache_dir)?;
        Ok((driver, Started { model_load, guest_load }))
    }

    /// Uses loaded models, the first for tenants that name none. Returns how long the guests took too.
    ///
    /// # Errors
    /// A guest cannot be loaded.
    pub fn with_models(
        models: &[Arc<LoadedModel>],
        guest: Option<&Path>,
        tenants: &[TenantSetup],
        cache_dir: &Path,
    ) -> Result<(Self, Duration)> {
        let began = Instant::now();
        let runtime = GuestRuntime::new(cache_dir, &RuntimeOptions::default())?;
        let mut loaded: HashMap<(Option<&Path>, usize), Guest> = HashMap::new();
        let mut opened = Vec::with_capacity(tenants.len());
        for (number, tenant) in tenants.iter().enumerate() {
            let model = models.get(tenant.model).context("there is no such model")?;
            let what = (tenant.guest.as_deref().or(guest), tenant.model);
            let guest = match loaded.get(&what) {
                Some(guest) => guest.clone(),
                None => load(&runtime, what.0, model)?,
            };
            loaded.insert(what, guest.clone());
            let payer = Payer::of(Account { tenant: number.to_string().into(), ..Account::default() });
            opened.push(Tenant { guest, models: Models::only(Arc::clone(model)), payer });
        }
        let driver = Self { tenants: opened, limits: Arc::default(), _runtime: runtime };
        Ok((driver, began.elapsed()))
    }

    /// Sends a request as the tenant with this number, and returns the whole answer.
    ///
    /// # Errors
    /// The request failed.
    pub async fn rank(&self, tenant: usize, request: Request) -> Result<Response, Failure> {
        let arrived = Instant::now();
        let Tenant { guest, models, payer } = &self.tenants[tenant];
        let request = self.limits.admit(request).map_err(|error| failure(&error))?;
        let (models, payer) = (models.clone(), payer.clone());
        let (links, terms) = (Links::default(), CallTerms::default());
        let response = guest.call(Call { request, arrived, models, links, payer, terms }).await;
        response.map_err(|error| failure(&error))
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
        async move {
            let response = self.rank(tenant, request.clone()).await?;
            let timings = response.timings;
            let stages = Stages { guest: timings.guest, queue: timings.queue, inference: timings.inference };
            Ok(Reply { pairs: response.hits.len() as u64, tokens: Some(response.usage.tokens), stages: Some(stages) })
        }
        .boxed()
    }

    fn gauge(&self) -> Gauge {
        let Some(first) = self.tenants.first() else { return Gauge::default() };
        let device = first.models.default.device();
        let (meter, reading) = (device.meter(), device.meter().read());
        Gauge {
            device_memory_bytes: Some(device.status().memory_used_bytes),
            device_busy: Some(meter.busy()),
            batches: Some(reading.batches),
            tokens: Some(reading.tokens),
            waiting_tokens: Some(device.waiting_tokens() as u64),
            device_time_by_tenant: self
                .tenants
                .iter()
                .map(|tenant| meter.device_time_of(&tenant.payer.account.tenant))
                .collect(),
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
        RerankError::Unavailable { .. } => "unavailable",
        RerankError::Deferred { callee: Some(_), .. } => "callee",
        RerankError::Deferred { callee: None, .. } => "deferred by the guest",
        RerankError::DeadlineExceeded { .. } | RerankError::Late { .. } => "deadline exceeded",
        RerankError::Guest(GuestFault::Trapped(_)) => "guest trapped",
        RerankError::Guest(_) => "guest fault",
        RerankError::Internal(_) => "internal",
    };
    Failure { kind: kind.to_owned(), message: error.to_string() }
}
