//! What `assay rerank` ranks: one query with its documents, a file of requests, or a run with its files.

use std::path::Path;
use std::sync::Arc;

use super::Args;
use super::answer::OutputFormat;
use super::progress::Progress;
use super::requests::{Ids, JsonRequests, OneRequest, PairRequests, Requests, RunRequests};
use crate::cli::error::CliError;
use crate::cli::formats::{self, Document, Fields, Format, Lookup, OpenFile, RequestRules};
use crate::limits::RequestLimits;

/// Where the requests come from.
pub(super) struct Input {
    pub(super) requests: Box<dyn Requests>,
    /// Bytes of the file of requests, if that is known.
    pub(super) bytes: Option<u64>,
    /// Whether more than one request may come.
    pub(super) kind: InputKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputKind {
    One,
    Many,
}

impl Input {
    /// Opens what the options name.
    ///
    /// # Errors
    /// A file cannot be read, or options contradict each other.
    pub(super) fn open(args: &Args, limits: &RequestLimits) -> Result<Self, CliError> {
        args.check_fields(&["text", "id", "query", "query-id"], "requests have no scores")?;
        let fields = Fields::new(&args.fields);
        if let Some(path) = &args.requests {
            return Self::file(args, path, fields, limits);
        }
        if let (Some(run), Some(queries), Some(documents)) = (&args.run, &args.queries, &args.documents) {
            return Self::run(args, run, queries, documents, &fields, limits);
        }
        let documents = match &args.documents {
            Some(path) => {
                args.check_fields(&["text", "id"], "the query is an argument")?;
                read_documents(args, path, &fields, limits)?
            }
            None if args.document.is_empty() => {
                return Err(CliError::bad_input("no documents: give them as arguments or with --documents FILE"));
            }
            None if !args.fields.is_empty() || !args.columns.is_empty() => {
                let message = "--field and --columns are of no use: the documents are arguments";
                return Err(CliError::bad_input(message));
            }
            None => args.document.iter().map(|text| Document { id: None, text: text.clone() }).collect(),
        };
        let request = OneRequest::new(args.query.clone().unwrap_or_default(), documents);
        Ok(Self { requests: Box::new(request), bytes: None, kind: InputKind::One })
    }

    fn file(args: &Args, path: &Path, fields: Fields, limits: &RequestLimits) -> Result<Self, CliError> {
        let file = OpenFile::open(path, args.requests_format, Format::Jsonl)?;
        let (bytes, format) = (file.size(), file.format());
        if format == Format::Lines {
            return Err(CliError::bad_input("plain lines are not requests: --requests-format lines does not exist"));
        }
        let (records, _) = file.records(args.header(formats::Header::FirstRow), &fields)?;
        let requests: Box<dyn Requests> = match format {
            Format::Csv | Format::Tsv => Box::new(PairRequests::new(records, fields, limits.clone())),
            _ => {
                args.check_fields(
                    &["text", "id"],
                    "a request in JSON has its query in \"query\" and its id in \"id\"",
                )?;
                let ids = if args.output()? == OutputFormat::Run { Ids::Unique } else { Ids::Any };
                let (keep, max_documents) = (args.keep_fields.clone(), limits.max_documents);
                Box::new(JsonRequests::new(records, RequestRules { fields, keep, max_documents }, ids))
            }
        };
        Ok(Self { requests, bytes, kind: InputKind::Many })
    }

    fn run(
        args: &Args,
        run: &Path,
        queries: &Path,
        documents: &Path,
        fields: &Fields,
        limits: &RequestLimits,
    ) -> Result<Self, CliError> {
        let file = OpenFile::open(run, Format::Lines, Format::Lines)?;
        let bytes = file.size();
        let (records, _) = file.records(formats::Header::FirstRow, &Fields::new(&[]))?;
        let look_up = |path: &Path, format, header, fields, what| {
            let progress = Progress::new(path.metadata().ok().map(|metadata| metadata.len()), false);
            progress.say(what);
            Lookup::open(path, format, header, fields, None, |read| progress.read(read))
        };
        let queries =
            look_up(queries, Format::Auto, formats::Header::Guess, fields.of_queries(), "reading the queries")?;
        let header = args.header(formats::Header::Guess);
        let documents =
            look_up(documents, args.documents_format, header, fields.clone(), "reading where documents are")?;
        let requests = Box::new(RunRequests::new(records, queries, documents, limits.clone()));
        Ok(Self { requests, bytes, kind: InputKind::Many })
    }
}

/// Reads the documents of a single query; a file without any is valid.
fn read_documents(
    args: &Args,
    path: &Path,
    fields: &Fields,
    limits: &RequestLimits,
) -> Result<Vec<Document>, CliError> {
    let file = OpenFile::open(path, args.documents_format, Format::Lines)?;
    let name = Arc::clone(file.name());
    let is_guessed = args.documents_format == Format::Auto && file.format() == Format::Jsonl;
    let hint = if is_guessed { "; if the file is plain lines, --documents-format lines reads it so" } else { "" };
    let (mut records, _) = file.records(args.header(formats::Header::FirstRow), fields)?;
    let (mut documents, mut bytes) = (Vec::new(), 0);
    while let Some(record) = records.read() {
        let record = record?;
        if documents.is_empty()
            && let Some(note) = fields.note(&record)
        {
            eprintln!("{name}: {note}");
        }
        let document = fields.document(&record);
        let document = document.map_err(|error| CliError::bad_input(error + hint).at(&record.place.to_string()))?;
        bytes += document.text.len();
        documents.push(document);
        // Stops reading a file that is larger than a request.
        let over = |limit: &str, allowed: usize| {
            let message = format!("{limit} is limited to {allowed}, the file has more");
            Err(CliError::bad_input(message).at(&record.place.to_string()))
        };
        if documents.len() > limits.max_documents {
            return over("max_documents", limits.max_documents);
        }
        if bytes > limits.max_request_bytes {
            return over("max_request_bytes", limits.max_request_bytes);
        }
    }
    Ok(documents)
}
