//! A file while it is fetched from the hub: what has come lies beside where it belongs, and gets its name once it is
//! whole and what the hub announced.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode};

use crate::durable;
use crate::model::error::{HubError, ModelError};
use crate::model::manifest::FileRecord;

/// Bytes at which progress is worth showing.
const SHOWN_BYTES: u64 = 8 << 20;

/// Least bytes of an answer that does not end the file; one with fewer counts as broken off.
const LEAST_BYTES: u64 = 1 << 20;

/// An answer, and what the hub itself said about the file on the way to it.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    pub(super) sha256: Option<String>,
}

/// A file while it is fetched.
pub(super) struct Download<'a> {
    path: &'a Path,
    /// What has come so far.
    part: PathBuf,
    /// The file and its model, for people.
    what: String,
    /// Most bytes.
    limit: u64,
    total: Option<u64>,
    sha256: Option<String>,
    progress: Option<ProgressBar>,
}

/// The part of a file that an answer brings.
#[derive(Debug, PartialEq)]
struct Span {
    /// Its first byte.
    from: u64,
    /// Bytes of the whole file, if the answer tells.
    total: Option<u64>,
}

impl<'a> Download<'a> {
    pub(super) fn new(path: &'a Path, what: String, limit: u64) -> Self {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        Self { path, part: part.into(), what, limit, total: None, sha256: None, progress: None }
    }

    /// Goes on with a file that an earlier pull brought whole: it may have changed since.
    pub(super) fn take_up(&self) -> Result<(), ModelError> {
        match std::fs::rename(self.path, &self.part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ModelError::io(self.path)(error)),
            _ => Ok(()),
        }
    }

    /// Bytes that have come.
    pub(super) fn bytes(&self) -> Result<u64, ModelError> {
        match durable::open_own(&self.part).and_then(|part| part.metadata()) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(self.io(error)),
        }
    }

    pub(super) fn is_whole(&self) -> Result<bool, ModelError> {
        Ok(self.total.is_some() && self.total == Some(self.bytes()?))
    }

    /// Adds an answer to the request for what follows the first `at` bytes. `false` if it was broken off, or is to be
    /// asked for again.
    ///
    /// # Errors
    /// The answer is a refusal, or no part of such a file.
    pub(super) fn take(
        &mut self,
        Answer { response, sha256 }: Answer,
        at: u64,
        refused: impl FnOnce(&Response<Body>) -> HubError,
    ) -> Result<bool, ModelError> {
        self.sha256 = self.sha256.take().or(sha256);
        let span = match response.status() {
            // All of it is here, nothing is there to be a part of, or what was broken off is longer than the file.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let range =
                    header(response.headers(), "content-range").and_then(|range| range.strip_prefix("bytes */"));
                let total = range.and_then(|total| total.trim().parse().ok()).or((at == 0).then_some(0));
                if total == Some(at) && at <= self.limit {
                    self.total = total;
                    return Ok(true);
                }
                self.start_anew()?;
                return Ok(false);
            }
            status => Span::of(status, response.headers()).ok_or_else(|| refused(&response))?,
        };
        if ![0, at].contains(&span.from) {
            return Err(self.not_a_hub("another part than asked for"));
        }
        if span.total.or(self.total).is_some_and(|bytes| bytes > self.limit) {
            return Err(self.too_large());
        }
        if self.total.is_some() && self.total != span.total {
            return Err(self.not_a_hub("parts of files of several sizes"));
        }
        if span.total.is_some_and(|bytes| bytes < at) {
            // What was broken off is longer than the file.
            self.start_anew()?;
            return Ok(false);
        }
        self.total = span.total;
        self.show(span.from);
        let Some(end) = self.append(response.into_body(), &span)? else { return Ok(false) };
        // An end without a length is the end.
        self.total = Some(span.total.unwrap_or(end));
        Ok(end >= at + LEAST_BYTES || self.is_whole()?)
    }

    /// Writes what an answer brings, and tells where it ended; `None` if it was broken off.
    fn append(&self, body: Body, span: &Span) -> Result<Option<u64>, ModelError> {
        let mut part = File::options().create(true).append(true).open(&self.part).map_err(|error| self.io(error))?;
        part.set_len(span.from).map_err(|error| self.io(error))?;
        let most = span.total.unwrap_or(self.limit);
        // One byte more shows that there are more.
        let mut body = body.into_reader().take(most.saturating_sub(span.from).saturating_add(1));
        let (mut buffer, mut end) = (vec![0; 1 << 20], span.from);
        loop {
            let Ok(read) = body.read(&mut buffer) else { return Ok(None) };
            if read == 0 {
                return Ok(Some(end));
            }
            end += read as u64;
            if end > most {
                // What is here is of no use to the next pull either.
                std::fs::remove_file(&self.part).map_err(|error| self.io(error))?;
                return Err(match span.total {
                    Some(_) => self.not_a_hub("more bytes than were announced"),
                    None => self.too_large(),
                });
            }
            part.write_all(&buffer[..read]).map_err(|error| self.io(error))?;
            if let Some(progress) = &self.progress {
                progress.inc(read as u64);
            }
        }
    }

    /// Checks the contents, and gives the file its name.
    ///
    /// # Errors
    /// The hub announced other contents.
    pub(super) fn finish(self) -> Result<(), ModelError> {
        if let Some(progress) = &self.progress {
            progress.finish_and_clear();
        }
        if let Some(announced) = &self.sha256 {
            let found = FileRecord::of(&self.part).map_err(|error| self.io(error))?.sha256;
            if found != *announced {
                std::fs::remove_file(&self.part).map_err(|error| self.io(error))?;
                return Err(HubError::Damaged { what: self.what, announced: announced.clone(), found }.into());
            }
        }
        std::fs::rename(&self.part, self.path).map_err(ModelError::io(self.path))
    }

    fn start_anew(&self) -> Result<(), ModelError> {
        File::create(&self.part).map(drop).map_err(|error| self.io(error))
    }

    fn show(&mut self, from: u64) {
        let Some(total) = self.total.filter(|&total| total >= SHOWN_BYTES) else { return };
        let progress = self.progress.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {bytes} of {total_bytes} {bar:30} {bytes_per_sec} {eta}");
            let progress = ProgressBar::new(total).with_message(self.what.clone());
            progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            progress
        });
        progress.set_position(from);
    }

    fn io(&self, error: std::io::Error) -> ModelError {
        ModelError::io(&self.part)(error)
    }

    fn not_a_hub(&self, why: &str) -> ModelError {
        HubError::NotAHub { what: self.what.clone(), why: why.to_owned() }.into()
    }

    fn too_large(&self) -> ModelError {
        HubError::TooLarge { what: self.what.clone(), limit: self.limit }.into()
    }
}

