//! A request as a line of JSON: every field is used, returned, or refused by name.

use std::fmt;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::fields::{Document, DocumentValue, Fields, Id, without_line};
use crate::json::text::replace_lone_surrogates;
use crate::rerank::{Activation, Truncation};

/// The fields of a request.
const FIELDS: [&str; 9] =
    ["id", "query", "documents", "top_n", "max_tokens", "truncation", "scores", "settings", "model"];

/// The end of the message about an unknown field.
pub(in crate::cli) const KEEP_FIELD_HINT: &str = "; --keep-field gives others back";

/// Rules for reading requests.
#[derive(Debug, Clone)]
pub(in crate::cli) struct RequestRules {
    pub(in crate::cli) fields: Fields,
    /// Other fields to return with the answer.
    pub(in crate::cli) keep: Vec<String>,
    /// Further documents are counted but not kept.
    pub(in crate::cli) max_documents: usize,
}

/// A line of a requests file.
#[derive(Debug, Default)]
pub(in crate::cli) struct RequestLine {
    pub(in crate::cli) id: Option<Id>,
    pub(in crate::cli) query: String,
    pub(in crate::cli) documents: Vec<Document>,
    pub(in crate::cli) overrides: Overrides,
    /// Whether a document has a title that is not ranked.
    pub(in crate::cli) has_unranked_title: bool,
    /// The fields to return.
    pub(in crate::cli) kept: Map<String, Value>,
}

/// A request's settings that override the command's options.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Overrides {
    pub(in crate::cli) top_n: Option<u32>,
    pub(in crate::cli) max_tokens: Option<u32>,
    pub(in crate::cli) truncation: Option<CliTruncation>,
    pub(in crate::cli) scores: Option<Scores>,
    pub(in crate::cli) settings: Vec<(String, String)>,
    pub(in crate::cli) model: Option<String>,
}

/// How scores are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum Scores {
    Raw,
    Sigmoid,
}

/// What to do with a pair that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum CliTruncation {
    LongestFirst,
    DocumentOnly,
    None,
}

impl From<Scores> for Activation {
    fn from(scores: Scores) -> Self {
        match scores {
            Scores::Raw => Self::None,
            Scores::Sigmoid => Self::Sigmoid,
        }
    }
}

impl From<CliTruncation> for Truncation {
    fn from(truncation: CliTruncation) -> Self {
        match truncation {
            CliTruncation::LongestFirst => Self::LongestFirst,
            CliTruncation::DocumentOnly => Self::DocumentOnly,
            CliTruncation::None => Self::None,
        }
    }
}

impl RequestRules {
    /// Parses a request.
    ///
    /// # Errors
    /// The request is invalid; the error says why.
    pub(in crate::cli) fn parse(&self, json: &str) -> Result<RequestLine, String> {
        let json = replace_lone_surrogates(json);
        let mut deserializer = serde_json::Deserializer::from_str(&json);
        let request = deserializer.deserialize_any(RequestVisitor(self));
        request.and_then(|request| deserializer.end().map(|()| request)).map_err(|error| without_line(&error))
    }
}

/// The id of an invalid request, if it can be parsed, to identify the error.
pub(in crate::cli) fn id_of(json: &str) -> Option<Id> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: Option<Id>,
    }
    // An array would give its first element.
    let is_object = json.trim_ascii_start().starts_with('{');
    serde_json::from_str::<OnlyId>(&replace_lone_surrogates(json)).ok().filter(|_| is_object)?.id
}

struct RequestVisitor<'a>(&'a RequestRules);

impl<'de> Visitor<'de> for RequestVisitor<'_> {
    type Value = RequestLine;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request, {\"query\": …, \"documents\": […]}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RequestLine, A::Error> {
        let (mut seen, mut line): (Vec<String>, _) = (Vec::new(), RequestLine::default());
        while let Some(name) = map.next_key::<String>()? {
            if seen.contains(&name) {
                return Err(de::Error::custom(format!("two fields have the name {name:?}")));
            }
            self.field(&name, &mut map, &mut line)?;
            seen.push(name);
        }
        for name in ["query", "documents"] {
            if !seen.iter().any(|seen| seen == name) {
                return Err(de::Error::missing_field(name));
            }
        }
        Ok(line)
    }
}

impl RequestVisitor<'_> {
    fn field<'de, A: MapAccess<'de>>(&self, name: &str, map: &mut A, line: &mut RequestLine) -> Result<(), A::Error> {
        let overrides = &mut line.overrides;
        match name {
            _ if self.0.keep.iter().any(|kept| kept == name) && !["query", "documents"].contains(&name) => {
                line.kept.insert(name.to_owned(), map.next_value()?);
            }
            "id" => line.id = value(name, map)?,
            "query" => line.query = value(name, map)?,
            "documents" => (line.documents, line.has_unranked_title) = map.next_value_seed(Documents(self.0))?,
            "top_n" => overrides.top_n = number(name, map)?,
            "max_tokens" => overrides.max_tokens = number(name, map)?,
            "truncation" => overrides.truncation = value(name, map)?,
            "scores" => overrides.scores = value(name, map)?,
            "settings" => {
                let settings: Option<std::collections::BTreeMap<String, String>> = value(name, map)?;
                overrides.settings = settings.unwrap_or_default().into_iter().collect();
            }
            "model" => overrides.model = value(name, map)?,
            _ => {
                return Err(de::Error::custom(format!(
                    "unknown field {name:.100?}: a request has {}{KEEP_FIELD_HINT}",
                    FIELDS.join(", ")
                )));
            }
        }
        Ok(())
    }
}

/// The value of a field; errors contain the field's name.
fn value<'de, T: Deserialize<'de>, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<T, A::Error> {
    map.next_value().map_err(|error| de::Error::custom(format!("{name}: {error}")))
}

/// A whole number from 1. `2.0`, as some programs write it, is 2; null is `None`.
fn number<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<u32>, A::Error> {
    let number: Value = value(name, map)?;
    if number.is_null() {
        return Ok(None);
    }
    let whole = number.as_f64().filter(|number| number.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(number));
    match whole {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and in range")]
        Some(whole) => Ok(Some(whole as u32)),
        None => Err(de::Error::custom(format!("{name}: must be a whole number from 1 to {}", u32::MAX))),
    }
}

/// The documents of a request, and whether one has a title that is not ranked; a message names the document by its
/// index.
struct Documents<'a>(&'a RequestRules);

impl<'de> DeserializeSeed<'de> for Documents<'_> {
    type Value = (Vec<Document>, bool);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Documents<'_> {
    type Value = (Vec<Document>, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("documents, a list of strings or objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let (mut documents, mut has_unranked_title) = (Vec::new(), false);
        loop {
            let index = documents.len();
            if index == self.0.max_documents {
                break;
            }
            let at = |message: String| de::Error::custom(format!("document {index}: {message}"));
            let value = elements.next_element::<DocumentValue>().map_err(|error| at(error.to_string()))?;
            let Some(value) = value else { return Ok((documents, has_unranked_title)) };
            has_unranked_title |= self.0.fields.leaves_title(&value);
            documents.push(self.0.fields.document_of(value).map_err(at)?);
        }
        let mut more = 0usize;
        while elements.next_element::<IgnoredAny>()?.is_some() {
            more += 1;
        }
        match more {
            0 => Ok((documents, has_unranked_title)),
            more => Err(de::Error::custom(format!(
                "max_documents is limited to {}, the request has {}",
                self.0.max_documents,
                self.0.max_documents + more
            ))),
        }
    }
}
