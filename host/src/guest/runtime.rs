//! The WebAssembly engine, its epoch clock, and guests that are compiled and linked.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::bindings::{Tenant, TenantPre};
use super::cache::{CompiledCache, Form};
use super::call::{Call, CallCost, InstancePool, Program};
use super::inference::{Inference, Models};
use super::instance::{Start, State};
use super::snapshot::{self, Snapshot};
use crate::device::{Account, LoadedModel};
use crate::limits::{DEFAULT_MAX_MEMORY_BYTES, RequestLimits};
use crate::model::ModelInfo;
use crate::model::manifest::sha256_hex;
use crate::rerank::{Request, RerankError, Response};
use crate::sweep::Sweep;

/// How often a running guest is stopped for a moment: often enough that a busy guest delays its neighbours by no more
/// than a batch takes, seldom enough that the checks cost nothing that can be measured.
pub(super) const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Most requests that hold an instance at once: several for each of many tenants. Most of them wait for the device,
/// and an instance costs address space and what it touched.
pub const DEFAULT_MAX_INSTANCES: u32 = 128;

/// Of the pool for instances, one in this many may be taken by idle ones.
const IDLE_PART: u32 = 4;

/// Largest component that is compiled: Python guests have 35 MB.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// Core instances in one component: a Rust guest has three (itself and two that link it).
const MAX_CORE_INSTANCES_PER_COMPONENT: u32 = 16;

/// Memories of one component: several modules may each bring their own.
const MAX_MEMORIES_PER_COMPONENT: u32 = 2;

/// Tables of one component: a Rust guest has two.
const MAX_TABLES_PER_COMPONENT: u32 = 8;

/// Memory of an ended instance that stays mapped for the next one, its contents reset: without it, the first touch of
/// every page is a page fault, which is most of what a fresh instance costs. More than the standard guest writes in a usual
/// request; hostile guests write all they may, and every slot for an instance keeps so much of it.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// The same of a table: 2,048 functions, three times the standard guest's. Given back, tables would cost every request two
/// calls of the system, with all processors interrupted, and page faults.
const KEEP_RESIDENT_TABLE_BYTES: usize = 16 << 10;

/// Largest memory image that is mapped rather than copied, however sparse: a snapshot with a vocabulary of a hundred
/// thousand words fits.
const MAX_IMAGE_BYTES: u64 = 64 << 20;

/// Most processor time of `prepare`: the standard guest takes a fiftieth of this.
pub const DEFAULT_MAX_PREPARE_CPU: Duration = Duration::from_secs(10);

/// Most wall-clock time of `prepare`.
const MAX_PREPARE_WALL: Duration = Duration::from_secs(60);

/// Stack of a guest: Rust's own default for threads is twice this.
const MAX_WASM_STACK_BYTES: usize = 1 << 20;

/// How to set the runtime up.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Most requests that hold an instance at once.
    pub max_instances: u32,
    /// Most memory of any guest; requests may be limited further.
    pub max_memory_bytes: usize,
    /// Most processor time of `prepare`.
    pub max_prepare_cpu: Duration,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            max_instances: DEFAULT_MAX_INSTANCES,
            max_memory_bytes: DEFAULT_MAX_MEMORY_BYTES,
            max_prepare_cpu: DEFAULT_MAX_PREPARE_CPU,
        }
    }
}

/// Why a component cannot be a guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The component is larger than [`MAX_COMPONENT_BYTES`].
    #[error("{name} has {bytes} bytes, a component may have {MAX_COMPONENT_BYTES}")]
    TooLarge {
        /// The component's name.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// Not WebAssembly at all.
    #[error("{name} is not WebAssembly: a guest is a component, as `wasm-tools component new` makes it")]
    NotWasm {
        /// The component's name.
        name: String,
    },
    /// A core module.
    #[error("{name} is a core module, not a component: make it one with `wasm-tools component new`")]
    CoreModule {
        /// The component's name.
        name: String,
    },
    /// The component is not valid, or cannot be compiled.
    #[error("{name} cannot be compiled: {message}")]
    Compile {
        /// The component's name.
        name: String,
        /// What the compiler said.
        message: String,
    },
    /// The component is not a `tenant`: it lacks an export, or imports what the host does not give.
    #[error("{name} is not a guest of assay:rerank/tenant: {message}")]
    NotATenant {
        /// The component's name.
        name: String,
        /// What is missing.
        message: String,
    },
    /// The guest did something wrong in `prepare`.
    #[error("{name} cannot be prepared: {message}")]
    Prepare {
        /// The component's name.
        name: String,
        /// What it did.
        message: String,
    },
    /// The WebAssembly engine cannot be set up on this machine.
    #[error("the WebAssembly engine cannot be set up: {0}")]
    Engine(String),
}

/// Compiles guests and gives them their clock.
pub struct GuestRuntime {
    engine: Engine,
    linker: Linker<State>,
    cache: CompiledCache,
    pool: InstancePool,
    max_prepare_cpu: Duration,
    _clock: EpochClock,
}

