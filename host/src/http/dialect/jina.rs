//! Jina's rerank (<https://api.jina.ai/redoc>): documents are given back unless the body says otherwise.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::json;

use super::parts::{Reranked, Usage, reranked};
use super::ranking::{self, EmptyQuery, ModelRule, Profile, TopNZero};
use super::{Answer, Dialect, Question, Serving};
use crate::http::error::HttpError;
use crate::http::fields::Fields;
use crate::rerank::Activation;

const PROFILE: Profile = Profile {
    documents: "documents",
    scores: Activation::Sigmoid,
    returns_documents: true,
    empty_query: EmptyQuery::Refused,
    top_n_zero: TopNZero::Refused,
    model: ModelRule::Served { hosted: &["jina-"] },
};

/// Jina's API.
#[derive(Debug)]
pub(in crate::http) struct Jina;

impl Dialect for Jina {
    fn name(&self) -> &'static str {
        "jina"
    }

    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        ranking::parse(fields, serving, &PROFILE)
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        let results = reranked(answer)?;
        let reply = Reply {
            model: answer.model,
            object: "list",
            usage: Usage::of(answer),
            results,
            warnings: answer.warnings(),
        };
        serde_json::to_vec(&reply).map_err(HttpError::Answer)
    }

    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.root_schema_for::<Reply<'_>>()
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        json!({ "detail": error.message() })
    }
}

#[derive(Serialize, JsonSchema)]
struct Reply<'a> {
    model: &'a str,
    object: &'static str,
    usage: Usage,
    results: Vec<Reranked<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}
