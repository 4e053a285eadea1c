//! Text to token ids: by the fast path if the tokenizer has one, by the crate's stages otherwise.

use std::fmt;

use tokenizers::Tokenizer;

use super::bert::BertEncoder;
use super::error::PairError;
use super::stages::{self, Extent};

/// A tokenizer, and a shorter way to the same ids where there is one.
pub(super) struct TextEncoder {
    tokenizer: Tokenizer,
    bert: Option<BertEncoder>,
}

impl TextEncoder {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        let bert = BertEncoder::of(&tokenizer);
        Self { tokenizer, bert }
    }

    /// Appends the ids of `text`, without special tokens around them, to the empty `ids`; stops before a word once there are `stop` or more.
    pub(super) fn encode(&self, text: &str, stop: Option<usize>, ids: &mut Vec<u32>) -> Result<Extent, PairError> {
        let stop = stop.unwrap_or(usize::MAX);
        if let Some(extent) = self.bert.as_ref().and_then(|bert| bert.encode(text, stop, ids)) {
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
