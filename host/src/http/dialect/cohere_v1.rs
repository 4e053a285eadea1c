//! Cohere's rerank, version 1 (<https://docs.cohere.com/v1/reference/rerank>), and with it every client of a
//! `/v1/rerank`: beside Cohere's own fields the answer has `model` and `usage`, which the others read.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::json;

use super::parts::{Document, Usage};
use super::{Answer, Dialect, Question, Serving, ranking, uuid};
use crate::http::error::HttpError;
use crate::http::fields::Fields;

/// Documents that one search unit pays for (<https://docs.cohere.com/docs/rerank-overview>).
const DOCUMENTS_PER_SEARCH_UNIT: usize = 100;

/// Cohere's version 1.
#[derive(Debug)]
pub(in crate::http) struct CohereV1;

impl Dialect for CohereV1 {
    fn name(&self) -> &'static str {
        "cohere-v1"
    }

    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        ranking::parse(fields, serving, &ranking::COHERE)
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        reply(answer, "1")
    }

    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.root_schema_for::<Reply<'_>>()
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        json!({ "message": error.message() })
    }
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Reply<'a> {
    id: String,
    model: &'a str,
    results: Vec<Ranked<'a>>,
    meta: Meta,
    usage: Usage,
}

#[derive(Serialize, JsonSchema)]
struct Ranked<'a> {
    index: u32,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
    tokens: Tokens,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct ApiVersion {
    version: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct BilledUnits {
    search_units: usize,
}

#[derive(Serialize, JsonSchema)]
struct Tokens {
    input_tokens: u64,
    output_tokens: u64,
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
