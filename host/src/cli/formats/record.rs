//! Records: every format is read into these, one at a time, each with its place in the file.

use std::fmt;
use std::sync::Arc;

use super::row::Row;
use crate::cli::error::CliError;
use crate::limits::DEFAULT_MAX_REQUEST_BYTES;

/// Longest record in bytes: the largest request, with room for JSON's escapes.
pub(super) const MAX_RECORD_BYTES: usize = 6 * DEFAULT_MAX_REQUEST_BYTES;

/// Reads a file of one format. Memory use does not grow with the file.
pub(in crate::cli) trait RecordReader: Send {
    /// Reads the next record; `None` at the end of the file or after a fault of the whole file.
    fn read(&mut self) -> Option<Result<Record, Fault>>;
}

/// A record and its place.
#[derive(Debug)]
pub(in crate::cli) struct Record {
    pub(in crate::cli) content: Content,
    pub(in crate::cli) place: Place,
    /// Range of its bytes in the file, to reread it.
    pub(in crate::cli) start: u64,
    pub(in crate::cli) end: u64,
}

/// The content of a record.
#[derive(Debug)]
pub(in crate::cli) enum Content {
    /// A text.
    Text(String),
    /// An unparsed JSON value.
    Json(String),
    /// A row of named columns.
    Row(Row),
}

/// The place of a record, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Place {
    pub(in crate::cli) file: Arc<str>,
    /// Counted from 1.
    pub(in crate::cli) line: u64,
    /// Index in an array, counted from 0 as in an answer's `index`.
    pub(in crate::cli) element: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file, self.line)?;
        self.element.map_or(Ok(()), |element| write!(f, ", element {element}"))
    }
}

/// A fault of a file.
#[derive(Debug)]
pub(in crate::cli) struct Fault {
    pub(in crate::cli) message: String,
    pub(in crate::cli) place: Place,
    /// Where the next record begins.
    pub(in crate::cli) end: u64,
    pub(in crate::cli) reach: Reach,
}

/// The extent of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Reach {
    /// One record: the next can be read.
    Record,
    /// The rest of the file.
    File,
}

impl From<Fault> for CliError {
    fn from(fault: Fault) -> Self {
        Self::bad_input(fault.message).at(&fault.place.to_string())
    }
}
