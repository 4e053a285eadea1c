//! Components on disk, each named by its SHA-256. A blob is written and synced before it gets its name.
//!
//! A command stores a component first and names it later, perhaps in another process. So a sweep skips blobs younger than
//! [`GRACE`], and `put` and the sweep both lock the directory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::durable::{self, DirLock, Durability};
use crate::model::manifest::sha256_hex;
use crate::sweep::{DroppedKind, GRACE, Sweep};

/// Extension of a blob's name.
const EXTENSION: &str = ".wasm";

/// A folder of blobs, private to its user.
#[derive(Debug, Clone)]
pub(super) struct Blobs {
    dir: PathBuf,
}

/// Why a blob cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlobError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's hash is not its name.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl Blobs {
    /// Opens or creates the folder.
    pub(super) fn open(dir: &Path) -> std::io::Result<Self> {
        durable::private_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Stores bytes and returns their hash. Once this returns, they survive a crash of the machine.
    pub(super) fn put(&self, bytes: &[u8]) -> std::io::Result<String> {
        let hash = sha256_hex(bytes);
        let path = self.path(&hash);
        let _lock = DirLock::acquire(&self.dir)?;
        // Compares the whole file, because a crash of the machine may have lost part of it.
        if std::fs::read(&path).is_ok_and(|kept| kept == bytes) {
            std::fs::OpenOptions::new().append(true).open(&path)?.set_modified(SystemTime::now())?;
            return Ok(hash);
        }
        durable::replace(&path, bytes, Durability::Machine)?;
        Ok(hash)
    }

    /// Removes blobs that are not in `held`.
    pub(super) fn sweep(&self, held: &HashSet<String>, sweep: &mut Sweep) -> std::io::Result<()> {
        let _lock = DirLock::acquire(&self.dir)?;
        sweep.leftovers(&self.dir);
        for path in sweep.entries(&self.dir) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(hash) = name.strip_suffix(EXTENSION) else { continue };
            if !held.contains(hash) && sweep.is_older_than(&path, GRACE) {
                sweep.file(DroppedKind::Component, hash.to_owned(), &path);
            }
        }
        Ok(())
    }

    /// The bytes with this hash.
    pub(super) fn get(&self, hash: &str) -> Result<Vec<u8>, BlobError> {
        let path = self.path(hash);
        match std::fs::read(&path) {
            Ok(bytes) if sha256_hex(&bytes) == hash => Ok(bytes),
            Ok(_) => Err(BlobError::Damaged { path }),
            Err(source) => Err(BlobError::Io { path, source }),
        }
    }

    /// Path of the blob with this hash.
    pub(super) fn path(&self, hash: &str) -> PathBuf {
        self.dir.join(format!("{hash}{EXTENSION}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_blob_is_refused_and_can_be_stored_again() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let hash = blobs.put(b"component").unwrap();
        assert_eq!(blobs.get(&hash).unwrap(), b"component");
        std::fs::write(blobs.path(&hash), b"comp").unwrap();
        assert!(blobs.get(&hash).unwrap_err().to_string().contains("damaged"));
        assert_eq!(blobs.put(b"component").unwrap(), hash);
        assert_eq!(blobs.get(&hash).unwrap(), b"component");
    }
}
