//! llama-server's rerank (<https://github.com/ggml-org/llama.cpp/tree/master/tools/server>): Jina's shape with logits
//! for scores. It serves one model and does not look at the name that is asked for.

use hyper::StatusCode;
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
    scores: Activation::None,
    returns_documents: false,
    empty_query: EmptyQuery::Ranked,
    top_n_zero: TopNZero::Refused,
    model: ModelRule::Ignored,
};

/// llama.cpp's server.
#[derive(Debug)]
pub(in crate::http) struct LlamaServer;

impl Dialect for LlamaServer {
    fn name(&self) -> &'static str {
        "llama-server"
    }

    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        ranking::parse(fields, serving, &PROFILE)
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        let reply = Reply { model: answer.model, object: "list", usage: Usage::of(answer), results: reranked(answer)? };
        serde_json::to_vec(&reply).map_err(HttpError::Answer)
    }

    fn status(&self, error: &HttpError) -> StatusCode {
        match error.status() {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        }
    }

    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.root_schema_for::<Reply<'_>>()
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        let status = self.status(error);
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "unavailable_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": { "code": status.as_u16(), "message": error.message(), "type": kind } })
    }
}

#[derive(Serialize, JsonSchema)]
struct Reply<'a> {
    model: &'a str,
    object: &'static str,
    usage: Usage,
    results: Vec<Reranked<'a>>,
}
