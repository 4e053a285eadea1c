//! All tenants of one data directory: opening it, looking tenants up, and carrying out requests for changes.
//!
//! Changes are committed one at a time, in little more than a transaction's time. What takes long comes before: loading,
//! compiling and trying a version holds nothing up, and questions, keys and removals wait for none of it. `deploy` puts
//! versions into service, `garbage` removes what no version needs, `describe` answers questions. A request keeps the [`LiveTenant`] it began on.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::admin::{AdminError, AdminRequest, Command, HeldModel, Reply};
use super::blobs::Blobs;
use super::compile::CompilerOptions;
use super::compiles::Compiles;
use super::live::LiveTenant;
use super::meter::Meters;
use super::operator_key::OperatorKey;
use super::pins::Pins;
use super::records::{Deployment, TenantLink};
use super::serving::{Activity, Caller, Counts, InWork, KeylessLoad, Serving};
use super::{KeyHash, NewKey, Registry, RegistryError, TenantLimits, TenantName, TenantRecord};
use crate::device::{Device, DeviceOptions};
use crate::guest::{GuestRuntime, RuntimeOptions};
use crate::model::ModelStore;
use crate::telemetry::{HttpCounts, Process};

/// Directory of compiled guests below the data directory.
const COMPILED_DIR: &str = "compiled";

/// Directory of the registry and the components below the data directory.
const TENANTS_DIR: &str = "tenants";

/// Most tenants that are put into service at the same time: loading one takes little but time.
const MAX_ACTIVATING: usize = 8;

/// Most compiler processes at once, where there are as many cores. Each may take gigabytes.
const MAX_COMPILERS: usize = 4;

/// How to open a platform.
#[derive(Debug, Clone)]
pub struct PlatformOptions {
    /// How to open the device.
    pub device: DeviceOptions,
    /// How to compile components.
    pub compiler: CompilerOptions,
    /// Most memory of all guests together; `None` means a part of the machine's.
    pub guest_memory_bytes: Option<u64>,
    /// Most tenants whose counts are told by name; those of the others are summed.
    pub max_named_tenants: usize,
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
    tokio: Handle,
    device_options: DeviceOptions,
    device: OnceLock<Arc<Device>>,
    pub(super) serving: Arc<Serving>,
    pub(super) pins: Pins,
    /// Room for compiler processes.
    pub(super) compiling: Semaphore,
    /// Cancelled when the process is about to end: what a change waits for uses the runtime's timers.
    ending: CancellationToken,
    /// Held while a change is committed.
    changing: Mutex<()>,
    /// Revocations that are in force and not stored yet.
    unstored: Mutex<Vec<AdminRequest>>,
    pub(super) meters: Meters,
    pub(super) compiles: Compiles,
    pub(super) process: Process,
    http_counts: Arc<HttpCounts>,
    operator_key: OperatorKey,
    /// Whether all tenants are to serve, and not only some that a command needs.
    has_begun: AtomicBool,
    pub(super) began: Instant,
    // Dropped last, so that its clock outlives every guest.
    pub(super) runtime: GuestRuntime,
}

