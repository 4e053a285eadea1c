//! Records: what every format is read into, one at a time, each with its place in the file.

use std::fmt;
use std::sync::Arc;

use super::row::Row;
use crate::cli::error::CliError;
use crate::limits::DEFAULT_MAX_REQUEST_BYTES;

/// Longest record in bytes: the largest request, with room for JSON's escapes.
pub(super) const MAX_RECORD_BYTES: usize = 6 * DEFAULT_MAX_REQUEST_BYTES;

/// Reads a file of one format. The memory that it takes does not grow with the file.
pub(in crate::cli) trait RecordReader: Send {
    /// Reads the next record; none at the end of the file, or after a fault of the whole file.
    fn read(&mut self) -> Option<Result<Record, Fault>>;
}

/// A record, and where it stands.
#[derive(Debug)]
pub(in crate::cli) struct Record {
    pub(in crate::cli) content: Content,
    pub(in crate::cli) place: Place,
    /// Where its bytes are in the file, so that it can be read again.
    pub(in crate::cli) start: u64,
    pub(in crate::cli) end: u64,
}

/// What a format finds in a record.
#[derive(Debug)]
pub(in crate::cli) enum Content {
    /// A text.
    Text(String),
    /// A JSON value that is not parsed yet.
    Json(String),
    /// A row of named columns.
    Row(Row),
}

/// Where a record stands, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Place {
    pub(in crate::cli) file: Arc<str>,
    /// Counted from 1.
    pub(in crate::cli) line: u64,
    /// Of an array, counted from 0, as in an answer's `index`.
    pub(in crate::cli) element: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file, self.line)?;
        self.element.map_or(Ok(()), |element| write!(f, ", element {element}"))
    }
}

/// What is wrong with a file.
#[derive(Debug)]
pub(in crate::cli) struct Fault {
    pub(in crate::cli) message: String,
    pub(in crate::cli) place: Place,
    /// Where the next record begins.
    pub(in crate::cli) end: u64,
    pub(in crate::cli) reach: Reach,
}

/// How much of a file a fault spoils.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Reach {
    /// One record: the next can be read.
    Record,
    /// All that follows.
    File,
}

impl From<Fault> for CliError {
    fn from(fault: Fault) -> Self {
        Self::bad_input(fault.message).at(&fault.place.to_string())
    }
}
