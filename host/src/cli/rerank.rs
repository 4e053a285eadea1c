//! `assay rerank`: rank documents for a query, for a file of queries, or for those of a run.

mod answer;
mod fault;
mod groups;
mod input;
mod journal;
mod progress;
mod requests;
mod resumed;
mod seen;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgGroup, ValueEnum};
use futures::{Stream, StreamExt};

use self::answer::{OutputFormat, Shown, Writer};
use self::fault::RequestFault;
use self::input::{Input, InputKind};
use self::journal::{Done, Names, Sink};
use self::progress::Progress;
use self::requests::{Header, ReadRequest, Requests, Work};
use self::resumed::{Computed, LastAnswer};
use super::engine::EngineArgs;
use super::error::CliError;
use super::formats::{self, CliTruncation, FieldChoice, Format, Scores};
use super::pair::name_and_value;
use super::ranker::Ranker;
use crate::device::Device;
use crate::limits::RequestLimits;
use crate::model::{DefaultScores, ModelStore};
use crate::rerank::{Request, Response};

/// Requests of a file in work at the same time: while one is on the device, the next is tokenised.
const REQUESTS_IN_FLIGHT: usize = 2;

/// Last column of a run.
const DEFAULT_RUN_TAG: &str = "assay";

/// Ranks documents for a query, for a file of requests, or again for the queries of a TREC run.
///
/// Files are UTF-8, and may be JSONL, a JSON array, CSV, TSV or plain lines: docs/cli.md has each with an example.
///
/// Exit codes: 0 done, 2 bad input, 3 done but some requests have an error instead of an answer (--on-error skip), 1
/// anything else.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true).args(["query", "requests", "run"]))]
pub(super) struct Args {
    /// The text to rank the documents for
    #[arg(long)]
    query: Option<String>,
    /// The documents; after `--` they may begin with a hyphen
    // What conflicts is named too: clap does not ask for an argument that another one excludes.
    #[arg(requires = "query", conflicts_with_all = ["requests", "run"], value_name = "DOCUMENT")]
    document: Vec<String>,
    /// A file of documents: for --query instead of arguments, - is standard input; for --run the documents that it
    /// names
    #[arg(long, conflicts_with_all = ["document", "requests"], value_name = "FILE")]
    documents: Option<PathBuf>,
    /// How to read the documents file
    #[arg(long, requires = "documents", conflicts_with_all = ["document", "requests"], default_value = "auto", value_name = "FORMAT")]
    documents_format: Format,
    /// A file of requests, {"query": …, "documents": […]} each, or rows with a query and a document, answered in order;
    /// - is standard input
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// How to read the requests file
    #[arg(long, requires = "requests", conflicts_with_all = ["query", "run"], default_value = "auto", value_name = "FORMAT")]
    requests_format: Format,
    /// A TREC run, `query-id Q0 document-id rank score tag`, whose documents are ranked again; - is standard input
    #[arg(long, requires_all = ["queries", "documents"], value_name = "FILE")]
    run: Option<PathBuf>,
    /// The queries that a run names: TSV or CSV, JSONL or a JSON array, with ids and texts
    #[arg(long, requires = "run", conflicts_with_all = ["query", "requests"], value_name = "FILE")]
    queries: Option<PathBuf>,
    /// The field or column that is a text, id, query or query-id; several text fields are joined by spaces
    #[arg(long = "field", value_name = "ROLE=NAME")]
    fields: Vec<FieldChoice>,
    /// Names of the columns of a CSV or TSV file without a row of names
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    columns: Vec<String>,
    /// Another field of requests to return with the answer
    #[arg(long = "keep-field", requires = "requests", conflicts_with_all = ["query", "run"], value_name = "NAME")]
    keep_fields: Vec<String>,
    /// What to do with a request that cannot be answered
    #[arg(long, default_value = "stop")]
    on_error: OnError,
    /// Most hits to show for each query
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top_n: Option<u32>,
    /// Longest pair in tokens [default: the model's own maximum]
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// The model's logit, or its sigmoid between 0 and 1 [default: as the model's files say, otherwise raw]
    #[arg(long)]
    scores: Option<Scores>,
    /// The label to rank by, of a model with several: its number, counted from 0, or its name
    #[arg(long)]
    label: Option<String>,
    /// A setting for the guest; a request's own setting of this name takes its place. May be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = name_and_value)]
    settings: Vec<(String, String)>,
    /// What to do with a pair that is too long: cut the longer text, cut the document, or fail
    #[arg(long, default_value = "longest-first")]
    truncation: CliTruncation,
    /// The model [default: see `assay model list`]
    #[arg(long)]
    model: Option<String>,
    /// A guest to use instead of the standard one
    #[arg(long, value_name = "COMPONENT.wasm")]
    guest: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    /// How to write answers [default: run for --run, otherwise table]
    #[arg(long, value_name = "FORMAT")]
    output: Option<OutputFormat>,
    /// The same as --output jsonl
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// A file for the answers; - is standard output, the default
    #[arg(long, short, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Continue the output file: skip requests that have an answer or an error in it, if its last answer is what this
    /// command gives
    #[arg(long, requires = "output_file")]
    resume: bool,
    /// The last column of a written run [default: assay]
    #[arg(long, value_name = "TAG")]
    run_tag: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnError {
    /// Stop there and keep earlier answers
    Stop,
    /// Write an error instead of the answer, continue, and end with exit code 3
    Skip,
}

impl Args {
    fn output(&self) -> Result<OutputFormat, CliError> {
        let format = match (self.output, self.json, &self.run) {
            (Some(format), _, _) => format,
            (None, true, _) => OutputFormat::Jsonl,
            (None, false, Some(_)) => OutputFormat::Run,
            (None, false, None) => OutputFormat::Table,
        };
        if self.resume && self.answers_file().is_none() {
            return Err(CliError::bad_input(
                "--resume needs a file in --output-file: standard output cannot be resumed",
            ));
        }
        if self.resume && format == OutputFormat::Table {
            return Err(CliError::bad_input("--resume needs --output jsonl or run: a table cannot be resumed"));
        }
        if self.run_tag.is_some() && format != OutputFormat::Run {
            return Err(CliError::bad_input("--run-tag is a column of a run: it needs --output run"));
        }
        if !formats::trec::is_column(self.run_tag()) {
            return Err(CliError::bad_input("--run-tag is a column of a run, and holds no white space"));
        }
        Ok(format)
    }

