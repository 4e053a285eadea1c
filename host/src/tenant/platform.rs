//! All tenants of one data directory: deploying, switching, looking up.
//!
//! Changes are made one at a time, on a thread that may block; requests never wait for them. A version is made ready in
//! full, committed, and only then put in place of the one before it, so that what fails on the way leaves that one
//! serving. Whoever holds a [`LiveTenant`] goes on with the version that it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::admin::{AdminError, AdminRequest, Command, Description, Reply};
use super::blobs::Blobs;
use super::compile::CompilerOptions;
use super::live::{LiveTenant, Parts};
use super::registry::now_ms;
use super::{Action, Deployment, KeyHash, NewKey, Registry, TenantLimits, TenantName, TenantRecord};
use crate::device::{Device, DeviceOptions, LoadedModel};
use crate::guest::{Call, Guest, GuestError, GuestRuntime, Models, RuntimeOptions, Unlisted};
use crate::model::ModelStore;
use crate::rerank::{Request, RerankError, Response};

/// Most wall-clock time of the request that a deployment is tried with.
const MAX_SMOKE_WALL: Duration = Duration::from_secs(30);

/// Directory of compiled guests below the data directory.
const COMPILED_DIR: &str = "compiled";

/// How to open a platform.
#[derive(Debug, Clone)]
pub struct PlatformOptions {
    /// What computes models.
    pub device: DeviceOptions,
    /// What compiles components.
    pub compiler: CompilerOptions,
    /// The runtime that smoke requests run on.
    pub tokio: Handle,
}

/// All tenants of one data directory.
#[derive(Debug)]
pub struct Platform {
    registry: Registry,
    blobs: Blobs,
    compiled_dir: PathBuf,
    compiler: CompilerOptions,
    tokio: Handle,
    models: ModelStore,
    device_options: DeviceOptions,
    device: OnceLock<Arc<Device>>,
    live: RwLock<Live>,
    /// Held by whoever makes a change.
    changing: Mutex<()>,
    // Last: its clock outlives every guest.
    runtime: GuestRuntime,
}

/// What requests need, and nothing that takes long to look up.
#[derive(Debug, Default)]
struct Live {
    tenants: HashMap<TenantName, Arc<LiveTenant>>,
    keys: HashMap<[u8; 32], TenantName>,
}

impl Platform {
    /// Opens the tenants of a data directory, which no other process may have open. None serves yet.
    ///
    /// # Errors
    /// The directory cannot be used, or another process has it open.
    pub fn open(data_dir: &Path, options: PlatformOptions) -> Result<Self, AdminError> {
        let io = |error: std::io::Error| AdminError::host(format!("{}: {error}", data_dir.display()));
        std::fs::create_dir_all(data_dir).map_err(io)?;
        // The compiler process has a working directory of its own to resolve paths against.
        let data_dir = std::fs::canonicalize(data_dir).map_err(io)?;
        let tenants_dir = data_dir.join("tenants");
        let registry = Registry::open(&tenants_dir)?;
        let blobs = Blobs::open(&tenants_dir.join("blobs")).map_err(io)?;
        let compiled_dir = data_dir.join(COMPILED_DIR);
        let runtime = GuestRuntime::new(&compiled_dir, &RuntimeOptions::default())?;
        let PlatformOptions { device: device_options, compiler, tokio } = options;
        let (models, device) = (ModelStore::new(&data_dir), OnceLock::new());
        let (live, changing) = (RwLock::default(), Mutex::default());
        Ok(Self {
            registry,
            blobs,
            compiled_dir,
            compiler,
            tokio,
            models,
            device_options,
            device,
            live,
            changing,
            runtime,
        })
    }

    /// The device, opened now if it is not yet: commands that run no model do without one.
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

    /// A model of the store on the device; `None` is the store's default.
    fn model(&self, name: Option<&str>) -> Result<Arc<LoadedModel>, AdminError> {
        Ok(self.device()?.load(&self.models.open(name)?)?)
    }

