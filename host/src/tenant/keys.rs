//! Bearer keys: 256 random bits, shown once and stored only as their SHA-256.
//!
//! A key is looked up by its hash, so the time of a look-up does not reveal how much of a guess was right. A fast hash
//! is enough, because no dictionary lists random bits.

use std::fmt;

use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::manifest::hex;

/// Prefix of every key, by which scanners for leaked secrets recognise one.
const PREFIX: &str = "assay_";

/// Random bytes in a key.
const SECRET_BYTES: usize = 32;

/// Bytes of the hash that form a key's id: enough to tell a tenant's keys apart.
const ID_BYTES: usize = 6;

/// Longest text accepted as a key.
const MAX_KEY_BYTES: usize = 256;

/// A new key. Its text is shown once and stored nowhere.
#[derive(Clone)]
pub struct NewKey {
    /// The key.
    pub secret: String,
    /// The stored record.
    pub hash: KeyHash,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// Why no key was made: the system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes: {0}")]
pub struct NewKeyError(rand::rand_core::OsError);

/// The SHA-256 of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(pub [u8; 32]);

/// The stored record of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The first digits of its hash.
    pub id: String,
    /// The tenant that it opens.
    pub tenant: super::TenantName,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The user who made it.
    pub by: String,
}

impl NewKey {
    /// Makes a key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self, NewKeyError> {
        let mut bytes = [0; SECRET_BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(NewKeyError)?;
        let secret = format!("{PREFIX}{}", hex(&bytes));
        let hash = KeyHash(Sha256::digest(secret.as_bytes()).into());
        Ok(Self { secret, hash })
    }
}

impl KeyHash {
    /// The hash of a presented key; `None` if the text cannot be a key.
    #[must_use]
    pub fn of(secret: &str) -> Option<Self> {
        let plausible = secret.starts_with(PREFIX) && secret.len() <= MAX_KEY_BYTES;
        plausible.then(|| Self(Sha256::digest(secret.as_bytes()).into()))
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.0[..ID_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_debug_output_hides_them() {
        let (a, b) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
        assert_ne!(a.secret, b.secret);
        assert_eq!(a.secret.len(), PREFIX.len() + 2 * SECRET_BYTES);
        assert_eq!(KeyHash::of(&a.secret), Some(a.hash));
        assert!(!format!("{a:?}").contains(&a.secret));
    }

    #[test]
    fn text_that_cannot_be_a_key_is_not_hashed() {
        assert_eq!(KeyHash::of(""), None);
        assert_eq!(KeyHash::of("Basic abc"), None);
        assert_eq!(KeyHash::of(&format!("{PREFIX}{}", "a".repeat(300))), None);
    }
}