/// A component that is compiled and linked: instantiating it is cheap.
#[derive(Debug, Clone)]
pub struct Guest {
    program: Arc<Program>,
}

impl std::fmt::Debug for GuestRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestRuntime").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl GuestRuntime {
    /// Sets the engine up, with compiled components kept in `cache_dir`.
    ///
    /// # Errors
    /// The machine cannot reserve the address space, or the cache directory cannot be made.
    pub fn new(cache_dir: &Path, options: &RuntimeOptions) -> Result<Self, GuestError> {
        let failed = |error: wasmtime::Error| GuestError::Engine(format!("{error:#}"));
        let engine = Engine::new(&config(options)).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        Tenant::add_to_linker::<_, HasSelf<Inference>>(&mut linker, |state: &mut State| &mut state.inference)
            .map_err(failed)?;
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(failed)?;
        let cache =
            CompiledCache::open(cache_dir).map_err(|source| GuestError::Io { path: cache_dir.to_owned(), source })?;
        let clock = EpochClock::start(engine.clone()).map_err(|error| GuestError::Engine(error.to_string()))?;
        let pool = |count: u32| Arc::new(Semaphore::new(count as usize));
        let idle = pool(options.max_instances / IDLE_PART);
        let pool = InstancePool { instances: pool(options.max_instances), idle };
        let max_prepare_cpu = options.max_prepare_cpu;
        Ok(Self { engine, linker, cache, pool, max_prepare_cpu, _clock: clock })
    }

    /// Compiles a component, or finds its compiled form, and links it. Its instances are prepared one by one.
    ///
    /// # Errors
    /// It is no component, is not valid, or is not a guest of our world.
    pub fn load(&self, name: &str, wasm: &[u8]) -> Result<Guest, GuestError> {
        check_component(name, wasm)?;
        let hash = sha256_hex(wasm);
        let component = self.plain(name, wasm, &hash)?;
        self.link(name, &component, Start::Prepare)
    }

    /// Prepares a component with a model's tokenizer and takes a snapshot of it, or finds the snapshot of an earlier
    /// time. Of a component that cannot be snapshotted, instances are prepared one by one.
    ///
    /// # Errors
    /// As [`load`](Self::load); and what the guest did wrong in `prepare`.
    pub fn load_prepared(&self, name: &str, wasm: &[u8], info: &Arc<ModelInfo>) -> Result<Guest, GuestError> {
        check_component(name, wasm)?;
        let hash = sha256_hex(wasm);
        if let Some(guest) = self.find_prepared(name, &hash, &info.revision)? {
            return Ok(guest);
        }
        // Says in plain words what is wrong with a component that is not a guest, before any of it runs.
        let plain = self.plain(name, wasm, &hash)?;
        let guest = self.link(name, &plain, Start::Prepare)?;
        let form = Form::Prepared { component: &hash, revision: &info.revision };
        let taken = self.snapshot(wasm, info);
        match taken.map_err(|error| GuestError::Prepare { name: name.to_owned(), message: error.to_string() })? {
            Snapshot::Impossible(reason) => {
                self.cache.keep_impossible(&self.engine, form, &reason);
                Ok(guest)
            }
            Snapshot::Taken(snapshot) => {
                let compiled = self.cache.compile(&self.engine, form, &snapshot);
                self.link(name, &compiled.map_err(|error| compile_error(name, &error))?, Start::Snapshotted)
            }
        }
    }

    /// Finds a component that [`load_prepared`](Self::load_prepared) has compiled before, in this process or another;
    /// `None` where it has not.
    ///
    /// # Errors
    /// What is found is not a guest of our world.
    pub fn find_prepared(&self, name: &str, sha256: &str, revision: &str) -> Result<Option<Guest>, GuestError> {
        let form = Form::Prepared { component: sha256, revision };
        let (found, start) = if self.cache.is_impossible(&self.engine, form) {
            (self.cache.get(&self.engine, Form::Plain { component: sha256 }), Start::Prepare)
        } else {
            (self.cache.get(&self.engine, form), Start::Snapshotted)
        };
        found.map(|component| self.link(name, &component, start)).transpose()
    }

    /// Removes compiled code that is not in `held`, which has components' hashes and the revisions that they are prepared
    /// with.
    pub(crate) fn sweep_compiled(&self, held: &HashSet<(String, String)>, sweep: &mut Sweep) {
        self.cache.sweep(&self.engine, held, sweep);
    }

    fn plain(&self, name: &str, wasm: &[u8], hash: &str) -> Result<Component, GuestError> {
        let form = Form::Plain { component: hash };
        match self.cache.get(&self.engine, form) {
            Some(component) => Ok(component),
            None => self.cache.compile(&self.engine, form, wasm).map_err(|error| compile_error(name, &error)),
        }
    }

    fn link(&self, name: &str, component: &Component, start: Start) -> Result<Guest, GuestError> {
        match self.linker.instantiate_pre(component).and_then(TenantPre::new) {
            Ok(pre) => {
                Ok(Guest { program: Arc::new(Program::new(pre, start, self.pool.clone(), self.max_prepare_cpu)) })
            }
            Err(error) => Err(GuestError::NotATenant { name: name.to_owned(), message: format!("{error:#}") }),
        }
    }

    /// Takes a snapshot on a thread of its own: callers may or may not be within an asynchronous runtime, and the tool
    /// panics on some of what it does not support.
    fn snapshot(&self, wasm: &[u8], info: &Arc<ModelInfo>) -> Result<Snapshot, RerankError> {
        let limits = RequestLimits {
            max_guest_cpu: self.max_prepare_cpu,
            max_wall: MAX_PREPARE_WALL,
            ..RequestLimits::default()
        };
        let take = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.map_err(|error| RerankError::Internal(error.to_string()))?;
            runtime.block_on(snapshot::take(&self.engine, &self.linker, wasm, info, &limits))
        };
        let taken = std::thread::scope(|scope| scope.spawn(take).join());
        taken.unwrap_or_else(|_| Ok(Snapshot::Impossible("the snapshot tool panicked".to_owned())))
    }
}

