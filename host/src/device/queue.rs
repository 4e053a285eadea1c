//! The queue's pure part: who is admitted, which rows make the next batch, and who gets which numbers. No threads and no
//! clock of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use assay_kernels::PackedBatch;
use tokio::sync::oneshot;

use super::deficit_round_robin::{DeficitRoundRobin, RequestId, Spent};
use super::scheduler::{Account, ScoreError, Scored};

/// Where a request's answer goes.
pub(super) type Reply = oneshot::Sender<Result<Scored, ScoreError>>;

/// One request's rows, from admission to its answer.
#[derive(Debug)]
pub(super) struct Job {
    tenant: Arc<str>,
    rows: PackedBatch,
    /// The first row that has not been put into a batch.
    next_row: usize,
    outputs: Vec<f32>,
    reply: Reply,
    /// After this its rows are not worth computing.
    deadline: Option<Instant>,
    /// When the oldest of its batches in flight was made; a request's batches may overlap on the device.
    on_device_since: Option<Instant>,
    batches_in_flight: usize,
    inference: Duration,
}

impl Job {
    fn waiting_tokens(&self) -> usize {
        self.rows.tokens() - self.rows.offsets()[self.next_row] as usize
    }

    fn next_row_tokens(&self) -> usize {
        if self.next_row < self.rows.rows() { self.rows.row(self.next_row).ids.len() } else { 0 }
    }
}

/// A request that asks to be admitted.
#[derive(Debug)]
pub(super) struct Arrival<'a> {
    pub(super) account: &'a Account,
    pub(super) rows: PackedBatch,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: Reply,
    pub(super) now: Instant,
    /// The engine's speed, for `retry_after`.
    pub(super) tokens_per_s: f64,
}

/// Rows that go to the device together, and whose they are.
#[derive(Debug)]
pub(super) struct BatchPlan {
    /// The rows.
    pub(super) batch: PackedBatch,
    /// Request and number of rows, in the order of the batch.
    parts: Vec<(RequestId, usize)>,
}

impl BatchPlan {
    /// Every request that has rows in the batch, once.
    fn requests(&self) -> Vec<RequestId> {
        let mut requests: Vec<RequestId> = self.parts.iter().map(|&(id, _)| id).collect();
        requests.sort_unstable();
        requests.dedup();
        requests
    }
}

/// Requests that wait or are on the device.
#[derive(Debug)]
pub(super) struct Queue {
    jobs: HashMap<RequestId, Job>,
    order: DeficitRoundRobin,
    next_id: RequestId,
    waiting_tokens: usize,
    /// By tenant; no entry where nothing waits.
    waiting_tokens_of: HashMap<Arc<str>, usize>,
    max_batch_tokens: usize,
    max_waiting_tokens: usize,
}

impl Queue {
    pub(super) fn new(max_batch_tokens: usize, max_waiting_tokens: usize) -> Self {
        Self {
            jobs: HashMap::new(),
            order: DeficitRoundRobin::default(),
            next_id: 0,
            waiting_tokens: 0,
            waiting_tokens_of: HashMap::new(),
            max_batch_tokens,
            max_waiting_tokens,
        }
    }

    /// Takes a request whole, or refuses it whole. The rows must not be empty.
    pub(super) fn admit(&mut self, arrival: Arrival<'_>) -> Result<RequestId, ScoreError> {
        let Arrival { account, rows, deadline, reply, now, tokens_per_s } = arrival;
        let tokens = rows.tokens();
        let allowed = self.max_waiting_tokens.min(account.max_queued_tokens);
        if tokens > allowed {
            return Err(ScoreError::TooLarge { requested: tokens as u64, allowed: allowed as u64 });
        }
        if self.excess(account, tokens) > 0 {
            // Requests whose callers are late or gone must not keep others out.
            self.drop_dead(now);
        }
        let excess = self.excess(account, tokens);
        if excess > 0 {
            let speed = tokens_per_s.max(1.0) * self.order.share(&account.tenant, account.weight);
            return Err(ScoreError::Overloaded {
                retry_after: Duration::from_secs_f64((excess as f64 / speed).clamp(0.001, 60.0)),
            });
        }
        let (id, tenant) = (self.next_id, Arc::clone(&account.tenant));
        self.next_id += 1;
        self.waiting_tokens += tokens;
        *self.waiting_tokens_of.entry(Arc::clone(&tenant)).or_default() += tokens;
        self.order.enter(&tenant, account.weight, id);
        let job = Job {
            tenant,
            rows,
            next_row: 0,
            outputs: Vec::new(),
            reply,
            deadline,
            on_device_since: None,
            batches_in_flight: 0,
            inference: Duration::ZERO,
        };
        self.jobs.insert(id, job);
        Ok(id)
    }