    fn run_tag(&self) -> &str {
        self.run_tag.as_deref().unwrap_or(DEFAULT_RUN_TAG)
    }

    /// The file for the answers; `None` for standard output.
    fn answers_file(&self) -> Option<&Path> {
        self.output_file.as_deref().filter(|path| *path != Path::new("-"))
    }

    /// Refuses a `--field` that nothing reads.
    fn check_fields(&self, roles: &[&str], what: &str) -> Result<(), CliError> {
        match self.fields.iter().find(|choice| !roles.contains(&choice.role())) {
            Some(choice) => Err(CliError::bad_input(format!("--field {}=… is of no use: {what}", choice.role()))),
            None => Ok(()),
        }
    }

    /// The settings of a request: its own, and the command's that it does not have.
    fn settings(&self, mut own: Vec<(String, String)>) -> Vec<(String, String)> {
        if let Some(label) = &self.label
            && own.iter().all(|(name, _)| name != assay_guest::SETTING_LABEL)
        {
            own.push((assay_guest::SETTING_LABEL.to_owned(), label.clone()));
        }
        let others = self.settings.iter().filter(|(name, _)| own.iter().all(|(known, _)| known != name));
        let others: Vec<_> = others.cloned().collect();
        own.extend(others);
        own
    }

    fn header(&self, otherwise: formats::Header) -> formats::Header {
        if self.columns.is_empty() { otherwise } else { formats::Header::Named(self.columns.clone()) }
    }
}

pub(super) fn run(args: Args, data_dir: &Path) -> Result<(), CliError> {
    // Opens input and output before anything slow, so that a mistake in them is reported at once.
    let format = args.output()?;
    let limits = RequestLimits::default();
    let mut input = Input::open(&args, &limits)?;
    let mut sink = match args.answers_file() {
        Some(path) => Sink::file(path, args.resume)?,
        None => Sink::StandardOutput,
    };
    let device = Device::open(&args.engine.options(data_dir)?)?;
    let store = ModelStore::new(data_dir);
    let stored = store.open(args.model.as_deref())?;
    let done = if args.resume {
        let names = Names { model: &stored.manifest.name, tag: args.run_tag() };
        sink.resume(format, names, input.requests.as_mut())?
    } else {
        Done::default()
    };
    let ranker = Ranker::open(&device, &stored, args.guest.as_deref(), data_dir)?;
    ranker.check_label(args.label.as_deref())?;
    let longest = ranker.model.info().max_tokens;
    if let Some(asked) = args.max_tokens.filter(|asked| *asked > longest) {
        eprintln!("note: --max-tokens {asked} is more than the {longest} of the model's rows, which stay the limit");
    }
    let writer = Writer {
        format,
        model: ranker.model.name().to_owned(),
        engine: ranker.engine(),
        tag: args.run_tag().to_owned(),
    };
    let session = Session { ranker, limits, writer, args };
    session.ranker.threads.block_on(session.answer_all(input, done, sink))
}

struct Session {
    ranker: Ranker,
    limits: RequestLimits,
    writer: Writer,
    args: Args,
}

/// A request's outcome.
struct Outcome {
    header: Header,
    shown: Shown,
    response: Result<Response, RequestFault>,
}

impl Session {
    async fn answer_all(&self, input: Input, mut done: Done, mut sink: Sink) -> Result<(), CliError> {
        if let Some(last) = done.last.take() {
            self.check_resumed(last).await?;
        }
        if self.args.resume {
            sink.cut(done.cut)?;
        }
        let Input { requests, bytes, kind } = input;
        let to_standard_output = matches!(sink, Sink::StandardOutput);
        let mut progress = match kind {
            InputKind::One => None,
            InputKind::Many => Some(Progress::new(bytes, to_standard_output)),
        };
        if let Some(progress) = &mut progress {
            progress.begin_at(done.end, done.requests - done.failed, done.failed);
        }
        let (mut count, mut failed) = (done.requests, done.failed);
        let read = read_ahead(requests, done.next);
        let mut outcomes = std::pin::pin!(read.map(|read| self.outcome(read)).buffered(REQUESTS_IN_FLIGHT));
        while let Some(outcome) = outcomes.next().await {
            let Outcome { header, shown, response } = outcome?;
            count += 1;
            let text = match &response {
                Ok(response) => self.writer.answer(&header, &shown, response),
                Err(fault) if self.args.on_error == OnError::Stop || kind == InputKind::One => {
                    let error = CliError::from(fault.clone());
                    return Err(match header.place {
                        Some(place) => error.at(&place.to_string()),
                        None => error,
                    });
                }
                Err(fault) => {
                    failed += 1;
                    if let (OutputFormat::Run, Some(progress)) = (self.writer.format, &progress) {
                        let place = header.place.as_ref().map(ToString::to_string).unwrap_or_default();
                        progress.note(&format!("{place}: {}", fault.message));
                    }
                    self.writer.fault(&header, fault)
                }
            };
            sink.write(&text)?;
            if let Some(progress) = &mut progress {
                progress.done(header.end, response.is_err());
            }
        }
        drop(progress);
        if failed > 0 {
            return Err(CliError::some_failed(format!("{failed} of {count} requests have an error and no answer")));
        }
        Ok(())
    }

