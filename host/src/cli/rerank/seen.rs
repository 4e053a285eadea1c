//! The queries of a file that were read, to find one that comes twice. Keeps a hash of each: memory is bounded.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// Most queries of a run, of a table of pairs, or of requests that are written as a run.
const MAX_QUERIES: usize = 1 << 22;

/// Hashes of what was read.
#[derive(Default)]
pub(super) struct Seen {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl Seen {
    /// Notes a query. Returns whether it is new.
    ///
    /// # Errors
    /// There are too many; the error says so.
    pub(super) fn insert(&mut self, query: &str) -> Result<bool, String> {
        let is_new = self.hashes.insert(self.hasher.hash_one(query));
        match self.hashes.len() {
            count if count > MAX_QUERIES => {
                Err(format!("is query {count}, and a file is limited to {MAX_QUERIES}: split it"))
            }
            _ => Ok(is_new),
        }
    }
}
