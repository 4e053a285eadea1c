//! What a guest printed last, for its author: kept while the host tries the guest with texts of its own, and dropped in
//! every other request, which has a caller's texts.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Most bytes that are kept: a traceback of a few frames.
const MAX_KEPT_BYTES: usize = 1 << 10;

/// Most bytes that a guest may print in one call.
const MAX_WRITE_BYTES: usize = 64 << 10;

/// The end of what a guest printed to standard output and standard error.
#[derive(Debug, Clone, Default)]
pub(super) struct LastWords(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    listens: bool,
    tail: Vec<u8>,
}

impl LastWords {
    /// Keeps what is printed from now on, or nothing. What was kept is forgotten.
    pub(super) fn listen(&self, listens: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Kept { listens, tail: Vec::new() };
    }

    /// The words, without characters that would direct a terminal; `None` if there are none.
    pub(super) fn heard(&self) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept.tail);
        let plain = |char: char| if char.is_control() && char != '\n' { ' ' } else { char };
        let text: String = text.trim().chars().map(plain).collect();
        (!text.is_empty()).then_some(text)
    }

    fn take_in(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.listens {
            kept.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(MAX_KEPT_BYTES)..]);
            let over = kept.tail.len().saturating_sub(MAX_KEPT_BYTES);
            kept.tail.drain(..over);
        }
    }
}

impl IsTerminal for LastWords {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LastWords {
    /// The streams of WASI 0.3, which no guest has.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for LastWords {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for LastWords {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take_in(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_is_printed_is_kept_while_it_is_listened_to() {
        let words = LastWords::default();
        words.take_in(b"a caller's text");
        assert_eq!(words.heard(), None);
        words.listen(true);
        for line in 0..1_000 {
            words.take_in(format!("line {line}\n").as_bytes());
        }
        words.take_in(b"KeyError:\x1b[2J '\xff'\n");
        let heard = words.heard().unwrap();
        assert!(heard.ends_with("line 999\nKeyError: [2J '\u{fffd}'"), "{heard}");
        words.take_in(&[b'x'; 3 * MAX_KEPT_BYTES]);
        assert_eq!(words.heard().unwrap().len(), MAX_KEPT_BYTES);
        words.listen(false);
        words.take_in(b"another caller's text");
        assert_eq!(words.heard(), None);
    }
}
