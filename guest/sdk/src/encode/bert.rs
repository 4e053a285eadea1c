//! The shorter way from text to ids for BERT's tokenizer, which the default model and most rerankers have.
//!
//! `tokenizers` keeps, for every character and through every stage, where in the original text it came from, and makes a string of every token. A row needs neither. For words of ASCII the stages come down to this: control characters are dropped, letters become small, punctuation stands alone, and a word is the longest vocabulary entries that it can be covered with from the left. That is what this module does, without allocating. A run of other characters between two spaces goes through the crate's own stages, which is exact because none of them looks past a space.
//!
//! Source: `normalizers/bert.rs`, `pre_tokenizers/bert.rs` and `models/wordpiece/mod.rs` of `tokenizers` 0.23; the tests hold the two ways equal.

use std::cell::RefCell;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use super::PairError;
use super::text::{Extent, encode_by_stages};

/// What of the tokenizer the short way needs to know; the vocabulary stays where it is.
pub(super) struct BertEncoder {
    lowercase: bool,
    unknown_id: u32,
    /// Length of the longest vocabulary entry, in bytes: no longer piece need be looked up.
    longest_piece: usize,
    /// Texts to find before anything else, such as `[SEP]`.
    added_tokens: Vec<String>,
    /// Which bytes an added token can start with.
    starts_added_token: [bool; 256],
    scratch: RefCell<Scratch>,
}

#[derive(Default)]
struct Scratch {
    word: String,
    /// The prefix of continuing pieces and what is left of the word.
    rest: String,
    /// What a run that is not ASCII comes to, where only that matters.
    ids: Vec<u32>,
}

impl BertEncoder {
    /// Whether this is BERT's tokenizer and nothing but.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else {
            return None;
        };
        let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = tokenizer.get_pre_tokenizer() else {
            return None;
        };
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else {
            return None;
        };
        let added_tokens = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        // Added tokens that are looked for in normalised text would have to be looked for here too.
        if !normalizer.clean_text || added_tokens.values().any(|token| token.normalized) {
            return None;
        }
        let added_tokens: Vec<String> = added_tokens.values().map(|token| token.content.clone()).collect();
        let mut starts_added_token = [false; 256];
        for token in &added_tokens {
            starts_added_token[usize::from(*token.as_bytes().first()?)] = true;
        }
        Some(Self {
            lowercase: normalizer.lowercase,
            unknown_id: model.token_to_id(&model.unk_token)?,
            longest_piece: model.get_vocab().keys().map(String::len).max()?,
            added_tokens,
            starts_added_token,
            scratch: RefCell::default(),
        })
    }

    /// Whether the short way gives the right ids for `text`: it knows nothing of added tokens.
    pub(super) fn takes(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        !bytes.iter().enumerate().any(|(index, &byte)| {
            self.starts_added_token[usize::from(byte)]
                && self.added_tokens.iter().any(|token| bytes[index..].starts_with(token.as_bytes()))
        })
    }

    /// As [`encode_by_stages`], for a text that [`Self::takes`] has taken.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        stop: usize,
        ids: &mut Vec<u32>,
    ) -> Result<Extent, PairError> {
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else {
            return encode_by_stages(tokenizer, text, stop, ids);
        };
        let mut scratch = self.scratch.borrow_mut();
        for run in text.split([' ', '\t', '\n', '\r']) {
            let extent = if run.is_ascii() {
                self.encode_ascii(model, run, stop, ids, &mut scratch)
            } else if ids.len() >= stop {
                scratch.ids.clear();
                encode_by_stages(tokenizer, run, stop, &mut scratch.ids)?;
                match scratch.ids.is_empty() {
                    true => Extent::Whole,
                    false => Extent::Stopped,
                }
            } else {
                encode_by_stages(tokenizer, run, stop, ids)?
            };
            if extent == Extent::Stopped {
                return Ok(Extent::Stopped);
            }
        }
        Ok(Extent::Whole)
    }

    /// Encodes a run of ASCII without spaces: words and punctuation, each a word of its own.
    fn encode_ascii(
        &self,
        model: &WordPiece,
        run: &str,
        stop: usize,
        ids: &mut Vec<u32>,
        scratch: &mut Scratch,
    ) -> Extent {
        let Scratch { word, rest, .. } = scratch;
        let mut bytes = run.bytes().filter(|byte| !byte.is_ascii_control()).peekable();
        while let Some(first) = bytes.next() {
            if ids.len() >= stop {
                return Extent::Stopped;
            }
            word.clear();
            word.push(self.lowered(first));
            if !first.is_ascii_punctuation() {
                while let Some(byte) = bytes.next_if(|byte| !byte.is_ascii_punctuation()) {
                    word.push(self.lowered(byte));
                }
            }
            self.encode_word(model, word, rest, ids);
        }
        Extent::Whole
    }

    fn lowered(&self, byte: u8) -> char {
        char::from(match self.lowercase {
            true => byte.to_ascii_lowercase(),
            false => byte,
        })
    }

    /// Covers a word of ASCII with pieces, the longest first; a word that cannot be covered is one unknown token.
    fn encode_word(&self, model: &WordPiece, word: &str, rest: &mut String, ids: &mut Vec<u32>) {
        let before = ids.len();
        if word.len() <= model.max_input_chars_per_word {
            let mut start = match self.longest_prefix(model, word, 0) {
                Some((id, end)) => {
                    ids.push(id);
                    end
                }
                None => 0,
            };
            let prefix = model.continuing_subword_prefix.len();
            while start > 0 && start < word.len() {
                rest.clear();
                rest.push_str(&model.continuing_subword_prefix);
                rest.push_str(&word[start..]);
                start = match self.longest_prefix(model, rest, prefix) {
                    Some((id, end)) => {
                        ids.push(id);
                        start + end - prefix
                    }
                    None => 0,
                };
            }
            if start > 0 {
                return;
            }
        }
        ids.truncate(before);
        ids.push(self.unknown_id);
    }

    /// The longest vocabulary entry that `text` starts with and that is longer than `least` bytes: its id and length.
    fn longest_prefix(&self, model: &WordPiece, text: &str, least: usize) -> Option<(u32, usize)> {
        (least + 1..=text.len().min(self.longest_piece))
            .rev()
            .find_map(|end| Some((model.token_to_id(&text[..end])?, end)))
    }
}
