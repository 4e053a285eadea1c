//! An instance in a store of its own, and what the store counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtxView, WasiView};

use super::bindings::assay::rerank::types::Error;
use super::bindings::exports::assay::rerank::reranker as wit;
use super::contract::{GuestPre, SpokenGuest};
use super::cpu_time::CpuMeter;
use super::inference::{Inference, Purpose};
use super::pool::{HeldMemory, NoMemory, Place};
use super::wasi::Wasi;
use crate::limits::RequestLimits;
use crate::rerank::{GuestFault, Request, RerankError};

/// Most memories and tables of a guest. Their number costs the host little; their sizes have limits of their own.
const MAX_MEMORIES: usize = 4;
const MAX_TABLES: usize = 16;

/// When to retry if wasmtime's own pool is full.
const POOL_FULL_RETRY_AFTER: Duration = Duration::from_millis(100);

/// What a store holds beside the guest.
#[derive(Debug)]
pub(super) struct StoreData {
    pub(super) inference: Inference,
    pub(super) wasi: Wasi,
    quota: Quota,
    meter: Arc<CpuMeter>,
    /// The meter's reading at the beginning of the purpose.
    cpu_before: Duration,
    max_cpu: Duration,
}

/// Limits the memory and the tables of a component, and keeps the first refusal.
#[derive(Debug)]
pub(super) struct Quota {
    max_memory_bytes: usize,
    max_table_elements: usize,
    max_core_instances: usize,
    memory_bytes: usize,
    table_elements: usize,
    refused: Option<Refusal>,
    /// What the guest's memory takes of all guests'; absent where a guest is alone in its process.
    held: Option<HeldMemory>,
}

/// Why a guest was refused memory.
#[derive(Debug, Clone)]
enum Refusal {
    /// By its own limit.
    Fault(GuestFault),
    /// Because other guests hold it.
    Short(NoMemory),
}

/// What a store is for, and what it may use.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    pub(super) purpose: Purpose,
    pub(super) limits: &'a RequestLimits,
    /// Measures the polls of the future that runs the guest.
    pub(super) meter: Arc<CpuMeter>,
    /// Whether the host tries the guest with texts of its own.
    pub(super) is_trial: bool,
}

impl Quota {
    pub(super) fn new(limits: &RequestLimits, held: Option<HeldMemory>) -> Self {
        Self {
            max_memory_bytes: limits.max_memory_bytes,
            max_table_elements: limits.max_table_elements,
            max_core_instances: limits.max_core_instances,
            memory_bytes: 0,
            table_elements: 0,
            refused: None,
            held,
        }
    }

    /// What the component asked for and was refused by its own limits.
    pub(super) fn fault(&self) -> Option<GuestFault> {
        match &self.refused {
            Some(Refusal::Fault(fault)) => Some(fault.clone()),
            Some(Refusal::Short(_)) | None => None,
        }
    }
}

impl ResourceLimiter for Quota {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        // The limit is on the sum, since a component may have several memories.
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.max_memory_bytes {
            let (requested_bytes, limit_bytes) = (total as u64, self.max_memory_bytes as u64);
            self.refused.get_or_insert(Refusal::Fault(GuestFault::Memory { requested_bytes, limit_bytes }));
            return Ok(false);
        }
        let more = (total - self.memory_bytes) as u64;
        if let Some(Err(short)) = self.held.as_mut().map(|held| held.grow(more)) {
            self.refused.get_or_insert(Refusal::Short(short));
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        if total > self.max_table_elements {
            let (requested, allowed) = (total as u64, self.max_table_elements as u64);
            self.refused.get_or_insert(Refusal::Fault(GuestFault::TableElements { requested, allowed }));
            return Ok(false);
        }
        self.table_elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.max_core_instances
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }
}

/// Why the epoch callback stopped a guest.
#[derive(Debug, thiserror::Error)]
#[error("the processor time is used up")]
struct CpuTimeUsedUp;

/// The memory and the processor time of a guest so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) memory_bytes: usize,
    pub(super) cpu: Duration,
}

impl StoreData {
    fn new(Terms { purpose, limits, meter, is_trial }: Terms<'_>, held: Option<HeldMemory>) -> Self {
        let inference = Inference::new(purpose, limits);
        let mut wasi = Wasi::default();
        wasi.set_tried(is_trial);
        Self {
            max_cpu: max_cpu(&inference, limits),
            inference,
            wasi,
            quota: Quota::new(limits, held),
            cpu_before: meter.spent_now(),
            meter,
        }
    }

    /// Processor time of the guest, and of the tenants that it called. Only the thread that runs the guest may ask.
    pub(super) fn spent_cpu(&self) -> Duration {
        self.cost().cpu + self.inference.called().cpu
    }

    /// The most that this may be.
    pub(super) fn max_cpu(&self) -> Duration {
        self.max_cpu
    }

    /// Only the thread that runs the guest may ask.
    pub(super) fn cost(&self) -> Cost {
        Cost { memory_bytes: self.quota.memory_bytes, cpu: self.meter.spent_now().saturating_sub(self.cpu_before) }
    }

