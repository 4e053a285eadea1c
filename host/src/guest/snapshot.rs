//! A guest's memory after `prepare`, made part of the component.
//!
//! `prepare` runs once, with the model's tokenizer to load and nothing to compute with; what it left in the guest's
//! memory becomes the data that every instance starts with. The tool is wasmtime's own (`wasmtime-wizer`); it keeps
//! `prepare` in slot, which must not be called again.

use std::sync::Arc;

use wasmtime::component::{Component, Instance, Lift, Linker, WasmList};
use wasmtime::{Engine, Store};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::bindings::Tenant;
use super::inference::Purpose;
use super::instance::{self, State, check_prepared};
use crate::limits::RequestLimits;
use crate::model::ModelInfo;
use crate::rerank::RerankError;

/// The export that is run before the snapshot is taken.
const PREPARE: &str = "prepare";

/// What came of a snapshot.
#[derive(Debug)]
pub(super) enum Snapshot {
    /// A component whose instances are prepared.
    Taken(Vec<u8>),
    /// There can be none; `prepare` must run in every instance.
    Impossible(NoSnapshot),
}

/// Why there can be no snapshot of a component.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSnapshot {
    /// The tool does not support the component.
    #[error("{0:#}")]
    Unsupported(wasmtime::Error),
    /// `prepare` holds handles, which would dangle in a snapshot.
    #[error("prepare left handles of WASI open")]
    HoldsHandles,
    /// As the first case, without words.
    #[error("the snapshot tool panicked")]
    Panicked,
}

/// Runs `prepare` and takes the snapshot.
///
/// Fails only where the guest is at fault: what it did in `prepare` it would do in every instance.
pub(super) async fn take(
    engine: &Engine,
    linker: &Linker<State>,
    wasm: &[u8],
    info: &Arc<ModelInfo>,
    limits: &RequestLimits,
) -> Result<Snapshot, RerankError> {
    let impossible = |error| Ok(Snapshot::Impossible(NoSnapshot::Unsupported(error)));
    let mut wizer = Wizer::new();
    wizer.init_func(PREPARE).keep_init_func(true);
    // What the tool makes of the component, and compiling that, is the tool's to fail at.
    let (context, instrumented) = match wizer.instrument_component(wasm) {
        Ok(instrumented) => instrumented,
        Err(error) => return impossible(error),
    };
    let component = match Component::new(engine, &instrumented) {
        Ok(component) => component,
        Err(error) => return impossible(error),
    };
    // From here on it is the guest's.
    let mut store = instance::store(engine, Purpose::Prepare(Arc::clone(info)), limits);
    let prepared = tokio::time::timeout(limits.max_wall, prepare(&mut store, linker, &component)).await;
    let prepared = prepared.map_err(|_| RerankError::DeadlineExceeded { limit: limits.max_wall })?;
    let instance = prepared.map_err(|error| store.data().fault(&error, limits))?;
    check_prepared(store.data())?;
    if store.data().wasi.holds_handles() {
        return Ok(Snapshot::Impossible(NoSnapshot::HoldsHandles));
    }
    let mut reader = Reader { store: &mut store, instance, failed: None };
    let snapshot = wizer.snapshot_component(&context, &mut reader).await;
    match (snapshot, reader.failed) {
        (Ok(snapshot), None) => Ok(Snapshot::Taken(snapshot)),
        (_, Some(error)) | (Err(error), None) => impossible(error),
    }
}

async fn prepare(
    store: &mut Store<State>,
    linker: &Linker<State>,
    component: &Component,
) -> wasmtime::Result<Instance> {
    let pre = linker.instantiate_pre(component)?;
    let instance = pre.instantiate_async(&mut *store).await?;
    Tenant::new(&mut *store, &instance)?.call_prepare(&mut *store).await?;
    Ok(instance)
}

/// Reads the guest's memory and globals, through the functions that the tool has put beside them.
struct Reader<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
    /// The tool has no slot for a failure, so that the first is kept here.
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
        if let Some(list) = self.call::<WasmList<u8>>(instance, func).await {
            contents(list.as_le_slice(&*self.store));
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
