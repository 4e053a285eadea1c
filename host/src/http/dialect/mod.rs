//! How clients ask and are answered: one file for each dialect, behind one trait.
//!
//! A dialect is found from the path and the body's fields ([`Choice`]); it decodes the body ([`Dialect::parse`]),
//! writes the answer ([`Dialect::reply`]) and words the errors ([`Dialect::error`]). What all of them share is in
//! [`ranking`] and [`pairs`]. Knows requests and JSON; never connections, keys or tenants.

mod cohere_v1;
mod cohere_v2;
mod infinity;
mod jina;
mod llama;
mod pairs;
mod parts;
pub(super) mod plain;
mod ranking;
mod tei;
mod vllm;
pub(super) mod vocabulary;

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use rand::TryRngCore;
use rand::rngs::OsRng;
use schemars::{Schema, SchemaGenerator};
use serde_json::value::RawValue;

use super::error::HttpError;
use super::fields::Fields;
use crate::limits::RequestLimits;
use crate::rerank::{Activation, Request, Response};
use vocabulary::Vocabulary;

pub(super) use cohere_v1::CohereV1;
pub(super) use cohere_v2::CohereV2;
pub(super) use infinity::Infinity;
pub(super) use jina::Jina;
pub(super) use llama::LlamaServer;
pub(super) use tei::{Tei, TeiPredict};
pub(super) use vllm::{Vllm, VllmScore};

/// How one family of clients asks and is answered.
pub(super) trait Dialect: std::fmt::Debug + Sync {
    /// Whose API it is, for the log and the counters.
    fn name(&self) -> &'static str;

    /// Decodes a body. Called once for each request, on a thread that may block.
    ///
    /// # Errors
    /// A field is missing, wrong, unknown, or beyond what the tenant may send.
    fn parse(&self, fields: Fields<'_>, serving: &Serving<'_>) -> Result<Question, HttpError>;

    /// Writes the answer's body, as JSON.
    ///
    /// # Errors
    /// The answer does not fit the question, which is the guest's fault.
    fn reply(&self, answer: &Answer<'_>) -> Result<Vec<u8>, HttpError>;

    /// The fields that a body may have.
    fn vocabulary(&self) -> Vocabulary {
        Vocabulary::Ranking
    }

    /// Those that it must have.
    fn required(&self) -> &'static [&'static str] {
        &["query", "documents"]
    }

    /// The JSON Schema of the answer's body.
    fn reply_schema(&self, generator: &mut SchemaGenerator) -> Schema;

    /// An error's status.
    fn status(&self, error: &HttpError) -> StatusCode {
        error.status()
    }

    /// An error's body.
    fn error(&self, error: &HttpError) -> serde_json::Value;
}

/// What serves a request: what a dialect must know of it to decode a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Serving<'a> {
    /// The model's name.
    pub(super) model: &'a str,
    /// The model's longest row in tokens.
    pub(super) max_tokens: u32,
    /// How the model's files, or who added it, want scores to be given.
    pub(super) scores: Option<Activation>,
    /// The tenant's limits.
    pub(super) limits: &'a RequestLimits,
}

/// A decoded body.
#[derive(Debug, Default)]
pub(super) struct Question {
    /// What to ask the tenant: one request for a ranking, one for each query of pairs. Their settings are apart.
    pub(super) requests: Vec<Request>,
    /// The settings of every request.
    pub(super) settings: Vec<(String, String)>,
    /// Where the documents to give back stand in the body, in their order; empty where none are asked for.
    pub(super) shown: Vec<Range<usize>>,
    /// Where the score of each pair is found; empty for a ranking.
    pub(super) pairs: Vec<Pair>,
    /// Whether one pair was sent by itself, and not in a list.
    pub(super) single: bool,
    /// What the caller should know, and no error.
    pub(super) warnings: Vec<String>,
    /// Fields that only the guest can honour.
    pub(super) by_guest: Vec<ByGuest>,
}

