//! Text to token ids: by flat tables or a fast path if the tokenizer has one, by the crate's stages otherwise.

use std::fmt;

use tokenizers::Tokenizer;

use super::bert::BertEncoder;
use super::error::PairError;
use super::flat::FlatEncoder;
use super::stages::{self, Extent};

/// What makes ids of texts.
pub(super) enum TextEncoder {
    /// Flat tables, for every text.
    Flat(Box<FlatEncoder>),
    /// The crate's tokenizer, and a fast path for most texts if it has one.
    Crate {
        /// The tokenizer.
        tokenizer: Box<Tokenizer>,
        /// Its fast path.
        fast: Option<Box<BertEncoder>>,
    },
}

impl TextEncoder {
    pub(super) fn flat(encoder: FlatEncoder) -> Self {
        Self::Flat(Box::new(encoder))
    }

    pub(super) fn of_crate(tokenizer: Tokenizer) -> Self {
        let fast = BertEncoder::of(&tokenizer).map(Box::new);
        Self::Crate { tokenizer: Box::new(tokenizer), fast }
    }

    /// Appends the ids of `text`, without special tokens, to `ids`, which must be empty. Once there are `stop` ids or
    /// more, it stops before the next word.
    pub(super) fn encode(&self, text: &str, stop: Option<usize>, ids: &mut Vec<u32>) -> Result<Extent, PairError> {
        let stop = stop.unwrap_or(usize::MAX);
        let (tokenizer, fast) = match self {
            Self::Flat(flat) => return Ok(flat.encode(text, stop, ids)),
            Self::Crate { tokenizer, fast } => (tokenizer, fast),
        };
        if let Some(extent) = fast.as_ref().and_then(|fast| fast.encode(text, stop, ids)) {
            return Ok(extent);
        }
        ids.clear();
        stages::encode(tokenizer, text, stop, ids)
    }
}

impl fmt::Debug for TextEncoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TextEncoder").finish_non_exhaustive()
    }
}