/// The parts that a deployment changes. `None` keeps a part.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Change {
    /// SHA-256 of the component.
    pub(super) component: Option<String>,
    pub(super) limits: Option<TenantLimits>,
    /// `NAME[@REVISION]` of the default model.
    pub(super) model: Option<String>,
    /// `NAME[@REVISION]` of other models that the limits name.
    pub(super) other_models: Vec<String>,
    /// The tenants behind imports of the component.
    pub(super) links: Vec<TenantLink>,
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
        let PlatformOptions { device: device_options, compiler, guest_memory_bytes, max_named_tenants, tokio } =
            options;
        let options = RuntimeOptions { memory_bytes: guest_memory_bytes, ..RuntimeOptions::default() };
        let runtime = GuestRuntime::new(&compiled_dir, &options)?;
        let models = ModelStore::new(&data_dir);
        let operator_key = OperatorKey::of(&data_dir);
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
            serving: Arc::default(),
            ending: CancellationToken::new(),
            pins: Pins::default(),
            compiling: Semaphore::new(cores().min(MAX_COMPILERS)),
            changing: Mutex::default(),
            unstored: Mutex::default(),
            meters: Meters::new(max_named_tenants),
            compiles: Compiles::default(),
            process: Process::default(),
            http_counts: Arc::default(),
            operator_key,
            has_begun: AtomicBool::new(false),
            began: Instant::now(),
            runtime,
        };
        platform.record_revisions();
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

    /// The device, if something has opened it.
    pub(super) fn opened_device(&self) -> Option<&Arc<Device>> {
        self.device.get()
    }

    /// Counters of the server's ports, for the service to write.
    #[must_use]
    pub fn http_counts(&self) -> &Arc<HttpCounts> {
        &self.http_counts
    }

    /// Reads the operator's key, or makes one.
    ///
    /// # Errors
    /// The data directory cannot be read or written.
    pub fn open_operator_key(&self) -> Result<(), AdminError> {
        self.operator_key(false).map(|_| ())
    }

    /// Whether a text is the operator's key.
    #[must_use]
    pub fn is_operator(&self, secret: &str) -> bool {
        self.operator_key.is(secret)
    }

    fn operator_key(&self, renew: bool) -> Result<String, AdminError> {
        let failed = |error| AdminError::host(format!("the operator's key in {}: {error}", self.data_dir.display()));
        self.operator_key.secret(renew).map_err(failed)
    }

    /// Reads which tenants and keys there are. Every tenant is starting from now on.
    ///
    /// # Errors
    /// The registry failed.
    pub fn begin(&self) -> Result<(), AdminError> {
        let keys = self.registry.keys()?.into_iter().map(|(hash, key)| (hash, key.tenant)).collect();
        self.serving.begin(self.registry.tenant_names()?, keys);
        if self.registry.has_history()? {
            self.serving.take();
        }
        self.has_begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Puts the current version of every tenant that is starting into service, several at a time. Blocks while guests
    /// that are not in the cache are compiled. Tenants that cannot be served are returned with the reason, and their
    /// callers are told it.
    pub fn activate(&self) -> Vec<(TenantName, AdminError)> {
        self.activate_these(&self.registry.tenant_names().unwrap_or_default())
    }

    /// The same for some of the tenants. Names that are none's are passed over.
    pub fn activate_these(&self, starting: &[TenantName]) -> Vec<(TenantName, AdminError)> {
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let activate_some = || {
            while let Some(name) = starting.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.activate_one(name) {
                    self.serving.fail(name, &error.with_remedy());
                    failed.lock().unwrap_or_else(PoisonError::into_inner).push((name.clone(), error));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..cores().min(MAX_ACTIVATING) {
                scope.spawn(activate_some);
            }
            activate_some();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`begin`](Self::begin), then [`activate`](Self::activate).
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn activate_all(&self) -> Result<Vec<(TenantName, AdminError)>, AdminError> {
        self.begin()?;
        Ok(self.activate())
    }

    fn activate_one(&self, name: &TenantName) -> Result<(), AdminError> {
        let (_, deployment) = match self.current(name) {
            // Removed since the names were read.
            Err(RegistryError::NoTenant(_)) => return Ok(()),
            current => current?,
        };
        let version = deployment.version;
        let parts = self.ready(name, deployment)?;
        let _change = self.change();
        // A deployment may have been quicker, or a removal.
        let is_current = self.current(name).is_ok_and(|(record, _)| record.current == version);
        if is_current && matches!(self.serving.activity(name), Some(Activity::Starting)) {
            self.put_in_place(parts);
        }
        Ok(())
    }

    /// What the callers of a tenant meet; `None` if there is no such tenant.
    #[must_use]
    pub fn activity(&self, name: &TenantName) -> Option<Activity> {
        self.serving.activity(name)
    }

    /// The version that serves a tenant.
    #[must_use]
    pub fn tenant(&self, name: &TenantName) -> Option<Arc<LiveTenant>> {
        self.serving.activity(name).and_then(|activity| activity.live().cloned())
    }

    /// Whose bearer key it is; `None` if there is no such key.
    #[must_use]
    pub fn caller(&self, secret: &str) -> Option<Caller> {
        self.serving.caller(KeyHash::of(secret)?)
    }

    /// Word of every tenant that starts to serve, or cannot, from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.serving.changes()
    }

    /// Tells those who wait that something other than a tenant has started.
    pub fn announce(&self) {
        self.serving.announce();
    }

    /// Says how the loading of what answers callers without a key is.
    pub fn keyless(&self, load: KeylessLoad) {
        self.serving.keyless(load);
    }

    /// How many tenants start, serve and have failed.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let device_fails = self.device.get().is_some_and(|device| device.is_failing());
        Counts { device_fails, ..self.serving.counts() }
    }

    /// Ends what changes wait for, before the runtime ends. They fail, and change nothing.
    pub fn stop_changes(&self) {
        self.ending.cancel();
    }

    /// Waits for work of a change, unless the process is about to end.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, AdminError> {
        self.tokio.block_on(async {
            tokio::select! {
                biased;
                () = self.ending.cancelled() => Err(AdminError::host("the server is being stopped")),
                done = work => Ok(done),
            }
        })
    }

    /// Whether there never was a tenant or a key: removing the last one does not let everybody in again.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.serving.is_untouched()
    }

    /// Stores a component. A command must name its hash within an hour, or a sweep may remove it.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub fn put_component(&self, wasm: &[u8]) -> Result<String, AdminError> {
        self.blobs.put(wasm).map_err(|error| AdminError::host(format!("the component cannot be stored: {error}")))
    }

    /// Carries out a request. A deployment blocks for seconds if something is compiled, so it must not be called from an
    /// asynchronous task. Call [`tidy`](Self::tidy) after a removal.
    #[must_use]
    pub fn execute(&self, request: AdminRequest) -> Reply {
        self.apply(request).unwrap_or_else(Reply::Refused)
    }

    fn apply(&self, AdminRequest { command, by }: AdminRequest) -> Result<Reply, AdminError> {
        match command {
            Command::Deploy { tenant, component, limits, model, other_models, links } => {
                let limits = limits.map(|limits| *limits);
                let change = Change { component, limits, model, other_models, links };
                self.deploy(&tenant, &change, by)
            }
            Command::SetLimits { tenant, limits } => self.set_limits(&tenant, *limits, by),
            Command::Rollback { tenant, to } => self.rollback(&tenant, to, &by),
            Command::List => self.list(),
            Command::Show { tenant } => self.show(&tenant),
            Command::Remove { .. } | Command::RevokeKey { .. } => self.withdraw(AdminRequest { command, by }),
            Command::CreateKey { tenant } => {
                let NewKey { secret, hash } = NewKey::generate()?;
                let _change = self.change();
                let record = self.registry.add_key(&tenant, hash, &by)?;
                self.serving.add_key(hash, tenant);
                Ok(Reply::Key { secret, record })
            }
            Command::ListKeys { tenant } => {
                self.registry.tenant(&tenant)?;
                let keys = self.registry.keys()?.into_iter().map(|(_, key)| key);
                Ok(Reply::Keys(keys.filter(|key| key.tenant == tenant).collect()))
            }
            Command::Ready => Ok(Reply::Ready(self.counts())),
            Command::ListHeldModels => Ok(Reply::HeldModels(held_models(&self.registry)?)),
            Command::Observe => Ok(Reply::Observed(Box::new(self.snapshot()))),
            Command::OperatorKey { renew } => Ok(Reply::OperatorKey { secret: self.operator_key(renew)? }),
            Command::ShowDevice => Ok(Reply::Device(Box::new(self.device()?.status()))),
            Command::RemoveModel { name } => Ok(Reply::Swept(self.remove_model(&name)?)),
            Command::CollectGarbage { keep, dry_run } => Ok(Reply::Swept(self.collect_garbage(keep, dry_run)?)),
        }
    }

    /// Takes a key or a tenant out of service, in memory first: a store that cannot be written, because the disk is full
    /// for example, does not keep a leaked key working.
    fn withdraw(&self, request: AdminRequest) -> Result<Reply, AdminError> {
        let _change = self.change();
        let done = match &request.command {
            Command::Remove { tenant, force, .. } => {
                // A store that cannot be read keeps nothing in service.
                let callers = self.callers_of(tenant).unwrap_or_default();
                if !force {
                    self.check_not_called(tenant, &callers)?;
                }
                Reply::Removed { callers }
            }
            _ => Reply::Done,
        };
        let in_work = |drain: bool| if drain { InWork::Ends } else { InWork::Stops };
        match &request.command {
            Command::Remove { tenant, drain, .. } => self.serving.retire(tenant, in_work(*drain)),
            Command::RevokeKey { tenant, id, drain } => self.serving.revoke_key(tenant, id, in_work(*drain)),
            _ => {}
        }
        match self.store_withdrawal(&request) {
            Ok(()) => Ok(done),
            Err(error @ RegistryError::Store { .. }) => {
                self.unstored.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                let message = format!("it is out of service, but that is not stored yet and is tried again: {error}");
                Err(AdminError::host(message))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn store_withdrawal(&self, AdminRequest { command, by }: &AdminRequest) -> Result<(), RegistryError> {
        match command {
            Command::Remove { tenant, .. } => self.registry.remove(tenant, by),
            Command::RevokeKey { tenant, id, .. } => self.registry.revoke_key(tenant, id, by),
            _ => Ok(()),
        }
    }

    /// Stores revocations and removals that could not be stored when they were made.
    pub fn store_withdrawals(&self) {
        let _change = self.change();
        let mut unstored = self.unstored.lock().unwrap_or_else(PoisonError::into_inner);
        unstored.retain(|request| matches!(self.store_withdrawal(request), Err(RegistryError::Store { .. })));
    }

    /// The tenant's record and its current version.
    pub(super) fn current(&self, tenant: &TenantName) -> Result<(TenantRecord, Deployment), RegistryError> {
        let record = self.registry.tenant(tenant)?;
        let deployment = self.registry.deployment(tenant, record.current)?;
        Ok((record, deployment))
    }

    /// Every version that serves or still has running requests.
    pub(super) fn in_use(&self) -> Vec<Arc<LiveTenant>> {
        self.serving.in_use()
    }

    /// Waits for the commit in progress, and blocks others until the value is dropped.
    pub(super) fn change(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
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
