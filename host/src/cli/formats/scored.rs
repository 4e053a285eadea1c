//! A pair of query and document with the score that somebody gave it.

use super::fields::{DocumentValue, Fields, Named, parse};
use super::record::{Content, Record};

/// A pair with its score.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct ScoredPair {
    pub(in crate::cli) query: String,
    pub(in crate::cli) document: String,
    /// Finite.
    pub(in crate::cli) score: f64,
}

impl Fields {
    /// Reads a pair with its score. Other fields are ignored.
    ///
    /// # Errors
    /// The record lacks a part of the pair, or the score is not a number; the error says which.
    pub(in crate::cli) fn scored_pair(&self, record: &Record) -> Result<ScoredPair, String> {
        match &record.content {
            Content::Row(row) => self.scored_pair_in(row),
            Content::Json(json) => match parse(json)? {
                DocumentValue::Object(object) => self.scored_pair_in(&object),
                DocumentValue::Text(_) => Err(NOT_A_PAIR.to_owned()),
            },
            Content::Text(_) => Err(NOT_A_PAIR.to_owned()),
        }
    }

    fn scored_pair_in(&self, named: &impl Named) -> Result<ScoredPair, String> {
        Ok(ScoredPair { query: self.query_of(named)?, document: self.text_of(named)?, score: self.score_of(named)? })
    }
}

const NOT_A_PAIR: &str = "is a text: a pair is an object or a row with a query, a text and a score";