    /// Tokens that wait.
    pub(super) fn waiting_tokens(&self) -> usize {
        self.waiting_tokens
    }

    /// Tokens of a tenant's rows that wait.
    pub(super) fn waiting_tokens_of(&self, tenant: &str) -> usize {
        self.waiting_tokens_of.get(tenant).copied().unwrap_or(0)
    }

    /// Fills a batch up to the token budget, tenant by tenant; `None` where nothing waits.
    pub(super) fn next_batch(&mut self, now: Instant) -> Option<BatchPlan> {
        let mut plan = BatchPlan { batch: PackedBatch::default(), parts: Vec::new() };
        while let Some(id) = self.order.front(|id| self.jobs.get(&id).map_or(0, Job::next_row_tokens)) {
            let Some(job) = self.jobs.get_mut(&id) else { break };
            if job.reply.is_closed() {
                self.cancel(id);
                continue;
            }
            if job.deadline.is_some_and(|deadline| deadline <= now) {
                self.fail_job(id, &ScoreError::DeadlineExceeded);
                continue;
            }
            let row = job.rows.row(job.next_row);
            let tokens = row.ids.len();
            let fits = plan.batch.tokens() + tokens <= self.max_batch_tokens;
            // A row longer than the budget would never fit: it goes alone, and the engine says what is wrong.
            if !(fits || plan.batch.rows() == 0) || plan.batch.push(row).is_err() {
                break;
            }
            job.next_row += 1;
            match plan.parts.last_mut() {
                Some((last, rows)) if *last == id => *rows += 1,
                _ => plan.parts.push((id, 1)),
            }
            let spent = if job.next_row < job.rows.rows() { Spent::More } else { Spent::Last };
            let tenant = Arc::clone(&job.tenant);
            self.order.spend(tokens, spent);
            self.stop_waiting(&tenant, tokens);
        }
        for id in plan.requests() {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.batches_in_flight += 1;
                job.on_device_since.get_or_insert(now);
            }
        }
        (plan.batch.rows() > 0).then_some(plan)
    }

    /// Hands a batch's numbers to its requests, and answers those that are complete.
    pub(super) fn complete(&mut self, plan: &BatchPlan, outputs: &[f32], now: Instant) {
        let per_row = outputs.len() / plan.batch.rows().max(1);
        let mut rest = outputs;
        for &(id, rows) in &plan.parts {
            let (mine, others) = rest.split_at(rows * per_row);
            rest = others;
            // A request that failed or whose caller has gone is no longer here.
            let Some(job) = self.jobs.get_mut(&id) else { continue };
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

    /// Fails every request that has rows in the batch.
    pub(super) fn fail(&mut self, plan: &BatchPlan, error: &ScoreError) {
        for &(id, _) in &plan.parts {
            self.fail_job(id, error);
        }
    }

    pub(super) fn fail_all(&mut self, error: &ScoreError) {
        let ids: Vec<RequestId> = self.jobs.keys().copied().collect();
        for id in ids {
            self.fail_job(id, error);
        }
    }

    /// Forgets a request whose caller has gone. What is on the device of it is computed, and dropped then.
    pub(super) fn cancel(&mut self, id: RequestId) {
        drop(self.remove(id));
    }

    /// How many tokens too many would wait if `tokens` were admitted.
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
            // The caller may have gone; there is nobody left to tell then.
            let _ = job.reply.send(Err(error.clone()));
        }
    }

    fn answer(&mut self, id: RequestId) {
        if let Some(job) = self.remove(id) {
            // The caller may have gone; there is nobody left to tell then.
            let _ = job.reply.send(Ok(Scored { outputs: job.outputs, inference: job.inference }));
        }
    }

    fn remove(&mut self, id: RequestId) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        let waiting = job.waiting_tokens();
        if waiting > 0 {
            self.order.leave(&job.tenant, id);
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

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
