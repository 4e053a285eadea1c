//! The queue's pure part: which rows make the next batch, and who gets which numbers. No threads and no clocks of its
//! own.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use assay_kernels::PackedBatch;
use tokio::sync::oneshot;

use super::{ScoreError, Scored};

/// One request's rows, from admission to its answer.
#[derive(Debug)]
pub(super) struct Job {
    rows: PackedBatch,
    /// The first row that has not been put into a batch.
    next_row: usize,
    outputs: Vec<f32>,
    reply: oneshot::Sender<Result<Scored, ScoreError>>,
    admitted: Instant,
    /// When the oldest of its batches in flight was made; a request's batches may overlap on the device.
    on_device_since: Option<Instant>,
    batches_in_flight: usize,
    inference: Duration,
}

impl Job {
    pub(super) fn new(rows: PackedBatch, reply: oneshot::Sender<Result<Scored, ScoreError>>) -> Self {
        Self {
            rows,
            next_row: 0,
            outputs: Vec::new(),
            reply,
            admitted: Instant::now(),
            on_device_since: None,
            batches_in_flight: 0,
            inference: Duration::ZERO,
        }
    }

    fn waiting_tokens(&self) -> usize {
        self.rows.tokens() - self.rows.offsets()[self.next_row] as usize
    }
}

/// Rows that go to the device together, and whose they are.
#[derive(Debug)]
pub(super) struct BatchPlan {
    /// The rows.
    pub(super) batch: PackedBatch,
    /// Job and number of rows, in the order of the batch.
    parts: Vec<(u64, usize)>,
}

/// Requests in the order of their arrival.
#[derive(Debug)]
pub(super) struct Queue {
    jobs: HashMap<u64, Job>,
    /// Jobs with rows that wait, oldest first.
    waiting: VecDeque<u64>,
    next_job: u64,
    waiting_tokens: usize,
    max_batch_tokens: usize,
    max_waiting_tokens: usize,
}

impl Queue {
    pub(super) fn new(max_batch_tokens: usize, max_waiting_tokens: usize) -> Self {
        let (jobs, waiting) = (HashMap::new(), VecDeque::new());
        Self { jobs, waiting, next_job: 0, waiting_tokens: 0, max_batch_tokens, max_waiting_tokens }
    }

    /// Tokens that wait.
    pub(super) fn waiting_tokens(&self) -> usize {
        self.waiting_tokens
    }

    /// Takes a request whole, or refuses it whole.
    pub(super) fn admit(&mut self, job: Job, tokens_per_s: f64) -> Result<(), ScoreError> {
        let tokens = job.rows.tokens();
        if tokens > self.max_waiting_tokens {
            let (requested, allowed) = (tokens as u64, self.max_waiting_tokens as u64);
            return Err(ScoreError::TooLarge { requested, allowed });
        }
        let excess = (self.waiting_tokens + tokens).saturating_sub(self.max_waiting_tokens);
        if excess > 0 {
            let retry_after = Duration::from_secs_f64((excess as f64 / tokens_per_s.max(1.0)).clamp(0.001, 60.0));
            return Err(ScoreError::Overloaded { retry_after });
        }
        self.waiting_tokens += tokens;
        self.waiting.push_back(self.next_job);
        self.jobs.insert(self.next_job, job);
        self.next_job += 1;
        Ok(())
    }

    /// Fills a batch from the oldest requests on, up to the token budget; `None` where nothing waits.
    pub(super) fn next_batch(&mut self, now: Instant) -> Option<BatchPlan> {
        let mut plan = BatchPlan { batch: PackedBatch::default(), parts: Vec::new() };
        while let Some(&id) = self.waiting.front() {
            let Some(job) = self.jobs.get_mut(&id) else {
                self.waiting.pop_front();
                continue;
            };
            if job.reply.is_closed() {
                self.drop_waiting_rows(id);
                continue;
            }
            let mut taken = 0;
            while job.next_row < job.rows.rows() {
                let row = job.rows.row(job.next_row);
                let fits = plan.batch.tokens() + row.ids.len() <= self.max_batch_tokens;
                // A row longer than the budget would never fit: it goes alone, and the engine says what is wrong.
                if !(fits || plan.batch.rows() == 0) || plan.batch.push(row).is_err() {
                    break;
                }
                self.waiting_tokens -= row.ids.len();
                job.next_row += 1;
                taken += 1;
            }
            if taken > 0 {
                plan.parts.push((id, taken));
                job.batches_in_flight += 1;
                job.on_device_since.get_or_insert(now);
            }
            if job.next_row < job.rows.rows() {
                break;
            }
            self.waiting.pop_front();
        }
        (plan.batch.rows() > 0).then_some(plan)
    }

    /// Hands a batch's numbers to its requests, and answers those that are complete.
    pub(super) fn complete(&mut self, plan: BatchPlan, outputs: &[f32], now: Instant) {
        let per_row = outputs.len() / plan.batch.rows();
        let mut rest = outputs;
        for (id, rows) in plan.parts {
            let (mine, others) = rest.split_at(rows * per_row);
            rest = others;
            // A request that failed or whose caller has gone is no longer here.
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.outputs.extend_from_slice(mine);
            job.batches_in_flight -= 1;
            if let Some(since) = job.on_device_since.take() {
                job.inference += now - since;
            }
            if job.batches_in_flight > 0 {
                job.on_device_since = Some(now);
            } else if job.next_row == job.rows.rows() {
                self.answer(id, now);
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
        let ids: Vec<u64> = self.jobs.keys().copied().collect();
        for id in ids {
            self.fail_job(id, error);
        }
    }

    fn fail_job(&mut self, id: u64, error: &ScoreError) {
        if let Some(job) = self.jobs.remove(&id) {
            self.waiting_tokens -= job.waiting_tokens();
            // The caller may have gone; there is nobody left to tell then.
            let _ = job.reply.send(Err(error.clone()));
        }
    }

    fn answer(&mut self, id: u64, now: Instant) {
        if let Some(job) = self.jobs.remove(&id) {
            let inference = job.inference;
            let queue = (now - job.admitted).saturating_sub(inference);
            // The caller may have gone; there is nobody left to tell then.
            let _ = job.reply.send(Ok(Scored { outputs: job.outputs, queue, inference }));
        }
    }

    fn drop_waiting_rows(&mut self, id: u64) {
        if let Some(job) = self.jobs.remove(&id) {
            self.waiting_tokens -= job.waiting_tokens();
        }
        self.waiting.retain(|&waiting| waiting != id);
    }
}
