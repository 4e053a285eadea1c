//! `assay rerank`: rank documents for a query, or for a file of queries.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, ValueEnum};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::engine::EngineArgs;
use super::error::CliError;
use super::input::{self, Format, Lines};
use super::table;
use crate::device::{Device, LoadedModel};
use crate::guest::{self, Guest, GuestRuntime, RuntimeOptions};
use crate::json::{Document, RequestLine};
use crate::limits::RequestLimits;
use crate::model::ModelStore;
use crate::rerank::{Activation, Request, Response, Timings, Truncation, Usage};

/// Requests of a file that are in work at once: while one is on the device, the next is tokenised.
const REQUESTS_IN_FLIGHT: usize = 2;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true).args(["query", "requests"]))]
pub(super) struct Args {
    /// The text to rank the documents for
    #[arg(long)]
    query: Option<String>,
    /// The documents
    #[arg(requires = "query", value_name = "DOCUMENT")]
    document: Vec<String>,
    /// A file of documents instead: JSONL of strings or {"text": …}, or plain lines; - is standard input
    #[arg(long, requires = "query", conflicts_with = "document", value_name = "FILE")]
    documents: Option<PathBuf>,
    /// How to read the documents file
    #[arg(long, requires = "documents", default_value = "auto", value_name = "FORMAT")]
    documents_format: Format,
    /// A JSONL file with one {"query": …, "documents": […]} a line, answered in order; - is standard input
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// Most hits to show for each query
    #[arg(long, value_name = "N")]
    top_n: Option<u32>,
    /// Longest pair in tokens [default: the model's own maximum]
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// The model's logit, or the same between 0 and 1
    #[arg(long, default_value = "raw")]
    scores: Scores,
    /// What to do with a pair that is too long: cut the longer text, cut the document, or fail
    #[arg(long, default_value = "longest-first")]
    truncation: CliTruncation,
    /// The model [default: see `assay model list`]
    #[arg(long)]
    model: Option<String>,
    /// A guest to use in place of the standard one
    #[arg(long, value_name = "COMPONENT.wasm")]
    guest: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    /// One JSON object for each query
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scores {
    Raw,
    Sigmoid,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CliTruncation {
    LongestFirst,
    DocumentOnly,
    None,
}

pub(super) fn run(args: Args, data_dir: &Path) -> Result<(), CliError> {
    // The input is opened before anything slow, so that a mistake in it is reported at once.
    let input = Input::open(&args)?;
    let device = Device::open(&args.engine.options(data_dir)?)?;
    let store = ModelStore::new(data_dir);
    let stored = store.open(args.model.as_deref())?;
    // Reading the model and setting up what runs guests have nothing to do with each other.
    let (model, runtime) = std::thread::scope(|scope| {
        let runtime = scope.spawn(|| GuestRuntime::new(&data_dir.join("compiled"), &RuntimeOptions::default()));
        let model = device.load(&stored);
        (model, runtime.join())
    });
    let (model, runtime) = (model?, runtime.map_err(|_| CliError::failed("setting up guests panicked"))??);
    let guest = load_guest(&runtime, args.guest.as_deref(), &model)?;
    let session = Session { model, guest, limits: RequestLimits::default(), args };
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let threads = threads.map_err(|error| CliError::failed(format!("no threads can be started: {error}")))?;
    let done = threads.block_on(session.answer_all(input));
    drop(runtime);
    done
}

/// Finds the guest, prepared with the model's tokenizer: only the first time takes longer than a moment.
fn load_guest(runtime: &GuestRuntime, path: Option<&Path>, model: &LoadedModel) -> Result<Guest, CliError> {
    match (path, guest::standard()) {
        (Some(path), _) => {
            let wasm = guest::read_component(path)?;
            Ok(runtime.load_prepared(&path.display().to_string(), &wasm, model.info())?)
        }
        (None, Some(standard)) => Ok(runtime.load_prepared("the standard guest", standard, model.info())?),
        (None, None) => Err(CliError::failed(
            "this program was built without the standard guest: build it with `cargo xtask build`, or name one with --guest",
        )),
    }
}

/// Where the requests come from.
enum Input {
    One { query: String, documents: Vec<String> },
    Many(Lines),
}

impl Input {
    fn open(args: &Args) -> Result<Self, CliError> {
        match (&args.requests, &args.query) {
            (Some(requests), _) => Ok(Self::Many(Lines::open(requests)?)),
            (None, query) => {
                let documents = match &args.documents {
                    Some(file) => input::documents(file, args.documents_format)?,
                    None if args.document.is_empty() => {
                        return Err(CliError::bad_input(
                            "no documents: give them as arguments or with --documents FILE",
                        ));
                    }
                    None => args.document.clone(),
                };
                Ok(Self::One { query: query.clone().unwrap_or_default(), documents })
            }
        }
    }
}

struct Session {
    model: Arc<LoadedModel>,
    guest: Guest,
    limits: RequestLimits,
    args: Args,
}

impl Session {
    async fn answer_all(&self, input: Input) -> Result<(), CliError> {
        match input {
            Input::One { query, documents } => {
                let (documents, response) = self.answer(query.clone(), documents).await?;
                self.print(&query, &documents, &response)
            }
            Input::Many(lines) => {
                futures::stream::iter(lines)
                    .map(|line| self.answer_line(line))
                    .buffered(REQUESTS_IN_FLIGHT)
                    .try_for_each(async |(query, documents, response)| self.print(&query, &documents, &response))
                    .await
            }
        }
    }

    async fn answer_line(
        &self,
        line: Result<input::Line, CliError>,
    ) -> Result<(String, Vec<String>, Response), CliError> {
        let line = line?;
        let RequestLine { query, documents } = line.json()?;
        let documents = documents.into_iter().map(Document::into).collect();
        match self.answer(query.clone(), documents).await {
            Ok((documents, response)) => Ok((query, documents, response)),
            Err(error) => Err(error.at(&line.place)),
        }
    }

    async fn answer(&self, query: String, documents: Vec<String>) -> Result<(Vec<String>, Response), CliError> {
        // The table shows the documents again; JSON does not, and is spared the copy.
        let shown = if self.args.json { Vec::new() } else { documents.clone() };
        let request = Request {
            query,
            documents,
            top_n: self.args.top_n,
            max_tokens: self.args.max_tokens,
            truncation: match self.args.truncation {
                CliTruncation::LongestFirst => Truncation::LongestFirst,
                CliTruncation::DocumentOnly => Truncation::DocumentOnly,
                CliTruncation::None => Truncation::None,
            },
            activation: match self.args.scores {
                Scores::Raw => Activation::None,
                Scores::Sigmoid => Activation::Sigmoid,
            },
            settings: Vec::new(),
        };
        let response = self.guest.rerank(Arc::clone(&self.model), request, &self.limits).await?;
        Ok((shown, response))
    }

    fn print(&self, query: &str, documents: &[String], response: &Response) -> Result<(), CliError> {
        let text = if self.args.json { self.json(response)? } else { self.table(query, documents, response) };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) => Err(CliError::failed(format!("standard output: {error}"))),
        }
    }

