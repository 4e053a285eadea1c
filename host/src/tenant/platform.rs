//! All tenants of one data directory: opening it, looking tenants up, and carrying out requests for changes.
//!
//! Changes run one at a time, on a thread that may block; requests never wait for them. `deploy` puts versions into
//! service, `garbage` removes what no version needs. A request keeps the [`LiveTenant`] it began on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

use tokio::runtime::Handle;

use super::admin::{AdminError, AdminRequest, Command, Description, HeldModel, OpenedModel, Reply, Stored};
use super::blobs::Blobs;
use super::compile::CompilerOptions;
use super::live::LiveTenant;
use super::records::Deployment;
use super::{KeyHash, NewKey, Registry, RegistryError, TenantLimits, TenantName, TenantRecord};
use crate::device::{Device, DeviceOptions};
use crate::guest::{GuestRuntime, RuntimeOptions};
use crate::model::ModelStore;

/// Directory of compiled guests below the data directory.
const COMPILED_DIR: &str = "compiled";

/// Directory of the registry and the components below the data directory.
const TENANTS_DIR: &str = "tenants";

/// How to open a platform.
#[derive(Debug, Clone)]
pub struct PlatformOptions {
    /// How to open the device.
    pub device: DeviceOptions,
    /// How to compile components.
    pub compiler: CompilerOptions,
    /// The runtime for test requests and the compiler process.
    pub tokio: Handle,
}

/// All tenants of one data directory.
#[derive(Debug)]
pub struct Platform {
    pub(super) data_dir: PathBuf,
    pub(super) registry: Registry,
    pub(super) blobs: Blobs,
    pub(super) models: ModelStore,
    pub(super) compiled_dir: PathBuf,
    pub(super) compiler: CompilerOptions,
    pub(super) tokio: Handle,
    device_options: DeviceOptions,
    device: OnceLock<Arc<Device>>,
    live: RwLock<Live>,
    /// Held during a change.
    changing: Mutex<()>,
    // Dropped last, so that its clock outlives every guest.
    pub(super) runtime: GuestRuntime,
}

/// The tables that requests look up.
#[derive(Debug, Default)]
struct Live {
    tenants: HashMap<TenantName, Arc<LiveTenant>>,
    keys: HashMap<[u8; 32], TenantName>,
    /// Replaced or removed versions that may still have running requests.
    replaced: Vec<Weak<LiveTenant>>,
}

/// The parts that a deployment changes. `None` keeps a part.
#[derive(Debug)]
pub(super) struct Change {
    /// SHA-256 of the component.
    pub(super) component: Option<String>,
    pub(super) limits: Option<TenantLimits>,
    /// `NAME[@REVISION]` of the default model.
    pub(super) model: Option<String>,
    /// `NAME[@REVISION]` of other models that the limits name.
    pub(super) other_models: Vec<String>,
}

impl Platform {
    /// Opens the tenants of a data directory, which no other process may have open. No tenant serves yet.
    ///
    /// # Errors
    /// The directory cannot be used, or another process has it open.
    pub fn open(data_dir: &Path, options: PlatformOptions) -> Result<Self, AdminError> {
        let io = |error: std::io::Error| AdminError::host(format!("{}: {error}", data_dir.display()));
        std::fs::create_dir_all(data_dir).map_err(io)?;
        // The compiler process resolves paths against its own working directory.
        let data_dir = std::fs::canonicalize(data_dir).map_err(io)?;
        let tenants_dir = data_dir.join(TENANTS_DIR);
        let registry = Registry::open(&tenants_dir)?;
        let blobs = Blobs::open(&tenants_dir.join("blobs")).map_err(io)?;
        let compiled_dir = data_dir.join(COMPILED_DIR);
        let runtime = GuestRuntime::new(&compiled_dir, &RuntimeOptions::default())?;
        let models = ModelStore::new(&data_dir);
        let PlatformOptions { device: device_options, compiler, tokio } = options;
        let platform = Self {
            data_dir,
            registry,
            blobs,
            models,
            compiled_dir,
            compiler,
            tokio,
            device_options,
            device: OnceLock::new(),
            live: RwLock::default(),
            changing: Mutex::default(),
            runtime,
        };
        platform.record_revisions()?;
        Ok(platform)
    }

    /// The device, opened at first use, because some commands run no model.
    ///
    /// # Errors
    /// The machine has no such device.
    pub fn device(&self) -> Result<&Arc<Device>, AdminError> {
        if let Some(device) = self.device.get() {
            return Ok(device);
        }
        let opened = Device::open(&self.device_options)?;
        Ok(self.device.get_or_init(|| opened))
    }

