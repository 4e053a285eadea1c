//! Formats a request's outcome: a table for people, a line of JSON, or lines of a TREC run.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};

use super::fault::{FaultKind, RequestFault};
use super::requests::Header;
use crate::cli::formats::{Document, Id, trec};
use crate::cli::table;
use crate::rerank::{Response, Timings, Usage};

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// A table for each query, to read
    Table,
    /// One JSON object for each request, in order
    Jsonl,
    /// A TREC run: `query-id Q0 document-id rank score tag`, a line for each document
    Run,
}

/// The parts of a request's query and documents that the output shows.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) query: String,
    /// With texts for a table; otherwise only ids, if any document has one.
    pub(super) documents: Vec<Document>,
}

impl Shown {
    /// The parts of a request that a format needs. JSON shows no texts and needs no copy.
    pub(super) fn of(query: &str, documents: &[Document], format: OutputFormat) -> Self {
        match format {
            OutputFormat::Table => Self { query: query.to_owned(), documents: documents.to_vec() },
            OutputFormat::Jsonl | OutputFormat::Run if documents.iter().all(|document| document.id.is_none()) => {
                Self::default()
            }
            OutputFormat::Jsonl | OutputFormat::Run => {
                let ids = documents.iter().map(|document| Document { id: document.id.clone(), text: String::new() });
                Self { query: String::new(), documents: ids.collect() }
            }
        }
    }

    pub(super) fn id(&self, index: u32) -> Option<&Id> {
        self.documents.get(index as usize)?.id.as_ref()
    }
}

/// Writes outcomes in one format.
pub(super) struct Writer {
    pub(super) format: OutputFormat,
    /// The model's name.
    pub(super) model: String,
    /// The last line of a table: the engine.
    pub(super) engine: String,
    /// The last column of a run.
    pub(super) tag: String,
}

impl Writer {
    /// Checks a request for this format, before anything is computed.
    pub(super) fn check(&self, header: &Header, documents: &[Document]) -> Result<(), RequestFault> {
        if self.format != OutputFormat::Run {
            return Ok(());
        }
        let column = |what: &str, id: Option<&Id>| match id {
            None => Err(RequestFault::invalid(format!("{what} has no id, which a line of a run needs"))),
            Some(id) if trec::is_column(&id.to_string()) => Ok(()),
            Some(id) => {
                let id = id.to_string();
                let message = format!("{what} has the id {id:.80?}, and an id of a run holds no white space");
                Err(RequestFault::invalid(message))
            }
        };
        if documents.is_empty() {
            return Err(RequestFault::invalid("the request has no documents, so it has no line in a run"));
        }
        column("the query", header.id.as_ref())?;
        let mut seen = HashSet::with_capacity(documents.len());
        for (index, document) in documents.iter().enumerate() {
            column(&format!("document {index}"), document.id.as_ref())?;
            let id = document.id.as_ref().map(Id::to_string).unwrap_or_default();
            if seen.contains(&id) {
                let message =
                    format!("two documents have the id {id:.80?}, and a run has each document of a query once");
                return Err(RequestFault::invalid(message));
            }
            seen.insert(id);
        }
        Ok(())
    }

    /// The text of an answer.
    pub(super) fn answer(&self, header: &Header, shown: &Shown, response: &Response) -> String {
        match self.format {
            OutputFormat::Table => self.table(shown, response),
            OutputFormat::Jsonl => self.json(header, shown, response),
            OutputFormat::Run => self.run(header, shown, response),
        }
    }

    /// The text instead of an answer; empty for a run.
    pub(super) fn fault(&self, header: &Header, fault: &RequestFault) -> String {
        let place = header.place.as_ref().map(ToString::to_string).unwrap_or_default();
        match self.format {
            OutputFormat::Table => format!("error: {place}: {}\n\n", fault.message),
            OutputFormat::Jsonl => json_line(&ErrorLine {
                id: header.id.as_ref(),
                error: ErrorBody { kind: fault.kind, message: &fault.message, place: &place },
                fields: &header.kept,
            }),
            OutputFormat::Run => String::new(),
        }
    }

    fn json(&self, header: &Header, shown: &Shown, response: &Response) -> String {
        let Usage { tokens, rows, truncated } = response.usage;
        let Timings { guest, queue, inference, total } = response.timings;
        // These clocks are only good to microseconds.
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let hits = response.hits.iter();
        json_line(&AnswerLine {
            id: header.id.as_ref(),
            model: &self.model,
            hits: hits.map(|hit| JsonHit { index: hit.index, id: shown.id(hit.index), score: hit.score }).collect(),
            usage: JsonUsage { tokens, rows, truncated },
            timings_ms: JsonTimings { guest: ms(guest), queue: ms(queue), inference: ms(inference), total: ms(total) },
            fields: &header.kept,
        })
    }

    fn run(&self, header: &Header, shown: &Shown, response: &Response) -> String {
        let mut text = String::new();
        let query = header.id.as_ref().map(ToString::to_string).unwrap_or_default();
        for (rank, hit) in response.hits.iter().enumerate() {
            let document = shown.id(hit.index).map(ToString::to_string).unwrap_or_default();
            // A float's shortest form reads back as the same number, so different scores stay different. Writing to a
            // string does not fail.
            let _ = writeln!(text, "{query} Q0 {document} {} {} {}", rank + 1, hit.score, self.tag);
        }
        text
    }

    fn table(&self, shown: &Shown, response: &Response) -> String {
        let with_ids = shown.documents.iter().any(|document| document.id.is_some());
        let row = |(rank, hit): (usize, &crate::rerank::Hit)| {
            let text = shown.documents.get(hit.index as usize).map_or("", |document| &document.text);
            let mut row = vec![(rank + 1).to_string(), format!("{:.4}", hit.score)];
            if with_ids {
                row.push(table::snippet(&shown.id(hit.index).map(ToString::to_string).unwrap_or_default()));
            }
            row.push(table::snippet(text));
            row
        };
        let rows: Vec<Vec<String>> = response.hits.iter().enumerate().map(row).collect();
        let header: &[&str] =
            if with_ids { &["rank", "score", "id", "document"] } else { &["rank", "score", "document"] };
        let Timings { guest, queue, inference, total } = response.timings;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        format!(
            "{}\n{}{} rows, {} tokens, {} cut · {:.1} ms = guest {:.1} + queue {:.1} + inference {:.1}\n{} · {}\n\n",
            table::snippet(&shown.query),
            table::columns(header, &rows),
            response.usage.rows,
            response.usage.tokens,
            response.usage.truncated,
            ms(total),
            ms(guest),
            ms(queue),
            ms(inference),
            self.model,
            self.engine,
        )
    }
}

fn json_line(line: &impl Serialize) -> String {
    // A line is always valid JSON: names are strings, and a float that is not finite becomes null.
    serde_json::to_string(line).unwrap_or_default() + "\n"
}

/// The line of an answer.
#[derive(Serialize)]
struct AnswerLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Id>,
    model: &'a str,
    hits: Vec<JsonHit<'a>>,
    usage: JsonUsage,
    timings_ms: JsonTimings,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct JsonHit<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Id>,
    score: f32,
}

#[derive(Serialize)]
struct JsonUsage {
    tokens: u64,
    rows: u32,
    truncated: u32,
}

#[derive(Serialize)]
struct JsonTimings {
    guest: f64,
    queue: f64,
    inference: f64,
    total: f64,
}

/// The line instead of an answer.
#[derive(Serialize)]
struct ErrorLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Id>,
    error: ErrorBody<'a>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    kind: FaultKind,
    message: &'a str,
    place: &'a str,
}
