//! Finds the text, the id and the query among the fields of an object or the columns of a row.

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::record::{Content, Record};
use super::row::{Columns, Row};
use crate::json::text::replace_lone_surrogates;

/// Longest id in bytes: ids are held for every document in work and copied into answers.
const MAX_ID_BYTES: usize = 1024;

/// The roles of `--field`.
pub(in crate::cli) const ROLES: [&str; 5] = ["text", "id", "query", "query-id", "score"];

/// Common names in existing files; the first one present is used.
const TEXT: &[&str] = &["text", "document", "passage", "contents"];
const ID: &[&str] = &["id", "_id", "document_id", "doc_id", "docid", "docno", "pid"];
const QUERY: &[&str] = &["query"];
const QUERY_ID: &[&str] = &["query_id", "qid", "query-id"];
const SCORE: &[&str] = &["score"];

/// A common field that is ranked only on request.
const TITLE: &str = "title";

/// The note about it.
pub(in crate::cli) const TITLES_NOT_RANKED: &str =
    "titles are not ranked: --field text=title --field text=text ranks both";

/// The names for each role.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Fields {
    text: Names,
    id: Names,
    query: Names,
    query_id: Names,
    score: Names,
}

#[derive(Debug, Clone)]
enum Names {
    /// The first of these that is present.
    Usual(Vec<&'static str>),
    /// The caller's choice: all of them.
    Chosen(Vec<String>),
}

/// `ROLE=NAME`, a value of `--field`.
#[derive(Debug, Clone)]
pub(in crate::cli) struct FieldChoice {
    role: &'static str,
    name: String,
}

impl FieldChoice {
    pub(in crate::cli) fn role(&self) -> &'static str {
        self.role
    }
}

impl std::str::FromStr for FieldChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (role, name) = text.split_once('=').ok_or("is not ROLE=NAME")?;
        let role = ROLES.into_iter().find(|known| *known == role);
        let role = role.ok_or_else(|| format!("a role is one of {}", ROLES.join(", ")))?;
        Ok(Self { role, name: name.to_owned() })
    }
}

/// A document with its id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::cli) struct Document {
    pub(in crate::cli) id: Option<Id>,
    pub(in crate::cli) text: String,
}

