//! Assay in a program of one's own: a data directory's models and tenants, without HTTP and without keys.
//!
//! [`Assay`] owns what a server owns: the device, the guests' threads, and the data directory, which no other process
//! can use meanwhile. What it does not cover is a command ([`cli`](crate::cli)) or a part of [`Platform`].
//!
//! ```no_run
//! use assay::rerank::Request;
//! use assay::{Assay, Tenant};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     assay::compile_if_asked();
//!     let assay = Assay::builder("data").open()?;
//!     assay.deploy("acme", Tenant::default())?;
//!     let documents = vec!["Air scatters blue light.".to_owned(), "Bread is baked.".to_owned()];
//!     let request = Request { query: "why is the sky blue".to_owned(), documents, ..Request::default() };
//!     for hit in assay.rerank_blocking("acme", request)?.hits {
//!         println!("{} {}", hit.index, hit.score);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! The data directory needs a model: `assay model pull`, or [`ModelStore::add`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::device::DeviceOptions;
use crate::model::ModelStore;
use crate::rerank::{CallError, Request, Response};
use crate::tenant::admin::{AdminError, AdminRequest, Command, Reply};
use crate::tenant::compile::{self, CompilerOptions};
use crate::tenant::{
    Activity, DEFAULT_MAX_NAMED_TENANTS, LiveTenant, Platform, PlatformOptions, START_RETRY_AFTER, TenantLimits,
    TenantLink, TenantName,
};

/// Threads that wait for guests and the device; computing has its own.
const WAITING_THREADS: usize = 2;

/// Most characters of a name that is told in an error.
const MAX_NAME_SHOWN: usize = 128;

/// Who changes tenants, for their history.
const BY: &str = "program";

/// Whether [`compile_if_asked`] was called, so that this program can be started as a compiler.
static COMPILES: AtomicBool = AtomicBool::new(false);

/// Compiles a component and ends the process, if this program was started for that; does nothing otherwise. Call it
/// first in `main`: components are compiled in processes of their own, with limits on memory and time, and such a
/// process is this program again. [`Builder::compiler`] names another one instead.
pub fn compile_if_asked() {
    compile::end_if_asked();
    COMPILES.store(true, Ordering::Relaxed);
}

/// How to open an [`Assay`].
#[derive(Debug, Clone)]
pub struct Builder {
    data_dir: PathBuf,
    device: DeviceOptions,
    guest_memory_bytes: Option<u64>,
    compiler: Option<PathBuf>,
}

impl Builder {
    /// The device, the precision, threads and memory. The default takes a GPU where there is one.
    #[must_use]
    pub fn device(mut self, device: DeviceOptions) -> Self {
        self.device = device;
        self
    }

    /// Most memory of all guests together, in bytes. The default is a part of the machine's.
    #[must_use]
    pub fn guest_memory(mut self, bytes: u64) -> Self {
        self.guest_memory_bytes = Some(bytes);
        self
    }

    /// A program `assay` of the same version that compiles components, for a program that does not call
    /// [`compile_if_asked`].
    #[must_use]
    pub fn compiler(mut self, program: impl Into<PathBuf>) -> Self {
        self.compiler = Some(program.into());
        self
    }

    /// Takes the data directory, and loads the tenants that it has.
    ///
    /// # Errors
    /// Another process has the directory, it cannot be read or made, no program can compile components, or no thread
    /// can be started. A tenant that cannot be loaded is no error here: calling it is.
    pub fn open(self) -> Result<Assay, AdminError> {
        let program = match self.compiler {
            Some(program) => program,
            None if COMPILES.load(Ordering::Relaxed) => std::env::current_exe()
                .map_err(|error| AdminError::host(format!("this program cannot find itself: {error}")))?,
            None => {
                return Err(AdminError::command(
                    "nothing compiles components: call assay::compile_if_asked first in main, or name a program with \
                     Builder::compiler",
                ));
            }
        };
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(WAITING_THREADS).enable_all().build();
        let threads = threads.map_err(|error| AdminError::host(format!("no threads can be started: {error}")))?;
        let options = PlatformOptions {
            device: self.device,
            compiler: CompilerOptions::new(program),
            guest_memory_bytes: self.guest_memory_bytes,
            max_named_tenants: DEFAULT_MAX_NAMED_TENANTS,
            tokio: threads.handle().clone(),
        };
        let platform = Platform::open(&self.data_dir, options)?;
        let assay = Assay { data_dir: self.data_dir, platform: Some(Arc::new(platform)), threads: Some(threads) };
        assay.apart(Platform::activate_all)?;
        Ok(assay)
    }
}

/// What a tenant is made of. Each part that is absent keeps what the tenant has, and gives a new one the default.
#[derive(Debug, Clone, Default)]
pub struct Tenant {
    /// The guest's component; by default the standard guest.
    pub component: Option<Vec<u8>>,
    /// The model, as `NAME` or `NAME@REVISION`; by default the store's default model.
    pub model: Option<String>,
    /// Bounds on requests, memory and time.
    pub limits: Option<TenantLimits>,
    /// The tenants behind imports of the component; those of the version before stay unless they are named here.
    pub links: Vec<TenantLink>,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The data directory has no such tenant.
    #[error("there is no tenant {0}")]
    NoTenant(String),
    /// The tenant gives none.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// The models and tenants of a data directory, in this process. Requests of several threads share the device.
#[derive(Debug)]
pub struct Assay {
    data_dir: PathBuf,
    // Both are there until it is dropped.
    platform: Option<Arc<Platform>>,
    threads: Option<Runtime>,
}

impl Assay {
    /// Begins with the data directory, made where it is not there.
    #[must_use]
    pub fn builder(data_dir: impl Into<PathBuf>) -> Builder {
        Builder {
            data_dir: data_dir.into(),
            device: DeviceOptions::default(),
            guest_memory_bytes: None,
            compiler: None,
        }
    }

