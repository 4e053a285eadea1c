//! Cohere's rerank, version 2 (<https://docs.cohere.com/reference/rerank>). Its answer is version 1's; it has no
//! `return_documents`, which is honoured here all the same, since libraries send it.

use schemars::{Schema, SchemaGenerator};

use super::cohere_v1::reply;
use super::{Answer, CohereV1, Dialect, Question, Serving, ranking};
use crate::http::error::HttpError;
use crate::http::fields::Fields;

/// Cohere's version 2.
#[derive(Debug)]
pub(in crate::http) struct CohereV2;

impl Dialect for CohereV2 {
    fn name(&self) -> &'static str {
        "cohere-v2"
    }

    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError> {
        ranking::parse(fields, serving, &ranking::COHERE)
    }

    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError> {
        reply(answer, "2")
    }

    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.root_schema_for::<super::cohere_v1::Reply<'_>>()
    }

    fn error(&self, error: &HttpError) -> serde_json::Value {
        CohereV1.error(error)
    }
}
