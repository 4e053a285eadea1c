//! One record per line: plain text or JSONL.

use super::record::{Content, Fault, Place, Reach, Record, RecordReader};
use super::source::{BYTE_ORDER_MARK, Source};

/// Lines that are not blank.
pub(super) struct Lines {
    source: Source,
    kind: LineKind,
}

/// The content of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum LineKind {
    Text,
    Json,
}

impl Lines {
    pub(super) fn new(source: Source, kind: LineKind) -> Self {
        Self { source, kind }
    }
}

impl RecordReader for Lines {
    fn read(&mut self) -> Option<Result<Record, Fault>> {
        loop {
            let line = match self.source.next_line() {
                Ok(line) => line?,
                Err(fault) => return Some(Err(fault)),
            };
            let place = Place { file: self.source.name().clone(), line: line.line, element: None };
            let mut text = match String::from_utf8(line.bytes) {
                Ok(text) => text,
                Err(error) => {
                    let at = error.utf8_error().valid_up_to() + 1;
                    let message = format!("is not UTF-8 at byte {at}");
                    return Some(Err(Fault { message, place, end: line.end, reach: Reach::Record }));
                }
            };
            if text.trim().is_empty() {
                continue;
            }
            text.truncate(text.trim_end_matches(['\n', '\r']).len());
            let content = match self.kind {
                LineKind::Text => Content::Text(text),
                // Concatenated files have a byte order mark where each began.
                LineKind::Json if text.as_bytes().starts_with(BYTE_ORDER_MARK) => {
                    Content::Json(text.split_off(BYTE_ORDER_MARK.len()))
                }
                LineKind::Json => Content::Json(text),
            };
            return Some(Ok(Record { content, place, start: line.start, end: line.end }));
        }
    }
}
