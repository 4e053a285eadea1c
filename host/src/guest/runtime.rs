//! The WebAssembly engine, and guests that are compiled and linked.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::cache::{CompiledCache, Form};
use super::call::{Call, Payer, Program, Shared};
use super::clock::{EpochClock, Haste};
use super::component;
use super::contract::{self, GuestPre};
use super::error::{EngineError, GuestError};
use super::idle::IdleInstances;
use super::instance::{Start, StoreData};
use super::link::{CallTerms, Links};
use super::models::Models;
use super::outgoing;
use super::pool::{GUARANTEED_BYTES, HeldMemory, Membership, Pool, places_by_depth};
use super::reading::GuestReading;
use super::snapshot::{self, NoSnapshot, Snapshot};
use super::threads::GuestThreads;
use super::wasi;
use crate::device::{LoadedModel, machine_memory_bytes};
use crate::limits::{DEFAULT_MAX_MEMORY_BYTES, MAX_CORE_INSTANCES, MAX_TABLE_ELEMENTS, RequestLimits};
use crate::model::ModelInfo;
use crate::model::manifest::sha256_hex;
use crate::quiet;
use crate::rerank::{Request, RerankError, Response};
use crate::sweep::Sweep;

/// Most instances at once: several for each of many tenants. Most of them wait for the device; an instance costs
/// address space and the pages that it wrote.
pub const DEFAULT_MAX_INSTANCES: u32 = 128;

/// One in this many instances may be idle.
const IDLE_PART: u32 = 4;

/// Core instances of all components together, for each component: more than those of a Rust guest, fewer than those of
/// the largest Python guest.
const CORE_INSTANCES_PER_COMPONENT: u32 = 16;

/// Memories of one component: several modules may each bring their own.
const MAX_MEMORIES_PER_COMPONENT: u32 = 4;

/// Tables of one component: a Rust guest has two.
const MAX_TABLES_PER_COMPONENT: u32 = 8;

/// Memory of an ended instance that stays mapped, zeroed, for the next one. Without it, the first touch of every page
/// is a page fault, which is most of the cost of a fresh instance. More than the standard guest writes in a usual
/// request. Every instance of the pool may keep so much.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// The same for a table: 2,048 functions, three times the standard guest's. Unmapping tables would cost every request
/// two system calls, an interrupt on all processors, and page faults.
const KEEP_RESIDENT_TABLE_BYTES: usize = 16 << 10;

/// Largest memory image that is mapped, even if sparse, and not copied: room for a snapshot with a vocabulary of a
/// hundred thousand words.
const MAX_IMAGE_BYTES: u64 = 64 << 20;

/// Memory of all guests where the system does not say how much it has.
const DEFAULT_MEMORY_BYTES: u64 = 1 << 30;

/// Most processor time of `prepare`: the standard guest takes a fiftieth of this.
pub const DEFAULT_MAX_PREPARE_CPU: Duration = Duration::from_secs(10);

/// Most wall-clock time of `prepare`.
const MAX_PREPARE_WALL: Duration = Duration::from_secs(60);

/// Stack of a guest: half of Rust's default for threads.
const MAX_WASM_STACK_BYTES: usize = 1 << 20;

/// Settings of the runtime.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Most instances at once for callers outside. Calls of other tenants have instances beside them.
    pub max_instances: u32,
    /// Most memory of any guest. A request's own limit may be lower.
    pub max_memory_bytes: usize,
    /// Most memory of all guests together, and of the texts that wait for them; `None` means a quarter of the machine's.
    pub memory_bytes: Option<u64>,
    /// Threads that guests compute on; `None` means one per core.
    pub threads: Option<NonZeroUsize>,
    /// Most processor time of `prepare`.
    pub max_prepare_cpu: Duration,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            max_instances: DEFAULT_MAX_INSTANCES,
            max_memory_bytes: DEFAULT_MAX_MEMORY_BYTES,
            memory_bytes: None,
            threads: None,
            max_prepare_cpu: DEFAULT_MAX_PREPARE_CPU,
        }
    }
}

/// Compiles guests and drives their epoch clock.
pub struct GuestRuntime {
    engine: Engine,
    linker: Linker<StoreData>,
    cache: CompiledCache,
    shared: Shared,
    max_prepare_cpu: Duration,
    _clock: EpochClock,
}