impl Span {
    /// What an answer brings; `None` if it brings nothing of the file.
    fn of(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        match status {
            StatusCode::PARTIAL_CONTENT => {
                let range = header(headers, "content-range")?.strip_prefix("bytes ")?;
                let (part, total) = range.split_once('/')?;
                let from = part.split_once('-')?.0.trim().parse().ok()?;
                Some(Self { from, total: Some(total.trim().parse().ok()?) })
            }
            // Without ranges, it comes whole.
            StatusCode::OK => {
                let total = header(headers, "content-length").and_then(|bytes| bytes.parse().ok());
                Some(Self { from: 0, total })
            }
            _ => None,
        }
    }
}

/// A header's text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_part_of_a_file_or_all_of_it() {
        let of = |status: u16, name: &'static str, value: &str| {
            let headers = HeaderMap::from_iter([(ureq::http::HeaderName::from_static(name), value.parse().unwrap())]);
            Span::of(StatusCode::from_u16(status).unwrap(), &headers)
        };
        assert_eq!(of(206, "content-range", "bytes 5-9/10"), Some(Span { from: 5, total: Some(10) }));
        assert_eq!(of(200, "content-length", "10"), Some(Span { from: 0, total: Some(10) }));
        assert_eq!(of(200, "etag", "a"), Some(Span { from: 0, total: None }));
        for range in ["bytes */10", "bytes 5-9/*", "5-9/10", "bytes"] {
            assert_eq!(of(206, "content-range", range), None, "{range}");
        }
    }
}
