//! Texts by their ids: the queries and documents that a run names.
//!
//! A collection may be larger than memory. One pass over the file notes the place of each id, as a hash and an offset;
//! a text is read from the file on demand. Notes beyond a bound go to a sorted temporary file, so memory holds one hash
//! in every few hundred.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use super::{Fields, Format, Header, Layout, OpenFile};
use crate::cli::error::CliError;

/// Notes sorted in memory before they go to a file: 16 MiB.
const MAX_NOTES_IN_MEMORY: usize = 1 << 20;

/// Notes per block: one hash per block stays in memory, and a block is read from the file at once.
const NOTES_PER_BLOCK: usize = 256;

const NOTE_BYTES: usize = 16;

/// The texts of a file, by id.
pub(in crate::cli) struct Lookup {
    file: File,
    name: Arc<str>,
    layout: Layout,
    fields: Fields,
    hasher: RandomState,
    in_memory: Vec<Note>,
    in_files: Vec<SortedNotes>,
}

/// The place of a text; ordered by the hash of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    hash: u64,
    offset: u64,
}

/// Sorted notes in a temporary file.
struct SortedNotes {
    file: File,
    count: usize,
    /// The hash of the first note of each block.
    first_hashes: Vec<u64>,
}

impl Lookup {
    /// Reads a whole file and notes the place of each text. `seen` receives the number of bytes read.
    ///
    /// # Errors
    /// The file cannot be reread, such as a pipe, or one of its records is bad.
    pub(in crate::cli) fn open(
        path: &Path,
        format: Format,
        header: Header,
        fields: Fields,
        max_in_memory: Option<usize>,
        mut seen: impl FnMut(u64),
    ) -> Result<Self, CliError> {
        let open = OpenFile::open(path, format, Format::Tsv)?;
        let name = Arc::clone(open.name());
        let bad = |message: &str| CliError::bad_input(message).at(&name);
        if open.size().is_none() {
            return Err(bad("must be a file, as texts are looked up in it"));
        }
        if open.format() == Format::Lines {
            return Err(bad("has no ids, as it is plain lines"));
        }
        if open.first_line().trim_ascii_start().starts_with(b"<") {
            return Err(bad("begins with '<': TREC's topics and documents in SGML are not read, but lines of \
                            `id TAB text`, JSONL, a JSON array or CSV"));
        }
        let file = File::open(path).map_err(|error| bad(&error.to_string()))?;
        let (mut records, layout) = open.records(header, &fields)?;
        let (hasher, max_in_memory) = (RandomState::new(), max_in_memory.unwrap_or(MAX_NOTES_IN_MEMORY));
        let (mut in_memory, mut in_files) = (Vec::new(), Vec::new());
        let mut first = true;
        while let Some(record) = records.read() {
            let record = record?;
            if std::mem::take(&mut first)
                && let Some(note) = fields.note(&record)
            {
                eprintln!("{name}: {note}");
            }
            let at = |message: String| CliError::bad_input(message).at(&record.place.to_string());
            let document = fields.document(&record).map_err(at)?;
            let id = document.id.ok_or_else(|| at("has no id: choose one with --field id=NAME".to_owned()))?;
            in_memory.push(Note { hash: hasher.hash_one(id.to_string()), offset: record.start });
            if in_memory.len() == max_in_memory {
                let sorted = SortedNotes::write(&mut in_memory);
                in_files.push(sorted.map_err(|error| CliError::failed(format!("a temporary file: {error}")))?);
            }
            seen(record.end);
        }
        in_memory.sort_unstable();
        Ok(Self { file, name, layout, fields, hasher, in_memory, in_files })
    }

    /// The text with an id.
    ///
    /// # Errors
    /// There is no text with this id, or there are two.
    pub(in crate::cli) fn get(&mut self, id: &str) -> Result<String, LookupError> {
        let hash = self.hasher.hash_one(id);
        let mut offsets = Vec::new();
        offsets.extend(with_hash(&self.in_memory, hash));
        for notes in &mut self.in_files {
            notes.find(hash, &mut offsets).map_err(LookupError::Io)?;
        }
        let mut found = None;
        for offset in offsets {
            let file = self.file.try_clone().map_err(LookupError::Io)?;
            let mut records = self.layout.again(file, Arc::clone(&self.name), offset).map_err(LookupError::Io)?;
            let Some(Ok(record)) = records.read() else { return Err(self.changed()) };
            let document = self.fields.document(&record).map_err(|_| self.changed())?;
            if document.id.is_some_and(|found| found.to_string() == id) && found.replace(document.text).is_some() {
                return Err(LookupError::Twice(Arc::clone(&self.name)));
            }
        }
        found.ok_or_else(|| LookupError::Missing(Arc::clone(&self.name)))
    }

    fn changed(&self) -> LookupError {
        LookupError::Io(io::Error::other(format!("{} was changed while it was read", self.name)))
    }
}

/// Why a text was not found.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LookupError {
    #[error("is not in {0}")]
    Missing(Arc<str>),
    #[error("is in {0} twice")]
    Twice(Arc<str>),
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

impl SortedNotes {
    /// Sorts notes, moves them to a temporary file, and leaves room for more.
    fn write(notes: &mut Vec<Note>) -> io::Result<Self> {
        notes.sort_unstable();
        let mut bytes = Vec::with_capacity(notes.len() * NOTE_BYTES);
        for note in notes.iter() {
            bytes.extend_from_slice(&note.hash.to_le_bytes());
            bytes.extend_from_slice(&note.offset.to_le_bytes());
        }
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        let first_hashes = notes.chunks(NOTES_PER_BLOCK).filter_map(|block| Some(block.first()?.hash)).collect();
        let count = notes.len();
        notes.clear();
        Ok(Self { file, count, first_hashes })
    }

    /// Adds the offsets noted under a hash.
    fn find(&mut self, hash: u64, offsets: &mut Vec<u64>) -> io::Result<()> {
        // Notes of one hash may begin in the block before the first block that begins with it, and continue after it.
        let first = self.first_hashes.partition_point(|&first| first < hash).saturating_sub(1);
        let end = self.first_hashes.partition_point(|&first| first <= hash);
        for block in first..end {
            let notes = NOTES_PER_BLOCK.min(self.count - block * NOTES_PER_BLOCK);
            let mut bytes = vec![0; notes * NOTE_BYTES];
            self.file.seek(SeekFrom::Start((block * NOTES_PER_BLOCK * NOTE_BYTES) as u64))?;
            self.file.read_exact(&mut bytes)?;
            let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
            let notes: Vec<Note> = bytes
                .chunks_exact(NOTE_BYTES)
                .map(|note| Note { hash: number(&note[..8]), offset: number(&note[8..]) })
                .collect();
            offsets.extend(with_hash(&notes, hash));
        }
        Ok(())
    }
}

/// The offsets under a hash among sorted notes.
fn with_hash(notes: &[Note], hash: u64) -> impl Iterator<Item = u64> {
    let start = notes.partition_point(|note| note.hash < hash);
    notes[start..].iter().take_while(move |note| note.hash == hash).map(|note| note.offset)
}
