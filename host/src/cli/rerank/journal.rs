//! Where answers go: standard output, or a file that is its own journal.
//!
//! Each outcome is written at once and in the order of the requests, so what a file holds says what is done. A process
//! that was killed leaves at most one outcome half written, at the end. Going on means: read the outcomes, compare them
//! with the requests, cut the half one off, and pass over the requests that have theirs.

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

/// Longest line of a file of answers: ids of a thousand documents, and the fields that were kept of a request.
const MAX_LINE_BYTES: u64 = 6 * DEFAULT_MAX_REQUEST_BYTES as u64;

/// Where answers go.
pub(super) enum Sink {
    StandardOutput,
    File { file: File, name: String },
}

/// What a file of answers holds already.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Requests that have an outcome.
    pub(super) requests: u64,
    /// Those of them that have an error.
    pub(super) failed: u64,
    /// Where the requests stand after them.
    pub(super) end: u64,
    /// The next request, where it was read to find the place.
    pub(super) next: Option<Header>,
}

impl Sink {
    /// Opens a file for answers.
    ///
    /// # Errors
    /// The file cannot be opened, another process writes to it, or it holds something and is not to be gone on with.
    pub(super) fn file(path: &Path, resume: bool) -> Result<Self, CliError> {
        let name = path.display().to_string();
        let bad = |message: String| CliError::bad_input(message).at(&name);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(|error| bad(error.to_string()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(bad("another process writes to it".to_owned())),
            // A file system without locks: the rest works without them.
            Err(TryLockError::Error(_)) => {}
        }
        let bytes = file.metadata().map_err(|error| bad(error.to_string()))?.len();
        if bytes > 0 && !resume {
            return Err(bad("is not empty: go on with it by --resume, or remove it".to_owned()));
        }
        Ok(Self::File { file, name })
    }

    /// Finds out what a file holds, passes over the requests that have an outcome, and cuts off what is half written.
    ///
    /// # Errors
    /// The file holds something other than the outcomes of these requests by this model, in order.
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
                return Err(CliError::bad_input(
                    "--resume needs --output jsonl or run: a table cannot be gone on with",
                ));
            }
        };
        let cut = file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end)));
        cut.map_err(|error| CliError::failed(format!("{name}: {error}")))?;
        Ok(done)
    }

    /// Writes an outcome whole.
    ///
    /// # Errors
    /// It cannot be written. A reader of standard output that has gone is an error that is not said.
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

/// A line of a file of answers, as far as it says which request it is for.
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
            return Err(at("is an answer to no request: there are fewer requests than answers".to_owned()));
        };
        // A request that could not be read has no id, and may have been put right since.
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

/// Lines of a run do not say how many belong to a query, so the last query is done again.
fn run_lines(file: &File, name: &str, requests: &mut dyn Requests) -> Result<(u64, Done), CliError> {
    let (mut lines, mut done) = (Answers::new(file, name), Done::default());
    // The query of the lines that were read last, and where they begin.
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

/// The whole lines of a file of answers.
struct Answers<'a> {
    reader: BufReader<&'a File>,
    name: &'a str,
    number: u64,
    /// Where the last line that was read ends.
    end: u64,
}

impl<'a> Answers<'a> {
    fn new(file: &'a File, name: &'a str) -> Self {
        Self { reader: BufReader::new(file), name, number: 0, end: 0 }
    }

    /// The next line; none at the end of the file or at a line that is half written.
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
