//! Sources of requests: the command line, a requests file, pairs in a table, or a run.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::fault::RequestFault;
use super::groups::{Group, GroupRow, Groups, Step};
use super::seen::Seen;
use crate::cli::error::CliError;
use crate::cli::formats::{
    Content, Document, Fault, Fields, Id, Lookup, LookupError, Overrides, Place, Reach, Record, RecordReader,
    RequestRules, TITLES_NOT_RANKED, id_of, trec,
};
use crate::limits::RequestLimits;

/// A source of requests, in order. A request is read in two steps, so that a resumed run skips answered requests
/// without looking up their texts.
pub(super) trait Requests: Send {
    /// Moves to the next request; `None` at the end.
    ///
    /// # Errors
    /// The source cannot be read further. [`work`](Self::work) reports faults of a single request.
    fn advance(&mut self) -> Result<Option<Header>, CliError>;

    /// Takes the request that [`advance`](Self::advance) moved to, at most once.
    ///
    /// # Errors
    /// The source cannot be read on.
    fn work(&mut self) -> Result<Result<Work, RequestFault>, CliError>;
}

/// The part of a request that is known even if it cannot be answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Header {
    /// `None` for a request of the command line.
    pub(super) place: Option<Place>,
    pub(super) id: Option<Id>,
    /// Fields to return with the answer.
    pub(super) kept: Map<String, Value>,
    /// Bytes of the source up to the next request.
    pub(super) end: u64,
}

/// A request's texts, and settings that override the command's options.
#[derive(Debug, Clone, Default)]
pub(super) struct Work {
    pub(super) query: String,
    pub(super) documents: Vec<Document>,
    pub(super) overrides: Overrides,
}

/// A request, or its fault.
pub(super) type ReadRequest = (Header, Result<Work, RequestFault>);

/// The work of a request that was read together with its header.
type ReadWork = Option<Result<Work, RequestFault>>;

fn take(work: &mut ReadWork) -> Result<Work, RequestFault> {
    work.take().unwrap_or_else(|| Err(RequestFault::invalid("the request was taken before")))
}

/// A single request.
pub(super) struct OneRequest(pub(super) ReadWork);

impl OneRequest {
    pub(super) fn new(query: String, documents: Vec<Document>) -> Self {
        Self(Some(Ok(Work { query, documents, overrides: Overrides::default() })))
    }
}

impl Requests for OneRequest {
    fn advance(&mut self) -> Result<Option<Header>, CliError> {
        Ok(self.0.is_some().then(Header::default))
    }

    fn work(&mut self) -> Result<Result<Work, RequestFault>, CliError> {
        Ok(take(&mut self.0))
    }
}

/// Requests as JSON, each a record.
pub(super) struct JsonRequests {
    records: Box<dyn RecordReader>,
    rules: RequestRules,
    /// The ids read, where each may come once.
    seen: Option<Seen>,
    has_noted_titles: bool,
    work: ReadWork,
}

impl JsonRequests {
    pub(super) fn new(records: Box<dyn RecordReader>, rules: RequestRules, ids: Ids) -> Self {
        let seen = (ids == Ids::Unique).then(Seen::default);
        Self { records, rules, seen, has_noted_titles: false, work: None }
    }

    /// Refuses a request whose id an earlier one had.
    fn check_id(&mut self, id: Option<&Id>) -> Result<(), CliError> {
        if let (Some(seen), Some(id)) = (&mut self.seen, id.map(Id::to_string))
            && !seen.insert(&id).map_err(CliError::bad_input)?
        {
            let message = format!("an earlier request has the id {id:.80?} too, and a run has each query once");
            self.work = Some(Err(RequestFault::invalid(message)));
        }
        Ok(())
    }

    fn parse(&mut self, record: &Record) -> (Option<Id>, Map<String, Value>) {
        let Content::Json(json) = &record.content else {
            self.work = Some(Err(RequestFault::invalid("is not JSON")));
            return Default::default();
        };
        match self.rules.parse(json) {
            Ok(line) => {
                if line.has_unranked_title && !std::mem::replace(&mut self.has_noted_titles, true) {
                    eprintln!("{}: {TITLES_NOT_RANKED}", record.place.file);
                }
                let (query, documents, overrides) = (line.query, line.documents, line.overrides);
                self.work = Some(Ok(Work { query, documents, overrides }));
                (line.id, line.kept)
            }
            Err(message) => {
                self.work = Some(Err(RequestFault::invalid(message)));
                (id_of(json), Map::new())
            }
        }
    }
}

