//! The WebAssembly engine, and guests that are compiled and linked.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::bindings::{Tenant, TenantPre};
use super::cache::{CompiledCache, Form};
use super::call::{Call, CallCost, InstancePool, Program};
use super::clock::EpochClock;
use super::component;
use super::error::{EngineError, GuestError};
use super::inference::Inference;
use super::instance::{Start, StoreData};
use super::models::Models;
use super::snapshot::{self, NoSnapshot, Snapshot};
use crate::device::{Account, LoadedModel};
use crate::limits::{DEFAULT_MAX_MEMORY_BYTES, RequestLimits};
use crate::model::ModelInfo;
use crate::model::manifest::sha256_hex;
use crate::rerank::{Request, RerankError, Response};
use crate::sweep::Sweep;

/// Most instances at once: several for each of many tenants. Most of them wait for the device; an instance costs
/// address space and the pages that it wrote.
pub const DEFAULT_MAX_INSTANCES: u32 = 128;

/// One in this many instances of the pool may be idle.
const IDLE_PART: u32 = 4;

/// Core instances in one component: a Rust guest has three (itself and two that link it).
const MAX_CORE_INSTANCES_PER_COMPONENT: u32 = 16;

/// Memories of one component: several modules may each bring their own.
const MAX_MEMORIES_PER_COMPONENT: u32 = 2;

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

/// Most processor time of `prepare`: the standard guest takes a fiftieth of this.
pub const DEFAULT_MAX_PREPARE_CPU: Duration = Duration::from_secs(10);

/// Most wall-clock time of `prepare`.
const MAX_PREPARE_WALL: Duration = Duration::from_secs(60);

/// Stack of a guest: half of Rust's default for threads.
const MAX_WASM_STACK_BYTES: usize = 1 << 20;

/// Settings of the runtime.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Most instances at once.
    pub max_instances: u32,
    /// Most memory of any guest. A request's own limit may be lower.
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

/// Compiles guests and drives their epoch clock.
pub struct GuestRuntime {
    engine: Engine,
    linker: Linker<StoreData>,
    cache: CompiledCache,
    pool: InstancePool,
    max_prepare_cpu: Duration,
    _clock: EpochClock,
}

/// A component that is compiled and linked, and cheap to instantiate.
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
    /// Sets the engine up and keeps compiled components in `cache_dir`.
    ///
    /// # Errors
    /// The machine cannot reserve the address space, or the directory cannot be made.
    pub fn new(cache_dir: &Path, options: &RuntimeOptions) -> Result<Self, GuestError> {
        let engine = Engine::new(&config(options)).map_err(EngineError::Wasmtime)?;
        let mut linker = Linker::new(&engine);
        Tenant::add_to_linker::<_, HasSelf<Inference>>(&mut linker, |state: &mut StoreData| &mut state.inference)
            .map_err(EngineError::Wasmtime)?;
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(EngineError::Wasmtime)?;
        let cache =
            CompiledCache::open(cache_dir).map_err(|source| GuestError::Io { path: cache_dir.to_owned(), source })?;
        let clock = EpochClock::start(engine.clone()).map_err(EngineError::Thread)?;
        let pool = |count: u32| Arc::new(Semaphore::new(count as usize));
        let idle = pool(options.max_instances / IDLE_PART);
        let pool = InstancePool { instances: pool(options.max_instances), idle };
        let max_prepare_cpu = options.max_prepare_cpu;
        Ok(Self { engine, linker, cache, pool, max_prepare_cpu, _clock: clock })
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
                self.cache.keep_impossible(&self.engine, form, &reason.to_string());
                Ok(guest)
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
            None => {
                let compiled = self.cache.compile(&self.engine, form, wasm);
                compiled.map_err(|cause| GuestError::Compile { name: name.to_owned(), cause })
            }
        }
    }

    fn link(&self, name: &str, component: &Component, start: Start) -> Result<Guest, GuestError> {
        match self.linker.instantiate_pre(component).and_then(TenantPre::new) {
            Ok(pre) => {
                Ok(Guest { program: Arc::new(Program::new(pre, start, self.pool.clone(), self.max_prepare_cpu)) })
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
            ..RequestLimits::default()
        };
        let take = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.map_err(EngineError::Thread)?;
            let taken = runtime.block_on(snapshot::take(&self.engine, &self.linker, wasm, info, &limits));
            taken.map_err(|cause| GuestError::Prepare { name: name.to_owned(), cause })
        };
        let taken = std::thread::scope(|scope| scope.spawn(take).join());
        taken.unwrap_or(Ok(Snapshot::Impossible(NoSnapshot::Panicked)))
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
        let (models, account, arrived) = (Models::only(model), Account::default(), Instant::now());
        let request = limits.admit(request)?;
        let call = Call { request, arrived, models: &models, account: &account, rate: None };
        self.call(call).await.0
    }

    /// Runs one request and returns its cost with the answer. Call it within a tokio runtime. Dropping the future stops
    /// the guest.
    pub async fn call(&self, call: Call<'_>) -> (Result<Response, RerankError>, CallCost) {
        let mut cost = CallCost::default();
        let response = self.program.rerank(call, &mut cost).await;
        (response, cost)
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
}
