//! The operator's key: what opens a server's metrics and dashboard over HTTP.
//!
//! It lies in the data directory, which only its owner can read: who can read it could do anything to the server
//! anyway. It opens no tenant, and changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::{KeyHash, NewKey};
use crate::durable::{self, Durability};

/// The file's name in the data directory.
const FILE: &str = "operator.key";

/// Longest file that is read.
const MAX_BYTES: u64 = 1 << 10;

/// The key of one data directory.
#[derive(Debug)]
pub(super) struct OperatorKey {
    path: PathBuf,
    hash: RwLock<Option<KeyHash>>,
}

impl OperatorKey {
    pub(super) fn of(data_dir: &Path) -> Self {
        Self { path: data_dir.join(FILE), hash: RwLock::default() }
    }

    /// The key as text: the one in the file, or a new one if there is none or `renew` is set.
    ///
    /// # Errors
    /// The file cannot be read or written, or the system gives no random bytes.
    pub(super) fn secret(&self, renew: bool) -> io::Result<String> {
        let kept = if renew { None } else { read(&self.path)? };
        let secret = match kept {
            Some(secret) => secret,
            None => {
                let NewKey { secret, .. } = NewKey::generate().map_err(io::Error::other)?;
                durable::replace(&self.path, format!("{secret}\n").as_bytes(), Durability::Machine)?;
                secret
            }
        };
        *self.hash.write().unwrap_or_else(PoisonError::into_inner) = KeyHash::of(&secret);
        Ok(secret)
    }

    /// Whether a text is the key, once it was read or made.
    pub(super) fn is(&self, secret: &str) -> bool {
        let hash = *self.hash.read().unwrap_or_else(PoisonError::into_inner);
        // Hashes are compared, so the time of the comparison does not reveal how much of a guess was right.
        hash.is_some() && KeyHash::of(secret) == hash
    }
}

/// The key in a file; `None` if there is no file.
fn read(path: &Path) -> io::Result<Option<String>> {
    use std::io::Read;
    let mut text = String::new();
    match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?.take(MAX_BYTES).read_to_string(&mut text)?,
    };
    let secret = text.trim();
    match KeyHash::of(secret) {
        Some(_) => Ok(Some(secret.to_owned())),
        None => Err(io::Error::other("it holds no key: remove it, and a new one is made")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_until_it_is_renewed_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = OperatorKey::of(dir.path());
        assert!(!key.is("") && !key.is("assay_"));
        let first = key.secret(false).unwrap();
        assert_eq!(OperatorKey::of(dir.path()).secret(false).unwrap(), first);
        assert!(key.is(&first));
        let second = key.secret(true).unwrap();
        assert!(second != first && key.is(&second) && !key.is(&first));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{mode:o}");
        }
        std::fs::write(dir.path().join(FILE), "not a key").unwrap();
        assert!(key.secret(false).unwrap_err().to_string().contains("remove it"));
    }
}
