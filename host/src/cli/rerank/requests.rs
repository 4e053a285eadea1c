//! Sources of requests: the command line, a requests file, pairs in a table, or a run.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::fault::RequestFault;
use super::groups::{Group, GroupRow, Groups, Step};
use crate::cli::error::CliError;
use crate::cli::formats::{
    Content, Document, Fault, Fields, Id, Lookup, LookupError, Overrides, Place, Reach, Record, RecordReader,
    RequestRules, id_of, trec,
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
#[derive(Debug, Default)]
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
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) query: String,
    pub(super) documents: Vec<Document>,
    pub(super) overrides: Overrides,
}

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
    work: ReadWork,
}

impl JsonRequests {
    pub(super) fn new(records: Box<dyn RecordReader>, rules: RequestRules) -> Self {
        Self { records, rules, work: None }
    }

    fn parse(&mut self, record: &Record) -> (Option<Id>, Map<String, Value>) {
        let Content::Json(json) = &record.content else {
            self.work = Some(Err(RequestFault::invalid("is not JSON")));
            return Default::default();
        };
        match self.rules.parse(json) {
            Ok(line) => {
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
    work: ReadWork,
}

struct Pair {
    query_id: Option<Id>,
    query: String,
    document: Document,
}

impl PairRequests {
    pub(super) fn new(records: Box<dyn RecordReader>, fields: Fields, limits: RequestLimits) -> Self {
        Self { records, fields, groups: Groups::new(limits), work: None }
    }
}

impl Requests for PairRequests {
    fn advance(&mut self) -> Result<Option<Header>, CliError> {
        let (records, fields) = (&mut self.records, &self.fields);
        let step = self.groups.next(&mut || row(records.as_mut(), |record| pair(fields, record)))?;
        Ok(step.map(|step| match step {
            Step::BadRow(fault) => bad_record(fault, &mut self.work),
            Step::Group(Group { members, fault, place, end, .. }) => {
                let id = members.first().and_then(|pair| pair.query_id.clone());
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

fn pair(fields: &Fields, record: &Record) -> Result<(String, Pair, usize), String> {
    let Content::Row(cells) = &record.content else { return Err("is not a row of a table".to_owned()) };
    let (query_id, query) = fields.query_of(cells)?;
    let document = fields.document(record)?;
    let key = query_id.as_ref().map_or_else(|| query.clone(), Id::to_string);
    let bytes = query.len() + document.text.len();
    Ok((key, Pair { query_id, query, document }, bytes))
}

/// Reads a row of a group.
fn row<M>(
    records: &mut dyn RecordReader,
    parse: impl FnOnce(&Record) -> Result<(String, M, usize), String>,
) -> Option<Result<GroupRow<M>, Fault>> {
    let record = match records.read()? {
        Ok(record) => record,
        Err(fault) => return Some(Err(fault)),
    };
    Some(match parse(&record) {
        Ok((key, member, bytes)) => Ok(GroupRow { key, member, bytes, place: record.place, end: record.end }),
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
                let bytes = line.document_id.len();
                Ok((line.query_id, line.document_id, bytes))
            })
        })?;
        Ok(step.map(|step| match step {
            Step::BadRow(fault) => {
                self.current = Some(Err(RequestFault::invalid(fault.message)));
                Header { place: Some(fault.place), end: fault.end, ..Header::default() }
            }
            Step::Group(Group { key, members, fault, place, end }) => {
                let id = Some(Id::Text(key.clone()));
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
