//! The output for answers: standard output, or a file that is its own journal.
//!
//! Each outcome is written at once and in the order of the requests, so the file shows what is done. A killed process
//! leaves at most one incomplete outcome, at the end. To resume: read the outcomes, compare them with the requests, skip
//! the requests that have an outcome, rank the last answer's request again to see that it is this run's
//! ([`resumed`](super::resumed)), and cut off the incomplete outcome.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::answer::OutputFormat;
use super::requests::{Header, ReadRequest, Requests};
use super::resumed::{Extent, FoundHit, LastAnswer};
use crate::cli::error::CliError;
use crate::cli::formats::trec::{self, RunLine};
use crate::cli::formats::{Id, parse};
use crate::cli::output::standard_output;
use crate::limits::{DEFAULT_MAX_DOCUMENTS, DEFAULT_MAX_REQUEST_BYTES};

/// Longest line of an answers file: ids of a thousand documents and a request's kept fields.
const MAX_LINE_BYTES: u64 = 6 * DEFAULT_MAX_REQUEST_BYTES as u64;

/// The output for answers.
pub(super) enum Sink {
    StandardOutput,
    File { file: File, name: String },
}

/// The contents of an existing answers file.
#[derive(Default)]
pub(super) struct Done {
    /// Requests with an outcome.
    pub(super) requests: u64,
    /// Those with an error.
    pub(super) failed: u64,
    /// The position in the requests after them.
    pub(super) end: u64,
    /// The next request, if it was read to find the position.
    pub(super) next: Option<ReadRequest>,
    /// The last answer, to compare with what this run gives.
    pub(super) last: Option<LastAnswer>,
    /// Where the incomplete outcome begins, which is cut off.
    pub(super) cut: u64,
}

impl Sink {
    /// Opens a file for answers.
    ///
    /// # Errors
    /// The file cannot be opened, another process writes to it, or it is not empty and not resumed.
    pub(super) fn file(path: &Path, resume: bool) -> Result<Self, CliError> {
        let name = path.display().to_string();
        let bad = |message: String| CliError::bad_input(message).at(&name);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(|error| bad(error.to_string()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(bad("another process writes to it".to_owned())),
            // A file system without locks; everything else works.
            Err(TryLockError::Error(_)) => {}
        }
        let bytes = file.metadata().map_err(|error| bad(error.to_string()))?.len();
        if bytes > 0 && !resume {
            return Err(bad("is not empty: continue it with --resume, or remove it".to_owned()));
        }
        Ok(Self::File { file, name })
    }

    /// Reads a file's outcomes and skips the requests that have one. Changes nothing in the file.
    ///
    /// # Errors
    /// The file contains something other than the outcomes of these requests by this model, in order.
    pub(super) fn resume(
        &mut self,
        format: OutputFormat,
        names: Names<'_>,
        requests: &mut dyn Requests,
    ) -> Result<Done, CliError> {
        let Self::File { file, name } = self else { return Ok(Done::default()) };
        match format {
            OutputFormat::Jsonl => json_lines(file, name, names.model, requests),
            OutputFormat::Run => run_lines(file, name, names.tag, requests),
            OutputFormat::Table => {
                Err(CliError::bad_input("--resume needs --output jsonl or run: a table cannot be resumed"))
            }
        }
    }

    /// Cuts a file off, and goes on there.
    ///
    /// # Errors
    /// The file cannot be changed.
    pub(super) fn cut(&mut self, end: u64) -> Result<(), CliError> {
        let Self::File { file, name } = self else { return Ok(()) };
        let cut = file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end)));
        cut.map(drop).map_err(|error| CliError::failed(format!("{name}: {error}")))
    }

    /// Writes a whole outcome.
    ///
    /// # Errors
    /// The outcome cannot be written. If the reader of standard output has gone, the error is silent.
    pub(super) fn write(&mut self, text: &str) -> Result<(), CliError> {
        match self {
            Self::StandardOutput => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| standard_output(&error))
            }
            Self::File { file, name } => {
                file.write_all(text.as_bytes()).map_err(|error| CliError::failed(format!("{name}: {error}")))
            }
        }
    }
}

/// The names that a run writes into its answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) model: &'a str,
    /// The last column of a run.
    pub(super) tag: &'a str,
}

/// The fields of an answer line that identify its request.
#[derive(Deserialize)]
struct Outcome {
    id: Option<Id>,
    model: Option<String>,
    error: Option<IgnoredAny>,
    hits: Option<Vec<IgnoredAny>>,
}

/// The hits of an answer line.
#[derive(Deserialize)]
struct Hits {
    hits: Vec<FoundHit>,
}