impl Drop for GuestRuntime {
    fn drop(&mut self) {
        // They hold places of a pool that would end them.
        while self.shared.idle.evict() {}
    }
}

/// A component that is compiled and linked, and cheap to instantiate.
#[derive(Debug, Clone)]
pub struct Guest {
    program: Arc<Program>,
    /// Why a snapshot was asked for and is not there.
    no_snapshot: Option<Arc<str>>,
}

impl std::fmt::Debug for GuestRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestRuntime").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl GuestRuntime {
    /// Sets the engine up and keeps compiled components in `cache_dir`.
    ///
    /// # Errors
    /// The machine cannot reserve the address space, or the directory cannot be made.
    pub fn new(cache_dir: &Path, options: &RuntimeOptions) -> Result<Self, GuestError> {
        let engine = Engine::new(&config(options)).map_err(EngineError::Wasmtime)?;
        let mut linker = Linker::new(&engine);
        contract::add_to_linker(&mut linker, |state: &mut StoreData| &mut state.inference)
            .map_err(EngineError::Wasmtime)?;
        wasi::add_to_linker(&mut linker).map_err(EngineError::Wasmtime)?;
        let cache =
            CompiledCache::open(cache_dir).map_err(|source| GuestError::Io { path: cache_dir.to_owned(), source })?;
        let idle = Arc::new(IdleInstances::new((options.max_instances / IDLE_PART) as usize));
        let (evicting, expiring) = (Arc::downgrade(&idle), Arc::downgrade(&idle));
        let memory_bytes = options.memory_bytes.unwrap_or_else(default_memory_bytes);
        let pool = Pool::new(places_by_depth(options.max_instances), memory_bytes, move || {
            evicting.upgrade().is_some_and(|idle| idle.evict())
        });
        let haste = Haste::default();
        let clock = EpochClock::start(engine.clone(), haste.clone(), move || {
            if let Some(idle) = expiring.upgrade() {
                idle.expire(Instant::now());
            }
        });
        let clock = clock.map_err(EngineError::Thread)?;
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let count = options.threads.map_or_else(cores, NonZeroUsize::get);
        let threads = Arc::new(GuestThreads::start(count, haste).map_err(EngineError::Thread)?);
        let work = Arc::new(Semaphore::new(count.saturating_sub(1).max(1)));
        let shared = Shared { pool, idle, threads, work, starts: Arc::default() };
        let max_prepare_cpu = options.max_prepare_cpu;
        Ok(Self { engine, linker, cache, shared, max_prepare_cpu, _clock: clock })
    }

    /// Compiles a component, or finds it compiled, and links it. Its instances are prepared one by one.
    ///
    /// # Errors
    /// It is not a component, not valid, or not a guest of our world.
    pub fn load(&self, name: &str, wasm: &[u8]) -> Result<Guest, GuestError> {
        component::check(name, wasm)?;
        let hash = sha256_hex(wasm);
        let component = self.plain(name, wasm, &hash)?;
        self.link(name, &component, Start::Prepare)
    }

    /// Prepares a component with a model's tokenizer and takes a snapshot, or finds an earlier one. If there can be no
    /// snapshot, instances are prepared one by one.
    ///
    /// # Errors
    /// As [`load`](Self::load), or `prepare` failed.
    pub fn load_prepared(&self, name: &str, wasm: &[u8], info: &Arc<ModelInfo>) -> Result<Guest, GuestError> {
        component::check(name, wasm)?;
        let hash = sha256_hex(wasm);
        if let Some(guest) = self.find_prepared(name, &hash, &info.revision)? {
            return Ok(guest);
        }
        // A component that is not a guest is refused with a clear message, before any of it runs.
        let plain = self.plain(name, wasm, &hash)?;
        let guest = self.link(name, &plain, Start::Prepare)?;
        let form = Form::Prepared { component: &hash, revision: &info.revision };
        match self.snapshot(name, wasm, info)? {
            Snapshot::Impossible(reason) => {
                let cause = reason.to_string();
                self.cache.keep_no_snapshot(&self.engine, form, &cause);
                Ok(guest.without_snapshot(cause))
            }
            Snapshot::Taken(snapshot) => {
                let compiled = self.cache.compile(&self.engine, form, &snapshot);
                self.link(
                    name,
                    &compiled.map_err(|cause| GuestError::Compile { name: name.to_owned(), cause })?,
                    Start::Snapshotted,
                )
            }
        }
    }

    /// Finds a component that [`load_prepared`](Self::load_prepared) compiled earlier, in this process or another.
    ///
    /// # Errors
    /// The component is not a guest of our world.
    pub fn find_prepared(&self, name: &str, sha256: &str, revision: &str) -> Result<Option<Guest>, GuestError> {
        let form = Form::Prepared { component: sha256, revision };
        let Some(cause) = self.cache.no_snapshot(&self.engine, form) else {
            let found = self.cache.get(&self.engine, form);
            return found.map(|component| self.link(name, &component, Start::Snapshotted)).transpose();
        };
        let found = self.cache.get(&self.engine, Form::Plain { component: sha256 });
        let found = found.map(|component| self.link(name, &component, Start::Prepare)).transpose()?;
        Ok(found.map(|guest| guest.without_snapshot(cause)))
    }

    /// Removes compiled code that is not in `held`, which has components' hashes and the revisions that they are prepared
    /// with.
    pub(crate) fn sweep_compiled(&self, held: &HashSet<(String, String)>, sweep: &mut Sweep) {
        self.cache.sweep(&self.engine, held, sweep);
    }

    /// How instances were started, and what guests hold now.
    #[must_use]
    pub fn read(&self) -> GuestReading {
        let Shared { pool, starts, .. } = &self.shared;
        let ((instances, max_instances), (memory_bytes, memory_budget_bytes)) = (pool.places(), pool.bytes());
        GuestReading { instances, max_instances, memory_bytes, memory_budget_bytes, ..starts.read() }
    }

    fn plain(&self, name: &str, wasm: &[u8], hash: &str) -> Result<Component, GuestError> {
        let form = Form::Plain { component: hash };
        match self.cache.get(&self.engine, form) {
            Some(component) => Ok(component),
            None => {
                let compiled = self.cache.compile(&self.engine, form, wasm);
                compiled.map_err(|cause| GuestError::Compile { name: name.to_owned(), cause })
            }
        }
    }

    fn link(&self, name: &str, component: &Component, start: Start) -> Result<Guest, GuestError> {
        let linked = outgoing::extended(&self.linker, component).and_then(|linker| linker.instantiate_pre(component));
        match linked.and_then(GuestPre::new) {
            Ok(pre) => {
                let labels = outgoing::labels(&self.engine, component);
                let program = Program::new(pre, labels, start, self.shared.clone(), self.max_prepare_cpu);
                Ok(Guest { program: Arc::new(program), no_snapshot: None })
            }
            Err(cause) => Err(GuestError::NotATenant { name: name.to_owned(), cause }),
        }
    }

    /// Takes a snapshot on a thread of its own, because callers may be within an asynchronous runtime, and because the
    /// tool panics on some components.
    fn snapshot(&self, name: &str, wasm: &[u8], info: &Arc<ModelInfo>) -> Result<Snapshot, GuestError> {
        let limits = RequestLimits {
            max_guest_cpu: self.max_prepare_cpu,
            max_wall: MAX_PREPARE_WALL,
            // A tenant's own limits are checked in every instance.
            max_table_elements: MAX_TABLE_ELEMENTS,
            max_core_instances: MAX_CORE_INSTANCES,
            ..RequestLimits::default()
        };
        let take = || {
            // They are reported as `NoSnapshot::Panicked`.
            quiet::this_thread();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.map_err(EngineError::Thread)?;
            let taken = runtime.block_on(snapshot::take(&self.engine, &self.linker, wasm, info, &limits));
            taken.map_err(|cause| GuestError::Prepare { name: name.to_owned(), cause })
        };
        let taken = std::thread::scope(|scope| scope.spawn(take).join());
        taken.unwrap_or_else(|panic| Ok(Snapshot::Impossible(NoSnapshot::of_panic(&*panic))))
    }
}