    /// Ranks the request of a file's last answer again, and refuses the file if the answer differs.
    async fn check_resumed(&self, last: LastAnswer) -> Result<(), CliError> {
        let LastAnswer { request: (header, work), hits, extent, place } = last;
        let own = work.as_ref().ok().and_then(|work| work.overrides.scores);
        let scores = self.scores(own);
        let request = header.place.as_ref().map_or("the request".to_owned(), ToString::to_string);
        let Outcome { shown, response, .. } = self.outcome(Ok((header, work))).await?;
        let computed = Computed { scores, precision: self.ranker.model.engine().precision };
        resumed::compare(&hits, extent, (&shown, &response), computed).map_err(|difference| {
            let message = format!(
                "is not what this command gives for {request}: {difference}; the file was written with other requests, \
                 settings or another model: use another output file"
            );
            CliError::bad_input(message).at(&place)
        })
    }

    async fn outcome(&self, read: Result<ReadRequest, CliError>) -> Result<Outcome, CliError> {
        let (header, work) = read?;
        let (shown, response) = match work {
            Ok(work) => self.answer(&header, work).await?,
            Err(fault) => (Shown::default(), Err(fault)),
        };
        Ok(Outcome { header, shown, response })
    }

    /// How a request's scores are given: as it says, else as the command says, else as the model's files say.
    fn scores(&self, own: Option<Scores>) -> Scores {
        own.or(self.args.scores).unwrap_or(match self.ranker.model.info().scores {
            Some(DefaultScores::Sigmoid) => Scores::Sigmoid,
            Some(DefaultScores::Raw) | None => Scores::Raw,
        })
    }