    fn json(&self, response: &Response) -> Result<String, CliError> {
        let Usage { tokens, rows, truncated } = response.usage;
        let Timings { guest, queue, inference, total } = response.timings;
        // Microseconds are as fine as these clocks are worth.
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let line = JsonLine {
            model: self.model.name(),
            hits: response.hits.iter().map(|hit| JsonHit { index: hit.index, score: hit.score }).collect(),
            usage: JsonUsage { tokens, rows, truncated },
            timings_ms: JsonTimings { guest: ms(guest), queue: ms(queue), inference: ms(inference), total: ms(total) },
        };
        match serde_json::to_string(&line) {
            Ok(line) => Ok(line + "\n"),
            Err(error) => Err(CliError::failed(format!("the answer cannot be written as JSON: {error}"))),
        }
    }

    fn table(&self, query: &str, documents: &[String], response: &Response) -> String {
        let rows: Vec<Vec<String>> = response
            .hits
            .iter()
            .enumerate()
            .map(|(rank, hit)| {
                let document = documents.get(hit.index as usize).map_or_else(String::new, |text| table::snippet(text));
                vec![(rank + 1).to_string(), format!("{:.4}", hit.score), document]
            })
            .collect();
        let engine = self.model.engine();
        let Timings { guest, queue, inference, total } = response.timings;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        format!(
            "{}\n{}{} rows, {} tokens, {} cut · {:.1} ms = guest {:.1} + queue {:.1} + inference {:.1}\n{} · {} {} · {} · {}\n\n",
            table::snippet(query),
            table::columns(&["rank", "score", "document"], &rows),
            response.usage.rows,
            response.usage.tokens,
            response.usage.truncated,
            ms(total),
            ms(guest),
            ms(queue),
            ms(inference),
            self.model.name(),
            engine.name,
            engine.precision,
            engine.device,
            self.model.device().reason(),
        )
    }
}

/// What `--json` prints for a query.
#[derive(Serialize)]
struct JsonLine<'a> {
    model: &'a str,
    hits: Vec<JsonHit>,
    usage: JsonUsage,
    timings_ms: JsonTimings,
}

#[derive(Serialize)]
struct JsonHit {
    index: u32,
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