/// A quarter of the machine's memory: models take half by default, and the rest is everything else's.
fn default_memory_bytes() -> u64 {
    machine_memory_bytes().map_or(DEFAULT_MEMORY_BYTES, |bytes| bytes / 4).max(GUARANTEED_BYTES)
}

fn config(options: &RuntimeOptions) -> Config {
    let instances: u32 = places_by_depth(options.max_instances).iter().sum();
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT).max(MAX_CORE_INSTANCES as u32))
        .total_memories(instances.saturating_mul(MAX_MEMORIES_PER_COMPONENT))
        .total_tables(instances.saturating_mul(MAX_TABLES_PER_COMPONENT))
        .total_stacks(instances)
        .max_core_instances_per_component(MAX_CORE_INSTANCES as u32)
        .max_memories_per_component(MAX_MEMORIES_PER_COMPONENT)
        .max_tables_per_component(MAX_TABLES_PER_COMPONENT)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_memory_size(options.max_memory_bytes)
        .max_unused_warm_slots(instances)
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
        // So that a component may import one interface under several labels.
        .wasm_component_model_implements(true)
        // A backtrace would cost time in every trap, and nothing here reads it.
        .wasm_backtrace_max_frames(None);
    config
}

impl Guest {
    /// Runs one request with one model, for no tenant. Call it within a tokio runtime. Dropping the future stops the
    /// guest.
    ///
    /// # Errors
    /// The variant says whose fault it is: see [`RerankError`].
    pub async fn rerank(
        &self,
        model: Arc<LoadedModel>,
        request: Request,
        limits: &RequestLimits,
    ) -> Result<Response, RerankError> {
        let request = Arc::new(limits.clone()).admit(request)?;
        let (arrived, models, payer) = (Instant::now(), Models::only(model), Payer::default());
        let (links, terms) = (Links::default(), CallTerms::default());
        self.call(Call { request, arrived, models, links, payer, terms }).await
    }

