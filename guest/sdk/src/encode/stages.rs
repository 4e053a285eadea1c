//! Text to token ids by the crate's own stages, exactly as `Tokenizer::encode` does it.
//!
//! Offsets, token strings and word numbers, which only `encode` needs, are left out.

use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

use super::error::PairError;

/// Whether the whole of a text was tokenised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Yes.
    Whole,
    /// No: there were enough ids, and text is left.
    Stopped,
}

/// The crate's own stages: split off added tokens, normalise, split into words, look the words up.
pub(super) fn encode(tokenizer: &Tokenizer, text: &str, stop: usize, ids: &mut Vec<u32>) -> Result<Extent, PairError> {
    let mut words: PreTokenizedString =
        tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
    if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut words).map_err(PairError::Tokenizer)?;
    }
    for (word, _, added) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
        if ids.len() >= stop {
            return Ok(Extent::Stopped);
        }
        match added {
            Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
            None => ids.extend(
                tokenizer.get_model().tokenize(word).map_err(PairError::Tokenizer)?.iter().map(|token| token.id),
            ),
        }
    }
    Ok(Extent::Whole)
}
