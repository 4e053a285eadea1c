//! Cohere's rerank, version 1 (<https://docs.cohere.com/v1/reference/rerank>), and with it every client of a
//! `/v1/rerank`: beside Cohere's own fields the answer has `model` and `usage`, which the others read.

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::ranking::{self, EmptyQuery, ModelRule, Profile, TopNZero};
use super::{Answer, Dialect, Question, Serving, uuid};
use crate::http::error::HttpError;
use crate::http::fields::Fields;
use crate::json::Kind;
use crate::rerank::Activation;

/// What the names of Cohere's own models begin with.
pub(super) const HOSTED: &[&str] = &["rerank-"];

/// Documents that one search unit pays for (<https://docs.cohere.com/docs/rerank-overview>).
const DOCUMENTS_PER_SEARCH_UNIT: usize = 100;

const PROFILE: Profile = Profile {
    documents: "documents",
    scores: Activation::Sigmoid,
    returns_documents: false,
    empty_query: EmptyQuery::Refused,
    top_n_zero: TopNZero::Refused,
    model: ModelRule::Served { hosted: HOSTED },
};

/// Cohere's version 1.
#[derive(Debug)]
pub(in crate::http) struct CohereV1;

impl Dialect for CohereV1 {
    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        ranking::parse(fields, serving, &PROFILE)
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        reply(answer, "1")
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        json!({ "message": error.to_string() })
    }
}

#[derive(Serialize)]
struct Reply<'a> {
    id: String,
    model: &'a str,
    results: Vec<Ranked<'a>>,
    meta: Meta,
    usage: Usage,
}

#[derive(Serialize)]
struct Ranked<'a> {
    index: u32,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
}

/// A document as it was sent; a string as an object with a `text`.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Document<'a> {
    Object(&'a RawValue),
    String { text: &'a RawValue },
}

impl<'a> Document<'a> {
    pub(super) fn new(document: &'a RawValue) -> Self {
        match Kind::of(document) {
            Kind::Object => Self::Object(document),
            _ => Self::String { text: document },
        }
    }
}

#[derive(Serialize)]
struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
    tokens: Tokens,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ApiVersion {
    version: &'static str,
}

#[derive(Serialize)]
struct BilledUnits {
    search_units: usize,
}

#[derive(Serialize)]
struct Tokens {
    input_tokens: u64,
    output_tokens: u64,
}

/// Tokens as Jina, infinity and vLLM count them, and the documents that were cut.
#[derive(Serialize)]
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

/// Writes the answer of a version.
pub(super) fn reply(answer: &Answer<'_>, version: &'static str) -> Result<Vec<u8>, HttpError> {
    let results = answer.hits()?.into_iter().map(|hit| Ranked {
        index: hit.index,
        relevance_score: hit.score,
        document: hit.document.map(Document::new),
    });
    let reply = Reply {
        id: uuid(),
        model: answer.model,
        results: results.collect(),
        meta: Meta {
            api_version: ApiVersion { version },
            billed_units: BilledUnits { search_units: answer.documents.div_ceil(DOCUMENTS_PER_SEARCH_UNIT) },
            tokens: Tokens { input_tokens: answer.tokens(), output_tokens: 0 },
            warnings: answer.warnings(),
        },
        usage: Usage::of(answer),
    };
    serde_json::to_vec(&reply).map_err(HttpError::Answer)
}
