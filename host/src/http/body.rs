//! Cohere's v1 rerank, in and out (<https://docs.cohere.com/v1/reference/rerank>).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::json::Document;
use crate::rerank::{Activation, Request, Response};

/// A request's body. Fields that are not here are ignored, as Cohere's clients send more than they need; `model` is one,
/// for the tenant's deployment decides it.
#[derive(Debug, Deserialize)]
pub(super) struct RerankBody {
    query: String,
    documents: Vec<Document>,
    top_n: Option<u32>,
    #[serde(default)]
    return_documents: bool,
}

/// The texts to send back, where they were asked for.
#[derive(Debug)]
pub(super) enum Shown {
    Nothing,
    Documents(Arc<[String]>),
}

impl RerankBody {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub(super) fn into_request(self) -> (Request, Shown) {
        let documents: Vec<String> = self.documents.into_iter().map(String::from).collect();
        let shown = if self.return_documents { Shown::Documents(documents.clone().into()) } else { Shown::Nothing };
        // Cohere's scores are between 0 and 1.
        let activation = Activation::Sigmoid;
        (Request { query: self.query, documents, top_n: self.top_n, activation, ..Request::default() }, shown)
    }
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct RerankReply {
    results: Vec<Hit>,
    meta: Meta,
}

#[derive(Debug, Serialize)]
struct Hit {
    index: u32,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Text>,
}

#[derive(Debug, Serialize)]
struct Text {
    text: String,
}

#[derive(Debug, Serialize)]
struct Meta {
    api_version: ApiVersion,
}

#[derive(Debug, Serialize)]
struct ApiVersion {
    version: &'static str,
}

impl RerankReply {
    pub(super) fn new(response: Response, shown: &Shown) -> Self {
        let text = |index: u32| match shown {
            Shown::Nothing => None,
            Shown::Documents(documents) => documents.get(index as usize).map(|text| Text { text: text.clone() }),
        };
        let hits = response.hits.into_iter();
        let results =
            hits.map(|hit| Hit { index: hit.index, relevance_score: hit.score, document: text(hit.index) }).collect();
        Self { results, meta: Meta { api_version: ApiVersion { version: "1" } } }
    }
}
