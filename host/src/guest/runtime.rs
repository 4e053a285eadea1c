//! The WebAssembly engine, its epoch clock, and guests that are compiled and linked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::bindings::{Tenant, TenantPre};
use super::cache::CompiledCache;
use super::call::{self, State};
use super::inference::Inference;
use crate::limits::{DEFAULT_MAX_MEMORY_BYTES, RequestLimits};
use crate::model::LoadedModel;
use crate::rerank::{Request, RerankError, Response};

/// How often a running guest is stopped for a moment: often enough that a busy guest delays its neighbours by no more
/// than a batch takes, seldom enough that the checks cost nothing that can be measured.
pub(super) const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Most requests that hold an instance at once: sixteen for each of four cores, and 1 GB of address space for each.
pub const DEFAULT_MAX_INSTANCES: u32 = 64;

/// Largest component that is compiled: Python guests have 35 MB.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// Core instances in one component: a Rust guest has three (itself and two that link it).
const MAX_CORE_INSTANCES_PER_COMPONENT: u32 = 16;

/// Stack of a guest: Rust's own default for threads is twice this.
const MAX_WASM_STACK_BYTES: usize = 1 << 20;

/// How to set the runtime up.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Most requests that hold an instance at once.
    pub max_instances: u32,
    /// Most memory of any guest; requests may be limited further.
    pub max_memory_bytes: usize,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self { max_instances: DEFAULT_MAX_INSTANCES, max_memory_bytes: DEFAULT_MAX_MEMORY_BYTES }
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
    /// The WebAssembly engine cannot be set up on this machine.
    #[error("the WebAssembly engine cannot be set up: {0}")]
    Engine(String),
}

/// Compiles guests and gives them their clock.
pub struct GuestRuntime {
    engine: Engine,
    linker: Linker<State>,
    cache: CompiledCache,
    _clock: EpochClock,
}

/// A component that is compiled and linked: instantiating it is cheap.
#[derive(Clone)]
pub struct Guest {
    tenant: TenantPre<State>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").finish_non_exhaustive()
    }
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
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(options.max_instances)
            .total_core_instances(options.max_instances.saturating_mul(4))
            .total_memories(options.max_instances)
            .total_tables(options.max_instances.saturating_mul(2))
            .total_stacks(options.max_instances)
            .max_core_instances_per_component(MAX_CORE_INSTANCES_PER_COMPONENT)
            .max_memory_size(options.max_memory_bytes);
        let mut config = Config::new();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .epoch_interruption(true)
            .memory_init_cow(true)
            .max_wasm_stack(MAX_WASM_STACK_BYTES)
            .async_stack_size(2 * MAX_WASM_STACK_BYTES)
            // Names in a trap's message; the trace itself costs time in every trap and helps nobody here.
            .wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        Tenant::add_to_linker::<_, HasSelf<Inference>>(&mut linker, |state: &mut State| &mut state.inference)
            .map_err(failed)?;
        let cache =
            CompiledCache::open(cache_dir).map_err(|source| GuestError::Io { path: cache_dir.to_owned(), source })?;
        let clock = EpochClock::start(engine.clone()).map_err(|error| GuestError::Engine(error.to_string()))?;
        Ok(Self { engine, linker, cache, _clock: clock })
    }

    /// Reads and compiles the component in a file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no component that is a guest.
    pub fn load_file(&self, path: &Path) -> Result<Guest, GuestError> {
        let io = |source| GuestError::Io { path: path.to_owned(), source };
        let name = path.display().to_string();
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > MAX_COMPONENT_BYTES {
            return Err(GuestError::TooLarge { name, bytes });
        }
        self.load(&name, &std::fs::read(path).map_err(io)?)
    }

    /// Compiles a component, or finds its compiled form, and links it.
    ///
    /// # Errors
    /// It is no component, is not valid, or is not a guest of our world.
    pub fn load(&self, name: &str, wasm: &[u8]) -> Result<Guest, GuestError> {
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
        let component: Component = match self.cache.get_or_compile(&self.engine, wasm) {
            Ok(component) => component,
            Err(error) => return Err(GuestError::Compile { name, message: format!("{error:#}") }),
        };
        let tenant = self.linker.instantiate_pre(&component).and_then(TenantPre::new);
        match tenant {
            Ok(tenant) => Ok(Guest { tenant }),
            Err(error) => Err(GuestError::NotATenant { name, message: format!("{error:#}") }),
        }
    }
}

impl Guest {
    /// Runs one request in a fresh instance. Must be called within a tokio runtime; dropping the future stops the
    /// guest.
    ///
    /// # Errors
    /// Whose fault it is tells the variant: see [`RerankError`].
    pub async fn rerank(
        &self,
        model: Arc<LoadedModel>,
        request: Request,
        limits: &RequestLimits,
    ) -> Result<Response, RerankError> {
        call::rerank(&self.tenant, model, request, limits).await
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