impl Requests for JsonRequests {
    fn advance(&mut self) -> Result<Option<Header>, CliError> {
        match self.records.read() {
            None => Ok(None),
            Some(Ok(record)) => {
                let (id, kept) = self.parse(&record);
                self.check_id(id.as_ref()).map_err(|error| error.at(&record.place.to_string()))?;
                Ok(Some(Header { id, kept, place: Some(record.place), end: record.end }))
            }
            Some(Err(fault)) if fault.reach == Reach::Record => Ok(Some(bad_record(fault, &mut self.work))),
            Some(Err(fault)) => Err(fault.into()),
        }
    }

    fn work(&mut self) -> Result<Result<Work, RequestFault>, CliError> {
        Ok(take(&mut self.work))
    }
}

/// Whether two requests may have one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    Any,
    /// No: they are names of queries in a run.
    Unique,
}

/// The header of a record that is not a request.
fn bad_record(fault: Fault, work: &mut ReadWork) -> Header {
    *work = Some(Err(RequestFault::invalid(fault.message)));
    Header { place: Some(fault.place), end: fault.end, ..Header::default() }
}

/// Rows with a query and a document; the rows of one query form one request.
pub(super) struct PairRequests {
    records: Box<dyn RecordReader>,
    fields: Fields,
    groups: Groups<Pair>,
    has_noted_titles: bool,
    work: ReadWork,
}

struct Pair {
    query: String,
    document: Document,
}

impl PairRequests {
    pub(super) fn new(records: Box<dyn RecordReader>, fields: Fields, limits: RequestLimits) -> Self {
        Self { records, fields, groups: Groups::new(limits), has_noted_titles: false, work: None }
    }
}

impl Requests for PairRequests {
    fn advance(&mut self) -> Result<Option<Header>, CliError> {
        let Self { records, fields, has_noted_titles, .. } = self;
        let step = self.groups.next(&mut || {
            row(records.as_mut(), |record| {
                if !*has_noted_titles && let Some(note) = fields.note(record) {
                    *has_noted_titles = true;
                    eprintln!("{}: {note}", record.place.file);
                }
                pair(fields, record)
            })
        })?;
        Ok(step.map(|step| match step {
            Step::BadRow(fault) => bad_record(fault, &mut self.work),
            Step::Group(Group { id, members, fault, place, end, .. }) => {
                self.work = Some(fault.map_or_else(|| one_query(members), Err));
                Header { place: Some(place), id, end, ..Header::default() }
            }
        }))
    }

    fn work(&mut self) -> Result<Result<Work, RequestFault>, CliError> {
        Ok(take(&mut self.work))
    }
}

fn one_query(pairs: Vec<Pair>) -> Result<Work, RequestFault> {
    let query = pairs.first().map(|pair| pair.query.clone()).unwrap_or_default();
    if let Some(other) = pairs.iter().find(|pair| pair.query != query) {
        let message = format!("one query id has two queries, {query:.80?} and {:.80?}", other.query);
        return Err(RequestFault::invalid(message));
    }
    let documents = pairs.into_iter().map(|pair| pair.document).collect();
    Ok(Work { query, documents, overrides: Overrides::default() })
}

fn pair(fields: &Fields, record: &Record) -> Result<Row<Pair>, String> {
    let Content::Row(cells) = &record.content else { return Err("is not a row of a table".to_owned()) };
    let (id, query) = (fields.query_id_of(cells)?, fields.query_of(cells));
    let key = match (&id, &query) {
        (Some(id), _) => id.to_string(),
        (None, Ok(query)) => query.clone(),
        (None, Err(message)) => return Err(message.clone()),
    };
    let pair = query.and_then(|query| Ok(Pair { query, document: fields.document(record)? }));
    let bytes = pair.as_ref().map_or(0, |pair| pair.query.len() + pair.document.text.len());
    Ok(Row { key, id, member: pair, bytes })
}

