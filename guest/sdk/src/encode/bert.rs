//! The shorter way from text to ids for BERT's tokenizer, which the default model and most rerankers have.
//!
//! `tokenizers` keeps, for every character and through every stage, where in the original text it came from, and makes a string of every token. A row needs neither, and without them the same ids take a small part of the time. The stages come down to this: control characters are dropped, accents are taken off, letters become small, Chinese characters and punctuation stand alone, and a word is the longest vocabulary entries that it can be covered with from the left. No stage looks past a space, or past ASCII's punctuation to what is before it: a word of few ASCII letters that ends there needs nothing but small letters, and is looked up as it stands. Whatever else comes, up to the next space, goes through the stages.
//!
//! Source: `normalizers/bert.rs`, `pre_tokenizers/bert.rs` and `models/wordpiece/mod.rs` of `tokenizers` 0.23. The tests hold the two ways equal.

use std::cell::RefCell;

use tokenizers::normalizers::BertNormalizer;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

use super::pieces::{KEY_BYTES, Key, Vocabulary};
use super::text::Extent;

/// All that is needed of the tokenizer.
pub(super) struct BertEncoder {
    normalizer: BertNormalizer,
    vocabulary: Vocabulary,
    /// Texts to find before anything else, such as `[SEP]`.
    added_tokens: Vec<String>,
    /// Those of them that start with an ASCII letter or digit, and so can stand within a word.
    added_within_words: Vec<String>,
    /// [`CLASSES`], and [`ADDED`] with every byte that an added token can start with.
    classes: [u8; 256],
    scratch: RefCell<Scratch>,
}

/// Reused, so that a text costs no allocation.
#[derive(Default)]
struct Scratch {
    /// The text, its ASCII letters small if the tokenizer makes them so, and spaces after it.
    lowered: Vec<u8>,
    /// A run without what is not text.
    clean: String,
    /// A run as its words are cut from it.
    normal: String,
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
        let mut classes = CLASSES;
        for token in &added_tokens {
            classes[usize::from(*token.as_bytes().first()?)] |= ADDED;
        }
        let mut added_within_words = added_tokens.clone();
        added_within_words.retain(|token| token.starts_with(|first: char| first.is_ascii_alphanumeric()));
        let vocabulary = Vocabulary::of(model)?;
        let scratch = RefCell::default();
        Some(Self { normalizer: *normalizer, vocabulary, added_tokens, added_within_words, classes, scratch })
    }

    /// As [`encode_by_stages`](super::text::encode_by_stages); `None`, and what `ids` then holds has no meaning, where an added token stands in the text: this way knows nothing of those.
    pub(super) fn encode(&self, text: &str, stop: usize, ids: &mut Vec<u32>) -> Option<Extent> {
        if self.added_within_words.iter().any(|token| text.contains(token.as_str())) {
            return None;
        }
        let Scratch { lowered, clean, normal } = &mut *self.scratch.borrow_mut();
        lowered.clear();
        lowered.extend_from_slice(text.as_bytes());
        if self.normalizer.lowercase {
            lowered.make_ascii_lowercase();
        }
        // So that the last word ends in a space, and a key can be read where it starts.
        lowered.extend_from_slice(&[b' '; KEY_BYTES]);
        let mut start = 0;
        while start < text.len() {
            let Some(window) = lowered[start..].first_chunk() else { break };
            let key = Key::of_window(window);
            let length = key.word_bytes();
            let class = window.get(length).map_or(LETTER, |&byte| self.classes[usize::from(byte)]);
            if class > PUNCTUATION {
                let run = self.run(&text[start..])?;
                self.normalize(run, clean, normal);
                if self.encode_words(normal, stop, ids) == Extent::Stopped {
                    return Some(Extent::Stopped);
                }
                start += run.len() + 1;
                continue;
            }
            if length > 0 {
                if ids.len() >= stop {
                    return Some(Extent::Stopped);
                }
                self.vocabulary.encode_short(key.first(length), &window[..length], ids);
            }
            if class == PUNCTUATION {
                if ids.len() >= stop {
                    return Some(Extent::Stopped);
                }
                self.vocabulary.encode_short(Key::of_byte(window[length]), &window[length..=length], ids);
            }
            start += length + 1;
        }
        Some(Extent::Whole)
    }

    /// What `text` begins with, up to the next space; `None`, where an added token stands there.
    // Apart from the loop above, so that a compiler keeps that loop's values in registers: so are all the rare ways out of it.
    #[inline(never)]
    fn run<'text>(&self, text: &'text str) -> Option<&'text str> {
        let bytes = text.as_bytes();
        let end = bytes.iter().position(|&byte| self.classes[usize::from(byte)] & !ADDED == SPACE);
        let end = end.unwrap_or(bytes.len());
        // The space too can be a token's first.
        let mut starts = (0..=end).map(|start| &bytes[start..]);
        if starts.any(|start| self.added_tokens.iter().any(|token| start.starts_with(token.as_bytes()))) {
            return None;
        }
        Some(&text[..end])
    }

    #[inline(never)]
    fn encode_words(&self, normal: &str, stop: usize, ids: &mut Vec<u32>) -> Extent {
        for word in normal.split(char::is_whitespace).flat_map(split_punctuation) {
            if ids.len() >= stop {
                return Extent::Stopped;
            }
            self.vocabulary.encode(word.as_bytes(), ids);
        }
        Extent::Whole
    }

    /// The normaliser's stages, in its order.
    #[inline(never)]
    fn normalize(&self, run: &str, clean: &mut String, normal: &mut String) {
        clean.clear();
        normal.clear();
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
}

const SPACE: u8 = 0;
const PUNCTUATION: u8 = 1;
const LETTER: u8 = 2;
/// Control characters, and all that is not ASCII.
const OTHER: u8 = 3;
/// Set beside one of these.
const ADDED: u8 = 4;

/// What each byte is.
const CLASSES: [u8; 256] = {
    let mut classes = [LETTER; 256];
    let mut byte = 0;
    while byte < classes.len() {
        let character = byte as u8;
        if matches!(character, b' ' | b'\t' | b'\n' | b'\r') {
            classes[byte] = SPACE;
        } else if character.is_ascii_control() || !character.is_ascii() {
            classes[byte] = OTHER;
        } else if character.is_ascii_punctuation() {
            classes[byte] = PUNCTUATION;
        }
        byte += 1;
    }
    classes
};

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
