//! text-embeddings-inference's rerank and predict (<https://huggingface.github.io/text-embeddings-inference/>): an
//! array of scores by itself, with the rest in headers.

use hyper::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::ranking::{self, EmptyQuery, ModelRule, Profile, TopNZero};
use super::vocabulary::Vocabulary;
use super::{Answer, Dialect, Question, Serving, pairs};
use crate::http::error::HttpError;
use crate::http::fields::Fields;
use crate::rerank::Activation;

const PROFILE: Profile = Profile {
    documents: "texts",
    scores: Activation::Sigmoid,
    returns_documents: false,
    empty_query: EmptyQuery::Ranked,
    top_n_zero: TopNZero::Refused,
    model: ModelRule::Ignored,
};

/// `/rerank` with `texts`.
#[derive(Debug)]
pub(in crate::http) struct Tei;

/// `/predict`: the score of a pair, or of each pair of a list.
#[derive(Debug)]
pub(in crate::http) struct TeiPredict;

impl Dialect for Tei {
    fn name(&self) -> &'static str {
        "tei"
    }

    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        ranking::parse(fields, serving, &PROFILE)
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        let hits = answer.hits()?.into_iter();
        let ranks: Vec<Rank<'_>> =
            hits.map(|hit| Rank { index: hit.index, text: hit.document, score: hit.score }).collect();
        serde_json::to_vec(&ranks).map_err(HttpError::Answer)
    }

    fn status(&self, error: &HttpError) -> StatusCode {
        status(error)
    }

    fn required(&self) -> &'static [&'static str] {
        &["query", "texts"]
    }

    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.root_schema_for::<Vec<Rank<'_>>>()
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        describe(error)
    }
}

impl Dialect for TeiPredict {
    fn name(&self) -> &'static str {
        "tei"
    }

    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        pairs::parse_predict(fields, serving)
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        let prediction = |score| [Prediction { score, label: answer.label }];
        let mut predictions: Vec<_> = pairs::scores(answer)?.into_iter().map(prediction).collect();
        match (answer.question.single, predictions.pop()) {
            (true, Some(only)) => serde_json::to_vec(&only),
            (_, last) => {
                predictions.extend(last);
                serde_json::to_vec(&predictions)
            }
        }
        .map_err(HttpError::Answer)
    }

    fn status(&self, error: &HttpError) -> StatusCode {
        status(error)
    }

    fn vocabulary(&self) -> Vocabulary {
        Vocabulary::Predict
    }

    fn required(&self) -> &'static [&'static str] {
        &["inputs"]
    }

    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        // Of one pair, or of a list.
        generator.root_schema_for::<Predictions<'_>>()
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        describe(error)
    }
}

fn status(error: &HttpError) -> StatusCode {
    match (error, error.status()) {
        (HttpError::NoDocuments { .. }, _) => StatusCode::BAD_REQUEST,
        // "Failed dependency" is its status for everything behind the router.
        (_, StatusCode::BAD_GATEWAY | StatusCode::INTERNAL_SERVER_ERROR) => StatusCode::FAILED_DEPENDENCY,
        (_, status) => status,
    }
}

fn describe(error: &HttpError) -> serde_json::Value {
    let kind = match status(error) {
        StatusCode::BAD_REQUEST if matches!(error, HttpError::NoDocuments { .. }) => "Empty",
        StatusCode::TOO_MANY_REQUESTS => "Overloaded",
        StatusCode::SERVICE_UNAVAILABLE => "Unhealthy",
        StatusCode::FAILED_DEPENDENCY | StatusCode::GATEWAY_TIMEOUT => "Backend",
        _ => "Validation",
    };
    json!({ "error": error.message(), "error_type": kind })
}

#[derive(Serialize, JsonSchema)]
struct Rank<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    text: Option<&'a RawValue>,
    score: f32,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
struct Prediction<'a> {
    score: f32,
    label: &'a str,
}

/// What `/predict` answers: one pair's prediction, or each pair's.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for its schema")]
enum Predictions<'a> {
    One([Prediction<'a>; 1]),
    Many(Vec<[Prediction<'a>; 1]>),
}
