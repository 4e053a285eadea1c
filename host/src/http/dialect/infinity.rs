//! infinity's rerank (<https://github.com/michaelfeil/infinity>): documents come back as plain strings.

use hyper::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::parts::Usage;
use super::ranking::{self, EmptyQuery, ModelRule, Profile, TopNZero};
use super::{Answer, Dialect, Question, Serving, now_s, uuid};
use crate::http::error::HttpError;
use crate::http::fields::Fields;
use crate::rerank::Activation;

const PROFILE: Profile = Profile {
    documents: "documents",
    scores: Activation::Sigmoid,
    returns_documents: false,
    empty_query: EmptyQuery::Ranked,
    top_n_zero: TopNZero::Refused,
    model: ModelRule::Served { hosted: &[] },
};

/// infinity's server.
#[derive(Debug)]
pub(in crate::http) struct Infinity;

impl Dialect for Infinity {
    fn name(&self) -> &'static str {
        "infinity"
    }

    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        ranking::parse(fields, serving, &PROFILE)
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        let results = answer.hits()?.into_iter().map(|hit| Ranked {
            relevance_score: hit.score,
            index: hit.index,
            document: hit.document,
        });
        let reply = Reply {
            object: "rerank",
            results: results.collect(),
            model: answer.model,
            usage: Usage::of(answer),
            id: format!("infinity-{}", uuid()),
            created: now_s(),
            warnings: answer.warnings(),
        };
        serde_json::to_vec(&reply).map_err(HttpError::Answer)
    }

    fn status(&self, error: &HttpError) -> StatusCode {
        match error {
            HttpError::Model { .. } => StatusCode::BAD_REQUEST,
            // FastAPI has one status for everything that is wrong with a body.
            HttpError::Json(_) | HttpError::Text(_) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => error.status(),
        }
    }

    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.root_schema_for::<Reply<'_>>()
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        let (message, status) = (error.message(), self.status(error));
        match status {
            StatusCode::UNPROCESSABLE_ENTITY => {
                let place: Vec<&str> = std::iter::once("body").chain(error.field()).collect();
                json!({ "detail": [{ "loc": place, "msg": message, "type": "value_error" }] })
            }
            _ => {
                json!({ "error": { "message": message, "type": null, "param": error.field(), "code": status.as_u16() } })
            }
        }
    }
}

#[derive(Serialize, JsonSchema)]
struct Reply<'a> {
    object: &'static str,
    results: Vec<Ranked<'a>>,
    model: &'a str,
    usage: Usage,
    id: String,
    created: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Ranked<'a> {
    relevance_score: f32,
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    document: Option<&'a RawValue>,
}
