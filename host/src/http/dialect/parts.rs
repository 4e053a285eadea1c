//! Parts of answers that several dialects have.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Answer;
use crate::http::error::HttpError;
use crate::json::Kind;

/// A document as it was sent; a string as an object with a `text`.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Document<'a> {
    Object(#[schemars(with = "serde_json::Map<String, serde_json::Value>")] &'a RawValue),
    String {
        #[schemars(with = "String")]
        text: &'a RawValue,
    },
}

impl<'a> Document<'a> {
    pub(super) fn new(document: &'a RawValue) -> Self {
        match Kind::of(document) {
            Kind::Object => Self::Object(document),
            _ => Self::String { text: document },
        }
    }
}

/// Tokens as Jina, infinity and vLLM count them, and the documents that were cut.
#[derive(Serialize, JsonSchema)]
pub(super) struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
    truncated_documents: u64,
}

impl Usage {
    pub(super) fn of(answer: &Answer<'_>) -> Self {
        let tokens = answer.tokens();
        Self { prompt_tokens: tokens, total_tokens: tokens, truncated_documents: answer.truncated() }
    }
}

/// One result, of Jina and of the servers that answer like it.
#[derive(Serialize, JsonSchema)]
pub(super) struct Reranked<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
    relevance_score: f32,
}

pub(super) fn reranked<'a>(answer: &Answer<'a>) -> Result<Vec<Reranked<'a>>, HttpError> {
    let hits = answer.hits()?.into_iter();
    let results = hits.map(|hit| Reranked {
        index: hit.index,
        document: hit.document.map(Document::new),
        relevance_score: hit.score,
    });
    Ok(results.collect())
}
