//! The store's record of a model: its origin and the hash of every file.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;

/// The directory of an adapter's files in a revision's.
pub(super) const ADAPTER_DIR: &str = "adapter";

/// One revision of a model in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The model's name.
    pub name: String,
    /// Content hash of all files together, lower-case hexadecimal.
    pub revision: String,
    /// Its origin.
    pub source: Source,
    /// The adapter's origin, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Source>,
    /// Every file by its path below the revision's directory.
    pub files: BTreeMap<String, FileRecord>,
}

/// Exactly one revision of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelRevision {
    /// The model's name.
    pub name: String,
    /// Content hash of all its files, lower-case hexadecimal.
    pub revision: String,
}

/// Expected size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

/// The origin of a model or an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Source {
    /// A repository of the Hugging Face hub.
    Hub {
        /// `owner/name`.
        repository: String,
        /// The commit's full hash.
        commit: String,
    },
    /// A package of the Python package index.
    Package {
        /// The package's name.
        name: String,
        /// Its version.
        version: String,
    },
    /// A directory.
    Directory {
        /// Its absolute path when it was added.
        path: String,
    },
    /// Embedded in this program.
    Embedded,
}

impl Manifest {
    /// Whether it names an adapter just if it lists one's files. Its revision says nothing of the first.
    pub(super) fn is_consistent(&self) -> bool {
        let has_files = self.files.keys().any(|file| Path::new(file).starts_with(ADAPTER_DIR));
        self.adapter.is_some() == has_files
    }

    /// The model and revision that it describes.
    #[must_use]
    pub fn model_revision(&self) -> ModelRevision {
        ModelRevision { name: self.name.clone(), revision: self.revision.clone() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repository, commit } => write!(f, "hub {repository} at {commit:.12}"),
            Self::Package { name, version } => write!(f, "package {name} {version}"),
            Self::Directory { path } => write!(f, "directory {path}"),
            Self::Embedded => f.write_str("embedded"),
        }
    }
}

impl FileRecord {
    /// Records bytes in memory.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: sha256_hex(bytes) }
    }

    /// Reads a whole file and records it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let mut file = durable::open_own(path)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0u64);
        let mut buffer = vec![0u8; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(Self { bytes, sha256: hex(&hash.finalize()) });
            }
            hash.update(&buffer[..read]);
            bytes += read as u64;
        }
    }
}

/// Content hash of all files: the hash of their names and hashes in order.
#[must_use]
pub fn revision(files: &BTreeMap<String, FileRecord>) -> String {
    let mut hash = Sha256::new();
    for (name, record) in files {
        hash.update(format!("{name}\0{}\n", record.sha256));
    }
    hex(&hash.finalize())
}

/// SHA-256 of bytes in memory, lower-case hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
