//! A tokenizer tried as a guest uses it, before a model is added: what a request would meet is met here.

use assay_guest::{Cut, LoadError, PairEncoder, PairError, Rows};

use crate::model::error::TokenizerFault;
use crate::quiet;

/// A pair of plain text, and one of characters that few vocabularies have.
const PAIRS: [(&str, &str); 2] =
    [("what is a panda", "A panda is a bear, 12."), ("naïve 東京", "\u{1f60a} \u{e000}\u{7} [X]")];

/// Room for both pairs.
const MAX_TOKENS: usize = 4096;

/// Added tokens in one text: each may be several tokens, and all of them must fit.
const TOKENS_AT_ONCE: usize = 256;

/// The texts of a tokenizer's added tokens.
fn added_tokens(tokenizer: &[u8]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Token>,
    }
    #[derive(serde::Deserialize)]
    struct Token {
        content: String,
    }
    // What cannot be read was refused before.
    let file = serde_json::from_slice(tokenizer).unwrap_or(File { added_tokens: Vec::new() });
    file.added_tokens.into_iter().map(|token| token.content).collect()
}

/// Loads a tokenizer with the guests' own code and tokenises with it. Returns the number of special tokens of a pair.
///
/// # Errors
/// The tokenizer cannot be loaded, fails for a text, or has ids that the model's vocabulary lacks.
pub(super) fn try_pairs(tokenizer: &[u8], vocab_size: usize) -> Result<usize, TokenizerFault> {
    // The library may panic on a file that contradicts itself.
    quiet::catch(|| tokenise(tokenizer, vocab_size)).unwrap_or(Err(TokenizerFault::Panicked))
}

fn tokenise(tokenizer: &[u8], vocab_size: usize) -> Result<usize, TokenizerFault> {
    let unreadable = |error: LoadError| TokenizerFault::Unreadable(error.to_string());
    let encoder = PairEncoder::from_json(tokenizer).map_err(unreadable)?;
    let fails = |error: PairError| TokenizerFault::Fails(error.to_string());
    let mut rows = Rows::default();
    for (query, document) in PAIRS {
        let mut query = encoder.query(query, MAX_TOKENS, Cut::LongestFirst).map_err(fails)?;
        query.push_pair(document, &mut rows).map_err(fails)?;
    }
    // The ids that the library gives added tokens need not be those of the file.
    for tokens in added_tokens(tokenizer).chunks(TOKENS_AT_ONCE) {
        let mut query = encoder.query("", MAX_TOKENS, Cut::LongestFirst).map_err(fails)?;
        query.push_pair(&tokens.join(" "), &mut rows).map_err(fails)?;
    }
    match rows.ids.iter().max() {
        Some(&largest) if largest as usize >= vocab_size => {
            Err(TokenizerFault::OtherVocabulary { largest: largest.into(), vocab_size })
        }
        _ => Ok(encoder.special_tokens()),
    }
}