fn config(options: &RuntimeOptions) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(options.max_instances)
        .total_core_instances(options.max_instances.saturating_mul(MAX_CORE_INSTANCES_PER_COMPONENT))
        .total_memories(options.max_instances.saturating_mul(MAX_MEMORIES_PER_COMPONENT))
        .total_tables(options.max_instances.saturating_mul(MAX_TABLES_PER_COMPONENT))
        .total_stacks(options.max_instances)
        .max_core_instances_per_component(MAX_CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MAX_MEMORIES_PER_COMPONENT)
        .max_tables_per_component(MAX_TABLES_PER_COMPONENT)
        .max_memory_size(options.max_memory_bytes)
        .max_unused_warm_slots(options.max_instances)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_TABLE_BYTES)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .memory_init_cow(true)
        .memory_guaranteed_dense_image_size(MAX_IMAGE_BYTES)
        .max_wasm_stack(MAX_WASM_STACK_BYTES)
        .async_stack_size(2 * MAX_WASM_STACK_BYTES)
        // Names in a trap's message; the trace itself costs time in every trap and helps nobody here.
        .wasm_backtrace_max_frames(None);
    config
}

/// Reads a component that is not larger than a component may be.
///
/// # Errors
/// The file cannot be read, or is too large.
pub fn read_component(path: &Path) -> Result<Vec<u8>, GuestError> {
    let io = |source| GuestError::Io { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > MAX_COMPONENT_BYTES {
        return Err(GuestError::TooLarge { name: path.display().to_string(), bytes });
    }
    std::fs::read(path).map_err(io)
}

/// Checks what can be told of a component from its first bytes and its size.
fn check_component(name: &str, wasm: &[u8]) -> Result<(), GuestError> {
    let name = name.to_owned();
    // The preamble of the binary format: magic, version, and the layer (0 a core module, 1 a component).
    match wasm {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => {}
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => return Err(GuestError::CoreModule { name }),
        _ => return Err(GuestError::NotWasm { name }),
    }
    if wasm.len() as u64 > MAX_COMPONENT_BYTES {
        return Err(GuestError::TooLarge { name, bytes: wasm.len() as u64 });
    }
    Ok(())
}

fn compile_error(name: &str, error: &wasmtime::Error) -> GuestError {
    GuestError::Compile { name: name.to_owned(), message: format!("{error:#}") }
}

impl Guest {
    /// Runs one request for nobody in particular, with one model. Must be called within a tokio runtime; dropping the
    /// future stops the guest.
    ///
    /// # Errors
    /// Whose fault it is tells the variant: see [`RerankError`].
    pub async fn rerank(
        &self,
        model: Arc<LoadedModel>,
        request: Request,
        limits: &RequestLimits,
    ) -> Result<Response, RerankError> {
        let (models, account, arrived) = (Models::only(model), Account::default(), Instant::now());
        let call = Call { request, arrived, limits, models: &models, account: &account, rate: None };
        self.call(call).await.0
    }

    /// Runs one request, and tells what it cost. Must be called within a tokio runtime; dropping the future stops the
    /// guest.
    pub async fn call(&self, call: Call<'_>) -> (Result<Response, RerankError>, CallCost) {
        let mut cost = CallCost::default();
        let response = self.program.rerank(call, &mut cost).await;
        (response, cost)
    }

    /// Instances that are prepared and wait for a request: of a guest without a snapshot, or one whose tenant lets an
    /// instance serve several requests.
    #[must_use]
    pub fn idle_instances(&self) -> usize {
        self.program.idle_count()
    }

    /// Whether its instances start prepared, from a snapshot.
    #[must_use]
    pub fn is_snapshotted(&self) -> bool {
        self.program.start == Start::Snapshotted
    }
}

/// Advances the engine's epoch until it is dropped.
#[derive(Debug)]
struct EpochClock {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EpochClock {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("assay-epoch".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(EPOCH_TICK);
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for EpochClock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread only counts; it cannot have panicked.
            let _ = thread.join();
        }
    }
}
