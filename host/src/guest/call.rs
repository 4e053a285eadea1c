//! One request: finds an instance for it, calls it, and says what it cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::contract::GuestPre;
use super::convert;
use super::cpu_time::CpuMeter;
use super::idle::IdleInstances;
use super::inference::{Budget, Purpose, Used};
use super::instance::{Cost, Instance, Start, StoreData, Terms, time_left};
use super::link::{CallTerms, Links};
use super::meter::CallMeter;
use super::models::Models;
use super::pool::{Place, Pool};
use super::reading::Starts;
use super::threads::{GuestThreads, Unfinished};
use super::turns::CpuShare;
use crate::device::Account;
use crate::limits::{AdmittedRequest, MAX_CHAIN_DEPTH, RequestLimits, TokenRate};
use crate::model::ModelInfo;
use crate::rerank::{Request, RerankError, Response, SETTING_LABEL, SETTING_TRUNCATION_DIRECTION, Timings};

/// Prepared instances kept for a guest without a snapshot: enough that two requests at once do not wait for `prepare`.
const WARM_INSTANCES: usize = 2;

/// A request and everything that it runs under.
#[derive(Debug, Clone)]
pub struct Call {
    /// The request, and what the guest may use for it.
    pub request: AdmittedRequest,
    /// When it arrived: its wall-clock time counts from then.
    pub arrived: Instant,
    /// The models that the guest may open.
    pub models: Models,
    /// The tenants behind its imports.
    pub links: Links,
    /// Who it is for.
    pub payer: Payer,
    /// What its caller leaves it, and what counts its cost.
    pub terms: CallTerms,
}

/// The tenant that a request is charged to, with its shares and limits.
#[derive(Debug, Clone)]
pub struct Payer {
    /// On the device.
    pub account: Account,
    /// Of the processor time of guests.
    pub cpu: Arc<CpuShare>,
    /// Most memory of all its instances together.
    pub max_guest_memory_bytes: u64,
    /// Its tokens per second; unlimited if absent.
    pub rate: Option<Arc<TokenRate>>,
}

impl Default for Payer {
    /// No tenant in particular: a default share, and no limits.
    fn default() -> Self {
        let account = Account::default();
        let cpu = CpuShare::unlimited(&account.tenant, account.weight);
        Self { account, cpu: Arc::new(cpu), max_guest_memory_bytes: u64::MAX, rate: None }
    }
}

impl Payer {
    /// A tenant with this account on the device, a share of the processor by the same weight, and no limits.
    #[must_use]
    pub fn of(account: Account) -> Self {
        let cpu = CpuShare::unlimited(&account.tenant, account.weight);
        Self { account, cpu: Arc::new(cpu), ..Self::default() }
    }
}

/// A guest that is compiled and linked.
pub(super) struct Program {
    /// Its number among the idle instances.
    id: u64,
    pre: GuestPre<StoreData>,
    /// The labels of its imports of `reranker`.
    pub(super) labels: Vec<Option<String>>,
    pub(super) start: Start,
    pub(super) shared: Shared,
    max_prepare_cpu: Duration,
    is_warming_up: AtomicBool,
}

/// What all guests of a runtime share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) pool: Arc<Pool>,
    pub(super) idle: Arc<IdleInstances>,
    pub(super) threads: Arc<GuestThreads>,
    /// Room for the host's own work on the threads, which does not yield: one thread is always left to guests, if there
    /// are two.
    pub(super) work: Arc<Semaphore>,
    pub(super) starts: Arc<Starts>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("id", &self.id).field("start", &self.start).finish_non_exhaustive()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.shared.idle.forget(self.id);
    }
}

/// The request as the default model's settings have it: with its prompt, cut at the side that it is used with, and by a
/// label's number where the request has its name. A model that was added with a label computes that one alone: the
/// guest gets no label then.
///
/// # Errors
/// The request names another label than the one that was chosen.
fn with_defaults(mut request: Request, info: &ModelInfo) -> Result<Request, RerankError> {
    let mut settings = Vec::with_capacity(request.settings.len());
    for (name, value) in std::mem::take(&mut request.settings) {
        match if name == SETTING_LABEL { info.label_setting(&value) } else { Ok(Some(value.clone())) } {
            Ok(Some(value)) => settings.push((name, value)),
            Ok(None) => {}
            Err(why) if info.label.is_some() => {
                return Err(RerankError::InvalidInput(format!("setting {SETTING_LABEL}: {why}")));
            }
            // A guest may have labels of its own; the standard one refuses this.
            Err(_) => settings.push((name, value)),
        }
    }
    request.settings = settings;
    if let Some(prompt) = &info.prompt {
        request.query.insert_str(0, prompt);
    }
    if info.is_cut_left && !request.settings.iter().any(|(name, _)| name == SETTING_TRUNCATION_DIRECTION) {
        request.settings.push((SETTING_TRUNCATION_DIRECTION.to_owned(), "left".to_owned()));
    }
    Ok(request)
}