    /// Puts every tenant's current version in place. Blocks while guests are compiled that no cache holds.
    ///
    /// # Errors
    /// The registry failed. Tenants that cannot be put in place are returned with the reason.
    pub fn activate_all(&self) -> Result<Vec<(TenantName, AdminError)>, AdminError> {
        let _change = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// The tenant that a bearer key opens; `None` where there is no such key.
    #[must_use]
    pub fn tenant_of_key(&self, secret: &str) -> Option<TenantName> {
        let hash = KeyHash::of(secret)?;
        self.live.read().unwrap_or_else(PoisonError::into_inner).keys.get(&hash.0).cloned()
    }

    /// Keeps a component, to be named by its hash in a command.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub fn put_component(&self, wasm: &[u8]) -> Result<String, AdminError> {
        self.blobs.put(wasm).map_err(|error| AdminError::host(format!("the component cannot be kept: {error}")))
    }

    /// Carries out a request. Blocks, for seconds where something is compiled; must not be called from a task of the
    /// asynchronous runtime.
    #[must_use]
    pub fn execute(&self, request: AdminRequest) -> Reply {
        let _change = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply(request).unwrap_or_else(Reply::Refused)
    }

    fn apply(&self, AdminRequest { command, by }: AdminRequest) -> Result<Reply, AdminError> {
        match command {
            Command::Deploy { tenant, component, limits, model } => {
                self.deploy(&tenant, &component, limits.map(|limits| *limits), model, by)
            }
            Command::SetLimits { tenant, limits } => self.set_limits(&tenant, *limits, by),
            Command::Rollback { tenant, to } => self.rollback(&tenant, to, &by),
            Command::List => self.list(),
            Command::Show { tenant } => self.show(&tenant),
            Command::Remove { tenant } => {
                self.registry.remove(&tenant, &by)?;
                let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
                live.tenants.remove(&tenant);
                live.keys.retain(|_, owner| *owner != tenant);
                Ok(Reply::Done)
            }
            Command::CreateKey { tenant } => {
                let NewKey { secret, hash } = NewKey::generate().map_err(AdminError::host)?;
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
        }
    }

    fn deploy(
        &self,
        tenant: &TenantName,
        component: &str,
        limits: Option<TenantLimits>,
        model: Option<String>,
        by: String,
    ) -> Result<Reply, AdminError> {
        let wasm = self.blobs.get(component);
        let wasm = wasm.map_err(|error| AdminError::command(format!("there is no component {component}: {error}")))?;
        // A tenant that is new has no current version, and that is no mistake here.
        let current = self.current(tenant).ok().map(|(_, deployment)| deployment);
        let limits = limits.or_else(|| current.as_ref().map(|current| current.limits.clone())).unwrap_or_default();
        let model = model.or_else(|| current.map(|current| current.model));
        let model = self.model(model.as_deref())?;
        let deployment = Deployment {
            version: 0,
            component: component.to_owned(),
            component_bytes: wasm.len() as u64,
            model: model.name().to_owned(),
            model_revision: model.manifest().revision.clone(),
            limits,
            created_ms: now_ms(),
            by,
        };
        self.commit_new(tenant, deployment, Action::Deploy)
    }

    fn set_limits(&self, tenant: &TenantName, limits: TenantLimits, by: String) -> Result<Reply, AdminError> {
        let (_, current) = self.current(tenant)?;
        let deployment = Deployment { limits, created_ms: now_ms(), by, ..current };
        self.commit_new(tenant, deployment, Action::Limits)
    }

    /// Makes a new version ready, tries it, commits it and puts it in place, in that order.
    fn commit_new(&self, tenant: &TenantName, deployment: Deployment, action: Action) -> Result<Reply, AdminError> {
        let mut parts = self.ready(tenant, deployment)?;
        self.smoke(&parts).map_err(|error| {
            let AdminError { fault, message } = error.into();
            AdminError { fault, message: format!("the guest did not answer the request it was tried with: {message}") }
        })?;
        parts.deployment = self.registry.deploy(tenant, parts.deployment, action)?;
        let live = self.put_in_place(parts);
        Ok(Reply::Serving(Box::new(live.deployment().clone())))
    }

    fn rollback(&self, tenant: &TenantName, to: Option<u64>, by: &str) -> Result<Reply, AdminError> {
        let target = self.registry.rollback_target(tenant, to)?;
        let parts = self.ready(tenant, target)?;
        self.registry.rollback(tenant, &parts.deployment, by)?;
        let live = self.put_in_place(parts);
        Ok(Reply::Serving(Box::new(live.deployment().clone())))
    }

    fn list(&self) -> Result<Reply, AdminError> {
        let tenants = self.registry.tenants()?.into_iter().map(|tenant| {
            let deployment = self.registry.deployment(&tenant.name, tenant.current)?;
            Ok((tenant, deployment))
        });
        Ok(Reply::Tenants(tenants.collect::<Result<_, AdminError>>()?))
    }

    fn show(&self, tenant: &TenantName) -> Result<Reply, AdminError> {
        Ok(Reply::Tenant(Box::new(Description {
            tenant: self.registry.tenant(tenant)?,
            versions: self.registry.deployments(tenant)?,
            history: self.registry.history(tenant)?,
            usage: self.tenant(tenant).map(|live| live.usage()),
        })))
    }

    fn current(&self, tenant: &TenantName) -> Result<(TenantRecord, Deployment), AdminError> {
        let record = self.registry.tenant(tenant)?;
        let deployment = self.registry.deployment(tenant, record.current)?;
        Ok((record, deployment))
    }

    /// Loads everything that a version needs. Nothing is visible to anybody yet.
    fn ready(&self, tenant: &TenantName, deployment: Deployment) -> Result<Parts, AdminError> {
        let default = self.model(Some(&deployment.model))?;
        let others = deployment.limits.models.iter().filter(|&name| *name != deployment.model);
        let others = others.map(|name| self.model(Some(name))).collect::<Result<Vec<_>, _>>()?;
        let guest = self.guest(tenant, &deployment.component, default.info())?;
        let models = Models { default, others, unlisted: Unlisted::Denied };
        Ok(Parts { name: tenant.clone(), deployment, guest, models })
    }

    /// Finds a compiled guest, or has it compiled in a process of its own.
    fn guest(&self, tenant: &TenantName, component: &str, info: &crate::model::ModelInfo) -> Result<Guest, AdminError> {
        let name = format!("{tenant}'s component");
        if let Some(guest) = self.runtime.find_prepared(&name, component, &info.revision)? {
            return Ok(guest);
        }
        self.compiler.compile(&name, &self.blobs.path(component), &self.compiled_dir, info)?;
        let found = self.runtime.find_prepared(&name, component, &info.revision)?;
        let message = format!("nothing was left in {}", self.compiled_dir.display());
        Ok(found.ok_or(GuestError::NotCompiled { name, message })?)
    }

    /// Sends a version a request of its own, under its own limits, and outside of its tenant's quotas.
    fn smoke(&self, parts: &Parts) -> Result<Response, RerankError> {
        let mut limits = parts.deployment.limits.request();
        limits.max_wall = limits.max_wall.min(MAX_SMOKE_WALL);
        let request = Request {
            query: "what is a reranker".to_owned(),
            documents: vec!["A reranker puts documents in order.".to_owned(), "Rain is wet.".to_owned()],
            ..Request::default()
        };
        let request = limits.admit(request)?;
        let account = parts.deployment.limits.account(parts.name.as_str());
        let call = Call { request, arrived: Instant::now(), models: &parts.models, account: &account, rate: None };
        self.tokio.block_on(parts.guest.call(call)).0
    }

    fn put_in_place(&self, parts: Parts) -> Arc<LiveTenant> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let before = live.tenants.get(&parts.name).cloned();
        let tenant = Arc::new(LiveTenant::new(parts, before.as_deref()));
        live.tenants.insert(tenant.name().clone(), Arc::clone(&tenant));
        tenant
    }
}
