//! A file that is one JSON array, on one line or many: each element is a record.
//!
//! This module separates elements and their reader parses them, so the array may be larger than memory, and a bad
//! element does not affect the next one.

use super::FORMAT_OPTIONS;
use super::record::{Content, Fault, MAX_RECORD_BYTES, Place, Reach, Record, RecordReader};
use super::source::Source;

/// The elements of an array.
pub(super) struct JsonArray {
    source: Source,
    state: State,
    elements: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    BeforeArray,
    AfterElement,
    /// At an element, where the file is reread.
    AtElement,
    Done,
}

impl JsonArray {
    pub(super) fn new(source: Source) -> Self {
        Self { source, state: State::BeforeArray, elements: 0 }
    }

    /// Continues from an element found before.
    pub(super) fn at_element(source: Source) -> Self {
        Self { source, state: State::AtElement, elements: 0 }
    }

    fn next_element(&mut self) -> Result<Option<Record>, Fault> {
        match self.state {
            State::Done => return Ok(None),
            State::BeforeArray => {
                if self.token()? != Some(b'[') {
                    return Err(self.broken("is not a JSON array"));
                }
                self.source.pass(b'[');
                if self.token()? == Some(b']') {
                    return self.finish();
                }
            }
            State::AfterElement => match self.token()? {
                Some(b',') => {
                    self.source.pass(b',');
                    if self.token()? == Some(b']') {
                        return Err(self.broken("has a comma after its last element"));
                    }
                }
                Some(b']') => return self.finish(),
                None => return Err(self.broken("ends inside of its array")),
                Some(_) => return Err(self.broken("has a bracket that closes nothing")),
            },
            State::AtElement => {}
        }
        self.token()?;
        self.element().map(Some)
    }

    /// Reads an element up to the comma or bracket after it.
    fn element(&mut self) -> Result<Record, Fault> {
        let place = Place { element: Some(self.elements), ..self.source.place() };
        let start = self.source.offset();
        let (mut bytes, mut depth, mut in_string, mut escaped, mut too_long) =
            (Vec::new(), 0usize, false, false, false);
        loop {
            let Some(byte) = self.source.peek()? else { return Err(self.broken("ends inside of its array")) };
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else {
                match byte {
                    b',' | b']' | b'}' if depth == 0 => break,
                    b'"' => in_string = true,
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => depth -= 1,
                    _ => {}
                }
            }
            self.source.pass(byte);
            if !too_long && bytes.len() == MAX_RECORD_BYTES {
                too_long = true;
                bytes = Vec::new();
            }
            if !too_long {
                bytes.push(byte);
            }
        }
        self.elements += 1;
        self.state = State::AfterElement;
        let end = self.source.offset();
        let fault = |message: String| Fault { message, place: place.clone(), end, reach: Reach::Record };
        if too_long {
            return Err(fault(format!("is longer than {MAX_RECORD_BYTES} bytes, the most that an element may have")));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Record { content: Content::Json(text), place, start, end }),
            Err(_) => Err(fault("is not UTF-8".to_owned())),
        }
    }

    fn finish(&mut self) -> Result<Option<Record>, Fault> {
        self.source.pass(b']');
        self.state = State::Done;
        match self.token()? {
            None => Ok(None),
            Some(_) => Err(self.broken("goes on after the end of its array")),
        }
    }

    /// The next byte that is not blank.
    fn token(&mut self) -> Result<Option<u8>, Fault> {
        loop {
            match self.source.peek()? {
                Some(blank @ (b' ' | b'\t' | b'\n' | b'\r')) => self.source.pass(blank),
                byte => return Ok(byte),
            }
        }
    }

    fn broken(&self, what: &str) -> Fault {
        let message = format!("{what}: if it is not a JSON array, name its format with {FORMAT_OPTIONS}");
        Fault { message, place: self.source.place(), end: self.source.offset(), reach: Reach::File }
    }
}

impl RecordReader for JsonArray {
    fn read(&mut self) -> Option<Result<Record, Fault>> {
        let read = self.next_element();
        if matches!(&read, Err(Fault { reach: Reach::File, .. })) {
            self.state = State::Done;
        }
        read.transpose()
    }
}