/// What a record says, if its query can be read.
struct Row<M> {
    key: String,
    id: Option<Id>,
    member: Result<M, String>,
    bytes: usize,
}

/// Reads a row of a group.
fn row<M>(
    records: &mut dyn RecordReader,
    parse: impl FnOnce(&Record) -> Result<Row<M>, String>,
) -> Option<Result<GroupRow<M>, Fault>> {
    let record = match records.read()? {
        Ok(record) => record,
        Err(fault) => return Some(Err(fault)),
    };
    Some(match parse(&record) {
        Ok(Row { key, id, member, bytes }) => {
            Ok(GroupRow { key, id, member, bytes, place: record.place, end: record.end })
        }
        Err(message) => Err(Fault { message, place: record.place, end: record.end, reach: Reach::Record }),
    })
}

/// A run: queries and the documents that another system found for them, by id.
pub(super) struct RunRequests {
    records: Box<dyn RecordReader>,
    queries: Lookup,
    documents: Lookup,
    groups: Groups<String>,
    max_request_bytes: usize,
    current: Option<Result<(String, Vec<String>), RequestFault>>,
}

impl RunRequests {
    pub(super) fn new(
        records: Box<dyn RecordReader>,
        queries: Lookup,
        documents: Lookup,
        limits: RequestLimits,
    ) -> Self {
        let max_request_bytes = limits.max_request_bytes;
        Self { records, queries, documents, groups: Groups::new(limits), max_request_bytes, current: None }
    }

    fn look_up(&mut self, query_id: &str, document_ids: Vec<String>) -> Result<Result<Work, RequestFault>, CliError> {
        let query = match self.queries.get(query_id) {
            Ok(query) => query,
            Err(error) => return missing("query", query_id, &error),
        };
        let (mut documents, mut seen, mut bytes) =
            (Vec::with_capacity(document_ids.len()), HashSet::new(), query.len());
        for id in document_ids {
            let text = match self.documents.get(&id) {
                Ok(text) => text,
                Err(error) => return missing("document", &id, &error),
            };
            if !seen.insert(id.clone()) {
                return Ok(Err(RequestFault::invalid(format!("document {id:?} is in this query's run twice"))));
            }
            bytes += text.len();
            if bytes > self.max_request_bytes {
                let message =
                    format!("max_request_bytes is limited to {}, the request has more", self.max_request_bytes);
                return Ok(Err(RequestFault::too_large(message)));
            }
            documents.push(Document { id: Some(Id::Text(id)), text });
        }
        Ok(Ok(Work { query, documents, overrides: Overrides::default() }))
    }
}

impl Requests for RunRequests {
    fn advance(&mut self) -> Result<Option<Header>, CliError> {
        let records = &mut self.records;
        let step = self.groups.next(&mut || {
            row(records.as_mut(), |record| {
                let line = trec::parse(record)?;
                let (id, bytes) = (Some(Id::Text(line.query_id.clone())), line.document_id.len());
                Ok(Row { key: line.query_id, id, member: Ok(line.document_id), bytes })
            })
        })?;
        Ok(step.map(|step| match step {
            Step::BadRow(fault) => {
                self.current = Some(Err(RequestFault::invalid(fault.message)));
                Header { place: Some(fault.place), end: fault.end, ..Header::default() }
            }
            Step::Group(Group { key, id, members, fault, place, end }) => {
                self.current = Some(fault.map_or(Ok((key, members)), Err));
                Header { place: Some(place), id, end, ..Header::default() }
            }
        }))
    }

    fn work(&mut self) -> Result<Result<Work, RequestFault>, CliError> {
        match self.current.take() {
            Some(Ok((query_id, document_ids))) => self.look_up(&query_id, document_ids),
            Some(Err(fault)) => Ok(Err(fault)),
            None => Ok(take(&mut None)),
        }
    }
}

/// The fault of an id: of the request, or of the file it is looked up in.
fn missing(what: &str, id: &str, error: &LookupError) -> Result<Result<Work, RequestFault>, CliError> {
    let message = format!("{what} {id:?} {error}");
    match error {
        LookupError::Io(_) => Err(CliError::failed(message)),
        LookupError::Missing(_) | LookupError::Twice(_) => Ok(Err(RequestFault::invalid(message))),
    }
}