fn json_lines(file: &File, name: &str, model: &str, requests: &mut dyn Requests) -> Result<Done, CliError> {
    let last = last_answer(file, name)?;
    let (mut lines, mut done) = (Answers::new(file, name)?, Done::default());
    while let Some(line) = lines.next()? {
        let at = |message: String| CliError::bad_input(message).at(&format!("{name}, line {}", lines.number));
        let outcome: Outcome = parse(&line).map_err(|error| at(format!("is no answer: {error}")))?;
        if outcome.error.is_none() && outcome.hits.is_none() {
            return Err(at("is no answer: it has neither hits nor an error".to_owned()));
        }
        let Some(request) = requests.advance()? else {
            return Err(at("has no request: there are fewer requests than answers".to_owned()));
        };
        // A request that could not be read has no id, and may have been corrected since.
        let unread = outcome.error.is_some() && outcome.id.is_none();
        if outcome.id != request.id && !unread {
            let id = |id: &Option<Id>| id.as_ref().map_or("no id".to_owned(), |id| format!("id {id}"));
            let place = request.place.map(|place| place.to_string()).unwrap_or_default();
            return Err(at(format!(
                "answers a request with {}, and {place} has {}: these are not the answers of these requests",
                id(&outcome.id),
                id(&request.id)
            )));
        }
        if let Some(other) = outcome.model.filter(|other| other != model) {
            return Err(at(format!("was answered by model {other}, and this run has {model}")));
        }
        done.requests += 1;
        done.failed += u64::from(outcome.error.is_some());
        (done.end, done.cut) = (request.end, lines.end);
        if last == Some(lines.number) {
            let Hits { hits } = parse(&line).map_err(|error| at(format!("is no answer: {error}")))?;
            let place = format!("{name}, line {}", lines.number);
            done.last = Some(LastAnswer { request: (request, requests.work()?), hits, extent: Extent::Whole, place });
        }
    }
    Ok(done)
}

/// The number of the last line with an answer; of one with hits, if there is one. It is looked for first, as a request's
/// texts may have to be read from another file.
fn last_answer(file: &File, name: &str) -> Result<Option<u64>, CliError> {
    let (mut lines, mut any, mut with_hits) = (Answers::new(file, name)?, None, None);
    while let Some(line) = lines.next()? {
        // What is wrong with a line is said when it is compared with its request.
        match parse::<Outcome>(&line).ok().and_then(|outcome| outcome.hits) {
            Some(hits) if hits.is_empty() => any = Some(lines.number),
            Some(_) => with_hits = Some(lines.number),
            None => {}
        }
    }
    Ok(with_hits.or(any))
}

/// A run does not say how many lines belong to a query, so the last query is repeated.
fn run_lines(file: &File, name: &str, tag: &str, requests: &mut dyn Requests) -> Result<Done, CliError> {
    let (mut lines, mut done) = (Answers::new(file, name)?, Done::default());
    // The query of the last lines, its request, and what the lines say.
    let mut last: Option<(String, Header, Vec<FoundHit>)> = None;
    loop {
        let start = lines.end;
        let Some(line) = lines.next()? else { break };
        let at = |message: String| CliError::bad_input(message).at(&format!("{name}, line {}", lines.number));
        let RunLine { query_id, document_id, score } = trec::parse_text(&line).map_err(at)?;
        if let Some(other) = line.split_ascii_whitespace().last().filter(|other| *other != tag) {
            return Err(at(format!("has the tag {other:.80}, and this run has {tag}")));
        }
        #[allow(clippy::cast_possible_truncation, reason = "it was written as an f32")]
        let hit = FoundHit { index: None, id: Some(Id::Text(document_id)), score: Some(score as f32) };
        if let Some((query, _, hits)) = &mut last
            && *query == query_id
        {
            if hits.len() == DEFAULT_MAX_DOCUMENTS {
                return Err(at(format!("is one too many of query {query}, which has at most {DEFAULT_MAX_DOCUMENTS}")));
            }
            hits.push(hit);
            continue;
        }
        if let Some((_, request, _)) = last.take() {
            (done.requests, done.end) = (done.requests + 1, request.end);
        }
        let request = loop {
            let Some(request) = requests.advance()? else {
                return Err(at(format!("is for query {query_id}, which no request has, or none at this place")));
            };
            if request.id.as_ref().is_some_and(|id| id.to_string() == query_id) {
                break request;
            }
            // A request without lines in the run had an error.
            (done.requests, done.failed) = (done.requests + 1, done.failed + 1);
            done.end = request.end;
        };
        (last, done.cut) = (Some((query_id, request, vec![hit])), start);
    }
    if let Some((query, request, hits)) = last {
        let request = (request, requests.work()?);
        done.next = Some(request.clone());
        done.last =
            Some(LastAnswer { request, hits, extent: Extent::Beginning, place: format!("{name}, query {query}") });
    }
    Ok(done)
}

/// The complete lines of an answers file.
struct Answers<'a> {
    reader: BufReader<&'a File>,
    name: &'a str,
    number: u64,
    /// The end of the last line read.
    end: u64,
}

impl<'a> Answers<'a> {
    fn new(mut file: &'a File, name: &'a str) -> Result<Self, CliError> {
        file.rewind().map_err(|error| CliError::failed(format!("{name}: {error}")))?;
        Ok(Self { reader: BufReader::new(file), name, number: 0, end: 0 })
    }

    /// The next line; `None` at the end of the file or at an incomplete line.
    fn next(&mut self) -> Result<Option<String>, CliError> {
        self.number += 1;
        let place = format!("{}, line {}", self.name, self.number);
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
        let read = read.map_err(|error| CliError::failed(error.to_string()).at(&place))?;
        if read as u64 > MAX_LINE_BYTES {
            let message = format!("is longer than {MAX_LINE_BYTES} bytes, the most that a line of answers may have");
            return Err(CliError::bad_input(message).at(&place));
        }
        if bytes.last() != Some(&b'\n') {
            return Ok(None);
        }
        self.end += read as u64;
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|_| CliError::bad_input("is not UTF-8").at(&place))
    }
}