impl Program {
    pub(super) fn new(
        pre: GuestPre<StoreData>,
        labels: Vec<Option<String>>,
        start: Start,
        shared: Shared,
        max_prepare_cpu: Duration,
    ) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { id, pre, labels, start, shared, max_prepare_cpu, is_warming_up: AtomicBool::new(false) }
    }

    /// Runs one request on the guests' threads. Dropping the future stops the guest at its next epoch tick and takes its
    /// rows out of the queue.
    pub(super) async fn rerank(self: &Arc<Self>, call: Call) -> Result<Response, RerankError> {
        let (cpu, meter, program) = (Arc::clone(&call.payer.cpu), Arc::clone(call.terms.meter.cpu()), Arc::clone(self));
        let running = {
            let meter = Arc::clone(&meter);
            self.shared.threads.run(cpu, Arc::clone(&meter), async move { program.rerank_here(call, meter).await })
        };
        running.await.unwrap_or_else(|error| Err(unfinished(&error)))
    }

    /// Starts an instance on the guests' threads and drops it.
    pub(super) async fn start_one(
        self: &Arc<Self>,
        info: Arc<ModelInfo>,
        payer: Payer,
        limits: RequestLimits,
    ) -> Result<(), RerankError> {
        let (share, cpu, program) = (Arc::clone(&payer.cpu), Arc::<CpuMeter>::default(), Arc::clone(self));
        let running = self.shared.threads.run(share, Arc::clone(&cpu), async move {
            let (purpose, depth) = (Purpose::Prepare(Arc::clone(&info)), 0);
            let late = RerankError::DeadlineExceeded { limit: limits.max_wall };
            let context = Context { payer, limits: &limits, cpu, depth, is_trial: true };
            let started = tokio::time::timeout(limits.max_wall, program.fresh(&info, purpose, &context)).await;
            started.map_err(|_| late)?.map(drop)
        });
        running.await.unwrap_or_else(|error| Err(unfinished(&error)))
    }

    async fn rerank_here(self: &Arc<Self>, call: Call, cpu: Arc<CpuMeter>) -> Result<Response, RerankError> {
        let Call { request, arrived, models, links, payer, terms } = call;
        let CallTerms { depth, deadline, max_tokens, max_cpu, meter, span, is_trial } = terms;
        let (request, limits) = request.into_parts();
        let own_deadline = arrived + limits.max_wall;
        let deadline = deadline.map_or(own_deadline, |callers| callers.min(own_deadline));
        let budget = Budget {
            models,
            links,
            depth,
            account: payer.account.clone(),
            rate: payer.rate.clone(),
            meter: Arc::clone(&meter),
            deadline,
            max_rows: limits.max_request_rows,
            max_tokens: max_tokens.map_or(limits.max_request_tokens, |left| left.min(limits.max_request_tokens)),
            max_cpu,
            span,
        };
        let late = RerankError::DeadlineExceeded { limit: limits.max_wall };
        let context = Context { payer, limits: &limits, cpu, depth, is_trial };
        let answer = self.answer(request, budget, &context, &meter);
        let answered = tokio::time::timeout(time_left(deadline), answer).await;
        let (mut response, used) = answered.map_err(|_| late)??;
        let (total, device) = (arrived.elapsed(), used.queue + used.inference);
        let guest = total.saturating_sub(device);
        response.timings = Timings { guest, queue: used.queue, inference: used.inference, total };
        Ok(response)
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request,
        budget: Budget,
        context: &Context<'_>,
        meter: &CallMeter,
    ) -> Result<(Response, Used), RerankError> {
        let limits = context.limits;
        let info = Arc::clone(budget.models.default.info());
        let request = with_defaults(request, &info)?;
        let mut instance = self.instance(&info, Purpose::Request(Box::new(budget)), context).await?;
        let (documents, top_n) = (request.documents.len(), request.top_n);
        let answer = instance.rerank(request).await;
        let state = instance.store.data();
        let used = state.inference.used.clone();
        let Cost { memory_bytes, .. } = state.cost();
        meter.set_memory(memory_bytes as u64);
        // An instance that trapped is dropped here, with its store.
        let answer = answer.map_err(|error| state.fault(&error, limits))?;
        self.keep(instance, context);
        match answer {
            Ok(answer) => Ok((convert::response(&answer, documents, top_n)?, used)),
            Err(error) => Err(convert::error(error, limits, used)),
        }
    }

    async fn instance(
        self: &Arc<Self>,
        info: &Arc<ModelInfo>,
        purpose: Purpose,
        context: &Context<'_>,
    ) -> Result<Instance, RerankError> {
        let starts = &self.shared.starts;
        let instance = match (self.idle_for(context.limits, context.depth), self.start) {
            (Some(mut instance), _) => {
                Starts::count(if instance.served > 0 { &starts.reused } else { &starts.warm });
                instance.begin(context.terms(purpose), context.payer.max_guest_memory_bytes);
                instance
            }
            (None, start) => {
                Starts::count(if start == Start::Snapshotted { &starts.snapshotted } else { &starts.prepared });
                self.fresh(info, purpose, context).await?
            }
        };
        if self.start == Start::Prepare {
            self.warm_up(info, context);
        }
        Ok(instance)
    }

    /// A fresh instance that can serve a request.
    async fn fresh(
        &self,
        info: &Arc<ModelInfo>,
        purpose: Purpose,
        context: &Context<'_>,
    ) -> Result<Instance, RerankError> {
        let (tenant, most_memory) = (&context.payer.cpu.tenant, context.payer.max_guest_memory_bytes);
        let place = self.shared.pool.place(tenant, context.depth).await?;
        match self.start {
            Start::Snapshotted => {
                let memory = self.shared.pool.memory(tenant, most_memory);
                Instance::open(&self.pre, context.terms(purpose), place, memory).await
            }
            Start::Prepare => {
                let mut instance = self.prepare(info, context, place).await?;
                instance.begin(context.terms(purpose), most_memory);
                Ok(instance)
            }
        }
    }

    /// An idle instance that may serve another request. Drops those that have served too many, which happens after the
    /// tenant's limit was lowered.
    fn idle_for(&self, limits: &RequestLimits, depth: usize) -> Option<Instance> {
        while let Some(instance) = self.shared.idle.take(self.id, depth) {
            if instance.served < limits.max_requests_per_instance {
                return Some(instance);
            }
        }
        None
    }

    /// Prepares an instance. `prepare` has its own limit of processor time: no request's limit pays for it, but the
    /// tenant's share does.
    async fn prepare(
        &self,
        info: &Arc<ModelInfo>,
        context: &Context<'_>,
        place: Place,
    ) -> Result<Instance, RerankError> {
        let limits = RequestLimits { max_guest_cpu: self.max_prepare_cpu, ..context.limits.clone() };
        let memory = self.shared.pool.memory(&context.payer.cpu.tenant, context.payer.max_guest_memory_bytes);
        let purpose = Purpose::Prepare(Arc::clone(info));
        let terms = Terms { limits: &limits, ..context.terms(purpose) };
        Instance::prepare(&self.pre, terms, place, memory).await
    }

    /// Prepares instances for the next requests in the background, up to [`WARM_INSTANCES`].
    fn warm_up(self: &Arc<Self>, info: &Arc<ModelInfo>, context: &Context<'_>) {
        if self.is_warming_up.swap(true, Ordering::Relaxed) {
            return;
        }
        let (program, info, limits) = (Arc::clone(self), Arc::clone(info), context.limits.clone());
        let depth = context.depth;
        let (payer, meter) = (context.payer.clone(), Arc::<CpuMeter>::default());
        let cpu = Arc::clone(&payer.cpu);
        self.shared.threads.detach(cpu, Arc::clone(&meter), async move {
            let context = Context { payer, limits: &limits, cpu: meter, depth, is_trial: false };
            // A failure is not reported: the next request meets it too, and reports it.
            while program.shared.idle.count(program.id, depth) < WARM_INSTANCES
                && program.warm_one(&info, &context).await.is_some()
            {}
            program.is_warming_up.store(false, Ordering::Relaxed);
        });
    }

    async fn warm_one(&self, info: &Arc<ModelInfo>, context: &Context<'_>) -> Option<()> {
        let tenant = &context.payer.cpu.tenant;
        let place = self.shared.pool.try_place(tenant, context.depth)?;
        let prepared = self.prepare(info, context, place);
        let instance = tokio::time::timeout(context.limits.max_wall, prepared).await.ok()?.ok()?;
        self.shared.idle.keep(self.id, tenant, instance);
        Some(())
    }

    pub(super) fn idle_count(&self) -> usize {
        self.shared.idle.count(self.id, MAX_CHAIN_DEPTH)
    }

    /// Keeps an instance for the next request if its tenant allows that and it has no model open.
    fn keep(&self, mut instance: Instance, context: &Context<'_>) {
        instance.served += 1;
        let may_serve = instance.served < context.limits.max_requests_per_instance;
        if may_serve && instance.store.data().inference.open_models() == 0 {
            self.shared.idle.keep(self.id, &context.payer.cpu.tenant, instance);
        } else {
            // Freeing an instance's memory takes longer than making it, and no answer should wait for that.
            let cpu = Arc::clone(&context.payer.cpu);
            self.shared.threads.detach(cpu, Arc::default(), async move { drop(instance) });
        }
    }
}

fn unfinished(error: &Unfinished) -> RerankError {
    RerankError::Internal(format!("running the guest: {error}"))
}

/// What every instance of a request runs under.
#[derive(Debug)]
struct Context<'a> {
    payer: Payer,
    limits: &'a RequestLimits,
    cpu: Arc<CpuMeter>,
    /// Links that led to the request.
    depth: usize,
    /// Whether the host tries the guest with texts of its own.
    is_trial: bool,
}

impl Context<'_> {
    fn terms(&self, purpose: Purpose) -> Terms<'_> {
        Terms { purpose, limits: self.limits, meter: Arc::clone(&self.cpu), is_trial: self.is_trial }
    }
}
