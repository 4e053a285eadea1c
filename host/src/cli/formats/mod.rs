//! Input files: documents, requests, queries and runs, in common formats.
//!
//! A format reads a file into records ([`RecordReader`]), one at a time and of bounded size; [`Fields`] and
//! [`RequestRules`] turn them into documents and requests. Nothing here knows models, guests or answers.

mod delimited;
mod fields;
mod json_array;
mod lines;
mod lookup;
mod record;
mod request_line;
mod row;
mod scored;
mod source;
pub(super) mod trec;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;

use self::delimited::{Delimited, Delimiter};
use self::json_array::JsonArray;
use self::lines::{LineKind, Lines};
use self::row::Columns;
use self::source::Source;
use super::error::CliError;

pub(super) use self::fields::{Document, FieldChoice, Fields, Id, TITLES_NOT_RANKED, parse};
pub(super) use self::lookup::{Lookup, LookupError};
pub(super) use self::record::{Content, Fault, Place, Reach, Record, RecordReader};
pub(super) use self::request_line::{CliTruncation, KEEP_FIELD_HINT, Overrides, RequestRules, Scores, id_of};
pub(super) use self::scored::ScoredPair;

/// The options that name a format, for messages.
const FORMAT_OPTIONS: &str = "--documents-format, --requests-format or --format";

/// How a file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// By the file's name (.csv, .tsv, .jsonl, .ndjson) or by how it begins: with '[' a JSON array, with '{' or '"'
    /// JSONL
    #[default]
    Auto,
    /// One text a line
    Lines,
    /// One JSON value a line
    Jsonl,
    /// One JSON array, on one line or many
    Json,
    /// Comma-separated values with a row of column names
    Csv,
    /// Tab-separated values with a row of column names
    Tsv,
}

/// The source of column names.
#[derive(Debug, Clone)]
pub(super) enum Header {
    /// The first row.
    FirstRow,
    /// The caller; the file has no row of names.
    Named(Vec<String>),
    /// The first row if it names an id and a text; otherwise the two columns are an id and a text.
    Guess,
}

/// An open file and its format.
pub(super) struct OpenFile {
    source: Source,
    format: Format,
}

/// How to reread records of a file.
#[derive(Clone)]
pub(super) enum Layout {
    Lines(LineKind),
    Array,
    Rows(Delimiter, Columns),
}

impl OpenFile {
    /// Opens a file; `-` is standard input. If the format is neither given nor recognised, it is `otherwise`.
    ///
    /// # Errors
    /// The file cannot be read, or is not UTF-8.
    pub(super) fn open(path: &Path, format: Format, otherwise: Format) -> Result<Self, CliError> {
        let source = Source::open(path)?;
        let format = match format {
            Format::Auto => detect(path, source.first_line()).unwrap_or(otherwise),
            format => format,
        };
        Ok(Self { source, format })
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    pub(super) fn name(&self) -> &Arc<str> {
        self.source.name()
    }

    /// Bytes of a regular file.
    pub(super) fn size(&self) -> Option<u64> {
        self.source.size()
    }

    /// The first line that is not blank, or its beginning.
    pub(super) fn first_line(&self) -> &[u8] {
        self.source.first_line()
    }

    /// Reads the file's records, and returns how to reread single ones.
    ///
    /// # Errors
    /// The names of columns cannot be read, or the caller names fields or columns that the format has not.
    pub(super) fn records(self, header: Header, fields: &Fields) -> Result<(Box<dyn RecordReader>, Layout), CliError> {
        let is_table = matches!(self.format, Format::Csv | Format::Tsv);
        if matches!(header, Header::Named(_)) && !is_table {
            let message = "has no columns that --columns could name: those are of CSV and TSV";
            return Err(CliError::bad_input(format!("{message}; {FORMAT_OPTIONS} name a format")).at(self.name()));
        }
        if matches!(self.format, Format::Lines | Format::Auto) && fields.are_chosen() {
            let message = "is plain lines, which have no fields that --field could choose";
            return Err(CliError::bad_input(format!("{message}; {FORMAT_OPTIONS} name a format")).at(self.name()));
        }
        let delimiter = match self.format {
            Format::Lines | Format::Auto => return Ok(self.lines(LineKind::Text)),
            Format::Jsonl => return Ok(self.lines(LineKind::Json)),
            Format::Json => return Ok((Box::new(JsonArray::new(self.source)), Layout::Array)),
            Format::Csv => Delimiter::of_csv(self.source.first_line()),
            Format::Tsv => Delimiter::Tab,
        };
        if let Header::Named(columns) = &header
            && let Some(name) = delimited::named_twice(columns)
        {
            return Err(CliError::bad_input(format!("--columns has the name {name:?} twice")));
        }
        let rows = match header {
            Header::Named(columns) => Delimited::with_columns(self.source, delimiter, columns.into()),
            Header::FirstRow => Delimited::with_header(self.source, delimiter, |_| None)?,
            Header::Guess => Delimited::with_header(self.source, delimiter, |cells| {
                let named = cells.len() != 2 || fields.are_named_in(cells);
                (!named).then(|| fields.id_and_text())
            })?,
        };
        let layout = Layout::Rows(delimiter, Arc::clone(rows.columns()));
        Ok((Box::new(rows), layout))
    }

    fn lines(self, kind: LineKind) -> (Box<dyn RecordReader>, Layout) {
        (Box::new(Lines::new(self.source, kind)), Layout::Lines(kind))
    }
}

impl Layout {
    /// Continues from the start of a record read before.
    ///
    /// # Errors
    /// The file cannot be read.
    fn again(&self, file: File, name: Arc<str>, start: u64) -> io::Result<Box<dyn RecordReader>> {
        let source = Source::again(file, name, start)?;
        Ok(match self {
            Self::Lines(kind) => Box::new(Lines::new(source, *kind)),
            Self::Array => Box::new(JsonArray::at_element(source)),
            Self::Rows(delimiter, columns) => {
                Box::new(Delimited::with_columns(source, *delimiter, Arc::clone(columns)))
            }
        })
    }
}

/// The format by a file's name or its first line that is not blank.
fn detect(path: &Path, first_line: &[u8]) -> Option<Format> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "csv" => return Some(Format::Csv),
        "tsv" => return Some(Format::Tsv),
        "jsonl" | "ndjson" if !first_line.trim_ascii_start().starts_with(b"[") => return Some(Format::Jsonl),
        _ => {}
    }
    match first_line.trim_ascii() {
        [b'"' | b'{', ..] => Some(Format::Jsonl),
        [b'[', rest @ ..] if begins_an_array(rest) => Some(Format::Json),
        _ => None,
    }
}

/// Whether the text after '[' belongs to a JSON array and not to a text such as `[1] Introduction`.
fn begins_an_array(rest: &[u8]) -> bool {
    match rest.trim_ascii_start() {
        [] | [b'"' | b'{' | b'[', ..] | [b']'] => true,
        other => {
            let end = other.iter().position(|byte| !(byte.is_ascii_alphanumeric() || b"+-.".contains(byte)));
            let (value, after) = other.split_at(end.unwrap_or(other.len()));
            let is_value = serde_json::from_slice::<serde_json::Value>(value).is_ok();
            is_value && matches!(after.trim_ascii_start(), [] | [b',', ..] | [b']'])
        }
    }
}

#[cfg(test)]
mod tests;
