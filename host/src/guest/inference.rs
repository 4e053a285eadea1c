//! The `inference` interface: what a guest may call.
//!
//! Checks once what a guest passes: rows become a [`PackedBatch`], names become models that the tenant may use, and
//! rows and tokens are charged to the request before the device sees them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use assay_kernels::PackedBatch;
use wasmtime::component::{HasData, Resource, ResourceTable};

use super::bindings::assay::rerank::inference::{Host, HostModel};
use super::bindings::assay::rerank::types::{self, Error, Exceeded, TokenRows};
use super::link::Links;
use super::meter::{CallMeter, Charge};
use super::models::{Models, OpenModel, Unlisted};
use crate::device::{Account, LoadedModel, ScoreError};
use crate::limits::{RateExceeded, RequestLimits, TokenRate};
use crate::model::{ModelInfo, ModelTask};
use crate::rerank::BusyCallee;
use crate::telemetry::traces::Span;

/// When to retry after a fault of the device: the engine is ready for the next batch at once.
const DEVICE_RETRY_AFTER: Duration = Duration::from_millis(100);

/// What a guest runs for.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// `prepare`: it may open the model, and run none.
    Prepare(Arc<ModelInfo>),
    /// A request: it may run models.
    Request(Box<Budget>),
}

/// What one request may use.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    pub(super) models: Models,
    pub(super) links: Links,
    /// Links that led to the request.
    pub(super) depth: usize,
    pub(super) account: Account,
    pub(super) rate: Option<Arc<TokenRate>>,
    pub(super) meter: Arc<CallMeter>,
    pub(super) deadline: Instant,
    pub(super) max_rows: u64,
    /// Most tokens of the guest and of the tenants that it calls.
    pub(super) max_tokens: u64,
    /// Most processor time, where its caller has less left than the tenant's own limit.
    pub(super) max_cpu: Option<Duration>,
    /// The span that the spans of its rows are within.
    pub(super) span: Option<Span>,
}

/// Why a guest was told to try again.
#[derive(Debug, Clone)]
pub(super) enum Deferral {
    /// The queue of the device is full.
    Queue,
    /// The tenant may compute so many tokens a second.
    Rate(u64),
    /// The device failed.
    Device(String),
    /// A tenant that it called cannot answer.
    Callee(BusyCallee),
}

/// Whose time was over.
#[derive(Debug, Clone)]
pub(super) enum Late {
    /// The request's.
    Request,
    /// A call's of this tenant.
    Callee(Arc<str>),
}

/// What a request has used, over all calls.
#[derive(Debug, Clone, Default)]
pub(super) struct Used {
    pub(super) rows: u64,
    pub(super) tokens: u64,
    /// Time that rows waited for the device, and that their results waited for the guest.
    pub(super) queue: Duration,
    /// Time that rows were on the device.
    pub(super) inference: Duration,
    /// Why the guest was last told to try again.
    pub(super) deferral: Option<Deferral>,
    /// Whose time was over when the guest was last told that one was.
    pub(super) late: Option<Late>,
    /// Whether a tenant that the guest called failed.
    pub(super) callee_failed: bool,
}

/// The host's side of one store's calls.
#[derive(Debug)]
pub(super) struct Inference {
    table: ResourceTable,
    open_models: usize,
    max_open_models: usize,
    pub(super) purpose: Purpose,
    pub(super) used: Used,
}

