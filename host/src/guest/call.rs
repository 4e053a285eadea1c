//! One request in a store of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{ResourceLimiter, Store, UpdateDeadline};

use super::bindings::TenantPre;
use super::convert;
use super::inference::Inference;
use super::runtime::EPOCH_TICK;
use crate::limits::RequestLimits;
use crate::model::LoadedModel;
use crate::rerank::{GuestFault, Request, RerankError, Response, Timings};

/// Most elements of a guest's tables: a hundred times what a large Rust program's function table has.
const MAX_TABLE_ELEMENTS: usize = 1 << 20;

/// What a store carries.
#[derive(Debug)]
pub(super) struct State {
    pub(super) inference: Inference,
    quota: Quota,
    cpu_ticks_left: u32,
}

/// Counts what a guest's instances hold, and remembers the first thing that it was refused.
#[derive(Debug)]
struct Quota {
    max_memory_bytes: usize,
    memory_bytes: usize,
    refused_bytes: Option<usize>,
}

impl ResourceLimiter for Quota {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        // A component may have several memories: what counts is their sum.
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.max_memory_bytes {
            self.refused_bytes.get_or_insert(total);
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }
}

/// Why the epoch callback stopped a guest.
#[derive(Debug, thiserror::Error)]
#[error("processor time is used up")]
struct CpuTimeUsedUp;

/// Runs one request in a fresh instance. Dropping the future stops the guest at its next epoch tick and takes its rows
/// out of the queue.
pub(super) async fn rerank(
    tenant: &TenantPre<State>,
    model: Arc<LoadedModel>,
    request: Request,
    limits: &RequestLimits,
) -> Result<Response, RerankError> {
    let start = Instant::now();
    limits.admit(&request)?;
    let quota = Quota { max_memory_bytes: limits.max_memory_bytes, memory_bytes: 0, refused_bytes: None };
    let ticks = limits.max_guest_cpu.as_nanos().div_ceil(EPOCH_TICK.as_nanos());
    let cpu_ticks_left = u32::try_from(ticks).unwrap_or(u32::MAX);
    let mut store = Store::new(tenant.engine(), State { inference: Inference::new(model), quota, cpu_ticks_left });
    store.limiter(|state| &mut state.quota);
    // What a guest hands over in one call is bounded like what it may hold.
    store.set_hostcall_fuel(limits.max_memory_bytes);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut context| {
        let ticks_left = &mut context.data_mut().cpu_ticks_left;
        *ticks_left = ticks_left.saturating_sub(1);
        if *ticks_left == 0 {
            return Err(CpuTimeUsedUp.into());
        }
        // Yielding lets the wall-clock limit fire, and other requests run, however long the guest computes.
        Ok(UpdateDeadline::Yield(1))
    });

    let (documents, top_n) = (request.documents.len(), request.top_n);
    let answered = tokio::time::timeout(limits.max_wall, call(&mut store, tenant, request)).await;
    let answer = match answered {
        Err(_) => return Err(RerankError::DeadlineExceeded { limit: limits.max_wall }),
        Ok(Err(error)) => return Err(fault(&error, store.data(), limits).into()),
        Ok(Ok(Err(error))) => return Err(convert::error(error, limits)),
        Ok(Ok(Ok(answer))) => answer,
    };
    let mut response = convert::response(&answer, documents, top_n)?;
    response.timings = timings(start.elapsed(), &store.data().inference);
    Ok(response)
}

type Answer =
    Result<super::bindings::exports::assay::rerank::reranker::Response, super::bindings::assay::rerank::types::Error>;

async fn call(store: &mut Store<State>, tenant: &TenantPre<State>, request: Request) -> wasmtime::Result<Answer> {
    let instance = tenant.instantiate_async(&mut *store).await?;
    instance.call_prepare(&mut *store).await?;
    instance.assay_rerank_reranker().call_rerank(&mut *store, &convert::request(request)).await
}

/// Tells why a guest stopped. A refused memory is named even though it is its consequence that trapped.
fn fault(error: &wasmtime::Error, state: &State, limits: &RequestLimits) -> GuestFault {
    if error.is::<CpuTimeUsedUp>() {
        return GuestFault::CpuTime { limit: limits.max_guest_cpu };
    }
    if let Some(requested) = state.quota.refused_bytes {
        let (requested_bytes, limit_bytes) = (requested as u64, limits.max_memory_bytes as u64);
        return GuestFault::Memory { requested_bytes, limit_bytes };
    }
    GuestFault::Trapped(format!("{:#}", error.root_cause()))
}

fn timings(total: Duration, inference: &Inference) -> Timings {
    let device = inference.queue + inference.inference;
    Timings { guest: total.saturating_sub(device), queue: inference.queue, inference: inference.inference, total }
}