    /// Why a guest stopped. If it was refused memory, that is the cause, although its own code trapped.
    pub(super) fn fault(&self, error: &wasmtime::Error, limits: &RequestLimits) -> RerankError {
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return RerankError::Overloaded { retry_after: POOL_FULL_RETRY_AFTER };
        }
        if error.is::<CpuTimeUsedUp>() {
            if self.max_cpu < limits.max_guest_cpu {
                // The caller's limit, and no fault of this guest.
                let (requested, allowed) = (millis(self.spent_cpu()), millis(self.max_cpu));
                return RerankError::TooLarge { limit: "max_guest_cpu_ms".to_owned(), requested, allowed };
            }
            return GuestFault::CpuTime { limit: limits.max_guest_cpu }.into();
        }
        match &self.quota.refused {
            Some(Refusal::Fault(fault)) => return fault.clone().into(),
            Some(Refusal::Short(short)) => return (*short).into(),
            None => {}
        }
        let cause = format!("{:#}", error.root_cause());
        // wasmtime has no types for these two.
        if cause.contains("fuel allocated for hostcalls") {
            return GuestFault::CallBytes { limit_bytes: limits.max_call_bytes as u64 }.into();
        }
        if cause.contains("instance count too high") {
            return GuestFault::CoreInstances { allowed: limits.max_core_instances as u64 }.into();
        }
        let words = self.wasi.last_words();
        GuestFault::Trapped(words.map_or(cause.clone(), |words| format!("{cause}; it printed: {words}"))).into()
    }
}

impl WasiView for StoreData {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.view()
    }
}

/// A store for one purpose, with every limit set.
pub(super) fn store(engine: &Engine, terms: Terms<'_>, held: Option<HeldMemory>) -> Store<StoreData> {
    let max_call_bytes = terms.limits.max_call_bytes;
    let mut store = Store::new(engine, StoreData::new(terms, held));
    store.limiter(|state| &mut state.quota);
    store.set_hostcall_fuel(max_call_bytes);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|context| {
        let state = context.data();
        if state.spent_cpu() >= state.max_cpu {
            return Err(CpuTimeUsedUp.into());
        }
        // Yields, so that the wall-clock limit can fire and other guests can run while this one computes.
        Ok(UpdateDeadline::Yield(1))
    });
    store
}

/// An instance that can serve requests, one at a time.
pub(super) struct Instance {
    pub(super) store: Store<StoreData>,
    guest: SpokenGuest,
    pub(super) served: u32,
    place: Place,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("served", &self.served).finish_non_exhaustive()
    }
}

/// How an instance gets the memory that `prepare` leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// From a snapshot taken after `prepare`.
    Snapshotted,
    /// By calling `prepare` in every instance.
    Prepare,
}

/// Most processor time of what a store is for.
fn max_cpu(inference: &Inference, limits: &RequestLimits) -> Duration {
    inference.max_cpu().map_or(limits.max_guest_cpu, |left| left.min(limits.max_guest_cpu))
}

impl Instance {
    /// The depth of calls that its place is for.
    pub(super) fn depth(&self) -> usize {
        self.place.depth()
    }

    /// A fresh instance of a guest with a snapshot.
    pub(super) async fn open(
        pre: &GuestPre<StoreData>,
        terms: Terms<'_>,
        place: Place,
        held: HeldMemory,
    ) -> Result<Self, RerankError> {
        let limits = terms.limits;
        let mut store = store(pre.engine(), terms, Some(held));
        let instantiated = pre.instantiate(&mut store).await;
        let guest = instantiated.map_err(|error| store.data().fault(&error, limits))?;
        Ok(Self { store, guest, served: 0, place })
    }

    /// A fresh instance of a guest without a snapshot, after `prepare`. Call [`begin`](Self::begin) before its first
    /// request.
    pub(super) async fn prepare(
        pre: &GuestPre<StoreData>,
        terms: Terms<'_>,
        place: Place,
        held: HeldMemory,
    ) -> Result<Self, RerankError> {
        let limits = terms.limits;
        let mut instance = Self::open(pre, terms, place, held).await?;
        let prepared = instance.guest.prepare(&mut instance.store).await;
        prepared.map_err(|error| instance.store.data().fault(&error, limits))?;
        check_prepared(instance.store.data())?;
        Ok(instance)
    }

    /// Runs one request. The outer error is a trap.
    pub(super) async fn rerank(&mut self, request: Request) -> wasmtime::Result<Result<wit::Response, Error>> {
        self.guest.rerank(&mut self.store, request).await
    }

    /// Readies a prepared or idle instance for a request on these terms, of a tenant that may hold so much memory.
    pub(super) fn begin(&mut self, Terms { purpose, limits, meter, is_trial }: Terms<'_>, most_memory: u64) {
        let state = self.store.data_mut();
        state.wasi.set_tried(is_trial);
        state.inference.begin(purpose);
        (state.cpu_before, state.max_cpu) = (meter.spent_now(), max_cpu(&state.inference, limits));
        state.meter = meter;
        let quota = &mut state.quota;
        quota.max_memory_bytes = limits.max_memory_bytes;
        quota.max_table_elements = limits.max_table_elements;
        quota.refused = None;
        if let Some(held) = &mut quota.held {
            held.set_most(most_memory);
        }
        self.store.set_hostcall_fuel(limits.max_call_bytes);
        self.store.set_epoch_deadline(1);
    }
}

/// Checks that `prepare` left no model open: no request could use it.
pub(super) fn check_prepared(state: &StoreData) -> Result<(), GuestFault> {
    match state.inference.open_models() {
        0 => Ok(()),
        open => Err(GuestFault::LeftOpen(open)),
    }
}

/// The time left until a deadline.
pub(super) fn time_left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Milliseconds, rounded up: what is a little over a limit is not said to be within it.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
