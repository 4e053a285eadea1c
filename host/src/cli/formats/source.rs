//! A file as a stream of bytes: opened, its encoding checked, read by bounded lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use super::record::{Fault, MAX_RECORD_BYTES, Place, Reach};
use crate::cli::error::CliError;

/// Most bytes read to decide the format: the first line or its beginning is enough.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// UTF-8's byte order mark.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// First bytes of unsupported formats, with a description and a remedy.
const NOT_UTF8: &[(&[u8], &str)] = &[
    (b"\xff\xfe\0\0", "is UTF-32: convert it with `iconv -f UTF-32 -t UTF-8`"),
    (b"\0\0\xfe\xff", "is UTF-32: convert it with `iconv -f UTF-32 -t UTF-8`"),
    (b"\xff\xfe", "is UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`"),
    (b"\xfe\xff", "is UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`"),
    (b"\x1f\x8b", "is compressed: give it as `gzip -cd FILE | assay … -`"),
    (b"\x28\xb5\x2f\xfd", "is compressed: give it as `zstd -cd FILE | assay … -`"),
    (b"\xfd7zXZ\0", "is compressed: give it as `xz -cd FILE | assay … -`"),
    (b"PK\x03\x04", "is a zip archive or a workbook: unpack it, or save it as CSV in UTF-8"),
    (b"PAR1", "is Parquet: convert it to JSONL or CSV"),
];

/// Bytes of a file, in order.
pub(in crate::cli) struct Source {
    reader: BufReader<Box<dyn Read + Send>>,
    name: Arc<str>,
    /// Size of a regular file.
    size: Option<u64>,
    /// The first bytes, without a byte order mark.
    head: Vec<u8>,
    offset: u64,
    line: u64,
}

/// A line with its line break, which the last line may lack.
pub(super) struct RawLine {
    pub(super) bytes: Vec<u8>,
    pub(super) line: u64,
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Source {
    /// Opens a file; `-` is standard input. Skips a byte order mark.
    ///
    /// # Errors
    /// The file cannot be read, or its first bytes show that it is not UTF-8.
    pub(in crate::cli) fn open(path: &Path) -> Result<Self, CliError> {
        let bad = |name: &str, error: &dyn std::fmt::Display| CliError::bad_input(format!("{name}: {error}"));
        let (mut reader, name, size): (Box<dyn Read + Send>, _, _) = if path == Path::new("-") {
            (Box::new(io::stdin()), "standard input".to_owned(), None)
        } else {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| bad(&name, &error))?;
            let metadata = file.metadata().map_err(|error| bad(&name, &error))?;
            if metadata.is_dir() {
                return Err(bad(&name, &"is a directory"));
            }
            (Box::new(file), name, metadata.is_file().then_some(metadata.len()))
        };
        let mut head = read_head(&mut reader).map_err(|error| bad(&name, &error))?;
        if let Some(what) = not_utf8(&head) {
            return Err(bad(&name, &what));
        }
        let marked = head.starts_with(BYTE_ORDER_MARK);
        let offset = if marked { BYTE_ORDER_MARK.len() } else { 0 };
        head.drain(..offset);
        let reader: Box<dyn Read + Send> = Box::new(Cursor::new(head.clone()).chain(reader));
        Ok(Self { reader: BufReader::new(reader), name: name.into(), size, head, offset: offset as u64, line: 1 })
    }

    /// Rereads an open file from an offset. Lines are counted from there.
    pub(super) fn again(mut file: File, name: Arc<str>, offset: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        let reader: Box<dyn Read + Send> = Box::new(file);
        Ok(Self { reader: BufReader::new(reader), name, size: None, head: Vec::new(), offset, line: 1 })
    }

    pub(in crate::cli) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Bytes of a regular file.
    pub(in crate::cli) fn size(&self) -> Option<u64> {
        self.size
    }

    /// The first line that is not blank, or its part within the file's first bytes.
    pub(super) fn first_line(&self) -> &[u8] {
        let mut lines = self.head.split(|&byte| byte == b'\n');
        lines.find(|line| !line.trim_ascii().is_empty()).unwrap_or_default()
    }

    /// The place of the next byte.
    pub(super) fn place(&self) -> Place {
        Place { file: Arc::clone(&self.name), line: self.line, element: None }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next byte, without consuming it.
    pub(super) fn peek(&mut self) -> Result<Option<u8>, Fault> {
        match self.reader.fill_buf() {
            Ok(bytes) => Ok(bytes.first().copied()),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    /// Consumes the byte that [`peek`](Self::peek) returned.
    pub(super) fn pass(&mut self, byte: u8) {
        self.reader.consume(1);
        self.offset += 1;
        self.line += u64::from(byte == b'\n');
    }

    /// Reads a line; `None` at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read, or a line is too long. After a long line the next call reads the line after it.
    pub(super) fn next_line(&mut self) -> Result<Option<RawLine>, Fault> {
        let (place, start, line) = (self.place(), self.offset, self.line);
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(MAX_RECORD_BYTES as u64 + 1).read_until(b'\n', &mut bytes);
        self.offset += bytes.len() as u64;
        self.line += 1;
        match read {
            Err(error) => Err(self.unreadable(&error)),
            Ok(0) => Ok(None),
            Ok(read) if read > MAX_RECORD_BYTES => {
                if bytes.last() != Some(&b'\n') {
                    drop(bytes);
                    self.pass_line()?;
                }
                let message = format!("is longer than {MAX_RECORD_BYTES} bytes, the most that a line may have");
                Err(Fault { message, place, end: self.offset, reach: Reach::Record })
            }
            Ok(_) => Ok(Some(RawLine { bytes, line, start, end: self.offset })),
        }
    }

    /// Skips the rest of a line.
    fn pass_line(&mut self) -> Result<(), Fault> {
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) => return Err(self.unreadable(&error)),
            };
            let found = buffer.iter().position(|&byte| byte == b'\n');
            let passed = found.map_or(buffer.len(), |at| at + 1);
            self.reader.consume(passed);
            self.offset += passed as u64;
            if found.is_some() || passed == 0 {
                return Ok(());
            }
        }
    }

    fn unreadable(&self, error: &io::Error) -> Fault {
        Fault { message: error.to_string(), place: self.place(), end: self.offset, reach: Reach::File }
    }
}

/// Reads up to the end of the first line that is not blank, and no more than one read returns: a program that writes a
/// request into a pipe and waits for the answer must get it.
fn read_head(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let (mut head, mut chunk) = (Vec::new(), vec![0; 8 << 10]);
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        head.extend_from_slice(&chunk[..read]);
        let first = head.trim_ascii_start();
        if read == 0 || first.contains(&b'\n') || head.len() >= MAX_HEAD_BYTES {
            return Ok(head);
        }
    }
}

/// What a file is instead of UTF-8, by its first bytes.
fn not_utf8(head: &[u8]) -> Option<&'static str> {
    if let Some((_, what)) = NOT_UTF8.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(what);
    }
    // ASCII in UTF-16 without a mark has a zero in every other byte.
    let zeros = head.iter().take(4).filter(|&&byte| byte == 0).count();
    (zeros > 0).then_some("has zero bytes: if it is UTF-16, convert it with `iconv -f UTF-16LE -t UTF-8`")
}
