//! The queue's logic: admission, the rows of the next batch, their charges, and delivery of results. No threads and no
//! clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use assay_kernels::{CheckedBatch, Engine, EngineError, RowShape};
use tokio::sync::oneshot;

use super::fair_queueing::{FairQueueing, Lead, ModelId, RequestId, Spent};
use super::score::{Account, DeviceFault, ScoreError, Scored};
use super::spans::{BatchSpan, Visit};
use super::speed::Speed;

/// Most device time of a batch, by estimate. It bounds how long a short request waits behind a batch of a costlier
/// model. Four times as long as a full batch of MiniLM-L6 on two processor cores. A single row may take longer.
const MAX_BATCH_S: f64 = 0.25;

/// Channel for a request's result.
pub(super) type Reply = oneshot::Sender<Result<Scored, ScoreError>>;

/// The queue's view of a model.
#[derive(Debug, Clone)]
pub(super) struct ModelCosts {
    /// The rows that it takes.
    pub(super) shape: RowShape,
    /// Most tokens in one batch.
    pub(super) max_batch_tokens: usize,
    /// Floating-point operations of a row, indexed by its tokens; one more entry than the longest row has tokens.
    pub(super) row_flops: Arc<[u64]>,
}

/// A model in the queue.
#[derive(Debug)]
struct QueuedModel {
    costs: ModelCosts,
    speed: Speed,
}

/// One request's rows, from admission to its answer.
#[derive(Debug)]
pub(super) struct Job {
    tenant: Arc<str>,
    model: ModelId,
    rows: CheckedBatch,
    /// When it was admitted.
    since: Instant,
    /// The first row not yet in a batch.
    next_row: usize,
    outputs: Vec<f32>,
    reply: Reply,
    /// Rows that have not started by then are dropped.
    deadline: Option<Instant>,
    /// When its oldest batch in flight was made; a request's batches may overlap on the device.
    on_device_since: Option<Instant>,
    batches_in_flight: usize,
    inference: Duration,
    /// For its spans, if it is sampled.
    visit: Option<Arc<Visit>>,
}

/// A request to admit.
#[derive(Debug)]
pub(super) struct Arrival<'a> {
    pub(super) account: &'a Account,
    pub(super) model: ModelId,
    pub(super) rows: CheckedBatch,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: Reply,
    pub(super) now: Instant,
    /// For the request's spans, if it is sampled.
    pub(super) visit: Option<Arc<Visit>>,
}

/// A batch of one model's rows, and the requests they belong to.
#[derive(Debug)]
pub(super) struct BatchPlan {
    /// The model.
    pub(super) model: ModelId,
    /// The rows.
    pub(super) batch: CheckedBatch,
    /// The requests of the rows, in batch order.
    parts: Vec<Part>,
    /// The rows' charges.
    charged_s: f64,
    flops: u64,
    /// Its span, if a request with rows in it is sampled.
    pub(super) span: Option<BatchSpan>,
}

/// Consecutive rows of one request in a batch.
#[derive(Debug)]
struct Part {
    request: RequestId,
    tenant: Arc<str>,
    rows: usize,
    flops: u64,
}

/// Requests waiting or on the device.
#[derive(Debug)]
pub(super) struct Queue {
    models: HashMap<ModelId, QueuedModel>,
    /// Speed over all models: the first estimate for a new model.
    speed: Speed,
    next_model: u64,
    jobs: HashMap<RequestId, Job>,
    turns: FairQueueing,
    next_request: RequestId,
    waiting_tokens: usize,
    /// Waiting tokens by tenant; no entry for zero.
    waiting_tokens_of: HashMap<Arc<str>, usize>,
    max_waiting_tokens: usize,
}

/// Floating-point operations of an engine's rows, indexed by their tokens.
pub(super) fn row_flops(engine: &dyn Engine) -> Arc<[u64]> {
    (0..=engine.shape().max_tokens).map(|tokens| engine.row_flops(tokens)).collect()
}

impl Job {
    fn waiting_tokens(&self) -> usize {
        self.rows.tokens() - self.rows.offsets()[self.next_row] as usize
    }
}

impl ModelCosts {
    /// Floating-point operations of a row of `tokens` tokens.
    pub(super) fn flops(&self, tokens: usize) -> u64 {
        // Rows are no longer than the model takes, so there is an entry.
        self.row_flops.get(tokens).or(self.row_flops.last()).copied().unwrap_or(0)
    }

