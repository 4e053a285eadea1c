//! The shorter way from text to ids for BERT's tokenizer, which the default model and most rerankers have.
//!
//! `tokenizers` keeps, for every character and through every stage, where in the original text it came from, and makes a string of every token. A row needs neither, and without them the same ids take a thirtieth of the time. The stages come down to this: control characters are dropped, accents are taken off, letters become small, Chinese characters and punctuation stand alone, and a word is the longest vocabulary entries that it can be covered with from the left. No stage looks past a space, so that the text can be taken run by run; a run of ASCII needs no table of characters at all.
//!
//! Source: `normalizers/bert.rs`, `pre_tokenizers/bert.rs` and `models/wordpiece/mod.rs` of `tokenizers` 0.23. The tests hold the two ways equal.

use std::cell::RefCell;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::{Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

use super::PairError;
use super::text::{Extent, encode_by_stages};

/// What of the tokenizer the short way needs to know; the vocabulary stays where it is.
pub(super) struct BertEncoder {
    normalizer: BertNormalizer,
    unknown_id: u32,
    /// Length of the longest vocabulary entry, in bytes: no longer piece need be looked up.
    longest_piece: usize,
    /// Texts to find before anything else, such as `[SEP]`.
    added_tokens: Vec<String>,
    /// Which bytes an added token can start with.
    starts_added_token: [bool; 256],
    scratch: RefCell<Scratch>,
}

/// Reused, so that a text costs no allocation.
#[derive(Default)]
struct Scratch {
    /// A run without what is not text.
    clean: String,
    /// A run as its words are cut from it.
    normal: String,
    /// The prefix of continuing pieces and what is left of the word.
    rest: String,
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
            normalizer: *normalizer,
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
            let Scratch { clean, normal, rest } = &mut *scratch;
            normal.clear();
            if run.is_ascii() {
                let text = run.bytes().filter(|byte| !byte.is_ascii_control());
                normal.extend(text.map(|byte| char::from(self.lowered(byte))));
            } else {
                self.normalize(run, clean, normal);
            }
            for word in normal.split(char::is_whitespace).flat_map(split_punctuation) {
                if ids.len() >= stop {
                    return Ok(Extent::Stopped);
                }
                self.encode_word(model, word, rest, ids);
            }
        }
        Ok(Extent::Whole)
    }

    fn lowered(&self, byte: u8) -> u8 {
        match self.normalizer.lowercase {
            true => byte.to_ascii_lowercase(),
            false => byte,
        }
    }

    /// The normaliser's stages, in its order.
    fn normalize(&self, run: &str, clean: &mut String, normal: &mut String) {
        clean.clear();
        for character in run.chars().filter(|&character| is_text(character)) {
            if self.normalizer.handle_chinese_chars && is_chinese(character) {
                clean.extend([' ', character, ' ']);
            } else {
                clean.push(character);
            }
        }
        let Self { normalizer: BertNormalizer { strip_accents, lowercase, .. }, .. } = self;
        let mut push = |character: char| match lowercase {
            true => normal.extend(character.to_lowercase()),
            false => normal.push(character),
        };
        if strip_accents.unwrap_or(*lowercase) {
            let decomposed = clean.nfd().map(|(character, _)| character);
            decomposed.filter(|character| !character.is_mark_nonspacing()).for_each(&mut push);
        } else {
            clean.chars().for_each(&mut push);
        }
    }

    /// Covers a word with pieces, the longest first; a word that cannot be covered is one unknown token.
    fn encode_word(&self, model: &WordPiece, word: &str, rest: &mut String, ids: &mut Vec<u32>) {
        let before = ids.len();
        if word.len() <= model.max_input_chars_per_word || word.chars().count() <= model.max_input_chars_per_word {
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
            .filter(|&end| text.is_char_boundary(end))
            .find_map(|end| Some((model.token_to_id(&text[..end])?, end)))
    }
}

/// Cuts what has no spaces into words and punctuation, each a word of its own.
fn split_punctuation(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = match is_punctuation(first) {
            true => first.len_utf8(),
            false => rest.find(is_punctuation).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

/// Neither a control character nor one that stands for a broken one. Tabs and line ends never get here.
fn is_text(character: char) -> bool {
    character != '\u{fffd}' && !character.is_other()
}

fn is_punctuation(character: char) -> bool {
    match character.is_ascii() {
        true => character.is_ascii_punctuation(),
        false => character.is_punctuation(),
    }
}

/// The CJK blocks that `tokenizers` counts as Chinese.
fn is_chinese(character: char) -> bool {
    matches!(
        u32::from(character),
        0x4e00..=0x9fff
            | 0x3400..=0x4dbf
            | 0x20000..=0x2a6df
            | 0x2a700..=0x2b73f
            | 0x2b740..=0x2b81f
            | 0x2b920..=0x2ceaf
            | 0xf900..=0xfaff
            | 0x2f800..=0x2fa1f
    )
}
