//! The `inference` interface: what a guest may call.

use std::sync::Arc;
use std::time::Duration;

use assay_kernels::{PackedBatch, Task};
use wasmtime::component::{HasData, Resource, ResourceTable};

use super::bindings::assay::rerank::inference::{Host, HostModel};
use super::bindings::assay::rerank::types::{self, Error, Exceeded, ModelInfo, TokenRows};
use crate::model::LoadedModel;
use crate::scheduler::ScoreError;

/// Most models that a guest holds open at once: it has no use for more than it may run, and every open one is an entry
/// in the host's table.
const MAX_OPEN_MODELS: usize = 64;

/// A model that a guest has opened.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct OpenModel(Arc<LoadedModel>);

/// The host's side of one store's calls.
#[derive(Debug)]
pub(super) struct Inference {
    table: ResourceTable,
    /// The tenant's default.
    model: Arc<LoadedModel>,
    /// Time that rows waited, over all calls.
    pub(super) queue: Duration,
    /// Time that rows were on the device, over all calls.
    pub(super) inference: Duration,
}

impl Inference {
    pub(super) fn new(model: Arc<LoadedModel>) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_OPEN_MODELS);
        Self { table, model, queue: Duration::ZERO, inference: Duration::ZERO }
    }

    fn get(&self, model: &Resource<OpenModel>) -> wasmtime::Result<Arc<LoadedModel>> {
        Ok(Arc::clone(&self.table.get(model)?.0))
    }
}

impl HasData for Inference {
    type Data<'a> = &'a mut Inference;
}

impl types::Host for Inference {}

impl Host for Inference {}

impl HostModel for Inference {
    async fn open(&mut self, name: Option<String>) -> wasmtime::Result<Result<Resource<OpenModel>, Error>> {
        if let Some(name) = name.filter(|name| name != self.model.name()) {
            return Ok(Err(Error::NotFound(name)));
        }
        match self.table.push(OpenModel(Arc::clone(&self.model))) {
            Ok(model) => Ok(Ok(model)),
            Err(_) => Ok(Err(Error::TooLarge(Exceeded {
                limit: "max_open_models".to_owned(),
                requested: MAX_OPEN_MODELS as u64 + 1,
                allowed: MAX_OPEN_MODELS as u64,
            }))),
        }
    }

    async fn info(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<ModelInfo> {
        let model = self.get(&model)?;
        let config = model.config();
        // The store refuses dimensions that do not fit 32 bits.
        let narrow = |dimension: usize| u32::try_from(dimension).unwrap_or(u32::MAX);
        Ok(ModelInfo {
            name: model.name().to_owned(),
            revision: model.manifest().revision.clone(),
            task: match config.task {
                Task::CrossEncoder => types::Task::CrossEncoder,
                Task::Embedding => types::Task::Embedding,
            },
            max_tokens: narrow(config.max_position_embeddings),
            vocabulary_size: narrow(config.vocab_size),
            outputs: narrow(config.outputs),
        })
    }

    async fn tokenizer(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.get(&model)?.tokenizer().to_vec())
    }

    async fn run(&mut self, model: Resource<OpenModel>, rows: TokenRows) -> wasmtime::Result<Result<Vec<f32>, Error>> {
        let model = self.get(&model)?;
        let rows = match PackedBatch::new(rows.ids, rows.offsets, rows.second_segment) {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(Error::InvalidInput(error.to_string()))),
        };
        Ok(match model.scheduler().score(rows).await {
            Ok(scored) => {
                self.queue += scored.queue;
                self.inference += scored.inference;
                Ok(scored.outputs)
            }
            Err(ScoreError::Rows(message)) => Err(Error::InvalidInput(message)),
            Err(ScoreError::TooLarge { requested, allowed }) => {
                Err(Error::TooLarge(Exceeded { limit: "max_request_tokens".to_owned(), requested, allowed }))
            }
            Err(ScoreError::Overloaded { retry_after }) => {
                Err(Error::Overloaded(u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX)))
            }
            Err(ScoreError::Engine(message)) => Err(Error::Internal(message)),
        })
    }

    async fn drop(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<()> {
        self.table.delete(model)?;
        Ok(())
    }
}