    /// Puts every tenant's current version into service. Blocks while guests that are not in the cache are compiled.
    ///
    /// # Errors
    /// The registry failed. Tenants that cannot be served are returned with the reason.
    pub fn activate_all(&self) -> Result<Vec<(TenantName, AdminError)>, AdminError> {
        let _change = self.change();
        let mut failed = Vec::new();
        for tenant in self.registry.tenants()? {
            let deployment = self.registry.deployment(&tenant.name, tenant.current)?;
            match self.ready(&tenant.name, deployment) {
                Ok(parts) => drop(self.put_in_place(parts)),
                Err(error) => failed.push((tenant.name, error)),
            }
        }
        let keys = self.registry.keys()?.into_iter().map(|(hash, key)| (hash.0, key.tenant)).collect();
        self.live.write().unwrap_or_else(PoisonError::into_inner).keys = keys;
        Ok(failed)
    }

    /// The tenant that serves under a name.
    #[must_use]
    pub fn tenant(&self, name: &TenantName) -> Option<Arc<LiveTenant>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).tenants.get(name).cloned()
    }

    /// The tenant that a bearer key opens; `None` if there is no such key.
    #[must_use]
    pub fn tenant_of_key(&self, secret: &str) -> Option<TenantName> {
        let hash = KeyHash::of(secret)?;
        self.live.read().unwrap_or_else(PoisonError::into_inner).keys.get(&hash.0).cloned()
    }

    /// Whether there is neither a tenant nor a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.tenants.is_empty() && live.keys.is_empty()
    }

    /// Stores a component. A command must name its hash within an hour, or a sweep may remove it.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub fn put_component(&self, wasm: &[u8]) -> Result<String, AdminError> {
        self.blobs.put(wasm).map_err(|error| AdminError::host(format!("the component cannot be stored: {error}")))
    }

    /// Carries out a request. Blocks, for seconds if something is compiled, so it must not be called from an
    /// asynchronous task.
    #[must_use]
    pub fn execute(&self, request: AdminRequest) -> Reply {
        // Showing the device changes nothing, so it does not wait while models are loaded.
        let _change = (request.command != Command::ShowDevice).then(|| self.change());
        self.apply(request).unwrap_or_else(Reply::Refused)
    }

    fn apply(&self, AdminRequest { command, by }: AdminRequest) -> Result<Reply, AdminError> {
        match command {
            Command::Deploy { tenant, component, limits, model, other_models } => {
                let change = Change { component, limits: limits.map(|limits| *limits), model, other_models };
                self.deploy(&tenant, change, by)
            }
            Command::SetLimits { tenant, limits } => self.set_limits(&tenant, *limits, by),
            Command::Rollback { tenant, to } => self.rollback(&tenant, to, &by),
            Command::List => self.list(),
            Command::Show { tenant } => self.show(&tenant),
            Command::Remove { tenant } => {
                self.registry.remove(&tenant, &by)?;
                self.retire(&tenant);
                // The tenant is removed even if its files are not: the next sweep finds them.
                let _ = self.tidy_up();
                Ok(Reply::Done)
            }
            Command::CreateKey { tenant } => {
                let NewKey { secret, hash } = NewKey::generate()?;
                let record = self.registry.add_key(&tenant, hash, &by)?;
                self.live.write().unwrap_or_else(PoisonError::into_inner).keys.insert(hash.0, tenant);
                Ok(Reply::Key { secret, record })
            }
            Command::ListKeys { tenant } => {
                self.registry.tenant(&tenant)?;
                let keys = self.registry.keys()?.into_iter().map(|(_, key)| key);
                Ok(Reply::Keys(keys.filter(|key| key.tenant == tenant).collect()))
            }
            Command::RevokeKey { tenant, id } => {
                self.registry.revoke_key(&tenant, &id, &by)?;
                let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
                live.keys.retain(|hash, owner| *owner != tenant || KeyHash(*hash).id() != id);
                Ok(Reply::Done)
            }
            Command::ListHeldModels => Ok(Reply::HeldModels(held_models(&self.registry)?)),
            Command::ShowDevice => Ok(Reply::Device(Box::new(self.device()?.status()))),
            Command::CollectGarbage { keep, dry_run } => Ok(Reply::Swept(self.collect_garbage(keep, dry_run)?)),
        }
    }

    fn list(&self) -> Result<Reply, AdminError> {
        let tenants = self.registry.tenants()?.into_iter().map(|tenant| {
            let deployment = self.registry.deployment(&tenant.name, tenant.current)?;
            Ok((tenant, deployment))
        });
        Ok(Reply::Tenants(tenants.collect::<Result<_, AdminError>>()?))
    }

    fn show(&self, name: &TenantName) -> Result<Reply, AdminError> {
        let (tenant, versions) = (self.registry.tenant(name)?, self.registry.deployments(name)?);
        let history = self.registry.history(name)?;
        let models = self.opened_models(&versions);
        let usage = self.tenant(name).map(|live| live.usage());
        let device = self.device.get().map(|device| device.status());
        Ok(Reply::Tenant(Box::new(Description { tenant, versions, history, models, usage, device })))
    }

    /// The models that versions open, in order of first use.
    fn opened_models(&self, versions: &[Deployment]) -> Vec<OpenedModel> {
        let mut opened: Vec<OpenedModel> = Vec::new();
        for (version, model) in versions.iter().flat_map(|it| it.models().into_iter().map(|model| (it.version, model)))
        {
            match opened.iter_mut().find(|opened| opened.model == model) {
                Some(known) => known.versions.push(version),
                None => {
                    let newest = self.models.open(Some(&model.name)).map(|newest| newest.manifest.revision);
                    let stored = match (self.models.open_revision(&model.name, &model.revision), newest) {
                        (Err(_), _) => Stored::Missing,
                        (Ok(_), Ok(revision)) if revision != model.revision => Stored::Newer { revision },
                        (Ok(_), _) => Stored::Newest,
                    };
                    opened.push(OpenedModel { model, versions: vec![version], stored });
                }
            }
        }
        opened
    }

    /// The tenant's record and its current version.
    pub(super) fn current(&self, tenant: &TenantName) -> Result<(TenantRecord, Deployment), RegistryError> {
        let record = self.registry.tenant(tenant)?;
        let deployment = self.registry.deployment(tenant, record.current)?;
        Ok((record, deployment))
    }

    /// Replaces the serving version. `make` receives the old one.
    pub(super) fn replace(
        &self,
        make: impl FnOnce(Option<&LiveTenant>) -> LiveTenant,
        name: &TenantName,
    ) -> Arc<LiveTenant> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let before = live.tenants.get(name).cloned();
        let tenant = Arc::new(make(before.as_deref()));
        live.tenants.insert(name.clone(), Arc::clone(&tenant));
        live.replaced.retain(|replaced| replaced.strong_count() > 0);
        live.replaced.extend(before.as_ref().map(Arc::downgrade));
        tenant
    }

    /// Protects what a version needs from the garbage collector for as long as the version is held. For versions that
    /// serve under no tenant.
    pub(super) fn hold(&self, version: &Arc<LiveTenant>) {
        self.live.write().unwrap_or_else(PoisonError::into_inner).replaced.push(Arc::downgrade(version));
    }

    /// Takes a tenant and its keys out of service. Its requests that run end on the version that they began on.
    fn retire(&self, tenant: &TenantName) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let retired = live.tenants.remove(tenant);
        live.replaced.extend(retired.as_ref().map(Arc::downgrade));
        live.keys.retain(|_, owner| owner != tenant);
    }

    /// Every version that serves or still has running requests.
    pub(super) fn in_use(&self) -> Vec<Arc<LiveTenant>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.tenants.values().cloned().chain(live.replaced.iter().filter_map(Weak::upgrade)).collect()
    }

    /// Waits for the change in progress, and blocks others until the value is dropped.
    pub(super) fn change(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The models that versions open, by revision, in a data directory that no process has open. Creates no files.
///
/// # Errors
/// A process has the directory open, or the registry cannot be read.
pub fn held_models_in(data_dir: &Path) -> Result<Vec<HeldModel>, RegistryError> {
    let dir = data_dir.join(TENANTS_DIR);
    if !dir.join(super::registry::REGISTRY_FILE).exists() {
        return Ok(Vec::new());
    }
    held_models(&Registry::open(&dir)?)
}

fn held_models(registry: &Registry) -> Result<Vec<HeldModel>, RegistryError> {
    let current: HashMap<TenantName, u64> =
        registry.tenants()?.into_iter().map(|tenant| (tenant.name, tenant.current)).collect();
    let mut held = Vec::new();
    for (tenant, deployment) in registry.all_deployments()? {
        let (version, is_current) = (deployment.version, current.get(&tenant) == Some(&deployment.version));
        held.extend(deployment.models().into_iter().map(|model| HeldModel {
            model,
            tenant: tenant.clone(),
            version,
            is_current,
        }));
    }
    Ok(held)
}
