//! Components on disk, by their SHA-256: written whole, synced, then named.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::model::manifest::sha256_hex;

/// A folder of blobs, private to its user.
#[derive(Debug, Clone)]
pub(super) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    /// The folder, which is made if it is not there.
    pub(super) fn open(dir: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Keeps bytes, and gives their hash. Once this returns, they survive a crash of the machine.
    pub(super) fn put(&self, bytes: &[u8]) -> std::io::Result<String> {
        let hash = sha256_hex(bytes);
        let path = self.path(&hash);
        // What is here already is compared and not believed: an earlier machine may have lost part of it.
        if std::fs::read(&path).is_ok_and(|kept| kept == bytes) {
            return Ok(hash);
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        Ok(hash)
    }

    /// The bytes with this hash.
    pub(super) fn get(&self, hash: &str) -> std::io::Result<Vec<u8>> {
        let bytes = std::fs::read(self.path(hash))?;
        if sha256_hex(&bytes) == hash {
            return Ok(bytes);
        }
        let message = format!("{} is damaged: deploy the component again", self.path(hash).display());
        Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message))
    }

    /// Where the bytes with this hash are.
    pub(super) fn path(&self, hash: &str) -> PathBuf {
        self.dir.join(format!("{hash}.wasm"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_blob_is_not_given_out_and_can_be_put_again() {
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