    /// Refuses a request that does not say by which of several labels, before the standard guest does in its own words.
    fn check_label(&self, settings: &[(String, String)]) -> Result<(), RequestFault> {
        let is_chosen = settings.iter().any(|(name, _)| name == assay_guest::SETTING_LABEL);
        match self.ranker.needs_a_label() {
            Some(labels) if self.args.guest.is_none() && !is_chosen => Err(RequestFault::invalid(format!(
                "{labels}: choose one with --label, or with the setting {} of a request",
                assay_guest::SETTING_LABEL
            ))),
            _ => Ok(()),
        }
    }

    /// Answers a request, or returns its fault.
    async fn answer(&self, header: &Header, work: Work) -> Result<(Shown, Result<Response, RequestFault>), CliError> {
        let Work { query, documents, overrides } = work;
        if let Err(fault) = self.writer.check(header, &documents) {
            return Ok((Shown::default(), Err(fault)));
        }
        if let Some(other) = overrides.model.filter(|other| other != self.ranker.model.name()) {
            let message = format!("asks for model {other:.100?}, and this run has {}", self.ranker.model.name());
            return Ok((Shown::default(), Err(RequestFault::invalid(message))));
        }
        let settings = self.args.settings(overrides.settings);
        if let Err(fault) = self.check_label(&settings) {
            return Ok((Shown::default(), Err(fault)));
        }
        let shown = Shown::of(&query, &documents, self.writer.format);
        let request = Request {
            query,
            documents: documents.into_iter().map(|document| document.text).collect(),
            top_n: overrides.top_n.or(self.args.top_n),
            max_tokens: overrides.max_tokens.or(self.args.max_tokens),
            truncation: overrides.truncation.unwrap_or(self.args.truncation).into(),
            activation: self.scores(overrides.scores).into(),
            settings,
        };
        let response = match self.ranker.guest.rerank(Arc::clone(&self.ranker.model), request, &self.limits).await {
            Ok(response) => Ok(response),
            Err(error) => Err(RequestFault::of(error)?),
        };
        Ok((shown, response))
    }
}

/// Reads requests on a separate thread: an answer must not wait for the next request, which may depend on it.
fn read_ahead(
    mut requests: Box<dyn Requests>,
    first: Option<ReadRequest>,
) -> impl Stream<Item = Result<ReadRequest, CliError>> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    // The thread ends with the process: it may be blocked on standard input, which cannot be interrupted.
    std::thread::spawn(move || {
        let mut first = first.map(Ok);
        while let Some(read) = first.take().or_else(|| read(requests.as_mut()).transpose()) {
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                break;
            }
        }
    });
    futures::stream::poll_fn(move |context| receiver.poll_recv(context))
}

/// Reads a request.
fn read(requests: &mut dyn Requests) -> Result<Option<ReadRequest>, CliError> {
    let Some(header) = requests.advance()? else { return Ok(None) };
    Ok(Some((header, requests.work()?)))
}
