//! Text to token ids: by the fast path if the tokenizer has one, by the crate's stages otherwise.

use std::fmt;

use tokenizers::Tokenizer;

use super::bert::BertEncoder;
use super::error::PairError;
use super::stages::{self, Extent};

/// A tokenizer, and its fast path if it has one.
pub(super) struct TextEncoder {
    tokenizer: Tokenizer,
    fast: Option<BertEncoder>,
}

impl TextEncoder {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        let fast = BertEncoder::of(&tokenizer);
        Self { tokenizer, fast }
    }

    /// Appends the ids of `text`, without special tokens, to `ids`, which must be empty. Once there are `stop` ids or
    /// more, it stops before the next word.
    pub(super) fn encode(&self, text: &str, stop: Option<usize>, ids: &mut Vec<u32>) -> Result<Extent, PairError> {
        let stop = stop.unwrap_or(usize::MAX);
        if let Some(extent) = self.fast.as_ref().and_then(|fast| fast.encode(text, stop, ids)) {
            return Ok(extent);
        }
        ids.clear();
        stages::encode(&self.tokenizer, text, stop, ids)
    }
}

impl fmt::Debug for TextEncoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TextEncoder").finish_non_exhaustive()
    }
}
