//! CSV and TSV: a row is a record; the first row or the caller names the columns.
//!
//! CSV follows RFC 4180: a quoted cell may contain commas, line breaks and doubled quotes. TSV follows IANA's
//! `text/tab-separated-values`: quotes have no meaning, so a passage may begin with one.

use std::sync::Arc;

use csv_core::{ReadRecordResult, ReaderBuilder, Terminator};

use super::record::{Content, Fault, MAX_RECORD_BYTES, Place, Reach, Record, RecordReader};
use super::row::{Columns, Row};
use super::source::Source;
use crate::cli::error::CliError;

/// The separator of cells, and whether quotes have a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Delimiter {
    Comma,
    /// For spreadsheets in languages with a decimal comma.
    Semicolon,
    /// Without quotes.
    Tab,
}

/// The rows of a file.
pub(super) struct Delimited {
    source: Source,
    reader: csv_core::Reader,
    columns: Columns,
    /// Where the names of columns come from, for messages.
    named_by: &'static str,
    /// The first row, if it was read to check for column names.
    first: Option<RawRow>,
}

struct RawRow {
    cells: Vec<String>,
    place: Place,
    start: u64,
    end: u64,
}

impl Delimiter {
    /// The delimiter of a CSV file, from its row of column names.
    pub(super) fn of_csv(header: &[u8]) -> Self {
        if header.contains(&b';') && !header.contains(&b',') { Self::Semicolon } else { Self::Comma }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Semicolon => b';',
            Self::Tab => b'\t',
        }
    }
}

impl Delimited {
    /// Reads rows of named columns; the file has no row of names.
    pub(super) fn with_columns(source: Source, delimiter: Delimiter, columns: Columns) -> Self {
        let reader = ReaderBuilder::new()
            .delimiter(delimiter.byte())
            .quoting(delimiter != Delimiter::Tab)
            .terminator(Terminator::Any(b'\n'))
            .build();
        Self { source, reader, columns, named_by: "--columns names", first: None }
    }

    /// Reads rows whose columns the first row names, unless `guess` returns other names for the first row.
    ///
    /// # Errors
    /// The first row cannot be read, or names a column twice.
    pub(super) fn with_header(
        source: Source,
        delimiter: Delimiter,
        guess: impl FnOnce(&[String]) -> Option<Columns>,
    ) -> Result<Self, CliError> {
        let mut rows = Self::with_columns(source, delimiter, Arc::new([]));
        rows.named_by = "the file has";
        let Some(first) = rows.read_row().transpose()? else { return Ok(rows) };
        if first.cells.iter().any(|cell| cell.contains('\r')) {
            let message =
                "has a carriage return within: lines must end with a line feed, as `tr '\\r' '\\n'` makes them";
            return Err(CliError::bad_input(message).at(&first.place.to_string()));
        }
        if let Some(columns) = guess(&first.cells) {
            (rows.columns, rows.first) = (columns, Some(first));
            return Ok(rows);
        }
        let columns: Vec<String> = first.cells.iter().map(|name| name.trim().to_owned()).collect();
        if let Some(name) = named_twice(&columns) {
            let message = format!("two columns have the name {name:?}");
            return Err(CliError::bad_input(message).at(&first.place.to_string()));
        }
        rows.columns = columns.into();
        Ok(rows)
    }

    pub(super) fn columns(&self) -> &Columns {
        &self.columns
    }

    fn read_row(&mut self) -> Option<Result<RawRow, Fault>> {
        let mut begun: Option<(Place, u64)> = None;
        let (mut output, mut ends) = (Vec::new(), Vec::new());
        let (mut filled, mut cells, mut bytes) = (0, 0, 0);
        loop {
            let mut line = match self.source.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => return begun.map(|(place, _)| Err(self.unclosed(place))),
                Err(mut fault) => {
                    // The rest of a truncated row would be read as a separate row.
                    fault.reach = if begun.is_some() { Reach::File } else { fault.reach };
                    return Some(Err(fault));
                }
            };
            if begun.is_none() {
                if line.bytes.trim_ascii().is_empty() {
                    continue;
                }
                begun = Some((Place { file: self.source.name().clone(), line: line.line, element: None }, line.start));
            }
            let (place, start) = begun.as_ref()?;
            bytes += line.bytes.len();
            if bytes > MAX_RECORD_BYTES {
                return Some(Err(self.unclosed(place.clone())));
            }
            if line.bytes.last() != Some(&b'\n') {
                line.bytes.push(b'\n');
            }
            // No cell is longer than its row, and a row has one more cell than delimiters.
            let delimiters = line.bytes.iter().filter(|byte| b",;\t".contains(byte)).count();
            output.resize(filled + line.bytes.len() + 1, 0);
            ends.resize(cells + delimiters + 2, 0);
            let (result, _, written, ended) =
                self.reader.read_record(&line.bytes, &mut output[filled..], &mut ends[cells..]);
            filled += written;
            cells += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record => {
                    let (place, start, end) = (place.clone(), *start, line.end);
                    return Some(match split(output, &ends[..cells]) {
                        Some(cells) => Ok(RawRow { cells, place, start, end }),
                        None => Err(Fault { message: "is not UTF-8".to_owned(), place, end, reach: Reach::Record }),
                    });
                }
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull | ReadRecordResult::End => {
                    let message = "cannot be read as a row".to_owned();
                    return Some(Err(Fault { message, place: place.clone(), end: line.end, reach: Reach::File }));
                }
            }
        }
    }

    fn unclosed(&self, place: Place) -> Fault {
        let message = format!(
            "has a quote that is not closed before the end of the file or within {MAX_RECORD_BYTES} bytes, the most that \
             a row may have"
        );
        Fault { message, place, end: self.source.offset(), reach: Reach::File }
    }
}

impl RecordReader for Delimited {
    fn read(&mut self) -> Option<Result<Record, Fault>> {
        let row = loop {
            let row = match self.first.take() {
                Some(row) => row,
                None => match self.read_row()? {
                    Ok(row) => row,
                    Err(fault) => return Some(Err(fault)),
                },
            };
            // What a blank line is elsewhere.
            if !row.cells.iter().all(String::is_empty) {
                break row;
            }
        };
        let RawRow { cells, place, start, end } = row;
        if cells.len() != self.columns.len() {
            let message = format!("has {} columns, and {} {}", cells.len(), self.named_by, self.columns.len());
            return Some(Err(Fault { message, place, end, reach: Reach::Record }));
        }
        let row = Row::new(Arc::clone(&self.columns), cells);
        Some(Ok(Record { content: Content::Row(row), place, start, end }))
    }
}

/// A name that two columns have.
pub(super) fn named_twice(columns: &[String]) -> Option<&str> {
    let twice = |(at, name): &(usize, &String)| columns[..*at].contains(name) && !name.is_empty();
    columns.iter().enumerate().find(twice).map(|(_, name)| name.as_str())
}

/// Cuts a row's text at the ends of its cells; `None` if it is not UTF-8.
fn split(mut output: Vec<u8>, ends: &[usize]) -> Option<Vec<String>> {
    let end = *ends.last()?;
    output.truncate(end);
    let text = String::from_utf8(output).ok()?;
    let mut start = 0;
    let mut cells = Vec::with_capacity(ends.len());
    for &end in ends {
        cells.push(text.get(start..end)?.to_owned());
        start = end;
    }
    // The row ends with a line feed, on Windows after a carriage return.
    if let Some(last) = cells.last_mut()
        && last.ends_with('\r')
    {
        last.pop();
    }
    Some(cells)
}