/// A caller's name for a query or a document, returned unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(in crate::cli) enum Id {
    Text(String),
    Number(Number),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl TryFrom<Value> for Id {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            Value::String(text) if text.len() > MAX_ID_BYTES => {
                Err(format!("an id is limited to {MAX_ID_BYTES} bytes, this one has {}", text.len()))
            }
            Value::String(text) => Ok(Self::Text(text)),
            Value::Number(number) if number.is_i64() || number.is_u64() => Ok(Self::Number(number)),
            // A whole number, such as 1e3, that is not rounded.
            Value::Number(number)
                if number.as_f64().is_some_and(|number| number.fract() == 0.0 && number.abs() < 1e15) =>
            {
                Ok(Self::Number(number))
            }
            _ => Err("an id must be a string or a whole number of 64 bits".to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Fields {
    /// The usual names, except for the chosen ones.
    pub(in crate::cli) fn new(choices: &[FieldChoice]) -> Self {
        let names = |role: &str, usual: &[&'static str]| {
            let chosen = choices.iter().filter(|choice| choice.role == role).map(|choice| choice.name.clone());
            let chosen: Vec<String> = chosen.collect();
            if chosen.is_empty() { Names::Usual(usual.to_vec()) } else { Names::Chosen(chosen) }
        };
        Self {
            text: names("text", TEXT),
            id: names("id", ID),
            query: names("query", QUERY),
            query_id: names("query-id", QUERY_ID),
            score: names("score", SCORE),
        }
    }

    /// For a file of queries: its texts and ids are those of queries.
    #[must_use]
    pub(in crate::cli) fn of_queries(&self) -> Self {
        let with = |names: &Names, more: &Names| match (names, more) {
            (_, Names::Chosen(_)) => more.clone(),
            (Names::Chosen(_), _) => names.clone(),
            (Names::Usual(names), Names::Usual(more)) => Names::Usual([more.as_slice(), names].concat()),
        };
        Self { text: with(&self.text, &self.query), id: with(&self.id, &self.query_id), ..self.clone() }
    }

    /// The names for a file of two unnamed columns.
    pub(super) fn id_and_text(&self) -> Columns {
        [&self.id, &self.text].map(|names| names.iter().next().unwrap_or_default().to_owned()).into()
    }

    /// A hint for a file whose records have a title that is not ranked.
    pub(in crate::cli) fn note(&self, record: &Record) -> Option<&'static str> {
        let titled = match (&record.content, &self.text) {
            (Content::Text(_), _) | (_, Names::Chosen(_)) => false,
            (Content::Json(json), _) => parse(json).is_ok_and(|document| self.leaves_title(&document)),
            (Content::Row(row), _) => row.get(TITLE).is_some_and(|title| !title.is_empty()),
        };
        titled.then_some(TITLES_NOT_RANKED)
    }

    /// Whether a document has a title that is not ranked.
    pub(super) fn leaves_title(&self, document: &DocumentValue) -> bool {
        match (document, &self.text) {
            (DocumentValue::Object(object), Names::Usual(_)) => {
                object.get(TITLE).is_some_and(|title| !title.is_null() && title != "")
            }
            _ => false,
        }
    }

    /// Whether the caller chose a name.
    pub(super) fn are_chosen(&self) -> bool {
        let all = [&self.text, &self.id, &self.query, &self.query_id, &self.score];
        all.iter().any(|names| matches!(names, Names::Chosen(_)))
    }

    /// Whether the cells of a row name an id and a text.
    pub(super) fn are_named_in(&self, cells: &[String]) -> bool {
        let named =
            |names: &Names| names.iter().any(|name| cells.iter().any(|cell| cell.trim().eq_ignore_ascii_case(name)));
        named(&self.text) && named(&self.id)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// The document is invalid; the error says why.
    pub(in crate::cli) fn document(&self, record: &Record) -> Result<Document, String> {
        match &record.content {
            Content::Text(text) => Ok(Document { id: None, text: text.clone() }),
            Content::Json(json) => self.document_of(parse(json)?),
            Content::Row(row) => Ok(Document { id: self.id_of(row)?, text: self.text_of(row)? }),
        }
    }

    /// Reads a document of a request.
    pub(super) fn document_of(&self, value: DocumentValue) -> Result<Document, String> {
        match value {
            DocumentValue::Text(text) => Ok(Document { id: None, text }),
            DocumentValue::Object(object) => Ok(Document { id: self.id_of(&object)?, text: self.text_of(&object)? }),
        }
    }

    /// The id of the query of a row of pairs.
    pub(in crate::cli) fn query_id_of(&self, row: &Row) -> Result<Option<Id>, String> {
        first(&self.query_id, row).map(Id::try_from).transpose()
    }

    /// The query of a pair.
    pub(in crate::cli) fn query_of(&self, named: &impl Named) -> Result<String, String> {
        join(&self.query, named)?.ok_or_else(|| missing("query", &self.query, named))
    }

    /// The score of a pair.
    pub(super) fn score_of(&self, named: &impl Named) -> Result<f64, String> {
        let value = first(&self.score, named).ok_or_else(|| missing("score", &self.score, named))?;
        let number = match &value {
            Value::Number(number) => number.as_f64(),
            Value::String(cell) => cell.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number| number.is_finite()).ok_or_else(|| {
            let value = value.to_string();
            format!("the score {value:.40} is not a number")
        })
    }

    fn id_of(&self, named: &impl Named) -> Result<Option<Id>, String> {
        match first(&self.id, named) {
            Some(value) => Id::try_from(value).map(Some),
            None if matches!(self.id, Names::Chosen(_)) => Err(missing("id", &self.id, named)),
            None => Ok(None),
        }
    }

    pub(super) fn text_of(&self, named: &impl Named) -> Result<String, String> {
        join(&self.text, named)?.ok_or_else(|| missing("text", &self.text, named))
    }
}

/// Parses JSON that may hold half surrogate pairs; the message has the column.
pub(in crate::cli) fn parse<T: de::DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(&replace_lone_surrogates(json)).map_err(|error| without_line(&error))
}

/// A parser's message with only the column of its position, because a record has its own place.
pub(super) fn without_line(error: &serde_json::Error) -> String {
    let (text, column) = (error.to_string(), error.column());
    let position = format!(" at line {} column {column}", error.line());
    // Without a value, the parser says what it expected of one: that says nothing about a line of plain text.
    let text = if error.is_syntax() && !text.starts_with("trailing ") { format!("is not JSON: {text}") } else { text };
    let message = match text.strip_suffix(&position) {
        Some(message) if error.line() == 1 => format!("{message} at column {column}"),
        _ => text,
    };
    // Usually a value that continues on the next line.
    let remedy = if error.is_eof() { ": each JSON value must be on one line, as `jq -c .` writes it" } else { "" };
    message + remedy
}

/// A document in JSON: its text, or an object.
pub(super) enum DocumentValue {
    Text(String),
    Object(Map<String, Value>),
}

impl<'de> Deserialize<'de> for DocumentValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Document;
        impl<'de> Visitor<'de> for Document {
            type Value = DocumentValue;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a document, which must be a string or an object with a \"text\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DocumentValue, E> {
                Ok(DocumentValue::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<DocumentValue, E> {
                Ok(DocumentValue::Text(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DocumentValue, A::Error> {
                let mut object = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if object.insert(name.clone(), value).is_some() {
                        return Err(de::Error::custom(format!("two fields have the name {name:?}")));
                    }
                }
                Ok(DocumentValue::Object(object))
            }
        }
        deserializer.deserialize_any(Document)
    }
}

/// An object or a row: named values.
pub(in crate::cli) trait Named {
    /// A text; `None` if the field is missing or null.
    fn text(&self, name: &str) -> Result<Option<&str>, String>;
    fn value(&self, name: &str) -> Option<Value>;
    /// The names present, for messages.
    fn names(&self) -> Vec<&str>;
    /// A further remedy if a name is missing.
    fn remedy(&self) -> &'static str;
}

impl Named for Map<String, Value> {
    fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{name:?} must be a string")),
        }
    }

    fn value(&self, name: &str) -> Option<Value> {
        self.get(name).filter(|value| !value.is_null()).cloned()
    }

    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }

    fn remedy(&self) -> &'static str {
        ""
    }
}

