//! A caller as a program: compiles it, says what it imports, and runs it to its end.

use std::path::Path;

use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

use crate::guest::cache::{CompiledCache, Form};
use crate::guest::component;
use crate::guest::error::{EngineError, GuestError};
use crate::guest::instance::Quota;
use crate::guest::link::{CallTerms, Links};
use crate::guest::outgoing::{self, Calls};
use crate::limits::{MAX_CORE_INSTANCES, MAX_TABLE_ELEMENTS, RequestLimits};
use crate::model::manifest::sha256_hex;
use crate::rerank::{CallError, GuestFault, Request, Response};

/// Default of the most memory of a caller: what a program in an interpreted language takes, with some data.
pub const DEFAULT_MAX_CALLER_MEMORY_BYTES: usize = 1 << 30;

/// The exit code of a program that says only that it failed.
const FAILED: u8 = 1;

/// A component that calls tenants, compiled.
pub struct CallerComponent {
    name: String,
    engine: Engine,
    command: CommandPre<State>,
    labels: Vec<Option<String>>,
}

impl std::fmt::Debug for CallerComponent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerComponent")
            .field("name", &self.name)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// What a caller is given.
#[derive(Debug, Clone)]
pub struct CallerSetting {
    /// The arguments after the program's name.
    pub arguments: Vec<String>,
    /// The environment: names and values.
    pub environment: Vec<(String, String)>,
    /// Most memory of all its memories together.
    pub max_memory_bytes: usize,
}

impl Default for CallerSetting {
    fn default() -> Self {
        let max_memory_bytes = DEFAULT_MAX_CALLER_MEMORY_BYTES;
        Self { arguments: Vec::new(), environment: Vec::new(), max_memory_bytes }
    }
}

/// How a caller ended that did not end by itself.
#[derive(Debug, thiserror::Error)]
pub enum CallerFault {
    /// It asked for more than it may have, and trapped over it.
    #[error("{name}: {fault}")]
    Refused {
        /// The component's name.
        name: String,
        /// What it asked for.
        fault: GuestFault,
    },
    /// It trapped.
    #[error("{name} trapped: {cause:#}")]
    Trapped {
        /// The component's name.
        name: String,
        /// Where and why.
        cause: wasmtime::Error,
    },
}

/// What a caller's store holds.
struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    quota: Quota,
    links: Links,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Calls for State {
    async fn call(&mut self, label: Option<&str>, request: Request) -> Result<Response, CallError> {
        self.links.get(label)?.ask(request, CallTerms::default()).await
    }
}

impl CallerComponent {
    /// Compiles a component, or finds it compiled in `cache_dir`, and checks that everything that it imports is there.
    ///
    /// # Errors
    /// It is not a component, not valid, or not a command that this host can run.
    pub fn load(cache_dir: &Path, name: &str, wasm: &[u8]) -> Result<Self, GuestError> {
        component::check(name, wasm)?;
        let mut config = Config::new();
        // So that a component may import one interface under several labels.
        config.wasm_component_model_implements(true);
        let engine = Engine::new(&config).map_err(EngineError::Wasmtime)?;
        let cache =
            CompiledCache::open(cache_dir).map_err(|source| GuestError::Io { path: cache_dir.to_owned(), source })?;
        let hash = sha256_hex(wasm);
        let form = Form::Plain { component: &hash };
        let component = cache.get(&engine, form).map_or_else(|| cache.compile(&engine, form, wasm), Ok);
        let component = component.map_err(|cause| GuestError::Compile { name: name.to_owned(), cause })?;
        let labels = outgoing::labels(&engine, &component);
        match command(&engine, &component) {
            Ok(command) => Ok(Self { name: name.to_owned(), engine, command, labels }),
            Err(cause) => Err(GuestError::NotACaller { name: name.to_owned(), cause }),
        }
    }

    /// The labels of its imports of `reranker`, in its order. `None` is the import without a label.
    #[must_use]
    pub fn labels(&self) -> &[Option<String>] {
        &self.labels
    }

    /// Runs the program to its end, and gives its exit code. `links` has one for each of [`labels`](Self::labels).
    /// Call it within a tokio runtime. Dropping the future ends the program at its next call of the host, and cancels
    /// what it asked a tenant.
    ///
    /// # Errors
    /// The program trapped. What a tenant fails with is a value for the program, and no error here.
    pub async fn run(&self, links: Links, setting: CallerSetting) -> Result<u8, CallerFault> {
        let CallerSetting { arguments, environment, max_memory_bytes } = setting;
        let mut wasi = WasiCtx::builder();
        wasi.inherit_stdio().arg(&self.name).args(&arguments).envs(&environment);
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        let limits = RequestLimits {
            max_memory_bytes,
            max_table_elements: MAX_TABLE_ELEMENTS,
            max_core_instances: MAX_CORE_INSTANCES,
            ..RequestLimits::default()
        };
        let quota = Quota::new(&limits, None);
        let state = State { wasi: wasi.build(), table: ResourceTable::new(), quota, links };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.quota);
        let ran = async {
            let command = self.command.instantiate_async(&mut store).await?;
            command.wasi_cli_run().call_run(&mut store).await
        };
        let name = || self.name.clone();
        match ran.await {
            Ok(Ok(())) => Ok(0),
            Ok(Err(())) => Ok(FAILED),
            Err(cause) => match (cause.downcast_ref::<I32Exit>(), store.data().quota.fault()) {
                (Some(I32Exit(code)), _) => Ok(u8::try_from(*code).unwrap_or(FAILED)),
                (None, Some(fault)) => Err(CallerFault::Refused { name: name(), fault }),
                (None, None) => Err(CallerFault::Trapped { name: name(), cause }),
            },
        }
    }
}

fn command(engine: &Engine, component: &Component) -> wasmtime::Result<CommandPre<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    outgoing::add_to_linker(&mut linker, component)?;
    CommandPre::new(linker.instantiate_pre(component)?)
}
