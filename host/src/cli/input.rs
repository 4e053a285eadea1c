//! Documents and requests from files, line by line, with the line's number in every complaint.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use clap::ValueEnum;
use serde::Deserialize;

use super::error::CliError;
use crate::json::Document;
use crate::limits::DEFAULT_MAX_REQUEST_BYTES;

/// Longest line: the largest request, with room for JSON's escapes.
const MAX_LINE_BYTES: u64 = 6 * DEFAULT_MAX_REQUEST_BYTES as u64;

/// How a documents file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// JSONL if the first line that is not blank begins with '"' or '{', otherwise plain lines
    #[default]
    Auto,
    /// One JSON string, or object with a "text", a line
    Jsonl,
    /// One document a line
    Lines,
}

/// The lines of a file that are not blank, with their numbers, counted from 1.
pub(super) struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    name: String,
    number: usize,
}

impl Lines {
    /// Opens a file; `-` is standard input.
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let (reader, name): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
            (Box::new(std::io::stdin()), "standard input".to_owned())
        } else {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| CliError::bad_input(format!("{name}: {error}")))?;
            (Box::new(file), name)
        };
        Ok(Self { reader: BufReader::new(reader), name, number: 0 })
    }

    fn read(&mut self) -> Result<Option<Line>, CliError> {
        loop {
            self.number += 1;
            let place = format!("{}, line {}", self.name, self.number);
            let mut bytes = Vec::new();
            let read = (&mut self.reader).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
            match read {
                Err(error) => return Err(CliError::bad_input(error.to_string()).at(&place)),
                Ok(0) => return Ok(None),
                Ok(read) if read as u64 > MAX_LINE_BYTES => {
                    let message = format!("is longer than {MAX_LINE_BYTES} bytes, the most that a line may have");
                    return Err(CliError::bad_input(message).at(&place));
                }
                Ok(_) => {}
            }
            match String::from_utf8(bytes) {
                Err(_) => return Err(CliError::bad_input("is not UTF-8").at(&place)),
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => return Ok(Some(Line { text: text.trim_end_matches(['\n', '\r']).to_owned(), place })),
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Line, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// A line and where it stands.
pub(super) struct Line {
    pub(super) text: String,
    /// File and number, for messages.
    pub(super) place: String,
}

impl Line {
    pub(super) fn json<T: for<'de> Deserialize<'de>>(&self) -> Result<T, CliError> {
        serde_json::from_str(&self.text).map_err(|error| CliError::bad_input(error.to_string()).at(&self.place))
    }
}

/// Reads the documents in a file; one without any is valid.
pub(super) fn documents(path: &Path, format: Format) -> Result<Vec<String>, CliError> {
    let mut format = format;
    let mut documents = Vec::new();
    for line in Lines::open(path)? {
        let line = line?;
        if format == Format::Auto {
            let json = line.text.trim_start().starts_with(['"', '{']);
            format = if json { Format::Jsonl } else { Format::Lines };
        }
        documents.push(match format {
            Format::Jsonl => line.json::<Document>()?.into(),
            Format::Auto | Format::Lines => line.text,
        });
    }
    Ok(documents)
}
