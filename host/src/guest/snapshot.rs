//! A component with its memory as `prepare` leaves it.
//!
//! `prepare` runs once. It can load the model's tokenizer and compute nothing. The memory that it leaves becomes the
//! data that every instance starts with. wasmtime's own tool (`wasmtime-wizer`) does this; it leaves `prepare` in the
//! component, where it must not be called again.

use std::any::Any;
use std::sync::Arc;

use wasmtime::component::{Component, Instance, Lift, Linker, WasmList};
use wasmtime::{Engine, Store};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::cpu_time::{CpuMeter, Metered};
use super::inference::Purpose;
use super::instance::{self, StoreData, Terms, check_prepared};
use super::outgoing;
use crate::limits::RequestLimits;
use crate::model::ModelInfo;
use crate::rerank::RerankError;

/// The export that is run before the snapshot is taken.
const PREPARE: &str = "prepare";

/// The result of taking a snapshot.
#[derive(Debug)]
pub(super) enum Snapshot {
    /// A component whose instances start prepared.
    Taken(Vec<u8>),
    /// There can be no snapshot; `prepare` must run in every instance.
    Impossible(NoSnapshot),
}

/// Why there can be no snapshot of a component. The component is the cause: another try would fail too.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSnapshot {
    /// The tool does not support the component.
    #[error("the snapshot tool does not support it: {0:#}")]
    Unsupported(wasmtime::Error),
    /// `prepare` holds handles, which would dangle in a snapshot.
    #[error("prepare left handles of WASI open")]
    HoldsHandles,
    /// The tool does not support the component, and panicked.
    #[error("the snapshot tool does not support it: {0}")]
    Panicked(String),
}

impl NoSnapshot {
    /// The cause of a panic of the tool.
    pub(super) fn of_panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Self::Panicked(text.unwrap_or_else(|| "it panicked".to_owned()))
    }
}

/// Runs `prepare` and takes the snapshot.
///
/// Fails if the guest is at fault, because it would fail in every instance, or if its memory could not be read.
pub(super) async fn take(
    engine: &Engine,
    linker: &Linker<StoreData>,
    wasm: &[u8],
    info: &Arc<ModelInfo>,
    limits: &RequestLimits,
) -> Result<Snapshot, RerankError> {
    let impossible = |error| Ok(Snapshot::Impossible(NoSnapshot::Unsupported(error)));
    let mut wizer = Wizer::new();
    wizer.init_func(PREPARE).keep_init_func(true);
    // A failure up to here is the tool's; from `prepare` on it is the guest's.
    let (context, instrumented) = match wizer.instrument_component(wasm) {
        Ok(instrumented) => instrumented,
        Err(error) => return impossible(error),
    };
    let component = match Component::new(engine, &instrumented) {
        Ok(component) => component,
        Err(error) => return impossible(error),
    };
    let (purpose, meter) = (Purpose::Prepare(Arc::clone(info)), Arc::<CpuMeter>::default());
    let terms = Terms { purpose, limits, meter: Arc::clone(&meter), is_trial: true };
    let mut store = instance::store(engine, terms, None);
    let preparing = Metered::new(meter, prepare(&mut store, linker, &component));
    let prepared = tokio::time::timeout(limits.max_wall, preparing).await;
    let prepared = prepared.map_err(|_| RerankError::DeadlineExceeded { limit: limits.max_wall })?;
    let instance = prepared.map_err(|error| store.data().fault(&error, limits))?;
    check_prepared(store.data())?;
    if store.data().wasi.holds_handles() {
        return Ok(Snapshot::Impossible(NoSnapshot::HoldsHandles));
    }
    // The tool reads each memory as one list. The limit of a call's bytes is for requests.
    store.set_hostcall_fuel(limits.max_memory_bytes);
    let mut reader = Reader { store: &mut store, instance, failed: None };
    let snapshot = wizer.snapshot_component(&context, &mut reader).await;
    match (snapshot, reader.failed) {
        (Ok(snapshot), None) => Ok(Snapshot::Taken(snapshot)),
        // Says nothing of the component: another try may succeed, so nothing lasting may be recorded.
        (_, Some(error)) => Err(RerankError::Internal(format!("its memory could not be read: {error:#}"))),
        (Err(error), None) => impossible(error),
    }
}

async fn prepare(
    store: &mut Store<StoreData>,
    linker: &Linker<StoreData>,
    component: &Component,
) -> wasmtime::Result<Instance> {
    let pre = outgoing::extended(linker, component)?.instantiate_pre(component)?;
    let instance = pre.instantiate_async(&mut *store).await?;
    instance.get_typed_func::<(), ()>(&mut *store, PREPARE)?.call_async(&mut *store, ()).await?;
    Ok(instance)
}

/// Reads the guest's memory and globals through functions that the tool added to the component.
struct Reader<'a> {
    store: &'a mut Store<StoreData>,
    instance: Instance,
    /// The first failure, kept here because the tool's interface has no error.
    failed: Option<wasmtime::Error>,
}

impl Reader<'_> {
    async fn call<R: Lift + Send + Sync + 'static>(&mut self, instance: &str, function: &str) -> Option<R> {
        let called = self.try_call(instance, function).await;
        called.map_err(|error| self.failed.get_or_insert(error)).ok()
    }

    async fn try_call<R: Lift + Send + Sync + 'static>(
        &mut self,
        instance: &str,
        function: &str,
    ) -> wasmtime::Result<R> {
        let missing = || wasmtime::Error::msg(format!("the instrumented component has no {instance}#{function}"));
        let store = &mut *self.store;
        let (_, index) = self.instance.get_export(&mut *store, None, instance).ok_or_else(missing)?;
        let (_, index) = self.instance.get_export(&mut *store, Some(&index), function).ok_or_else(missing)?;
        let function = self.instance.get_typed_func::<(), (R,)>(&mut *store, index)?;
        Ok(function.call_async(&mut *store, ()).await?.0)
    }
}

impl ComponentInstanceState for Reader<'_> {
    async fn call_func_ret_list_u8(&mut self, instance: &str, func: &str, contents: impl FnOnce(&[u8]) + Send) {
        match self.call::<WasmList<u8>>(instance, func).await {
            Some(list) => contents(list.as_le_slice(&*self.store)),
            // The tool panics if it gets nothing at all.
            None => contents(&[]),
        }
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.call(instance, func).await.unwrap_or_default()
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.call(instance, func).await.unwrap_or_default()
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.call::<f32>(instance, func).await.unwrap_or_default().to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.call::<f64>(instance, func).await.unwrap_or_default().to_bits()
    }
}