/// A field that the guest honours, if it knows the setting.
#[derive(Debug)]
pub(super) struct ByGuest {
    pub(super) field: &'static str,
    pub(super) setting: &'static str,
    value: String,
}

impl ByGuest {
    fn new(field: &'static str, setting: &'static str, value: impl Into<String>) -> Self {
        Self { field, setting, value: value.into() }
    }
}

/// A pair's place among the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    /// The position of its request.
    pub(super) request: usize,
    /// The position of its document in that request.
    pub(super) document: u32,
}

/// All that an answer is written from.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// What was asked.
    pub(super) question: &'a Question,
    /// The body that asked it.
    pub(super) body: &'a str,
    /// The tenant's answers, one for each request.
    pub(super) responses: &'a [Response],
    /// The model that served.
    pub(super) model: &'a str,
    /// The name of the label that its scores are of.
    pub(super) label: &'a str,
    /// The number of documents in all requests.
    pub(super) documents: usize,
}

/// A document's place in a ranking, with its JSON if it is to be given back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit<'a> {
    pub(super) index: u32,
    pub(super) score: f32,
    pub(super) document: Option<&'a RawValue>,
}

impl<'a> Answer<'a> {
    /// The ranking, best first.
    pub(super) fn hits(&self) -> Result<Vec<Hit<'a>>, HttpError> {
        let ranked = self.responses.first().map_or(&[][..], |response| &response.hits);
        let hits = ranked.iter().map(|hit| {
            let place = self.question.shown.get(hit.index as usize);
            let document =
                place.and_then(|place| self.body.get(place.clone())).map(serde_json::from_str).transpose()?;
            Ok(Hit { index: hit.index, score: hit.score, document })
        });
        hits.collect::<Result<_, _>>().map_err(HttpError::Answer)
    }

    /// Tokens that the model computed.
    pub(super) fn tokens(&self) -> u64 {
        self.responses.iter().map(|response| response.usage.tokens).sum()
    }

    /// Documents that were cut to fit the model.
    pub(super) fn truncated(&self) -> u64 {
        self.responses.iter().map(|response| u64::from(response.usage.truncated)).sum()
    }

    /// The question's warnings, and one about documents that were cut.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.question.warnings.clone();
        match self.truncated() {
            0 => {}
            1 => warnings.push("1 document was cut, or the query beside it".to_owned()),
            cut => warnings.push(format!("{cut} documents were cut, or the query beside them")),
        }
        warnings
    }
}

/// How the dialect of a ranking is found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Choice {
    /// The path names the dialect.
    Named(&'static dyn Dialect),
    /// `texts` are text-embeddings-inference's, and `documents` this one's.
    Documents(&'static dyn Dialect),
    /// `texts` are text-embeddings-inference's, and `documents` Jina's if the model is one of Jina's, or else Cohere's.
    CohereOrJina,
}

impl Choice {
    /// The dialect, where it does not depend on the body.
    pub(super) fn known(self) -> Option<&'static dyn Dialect> {
        match self {
            Self::Named(dialect) => Some(dialect),
            Self::Documents(_) | Self::CohereOrJina => None,
        }
    }

    /// The dialect of a body.
    pub(super) fn dialect(self, fields: &Fields<'_>) -> &'static dyn Dialect {
        let is_tei = fields.has("texts") && !fields.has("documents");
        match self {
            Self::Named(dialect) => dialect,
            Self::Documents(_) | Self::CohereOrJina if is_tei => &Tei,
            Self::Documents(dialect) => dialect,
            Self::CohereOrJina if fields.peek("model").is_some_and(|model| model.starts_with("\"jina")) => &Jina,
            Self::CohereOrJina => &CohereV1,
        }
    }
}

/// A random identifier: a UUID of version 4.
fn uuid() -> String {
    let mut bytes = [0; 16];
    // Without random bytes the identifiers are all the same, which harms nothing.
    let _ = OsRng.try_fill_bytes(&mut bytes);
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

/// Seconds since 1970.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