    /// Runs one request, and counts its cost in the call's meter. Call it within a tokio runtime. Dropping the future
    /// stops the guest.
    ///
    /// # Errors
    /// The variant says whose fault it is: see [`RerankError`].
    pub async fn call(&self, call: Call) -> Result<Response, RerankError> {
        self.program.rerank(call).await
    }

    /// Starts an instance under these limits and drops it. Call it within a tokio runtime.
    ///
    /// # Errors
    /// None can start: the variant says whose fault it is.
    pub async fn start_one(
        &self,
        info: &Arc<ModelInfo>,
        payer: Payer,
        limits: RequestLimits,
    ) -> Result<(), RerankError> {
        self.program.start_one(Arc::clone(info), payer, limits).await
    }

    /// The labels of its imports of `reranker`, in its order: each needs a link. `None` is the import without a label.
    #[must_use]
    pub fn labels(&self) -> &[Option<String>] {
        &self.program.labels
    }

    /// Guarantees a tenant that it can always start one request, until the result is dropped, and that calls of it can
    /// if other tenants may make any. This holds for as many tenants as there are places and guaranteed memory.
    #[must_use]
    pub fn join(&self, tenant: &Arc<str>, is_called: bool) -> Membership {
        self.program.shared.pool.join(tenant, is_called)
    }

    /// An account of memory that the host holds for the tenant's guests, empty at first.
    #[must_use]
    pub fn memory(&self, payer: &Payer) -> HeldMemory {
        self.program.shared.pool.memory(&payer.cpu.tenant, payer.max_guest_memory_bytes)
    }

    /// Bytes that the tenant's guests, and texts that wait for them, hold now.
    #[must_use]
    pub fn memory_of(&self, tenant: &str) -> u64 {
        self.program.shared.pool.memory_of(tenant)
    }

    /// Runs work of the host for a tenant on the guests' threads, in the tenant's turns. Call it within a tokio runtime.
    /// `None` if the work panicked or the runtime shut down.
    pub async fn work<R: Send + 'static>(&self, payer: &Payer, work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        let (share, shared) = (Arc::clone(&payer.cpu), &self.program.shared);
        let _room = shared.work.acquire().await.ok()?;
        shared.threads.run(share, Arc::default(), async move { work() }).await.ok()
    }

    /// Prepared instances that wait for a request. Only a guest without a snapshot has any, or one whose tenant lets an
    /// instance serve several requests.
    #[must_use]
    pub fn idle_instances(&self) -> usize {
        self.program.idle_count()
    }

    /// Whether instances start from a snapshot.
    #[must_use]
    pub fn is_snapshotted(&self) -> bool {
        self.program.start == Start::Snapshotted
    }

    /// Why instances do not start from a snapshot. `None` if they do, or if no snapshot was asked for.
    #[must_use]
    pub fn no_snapshot(&self) -> Option<&str> {
        self.no_snapshot.as_deref()
    }

    fn without_snapshot(self, cause: String) -> Self {
        Self { no_snapshot: Some(cause.into()), ..self }
    }
}