impl Inference {
    pub(super) fn new(purpose: Purpose, limits: &RequestLimits) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.max_open_models);
        Self { table, open_models: 0, max_open_models: limits.max_open_models, purpose, used: Used::default() }
    }

    /// Starts the next use of the store. The guest keeps its resources.
    pub(super) fn begin(&mut self, purpose: Purpose) {
        self.purpose = purpose;
        self.used = Used::default();
    }

    /// Models that the guest has opened and not dropped.
    pub(super) fn open_models(&self) -> usize {
        self.open_models
    }

    /// Tokens of the guest and of the tenants that it called.
    pub(super) fn tokens(&self) -> u64 {
        self.used.tokens + self.called().tokens
    }

    /// What the tenants cost that it called.
    pub(super) fn called(&self) -> Charge {
        match &self.purpose {
            Purpose::Request(budget) => budget.meter.called(),
            Purpose::Prepare(_) => Charge::default(),
        }
    }

    /// Most processor time, if a caller leaves less than the tenant's own limit.
    pub(super) fn max_cpu(&self) -> Option<Duration> {
        match &self.purpose {
            Purpose::Request(budget) => budget.max_cpu,
            Purpose::Prepare(_) => None,
        }
    }

    fn unlisted(&self, name: String) -> Error {
        match &self.purpose {
            Purpose::Request(budget) if matches!(budget.models.unlisted, Unlisted::Denied) => Error::AccessDenied(name),
            Purpose::Request(_) | Purpose::Prepare(_) => Error::NotFound(name),
        }
    }

    fn info_of(&self, model: &Resource<OpenModel>) -> wasmtime::Result<Arc<ModelInfo>> {
        Ok(Arc::clone(&self.table.get(model)?.info))
    }

    async fn score(&mut self, model: Option<Arc<LoadedModel>>, rows: TokenRows) -> Result<Vec<f32>, Error> {
        let rows = PackedBatch::new(rows.ids, rows.offsets, rows.second_segment)
            .map_err(|error| Error::InvalidInput(error.to_string()))?;
        let (Some(model), Purpose::Request(budget)) = (model, &self.purpose) else {
            return Err(Error::Internal("no model can be run in prepare".to_owned()));
        };
        // Rows that do not fit the model are refused before anything is charged.
        let rows = rows.check(model.shape()).map_err(|error| Error::InvalidInput(error.to_string()))?;
        let (row_count, tokens) = (rows.rows() as u64, rows.tokens() as u64);
        check("max_request_rows", self.used.rows, row_count, budget.max_rows)?;
        check("max_request_tokens", self.tokens(), tokens, budget.max_tokens)?;
        let asked = Instant::now();
        if let Some(rate) = &budget.rate {
            let spent = rate.spend(tokens, asked);
            if matches!(spent, Err(RateExceeded::Later { .. })) {
                self.used.deferral = Some(Deferral::Rate(rate.tokens_per_s()));
            }
            spent?;
        }
        self.used.rows += row_count;
        self.used.tokens += tokens;
        budget.meter.sent(row_count, tokens);
        let (account, deadline) = (&budget.account, Some(budget.deadline));
        let scored = match &budget.span {
            None => model.score(rows, account, deadline).await,
            Some(span) => model.score_within(rows, account, deadline, span).await,
        };
        if let Err(ScoreError::Overloaded { .. } | ScoreError::TooLarge { .. }) = scored {
            // The queue took none of the rows, so nothing is charged for them.
            self.used.rows -= row_count;
            self.used.tokens -= tokens;
            budget.meter.refused(row_count, tokens);
            if let Some(rate) = &budget.rate {
                rate.give_back(tokens);
            }
        }
        match scored {
            Ok(scored) => {
                self.used.queue += asked.elapsed().saturating_sub(scored.inference);
                self.used.inference += scored.inference;
                Ok(scored.outputs)
            }
            Err(ScoreError::Device(fault)) => {
                self.used.deferral = Some(Deferral::Device(fault.to_string()));
                Err(Error::Unavailable(milliseconds(DEVICE_RETRY_AFTER)))
            }
            Err(ScoreError::TooLarge { requested, allowed }) => {
                Err(Error::TooLarge(Exceeded { limit: "max_queued_tokens".to_owned(), requested, allowed }))
            }
            Err(ScoreError::Overloaded { retry_after }) => {
                self.used.deferral = Some(Deferral::Queue);
                Err(Error::Overloaded(milliseconds(retry_after)))
            }
            Err(ScoreError::DeadlineExceeded) => {
                self.used.late = Some(Late::Request);
                Err(Error::DeadlineExceeded)
            }
        }
    }
}

/// Whether a request may use more of what a limit bounds.
fn check(limit: &str, used: u64, more: u64, allowed: u64) -> Result<(), Error> {
    let requested = used.saturating_add(more);
    if requested > allowed {
        return Err(Error::TooLarge(Exceeded { limit: limit.to_owned(), requested, allowed }));
    }
    Ok(())
}

fn milliseconds(retry_after: Duration) -> u32 {
    u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX).max(1)
}

impl From<RateExceeded> for Error {
    fn from(exceeded: RateExceeded) -> Self {
        match exceeded {
            RateExceeded::Later { retry_after } => Self::Overloaded(milliseconds(retry_after)),
            RateExceeded::Never { requested, allowed } => {
                Self::TooLarge(Exceeded { limit: "burst_tokens".to_owned(), requested, allowed })
            }
        }
    }
}

impl HasData for Inference {
    type Data<'a> = &'a mut Inference;
}

impl types::Host for Inference {}

impl Host for Inference {}

impl HostModel for Inference {
    async fn open(&mut self, name: Option<String>) -> wasmtime::Result<Result<Resource<OpenModel>, Error>> {
        let model = match &self.purpose {
            Purpose::Request(budget) => budget.models.open(name.as_deref()),
            Purpose::Prepare(info) => {
                let is_default = name.as_ref().is_none_or(|name| *name == info.name);
                is_default.then(|| OpenModel { info: Arc::clone(info), loaded: None })
            }
        };
        let Some(model) = model else { return Ok(Err(self.unlisted(name.unwrap_or_default()))) };
        match self.table.push(model) {
            Ok(model) => {
                self.open_models += 1;
                Ok(Ok(model))
            }
            Err(_) => Ok(Err(Error::TooLarge(Exceeded {
                limit: "max_open_models".to_owned(),
                requested: self.open_models as u64 + 1,
                allowed: self.max_open_models as u64,
            }))),
        }
    }

    async fn info(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<types::ModelInfo> {
        let info = self.info_of(&model)?;
        Ok(types::ModelInfo {
            name: info.name.clone(),
            revision: info.revision.clone(),
            task: match info.task {
                ModelTask::CrossEncoder => types::Task::CrossEncoder,
                ModelTask::Embedding => types::Task::Embedding,
            },
            max_tokens: info.max_tokens,
            vocabulary_size: info.vocabulary_size,
            outputs: info.outputs,
        })
    }

    async fn tokenizer(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.info_of(&model)?.tokenizer.to_vec())
    }

    async fn run(&mut self, model: Resource<OpenModel>, rows: TokenRows) -> wasmtime::Result<Result<Vec<f32>, Error>> {
        let model = self.table.get(&model)?.loaded.clone();
        Ok(self.score(model, rows).await)
    }

    async fn drop(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<()> {
        self.table.delete(model)?;
        self.open_models -= 1;
        Ok(())
    }
}
