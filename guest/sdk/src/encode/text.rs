//! Text to token ids, exactly as `Tokenizer::encode` finds them, without what only it needs: offsets, token strings, word numbers.

use std::fmt;

use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

use super::PairError;
use super::bert::BertEncoder;

/// Whether the whole of a text was tokenised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// The ids are all there are.
    Whole,
    /// Enough ids were found and text is left.
    Stopped,
}

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
        encode_by_stages(&self.tokenizer, text, stop, ids)
    }
}

impl fmt::Debug for TextEncoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TextEncoder").finish_non_exhaustive()
    }
}

/// The crate's own stages: split off added tokens, normalise, split into words, look the words up.
fn encode_by_stages(tokenizer: &Tokenizer, text: &str, stop: usize, ids: &mut Vec<u32>) -> Result<Extent, PairError> {
    let failed = |error: tokenizers::Error| PairError::Tokenizer(error.to_string());
    let mut words: PreTokenizedString =
        tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
    if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut words).map_err(failed)?;
    }
    for (word, _, added) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
        if ids.len() >= stop {
            return Ok(Extent::Stopped);
        }
        match added {
            Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
            None => ids.extend(tokenizer.get_model().tokenize(word).map_err(failed)?.iter().map(|token| token.id)),
        }
    }
    Ok(Extent::Whole)
}
