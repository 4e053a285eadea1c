//! The name of a request: the caller's own if it is well-formed, or one that is made.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::TryRngCore;
use rand::rngs::OsRng;

/// Longest name that is taken from a caller: two UUIDs and a separator fit.
const MAX_BYTES: usize = 80;

/// A request's name: at most 80 ASCII letters, digits and `-._:/+=@`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The caller's name for a request, or a new one if it sent none or one that is not well-formed.
    #[must_use]
    pub fn of(sent: Option<&[u8]>) -> Self {
        let taken = sent.filter(|sent| is_well_formed(sent)).and_then(|sent| std::str::from_utf8(sent).ok());
        taken.map_or_else(Self::new, |taken| Self(taken.to_owned()))
    }

    /// A name that no other request of this process has, and hardly one of another process.
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("{:016x}-{number:x}", process()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A random number for this process.
fn process() -> u64 {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    // Without random bytes names differ within the process only.
    *PROCESS.get_or_init(|| OsRng.try_next_u64().unwrap_or_default())
}

fn is_well_formed(sent: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:/+=@".contains(byte);
    (1..=MAX_BYTES).contains(&sent.len()) && sent.iter().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_well_formed_name_is_taken_and_any_other_replaced() {
        for good in ["a", "7f3c1e5a-9b1d-4f0e-8a55-0a2b6f1d2c3e", "trace=1:2/3+4@host_5".replace('_', "-").as_str()] {
            assert_eq!(RequestId::of(Some(good.as_bytes())).as_str(), good);
        }
        for bad in ["", "two words", "line\nbreak", "quote\"", "\u{e4}", "a".repeat(MAX_BYTES + 1).as_str()] {
            let made = RequestId::of(Some(bad.as_bytes()));
            assert!(made.as_str() != bad && is_well_formed(made.as_str().as_bytes()), "{bad:?} became {made}");
        }
    }

    #[test]
    fn names_that_are_made_differ() {
        assert_ne!(RequestId::of(None), RequestId::of(None));
    }
}