    /// The models of the data directory.
    #[must_use]
    pub fn models(&self) -> ModelStore {
        ModelStore::new(&self.data_dir)
    }

    /// Compiles, tries and commits a version of a tenant, which is made if it is not there. The version before it serves
    /// until then. Gives the new version's number. Blocks for seconds where a component was never compiled before: in
    /// asynchronous code call it where blocking is allowed.
    ///
    /// # Errors
    /// The name, the component, the model or a limit is refused, with the reason, and nothing has changed.
    pub fn deploy(&self, name: &str, tenant: Tenant) -> Result<u64, AdminError> {
        let Tenant { component, model, limits, links } = tenant;
        let (name, limits) = (parse(name)?, limits.map(Box::new));
        let reply = self.apart(|platform| {
            let component = component.as_deref().map(|wasm| platform.put_component(wasm)).transpose()?;
            Ok(platform.execute(signed(Command::Deploy {
                tenant: name,
                component,
                limits,
                model,
                other_models: Vec::new(),
                links,
            })))
        })?;
        match reply {
            Reply::Serving(served) => Ok(served.deployment.version),
            Reply::Refused(error) => Err(error),
            _ => Err(AdminError::host("the platform answered another question")),
        }
    }

    /// Removes a tenant with its versions. Its requests in work end.
    ///
    /// # Errors
    /// There is no such tenant, others have links to it, or the data directory cannot be written.
    pub fn remove(&self, name: &str) -> Result<(), AdminError> {
        let command = Command::Remove { tenant: parse(name)?, drain: true, force: false };
        match self.apart(|platform| Ok(platform.execute(signed(command))))? {
            Reply::Refused(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Answers a request as the tenant does, within its limits. Dropping the future cancels the request. Runs on threads
    /// of its own, so any executor can await it.
    ///
    /// # Errors
    /// There is no such tenant, or no answer: see [`CallError`].
    pub async fn rerank(&self, tenant: &str, request: Request) -> Result<Response, AskError> {
        let live = self.live(tenant)?;
        let Some(threads) = &self.threads else { return Err(ended().into()) };
        // A set of one: it stops its task when it is dropped.
        let mut task = JoinSet::new();
        task.spawn_on(async move { live.rerank(request).await }, threads.handle());
        match task.join_next().await {
            Some(Ok(answer)) => Ok(answer.map_err(CallError::from)?),
            _ => Err(ended().into()),
        }
    }

    /// [`rerank`](Self::rerank) where nothing is asynchronous. Do not call it in asynchronous code.
    ///
    /// # Errors
    /// Those of [`rerank`](Self::rerank).
    pub fn rerank_blocking(&self, tenant: &str, request: Request) -> Result<Response, AskError> {
        let Some(threads) = &self.threads else { return Err(ended().into()) };
        threads.block_on(self.rerank(tenant, request))
    }

    fn live(&self, name: &str) -> Result<Arc<LiveTenant>, AskError> {
        let none = || AskError::NoTenant(name.chars().take(MAX_NAME_SHOWN).collect());
        let name: TenantName = name.parse().map_err(|_| none())?;
        match self.platform.as_ref().and_then(|platform| platform.activity(&name)).ok_or_else(none)? {
            Activity::Serving(live) => Ok(live),
            Activity::Starting => Err(CallError::unavailable_for(START_RETRY_AFTER).into()),
            Activity::Failed(why) => {
                Err(CallError::Internal(format!("tenant {} cannot be loaded: {why}", name.as_str())).into())
            }
        }
    }

    /// Does work that waits, on a thread of its own: the caller's may belong to an executor, which forbids that.
    fn apart<T: Send>(&self, work: impl FnOnce(&Platform) -> Result<T, AdminError> + Send) -> Result<T, AdminError> {
        let Some(platform) = &self.platform else { return Err(AdminError::host("Assay has ended")) };
        let worked = std::thread::scope(|scope| scope.spawn(|| work(platform)).join());
        worked.unwrap_or_else(|_| Err(AdminError::host("an internal error ended the command")))
    }
}

impl Drop for Assay {
    fn drop(&mut self) {
        // Guests use the threads' timers, so they end first; the threads are not waited for, which an executor forbids.
        let platform = self.platform.take();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(platform));
        });
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

fn parse(name: &str) -> Result<TenantName, AdminError> {
    name.parse().map_err(|error: crate::tenant::NameError| AdminError::command(error.to_string()))
}

fn signed(command: Command) -> AdminRequest {
    AdminRequest { command, by: BY.to_owned() }
}

fn ended() -> CallError {
    CallError::Internal("Assay has ended".to_owned())
}
