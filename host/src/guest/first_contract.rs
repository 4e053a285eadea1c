//! The interfaces of `assay:rerank@0.1.0`, for guests that were built for it: those of the newest version, with one case
//! of `error` less.

use wasmtime::component::Resource;

use super::bindings::assay::rerank::inference::HostModel as NewestHostModel;
use super::bindings::assay::rerank::types as newest;
use super::bindings::exports::assay::rerank::reranker as newest_wit;
use super::bindings::first::assay::rerank::inference::{Host, HostModel};
use super::bindings::first::assay::rerank::types::{self, Error, Exceeded, ModelInfo, Task, TokenRows};
use super::bindings::first::exports::assay::rerank::reranker as wit;
use super::inference::Inference;
use super::models::OpenModel;

impl types::Host for Inference {}

impl Host for Inference {}

impl HostModel for Inference {
    async fn open(&mut self, name: Option<String>) -> wasmtime::Result<Result<Resource<OpenModel>, Error>> {
        Ok(NewestHostModel::open(self, name).await?.map_err(error))
    }

    async fn info(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<ModelInfo> {
        let info = NewestHostModel::info(self, model).await?;
        Ok(ModelInfo {
            name: info.name,
            revision: info.revision,
            task: match info.task {
                newest::Task::CrossEncoder => Task::CrossEncoder,
                newest::Task::Embedding => Task::Embedding,
            },
            max_tokens: info.max_tokens,
            vocabulary_size: info.vocabulary_size,
            outputs: info.outputs,
        })
    }

    async fn tokenizer(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<Vec<u8>> {
        NewestHostModel::tokenizer(self, model).await
    }

    async fn run(&mut self, model: Resource<OpenModel>, rows: TokenRows) -> wasmtime::Result<Result<Vec<f32>, Error>> {
        let TokenRows { ids, offsets, second_segment } = rows;
        let rows = newest::TokenRows { ids, offsets, second_segment };
        Ok(NewestHostModel::run(self, model, rows).await?.map_err(error))
    }

    async fn drop(&mut self, model: Resource<OpenModel>) -> wasmtime::Result<()> {
        NewestHostModel::drop(self, model).await
    }
}

/// The host's error in the first version's words: a device that failed is an overloaded host.
fn error(error: newest::Error) -> Error {
    match error {
        newest::Error::AccessDenied(model) => Error::AccessDenied(model),
        newest::Error::NotFound(model) => Error::NotFound(model),
        newest::Error::InvalidInput(message) => Error::InvalidInput(message),
        newest::Error::TooLarge(newest::Exceeded { limit, requested, allowed }) => {
            Error::TooLarge(Exceeded { limit, requested, allowed })
        }
        newest::Error::Overloaded(milliseconds) | newest::Error::Unavailable(milliseconds) => {
            Error::Overloaded(milliseconds)
        }
        newest::Error::DeadlineExceeded => Error::DeadlineExceeded,
        newest::Error::Internal(message) => Error::Internal(message),
    }
}

/// A guest's error in the newest version's words.
pub(super) fn newest_error(error: Error) -> newest::Error {
    match error {
        Error::AccessDenied(model) => newest::Error::AccessDenied(model),
        Error::NotFound(model) => newest::Error::NotFound(model),
        Error::InvalidInput(message) => newest::Error::InvalidInput(message),
        Error::TooLarge(Exceeded { limit, requested, allowed }) => {
            newest::Error::TooLarge(newest::Exceeded { limit, requested, allowed })
        }
        Error::Overloaded(milliseconds) => newest::Error::Overloaded(milliseconds),
        Error::DeadlineExceeded => newest::Error::DeadlineExceeded,
        Error::Internal(message) => newest::Error::Internal(message),
    }
}

pub(super) fn request(request: newest_wit::Request) -> wit::Request {
    wit::Request {
        query: request.query,
        documents: request.documents,
        top_n: request.top_n,
        max_tokens: request.max_tokens,
        truncation: match request.truncation {
            newest_wit::Truncation::None => wit::Truncation::None,
            newest_wit::Truncation::LongestFirst => wit::Truncation::LongestFirst,
            newest_wit::Truncation::DocumentOnly => wit::Truncation::DocumentOnly,
        },
        activation: match request.activation {
            newest_wit::Activation::None => wit::Activation::None,
            newest_wit::Activation::Sigmoid => wit::Activation::Sigmoid,
        },
        settings: request.settings,
    }
}

pub(super) fn response(response: wit::Response) -> newest_wit::Response {
    let wit::Usage { tokens, rows, truncated } = response.usage;
    let hit = |wit::Hit { index, score }| newest_wit::Hit { index, score };
    newest_wit::Response {
        hits: response.hits.into_iter().map(hit).collect(),
        usage: newest_wit::Usage { tokens, rows, truncated },
    }
}