impl Named for Row {
    fn text(&self, name: &str) -> Result<Option<&str>, String> {
        Ok(self.get(name))
    }

    fn value(&self, name: &str) -> Option<Value> {
        self.get(name).filter(|cell| !cell.is_empty()).map(|cell| Value::String(cell.to_owned()))
    }

    fn names(&self) -> Vec<&str> {
        self.columns().iter().map(String::as_str).collect()
    }

    fn remedy(&self) -> &'static str {
        "; --columns names those of a file without a row of names"
    }
}

impl Names {
    fn iter(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Usual(names) => Box::new(names.iter().copied()),
            Self::Chosen(names) => Box::new(names.iter().map(String::as_str)),
        }
    }
}

/// The first value that is there.
fn first(names: &Names, named: &impl Named) -> Option<Value> {
    names.iter().find_map(|name| named.value(name))
}

/// The first of the usual texts, or all chosen ones joined by spaces.
fn join(names: &Names, named: &impl Named) -> Result<Option<String>, String> {
    let mut texts = Vec::new();
    for name in names.iter() {
        texts.extend(named.text(name)?);
        if matches!(names, Names::Usual(_)) && !texts.is_empty() {
            break;
        }
    }
    if texts.is_empty() {
        return Ok(None);
    }
    if texts.len() > 1 {
        texts.retain(|text| !text.is_empty());
    }
    Ok(Some(texts.join(" ")))
}

fn missing(role: &str, names: &Names, named: &impl Named) -> String {
    /// Most names that a message lists.
    const MOST: usize = 12;
    let asked: Vec<String> = names.iter().take(1).map(|name| format!("{name:?}")).collect();
    let there: Vec<String> = named.names().into_iter().take(MOST).map(|name| format!("{name:.40?}")).collect();
    if named.names().iter().any(|name| names.iter().any(|asked| asked == *name)) {
        return format!("has nothing in {}: a {role} must be there", asked.concat());
    }
    let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
    format!("has no {} but {there}: choose with --field {role}=NAME{}", asked.concat(), named.remedy())
}
