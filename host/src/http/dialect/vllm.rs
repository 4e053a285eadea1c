//! vLLM's rerank and score (<https://docs.vllm.ai/en/latest/models/pooling_models/scoring/>): every document is given
//! back.

use hyper::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::json;

use super::parts::{Reranked, Usage, reranked};
use super::ranking::{self, EmptyQuery, ModelRule, Profile, TopNZero};
use super::vocabulary::Vocabulary;
use super::{Answer, Dialect, Question, Serving, now_s, pairs, uuid};
use crate::http::error::HttpError;
use crate::http::fields::Fields;
use crate::rerank::Activation;

const PROFILE: Profile = Profile {
    documents: "documents",
    scores: Activation::Sigmoid,
    returns_documents: true,
    empty_query: EmptyQuery::Ranked,
    // Its default is 0, and means all.
    top_n_zero: TopNZero::All,
    model: MODEL,
};

const MODEL: ModelRule = ModelRule::Served { hosted: &[] };

/// vLLM's `/rerank`.
#[derive(Debug)]
pub(in crate::http) struct Vllm;

/// vLLM's `/score`: the score of each pair, in the order of the pairs.
#[derive(Debug)]
pub(in crate::http) struct VllmScore;

impl Dialect for Vllm {
    fn name(&self) -> &'static str {
        "vllm"
    }

    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        ranking::parse(fields, serving, &Profile { scores: scores(serving), ..PROFILE })
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        let reply = Reply {
            id: format!("rerank-{}", uuid()),
            model: answer.model,
            usage: Usage::of(answer),
            results: reranked(answer)?,
        };
        serde_json::to_vec(&reply).map_err(HttpError::Answer)
    }

    fn status(&self, error: &HttpError) -> StatusCode {
        status(error)
    }

    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.root_schema_for::<Reply<'_>>()
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        describe(error)
    }
}

impl Dialect for VllmScore {
    fn name(&self) -> &'static str {
        "vllm"
    }

    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        pairs::parse_score(fields, serving, MODEL, scores(serving))
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        let scores = pairs::scores(answer)?.into_iter().enumerate();
        let reply = ScoreReply {
            id: format!("score-{}", uuid()),
            object: "list",
            created: now_s(),
            model: answer.model,
            data: scores.map(|(index, score)| Score { index, object: "score", score }).collect(),
            usage: Usage::of(answer),
        };
        serde_json::to_vec(&reply).map_err(HttpError::Answer)
    }

    fn status(&self, error: &HttpError) -> StatusCode {
        status(error)
    }

    fn vocabulary(&self) -> Vocabulary {
        Vocabulary::Score
    }

    fn required(&self) -> &'static [&'static str] {
        // Or the same sides under another name.
        &[]
    }

    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.root_schema_for::<ScoreReply<'_>>()
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        describe(error)
    }
}

/// vLLM gives scores as the model's files say, and as sigmoids where they say nothing.
fn scores(serving: &Serving<'_>) -> Activation {
    serving.scores.unwrap_or(PROFILE.scores)
}

fn status(error: &HttpError) -> StatusCode {
    match error.status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    }
}

fn describe(error: &HttpError) -> serde_json::Value {
    let status = status(error);
    let kind = match status {
        StatusCode::NOT_FOUND => "NotFoundError",
        status if status.is_client_error() => "BadRequestError",
        _ => "InternalServerError",
    };
    let (message, param) = (error.message(), error.field());
    json!({ "error": { "message": message, "type": kind, "param": param, "code": status.as_u16() } })
}

#[derive(Serialize, JsonSchema)]
struct Reply<'a> {
    id: String,
    model: &'a str,
    usage: Usage,
    results: Vec<Reranked<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct ScoreReply<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<Score>,
    usage: Usage,
}

#[derive(Serialize, JsonSchema)]
struct Score {
    index: usize,
    object: &'static str,
    score: f32,
}
