//! The `inference` interface: what a guest may call.
//!
//! Everything that a guest hands over is checked here, once: rows become a [`PackedBatch`] or an error, names become
//! models that the tenant may use or an error, and what the request may spend is charged before the device sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use assay_kernels::PackedBatch;
use wasmtime::component::{HasData, Resource, ResourceTable};

use super::bindings::assay::rerank::inference::{Host, HostModel};
use super::bindings::assay::rerank::types::{self, Error, Exceeded, TokenRows};
use crate::device::{Account, LoadedModel, ScoreError};
use crate::limits::{RequestLimits, TokenRate};
use crate::model::{ModelInfo, ModelTask};

/// When a guest whose batch met a fault of the device may try again: the engine is back for the next batch.
const DEVICE_RETRY_AFTER: Duration = Duration::from_millis(100);

/// The models that a guest may open.
#[derive(Debug, Clone)]
pub struct Models {
    /// What `open(none)` gives.
    pub default: Arc<LoadedModel>,
    /// What may be opened by name besides.
    pub others: Vec<Arc<LoadedModel>>,
    /// What a guest is told of a name that is none of these.
    pub unlisted: Unlisted,
}

/// What a guest is told of a model that is not among its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// That there is none: there is no other tenant whose model it could be.
    NotFound,
    /// That it may not use it, whether or not the host has it.
    Denied,
}

impl Models {
    /// One model and no other.
    #[must_use]
    pub fn only(model: Arc<LoadedModel>) -> Self {
        Self { default: model, others: Vec::new(), unlisted: Unlisted::NotFound }
    }

    fn open(&self, name: Option<String>) -> Result<OpenModel, Error> {
        let Some(name) = name else { return Ok(OpenModel::from(&self.default)) };
        let mut known = std::iter::once(&self.default).chain(&self.others);
        match (known.find(|model| model.name() == name), self.unlisted) {
            (Some(model), _) => Ok(OpenModel::from(model)),
            (None, Unlisted::NotFound) => Err(Error::NotFound(name)),
            (None, Unlisted::Denied) => Err(Error::AccessDenied(name)),
        }
    }
}

/// A model that a guest has opened.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct OpenModel {
    info: Arc<ModelInfo>,
    /// Absent while a guest is being prepared: nothing is computed then.
    loaded: Option<Arc<LoadedModel>>,
}

impl From<&Arc<LoadedModel>> for OpenModel {
    fn from(model: &Arc<LoadedModel>) -> Self {
        Self { info: Arc::clone(model.info()), loaded: Some(Arc::clone(model)) }
    }
}

/// On whose behalf a guest runs.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// `prepare`: the model may be looked at.
    Prepare(Arc<ModelInfo>),
    /// A request: models may be run.
    Request(Budget),
}

/// What one request may use.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    pub(super) models: Models,
    pub(super) account: Account,
    pub(super) rate: Option<Arc<TokenRate>>,
    pub(super) deadline: Instant,
    pub(super) max_rows: u64,
    pub(super) max_tokens: u64,
}

/// What a request has used, over all calls.
#[derive(Debug, Clone, Default)]
pub(super) struct Used {
    pub(super) rows: u64,
    pub(super) tokens: u64,
    /// Time that rows waited, and their numbers after them.
    pub(super) queue: Duration,
    /// Time that rows were on the device.
    pub(super) inference: Duration,
    /// The last fault of the device.
    pub(super) device_fault: Option<String>,
}

/// The host's side of one store's calls.
#[derive(Debug)]
pub(super) struct Inference {
    table: ResourceTable,
    open_models: usize,
    max_open_models: usize,
    purpose: Purpose,
    pub(super) used: Used,
}

impl Inference {
    pub(super) fn new(purpose: Purpose, limits: &RequestLimits) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.max_open_models);
        Self { table, open_models: 0, max_open_models: limits.max_open_models, purpose, used: Used::default() }
    }

    /// Puts the store to another use. Resources that the guest still holds stay its own.
    pub(super) fn begin(&mut self, purpose: Purpose) {
        self.purpose = purpose;
        self.used = Used::default();
    }

    /// Models that the guest has opened and not dropped.
    pub(super) fn open_models(&self) -> usize {
        self.open_models
    }

    fn info_of(&self, model: &Resource<OpenModel>) -> wasmtime::Result<Arc<ModelInfo>> {
        Ok(Arc::clone(&self.table.get(model)?.info))
    }

    async fn score(&mut self, model: Option<Arc<LoadedModel>>, rows: TokenRows) -> Result<Vec<f32>, Error> {
        let rows = PackedBatch::new(rows.ids, rows.offsets, rows.second_segment)
            .map_err(|error| Error::InvalidInput(error.to_string()))?;
        let (Some(model), Purpose::Request(budget)) = (model, &self.purpose) else {
            return Err(Error::Internal("models are not run while a guest is prepared".to_owned()));
        };
        // What does not fit the model is the guest's mistake before it is anybody's expense.
        let rows = rows.check(model.shape()).map_err(|error| Error::InvalidInput(error.to_string()))?;
        let (row_count, tokens) = (rows.rows() as u64, rows.tokens() as u64);
        charge("max_request_rows", &mut self.used.rows, row_count, budget.max_rows)?;
        charge("max_request_tokens", &mut self.used.tokens, tokens, budget.max_tokens)?;
        if let Some(rate) = &budget.rate {
            rate.spend(tokens, Instant::now())?;
        }
        let asked = Instant::now();
        let scored = model.score(rows, &budget.account, Some(budget.deadline)).await;
        match scored {
            Ok(scored) => {
                self.used.queue += asked.elapsed().saturating_sub(scored.inference);
                self.used.inference += scored.inference;
                Ok(scored.outputs)
            }
            Err(ScoreError::Device(fault)) => {
                self.used.device_fault = Some(fault.to_string());
                Err(overloaded(DEVICE_RETRY_AFTER))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Adds to what a request has used of something, up to a limit.
fn charge(limit: &str, used: &mut u64, more: u64, allowed: u64) -> Result<(), Error> {
    let requested = used.saturating_add(more);
    if requested > allowed {
        return Err(Error::TooLarge(Exceeded { limit: limit.to_owned(), requested, allowed }));
    }
    *used = requested;
    Ok(())
}

pub(super) fn overloaded(retry_after: Duration) -> Error {
    Error::Overloaded(u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX).max(1))
}

impl From<ScoreError> for Error {
    fn from(error: ScoreError) -> Self {
        match error {
            ScoreError::TooLarge { requested, allowed } => {
                Self::TooLarge(Exceeded { limit: "max_queued_tokens".to_owned(), requested, allowed })
            }
            ScoreError::Overloaded { retry_after } => overloaded(retry_after),
            ScoreError::DeadlineExceeded => Self::DeadlineExceeded,
            ScoreError::Device(fault) => Self::Internal(fault.to_string()),
        }
    }
}

impl From<crate::limits::RateExceeded> for Error {
    fn from(exceeded: crate::limits::RateExceeded) -> Self {
        use crate::limits::RateExceeded;
        match exceeded {
            RateExceeded::Later { retry_after } => overloaded(retry_after),
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
            Purpose::Request(budget) => budget.models.open(name),
            Purpose::Prepare(info) => match name {
                Some(name) if name != info.name => Err(Error::NotFound(name)),
                _ => Ok(OpenModel { info: Arc::clone(info), loaded: None }),
            },
        };
        let model = match model {
            Ok(model) => model,
            Err(error) => return Ok(Err(error)),
        };
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
