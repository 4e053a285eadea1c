//! The output for answers: standard output, or a file that is its own journal.
//!
//! Each outcome is written at once and in the order of the requests, so the file shows what is done. A killed process
//! leaves at most one incomplete outcome, at the end. To resume: read the outcomes, compare them with the requests, cut
//! off the incomplete one, and skip the requests that have an outcome.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::answer::OutputFormat;
use super::requests::{Header, Requests};
use crate::cli::error::CliError;
use crate::cli::formats::{Id, parse, trec};
use crate::cli::output::standard_output;
use crate::limits::DEFAULT_MAX_REQUEST_BYTES;

/// Longest line of an answers file: ids of a thousand documents and a request's kept fields.
const MAX_LINE_BYTES: u64 = 6 * DEFAULT_MAX_REQUEST_BYTES as u64;

/// The output for answers.
pub(super) enum Sink {
    StandardOutput,
    File { file: File, name: String },
}

/// The contents of an existing answers file.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Requests with an outcome.
    pub(super) requests: u64,
    /// Those with an error.
    pub(super) failed: u64,
    /// The position in the requests after them.
    pub(super) end: u64,
    /// The next request, if it was read to find the position.
    pub(super) next: Option<Header>,
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

    /// Reads a file's outcomes, skips the requests that have one, and cuts off an incomplete outcome.
    ///
    /// # Errors
    /// The file contains something other than the outcomes of these requests by this model, in order.
    pub(super) fn resume(
        &mut self,
        format: OutputFormat,
        model: &str,
        requests: &mut dyn Requests,
    ) -> Result<Done, CliError> {
        let Self::File { file, name } = self else { return Ok(Done::default()) };
        let (end, done) = match format {
            OutputFormat::Jsonl => json_lines(file, name, model, requests)?,
            OutputFormat::Run => run_lines(file, name, requests)?,
            OutputFormat::Table => {
                return Err(CliError::bad_input("--resume needs --output jsonl or run: a table cannot be resumed"));
            }
        };
        let cut = file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end)));
        cut.map_err(|error| CliError::failed(format!("{name}: {error}")))?;
        Ok(done)
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

/// The fields of an answer line that identify its request.
#[derive(Deserialize)]
struct Outcome {
    id: Option<Id>,
    model: Option<String>,
    error: Option<IgnoredAny>,
    hits: Option<IgnoredAny>,
}

fn json_lines(file: &File, name: &str, model: &str, requests: &mut dyn Requests) -> Result<(u64, Done), CliError> {
    let (mut lines, mut done) = (Answers::new(file, name), Done::default());
    let mut end = 0;
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
        (done.end, end) = (request.end, lines.end);
    }
    Ok((end, done))
}

/// A run does not say how many lines belong to a query, so the last query is repeated.
fn run_lines(file: &File, name: &str, requests: &mut dyn Requests) -> Result<(u64, Done), CliError> {
    let (mut lines, mut done) = (Answers::new(file, name), Done::default());
    // The query of the last lines, and where they begin.
    let mut last: Option<(String, u64)> = None;
    loop {
        let start = lines.end;
        let Some(line) = lines.next()? else { break };
        let at = |message: String| CliError::bad_input(message).at(&format!("{name}, line {}", lines.number));
        let query = trec::parse_text(&line).map_err(at)?.query_id;
        if last.as_ref().is_some_and(|(last, _)| *last == query) {
            continue;
        }
        if let Some(request) = done.next.take() {
            (done.requests, done.end) = (done.requests + 1, request.end);
        }
        loop {
            let Some(request) = requests.advance()? else {
                return Err(at(format!("is for query {query}, which no request has, or none at this place")));
            };
            if request.id.as_ref().is_some_and(|id| id.to_string() == query) {
                done.next = Some(request);
                break;
            }
            // A request without lines in the run had an error.
            (done.requests, done.failed) = (done.requests + 1, done.failed + 1);
            done.end = request.end;
        }
        last = Some((query, start));
    }
    Ok((last.map_or(0, |(_, start)| start), done))
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
    fn new(file: &'a File, name: &'a str) -> Self {
        Self { reader: BufReader::new(file), name, number: 0, end: 0 }
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