    /// Estimated device time of the largest batch.
    fn full_batch_s(&self, speed: &Speed) -> f64 {
        let longest = self.row_flops.len().saturating_sub(1).max(1);
        let flops_per_token = self.flops(longest) as f64 / longest as f64;
        speed.seconds(flops_per_token * self.max_batch_tokens as f64).min(MAX_BATCH_S)
    }
}

impl BatchPlan {
    fn new(model: ModelId, shape: &RowShape) -> Self {
        let batch = CheckedBatch::with_capacity(shape, 0, 0);
        Self { model, batch, parts: Vec::new(), charged_s: 0.0, flops: 0, span: None }
    }

    /// Records the request of a row in the batch.
    fn add(&mut self, request: RequestId, tenant: Arc<str>, flops: u64, row_s: f64) {
        self.charged_s += row_s;
        self.flops += flops;
        match self.parts.last_mut() {
            Some(last) if last.request == request => {
                last.rows += 1;
                last.flops += flops;
            }
            _ => self.parts.push(Part { request, tenant, rows: 1, flops }),
        }
    }

    /// Every request with rows in the batch, once.
    fn requests(&self) -> Vec<RequestId> {
        let mut requests: Vec<RequestId> = self.parts.iter().map(|part| part.request).collect();
        requests.sort_unstable();
        requests.dedup();
        requests
    }

    /// Tokens of the longest row.
    pub(super) fn longest_row(&self) -> u64 {
        self.batch.iter().map(|row| row.ids.len()).max().unwrap_or(0) as u64
    }

    /// Number of tenants with rows in the batch.
    pub(super) fn tenants(&self) -> usize {
        let mut tenants: Vec<&str> = self.parts.iter().map(|part| &*part.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        tenants.len()
    }

    /// Each tenant's share of the batch's work, between 0 and 1; a tenant may appear several times.
    pub(super) fn shares(&self) -> impl Iterator<Item = (&Arc<str>, f64)> {
        let all = self.flops.max(1) as f64;
        self.parts.iter().map(move |part| (&part.tenant, part.flops as f64 / all))
    }
}

impl Queue {
    pub(super) fn new(max_waiting_tokens: usize) -> Self {
        Self {
            models: HashMap::new(),
            speed: Speed::default(),
            next_model: 0,
            jobs: HashMap::new(),
            turns: FairQueueing::default(),
            next_request: 0,
            waiting_tokens: 0,
            waiting_tokens_of: HashMap::new(),
            max_waiting_tokens,
        }
    }

    /// Adds a model.
    pub(super) fn add_model(&mut self, costs: ModelCosts) -> ModelId {
        let id = ModelId(self.next_model);
        self.next_model += 1;
        self.models.insert(id, QueuedModel { costs, speed: self.speed.estimate() });
        id
    }

    /// Removes a model and fails its requests.
    pub(super) fn remove_model(&mut self, model: ModelId) {
        self.models.remove(&model);
        // A job whose last rows are in flight is answered when they return.
        let waiting = self.jobs.iter().filter(|(_, job)| job.model == model && job.waiting_tokens() > 0);
        for id in waiting.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.fail_job(id, &ScoreError::Device(DeviceFault::Unloaded));
        }
    }

    /// Admits or refuses a whole request. The rows must not be empty.
    pub(super) fn admit(&mut self, arrival: Arrival<'_>) -> Result<RequestId, ScoreError> {
        let Arrival { account, model, rows, deadline, reply, now, visit } = arrival;
        let Some(queued) = self.models.get(&model) else { return Err(ScoreError::Device(DeviceFault::Unloaded)) };
        if *rows.shape() != queued.costs.shape {
            let (found, expected) = (*rows.shape(), queued.costs.shape);
            return Err(DeviceFault::Engine(Arc::new(EngineError::OtherShape { found, expected })).into());
        }
        let tokens = rows.tokens();
        let allowed = self.max_waiting_tokens.min(account.max_queued_tokens);
        if tokens > allowed {
            return Err(ScoreError::TooLarge { requested: tokens as u64, allowed: allowed as u64 });
        }
        let seconds = queued.speed.seconds(rows.iter().map(|row| queued.costs.flops(row.ids.len()) as f64).sum());
        if self.excess(account, tokens) > 0 {
            // Late or abandoned requests must not block others.
            self.drop_dead(now);
        }
        let excess = self.excess(account, tokens);
        if excess > 0 {
            // Estimates the waiting tokens as if they were rows like these.
            let wait_s = excess as f64 * seconds / tokens as f64 / self.turns.share(&account.tenant, account.weight);
            return Err(ScoreError::Overloaded { retry_after: Duration::from_secs_f64(wait_s.clamp(0.001, 60.0)) });
        }
        let (id, tenant) = (self.next_request, Arc::clone(&account.tenant));
        self.next_request += 1;
        self.waiting_tokens += tokens;
        *self.waiting_tokens_of.entry(Arc::clone(&tenant)).or_default() += tokens;
        self.turns.enter(&tenant, account.weight, model, id);
        let job = Job {
            tenant,
            model,
            rows,
            since: now,
            next_row: 0,
            outputs: Vec::new(),
            reply,
            deadline,
            on_device_since: None,
            batches_in_flight: 0,
            inference: Duration::ZERO,
            visit,
        };
        self.jobs.insert(id, job);
        Ok(id)
    }

