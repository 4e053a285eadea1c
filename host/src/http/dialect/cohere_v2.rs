//! Cohere's rerank, version 2 (<https://docs.cohere.com/reference/rerank>). Its answer is version 1's; it has no
//! `return_documents`, which is honoured here all the same, since libraries send it.

use super::cohere_v1::{HOSTED, reply};
use super::ranking::{self, EmptyQuery, ModelRule, Profile, TopNZero};
use super::{Answer, CohereV1, Dialect, Question, Serving};
use crate::http::error::HttpError;
use crate::http::fields::Fields;
use crate::rerank::Activation;

const PROFILE: Profile = Profile {
    documents: "documents",
    scores: Activation::Sigmoid,
    returns_documents: false,
    empty_query: EmptyQuery::Refused,
    top_n_zero: TopNZero::Refused,
    model: ModelRule::Served { hosted: HOSTED },
};

/// Cohere's version 2.
#[derive(Debug)]
pub(in crate::http) struct CohereV2;

impl Dialect for CohereV2 {
    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        ranking::parse(fields, serving, &PROFILE)
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        reply(answer, "2")
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        CohereV1.error(error)
    }
}
