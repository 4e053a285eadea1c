//! Groups consecutive rows of one query, from pairs or runs, into one request.
//!
//! A query with a bad row is not answered: an answer would lack a document, and nothing would say so. A bad row whose
//! query cannot be read belongs to the query around it, or else to none.

use std::collections::VecDeque;

use super::fault::RequestFault;
use super::seen::Seen;
use crate::cli::error::CliError;
use crate::cli::formats::{Fault, Id, Place, Reach};
use crate::limits::RequestLimits;

/// Most bad rows between two queries: they are kept until the next query begins.
const MAX_BAD_ROWS: usize = 1_000;

/// A row whose query could be read.
pub(super) struct GroupRow<M> {
    /// The common part of a query's rows.
    pub(super) key: String,
    /// The query's id, if it has one.
    pub(super) id: Option<Id>,
    /// The rest of the row, or what is wrong with it.
    pub(super) member: Result<M, String>,
    /// Bytes of text in the member.
    pub(super) bytes: usize,
    pub(super) place: Place,
    pub(super) end: u64,
}

/// The rows of one query.
pub(super) struct Group<M> {
    pub(super) key: String,
    pub(super) id: Option<Id>,
    /// At least one, unless there is a fault.
    pub(super) members: Vec<M>,
    pub(super) fault: Option<RequestFault>,
    /// The first row's, or that of the first bad row.
    pub(super) place: Place,
    /// Where the group's last row ends.
    pub(super) end: u64,
}

/// The next item in a file.
pub(super) enum Step<M> {
    Group(Group<M>),
    /// A row that belongs to no query.
    BadRow(Fault),
}

/// Groups rows.
pub(super) struct Groups<M> {
    limits: RequestLimits,
    /// Items read but not returned yet.
    ready: VecDeque<Step<M>>,
    /// The first row of the next group.
    held: Option<GroupRow<M>>,
    seen: Seen,
}

impl<M> Groups<M> {
    pub(super) fn new(limits: RequestLimits) -> Self {
        Self { limits, ready: VecDeque::new(), held: None, seen: Seen::default() }
    }

    /// The next group. A bad row that may be a group's is returned before it, so that a run that stops there has not
    /// answered a query with a missing document.
    ///
    /// # Errors
    /// The file cannot be read further, or has too many queries.
    pub(super) fn next(
        &mut self,
        read: &mut dyn FnMut() -> Option<Result<GroupRow<M>, Fault>>,
    ) -> Result<Option<Step<M>>, CliError> {
        if let Some(step) = self.ready.pop_front() {
            return Ok(Some(step));
        }
        let first = match self.held.take() {
            Some(row) => row,
            None => match read() {
                None => return Ok(None),
                Some(Ok(row)) => row,
                Some(Err(fault)) if fault.reach == Reach::Record => return Ok(Some(Step::BadRow(fault))),
                Some(Err(fault)) => return Err(fault.into()),
            },
        };
        let group = self.group(first, read)?;
        self.ready.push_back(Step::Group(group));
        Ok(self.ready.pop_front())
    }

    fn group(
        &mut self,
        first: GroupRow<M>,
        read: &mut dyn FnMut() -> Option<Result<GroupRow<M>, Fault>>,
    ) -> Result<Group<M>, CliError> {
        let mut rows = Rows::of(&first);
        rows.add(first, &self.limits);
        // Bad rows after the last row that is the query's for certain.
        let mut after = Vec::new();
        loop {
            match read() {
                None => break,
                Some(Ok(row)) if row.key == rows.key => {
                    for Fault { message, place, .. } in after.drain(..) {
                        rows.bad(message, place);
                    }
                    rows.add(row, &self.limits);
                }
                Some(Ok(row)) => {
                    self.held = Some(row);
                    break;
                }
                Some(Err(fault)) if fault.reach == Reach::File => return Err(fault.into()),
                Some(Err(fault)) if after.len() == MAX_BAD_ROWS => {
                    let message = format!("{}; {MAX_BAD_ROWS} bad rows come before it", fault.message);
                    return Err(CliError::bad_input(message).at(&fault.place.to_string()));
                }
                Some(Err(fault)) => after.push(fault),
            }
        }
        rows.end = after.last().map_or(rows.end, |fault| fault.end);
        self.ready.extend(after.into_iter().map(Step::BadRow));
        let is_new = self.seen.insert(&rows.key);
        let is_new = is_new.map_err(|message| CliError::bad_input(message).at(&rows.place.to_string()))?;
        Ok(rows.finish(is_new, &self.limits))
    }
}

/// The rows of a group that is being read.
struct Rows<M> {
    key: String,
    id: Option<Id>,
    members: Vec<M>,
    count: usize,
    bytes: usize,
    /// The first bad row, and how many there are.
    bad: Option<(String, Place)>,
    bad_count: usize,
    place: Place,
    end: u64,
}

impl<M> Rows<M> {
    fn of(first: &GroupRow<M>) -> Self {
        Self {
            key: first.key.clone(),
            id: first.id.clone(),
            members: Vec::new(),
            count: 0,
            bytes: 0,
            bad: None,
            bad_count: 0,
            place: first.place.clone(),
            end: first.end,
        }
    }

    fn add(&mut self, row: GroupRow<M>, limits: &RequestLimits) {
        self.end = row.end;
        match row.member {
            Ok(member) => {
                (self.count, self.bytes) = (self.count + 1, self.bytes.saturating_add(row.bytes));
                let fits = self.count <= limits.max_documents && self.bytes <= limits.max_request_bytes;
                if fits && self.bad.is_none() {
                    self.members.push(member);
                } else {
                    self.members.clear();
                }
            }
            Err(message) => self.bad(message, row.place),
        }
    }

    fn bad(&mut self, message: String, place: Place) {
        self.members.clear();
        self.bad_count += 1;
        self.bad.get_or_insert((message, place));
    }

    fn finish(self, is_new: bool, limits: &RequestLimits) -> Group<M> {
        let Self { key, id, members, count, bytes, bad, bad_count, mut place, end } = self;
        let over = |limit: &str, allowed: usize, requested: usize| {
            Some(RequestFault::too_large(format!("{limit} is limited to {allowed}, the request has {requested}")))
        };
        let fault = if !is_new {
            let message = "rows of this query stand further up, after which come others: sort the file by query";
            Some(RequestFault::invalid(message))
        } else if let Some((message, at)) = bad {
            place = at;
            Some(RequestFault::invalid(match bad_count {
                1 => message,
                more => format!("{message}; it is the first of {more} bad rows of this query"),
            }))
        } else if count > limits.max_documents {
            over("max_documents", limits.max_documents, count)
        } else if bytes > limits.max_request_bytes {
            over("max_request_bytes", limits.max_request_bytes, bytes)
        } else {
            None
        };
        Group { key, id, members, fault, place, end }
    }
}