    /// Requests with rows that wait, and since when the oldest has waited.
    pub(super) fn waiting_requests(&self) -> (usize, Option<Instant>) {
        let waiting = self.jobs.values().filter(|job| job.next_row < job.rows.rows());
        waiting.fold((0, None), |(count, oldest), job| {
            (count + 1, Some(oldest.map_or(job.since, |oldest: Instant| oldest.min(job.since))))
        })
    }

    /// Waiting tokens.
    pub(super) fn waiting_tokens(&self) -> usize {
        self.waiting_tokens
    }

    /// Waiting tokens of a tenant's rows.
    pub(super) fn waiting_tokens_of(&self, tenant: &str) -> usize {
        self.waiting_tokens_of.get(tenant).copied().unwrap_or(0)
    }

    /// Fills a batch of one model up to its token budget, tenant by tenant; `None` if nothing waits.
    pub(super) fn next_batch(&mut self, now: Instant) -> Option<BatchPlan> {
        while let Some(lead) = self.turns.lead() {
            let mut plan = self.pack(lead, now)?;
            if plan.batch.rows() > 0 {
                self.note_on_device(&mut plan, now);
                return Some(plan);
            }
            // All requests for the model were late or abandoned and have been removed.
        }
        None
    }

    fn pack(&mut self, lead: Lead, now: Instant) -> Option<BatchPlan> {
        let QueuedModel { costs, speed } = self.models.get(&lead.model)?;
        let (costs, speed) = (costs.clone(), *speed);
        let mut plan = BatchPlan::new(lead.model, &costs.shape);
        let mut filling = self.turns.fill(lead, costs.full_batch_s(&speed));
        while let Some(id) = self.turns.next(&mut filling) {
            let job = self.jobs.get_mut(&id)?;
            if job.reply.is_closed() {
                self.cancel(id);
                continue;
            }
            if job.deadline.is_some_and(|deadline| deadline <= now) {
                self.fail_job(id, &ScoreError::DeadlineExceeded);
                continue;
            }
            let tokens = job.rows.row(job.next_row).ids.len();
            let flops = costs.flops(tokens);
            let row_s = speed.seconds(flops as f64);
            let fits = plan.batch.tokens() + tokens <= costs.max_batch_tokens && plan.charged_s + row_s <= MAX_BATCH_S;
            // A row larger than a batch would never fit, so it goes alone.
            if !(fits || plan.batch.rows() == 0)
                || plan.batch.append(&job.rows, job.next_row..job.next_row + 1).is_err()
            {
                break;
            }
            job.next_row += 1;
            let spent = if job.next_row < job.rows.rows() { Spent::More } else { Spent::Last };
            let tenant = Arc::clone(&job.tenant);
            self.turns.charge(&mut filling, tokens, row_s, spent);
            self.stop_waiting(&tenant, tokens);
            plan.add(id, tenant, flops, row_s);
        }
        Some(plan)
    }

