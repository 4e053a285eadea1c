//! Groups consecutive rows of one query, from pairs or runs, into one request.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use super::fault::RequestFault;
use crate::cli::error::CliError;
use crate::cli::formats::{Fault, Place, Reach};
use crate::limits::RequestLimits;

/// Most queries of a file: a hash of each is kept, to check that its rows are consecutive.
const MAX_QUERIES: usize = 1 << 22;

/// Most bad rows of one query: they are kept until the query's last row is read.
const MAX_BAD_ROWS: usize = 1_000;

/// A row of a format.
pub(super) struct GroupRow<M> {
    /// The common part of a query's rows.
    pub(super) key: String,
    pub(super) member: M,
    /// Bytes of text in the member.
    pub(super) bytes: usize,
    pub(super) place: Place,
    pub(super) end: u64,
}

/// The rows of one query.
pub(super) struct Group<M> {
    pub(super) key: String,
    /// At least the first.
    pub(super) members: Vec<M>,
    pub(super) fault: Option<RequestFault>,
    /// The first row's.
    pub(super) place: Place,
    /// Where the group's last row ends.
    pub(super) end: u64,
}

/// The next item in a file.
pub(super) enum Step<M> {
    Group(Group<M>),
    BadRow(Fault),
}

/// Groups rows.
pub(super) struct Groups<M> {
    limits: RequestLimits,
    /// Items read but not returned yet.
    ready: VecDeque<Step<M>>,
    /// The first row of the next group.
    held: Option<GroupRow<M>>,
    seen: HashSet<u64>,
    hasher: RandomState,
}

impl<M> Groups<M> {
    pub(super) fn new(limits: RequestLimits) -> Self {
        Self { limits, ready: VecDeque::new(), held: None, seen: HashSet::new(), hasher: RandomState::new() }
    }

    /// The next group. A bad row is returned before its group, so that a run that stops there has not answered a query
    /// with a missing document.
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
        let GroupRow { key, member, mut bytes, place, mut end } = first;
        let (mut members, mut count) = (vec![member], 1usize);
        loop {
            match read() {
                None => break,
                Some(Ok(row)) if row.key == key => {
                    (count, bytes, end) = (count + 1, bytes.saturating_add(row.bytes), row.end);
                    if count <= self.limits.max_documents && bytes <= self.limits.max_request_bytes {
                        members.push(row.member);
                    } else {
                        members.truncate(1);
                    }
                }
                Some(Ok(row)) => {
                    self.held = Some(row);
                    break;
                }
                Some(Err(fault)) if fault.reach == Reach::File => return Err(fault.into()),
                Some(Err(fault)) if self.ready.len() == MAX_BAD_ROWS => {
                    let message = format!("{}; {MAX_BAD_ROWS} bad rows of one query come before it", fault.message);
                    return Err(CliError::bad_input(message).at(&fault.place.to_string()));
                }
                Some(Err(fault)) => {
                    end = fault.end;
                    self.ready.push_back(Step::BadRow(fault));
                }
            }
        }
        let new = self.seen.insert(self.hasher.hash_one(&key));
        if self.seen.len() > MAX_QUERIES {
            let message = format!("is query {}, and a file is limited to {MAX_QUERIES}: split it", self.seen.len());
            return Err(CliError::bad_input(message).at(&place.to_string()));
        }
        let over = |limit: &str, allowed: usize, requested: usize| {
            Some(RequestFault::too_large(format!("{limit} is limited to {allowed}, the request has {requested}")))
        };
        let fault = if !new {
            let message = "rows of this query stand further up, after which come others: sort the file by query";
            Some(RequestFault::invalid(message))
        } else if count > self.limits.max_documents {
            over("max_documents", self.limits.max_documents, count)
        } else if bytes > self.limits.max_request_bytes {
            over("max_request_bytes", self.limits.max_request_bytes, bytes)
        } else {
            None
        };
        Ok(Group { key, members, fault, place, end })
    }
}