    fn note_on_device(&mut self, plan: &mut BatchPlan, now: Instant) {
        for id in plan.requests() {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.batches_in_flight += 1;
                job.on_device_since.get_or_insert(now);
                if let Some(visit) = &job.visit {
                    BatchSpan::add(&mut plan.span, visit, now);
                }
            }
        }
    }

    /// Delivers a batch's numbers to its requests, answers complete requests, and replaces their tenants' estimated
    /// charges with the actual time.
    pub(super) fn complete(&mut self, plan: &BatchPlan, outputs: &[f32], took: Duration, now: Instant) {
        self.settle(plan, took);
        let per_row = outputs.len() / plan.batch.rows().max(1);
        let mut rest = outputs;
        for part in &plan.parts {
            let (mine, others) = rest.split_at(part.rows * per_row);
            rest = others;
            // A failed or abandoned request is no longer here.
            let Some(job) = self.jobs.get_mut(&part.request) else { continue };
            job.outputs.extend_from_slice(mine);
        }
        for id in plan.requests() {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.batches_in_flight -= 1;
            if let Some(since) = job.on_device_since.take() {
                job.inference += now - since;
            }
            if job.batches_in_flight > 0 {
                job.on_device_since = Some(now);
            } else if job.next_row == job.rows.rows() {
                self.answer(id);
            }
        }
    }

    fn settle(&mut self, plan: &BatchPlan, took: Duration) {
        let Some(queued) = self.models.get_mut(&plan.model) else { return };
        let took_s = queued.speed.plausible(plan.flops as f64, took.as_secs_f64());
        queued.speed.learn(plan.flops as f64, took.as_secs_f64());
        self.speed.learn(plan.flops as f64, took.as_secs_f64());
        for (tenant, share) in plan.shares() {
            self.turns.correct(tenant, share * (took_s - plan.charged_s));
        }
    }

    /// Fails every request with rows in the batch.
    pub(super) fn fail(&mut self, plan: &BatchPlan, error: &ScoreError) {
        for part in &plan.parts {
            self.fail_job(part.request, error);
        }
    }

    pub(super) fn fail_all(&mut self, error: &ScoreError) {
        let ids: Vec<RequestId> = self.jobs.keys().copied().collect();
        for id in ids {
            self.fail_job(id, error);
        }
    }

    /// Removes an abandoned request. Its rows on the device are still computed, then dropped.
    pub(super) fn cancel(&mut self, id: RequestId) {
        drop(self.remove(id));
    }

    /// Tokens over the limit if `tokens` more were admitted.
    fn excess(&self, account: &Account, tokens: usize) -> usize {
        let all = (self.waiting_tokens + tokens).saturating_sub(self.max_waiting_tokens);
        let own = self.waiting_tokens_of(&account.tenant) + tokens;
        all.max(own.saturating_sub(account.max_queued_tokens))
    }

    fn drop_dead(&mut self, now: Instant) {
        let late = |job: &Job| job.deadline.is_some_and(|deadline| deadline <= now);
        let dead = self.jobs.iter().filter(|(_, job)| job.reply.is_closed() || late(job));
        let dead: Vec<RequestId> = dead.map(|(&id, _)| id).collect();
        for id in dead {
            self.fail_job(id, &ScoreError::DeadlineExceeded);
        }
    }

    fn fail_job(&mut self, id: RequestId, error: &ScoreError) {
        if let Some(job) = self.remove(id) {
            // The caller may have gone.
            let _ = job.reply.send(Err(error.clone()));
        }
    }

    fn answer(&mut self, id: RequestId) {
        if let Some(job) = self.remove(id) {
            // The caller may have gone.
            let _ = job.reply.send(Ok(Scored { outputs: job.outputs, inference: job.inference }));
        }
    }

    fn remove(&mut self, id: RequestId) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        let waiting = job.waiting_tokens();
        if waiting > 0 {
            self.turns.leave(&job.tenant, job.model, id);
            self.stop_waiting(&job.tenant, waiting);
        }
        Some(job)
    }

    fn stop_waiting(&mut self, tenant: &Arc<str>, tokens: usize) {
        self.waiting_tokens -= tokens;
        if let Some(waiting) = self.waiting_tokens_of.get_mut(tenant) {
            *waiting -= tokens;
            if *waiting == 0 {
                self.waiting_tokens_of.remove(tenant);
            }
        }
    }
}

/// A plan with one row per pair: the tenant and the row's floating-point operations.
#[cfg(test)]
pub(super) fn plan_of(model: ModelId, parts: &[(&str, u64)]) -> BatchPlan {
    let shape = RowShape { vocab_size: 1, max_tokens: 1, token_types: assay_kernels::TokenTypes::None, outputs: 1 };
    let mut plan = BatchPlan::new(model, &shape);
    for (request, &(tenant, flops)) in parts.iter().enumerate() {
        plan.add(request as RequestId, tenant.into(), flops, 0.0);
    }
    plan
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
