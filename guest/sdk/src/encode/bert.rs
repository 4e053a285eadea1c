//! The fast path from text to ids for BERT's tokenizer, which the default model and most rerankers use.
//!
//! `tokenizers` records, for every character and through every stage, where it came from in the original text, and
//! makes a string of every token. A row needs neither. Without them the same ids take a small part of the time.
//!
//! The stages amount to this: control characters are dropped, accents removed, letters lowercased; Chinese characters
//! and punctuation stand alone; a word becomes the longest vocabulary entries that cover it from the left. No stage
//! looks past a space, or past ASCII punctuation to the text before it. So a short word of ASCII letters that ends
//! there only has to be lowercased before it is looked up. All other text goes through the stages, up to the next
//! space.
//!
//! Source: `normalizers/bert.rs`, `pre_tokenizers/bert.rs` and `models/wordpiece/mod.rs` of `tokenizers` 0.23. Property
//! tests hold this path to the crate's.

use std::cell::RefCell;
use std::ops::Range;

use tokenizers::normalizers::BertNormalizer;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

use super::pieces::{Key, NO_ID, Vocabulary, WINDOW_BYTES, Window};
use super::stages::Extent;

/// The parts of the tokenizer that this path needs.
pub(super) struct BertEncoder {
    normalizer: BertNormalizer,
    vocabulary: Vocabulary,
    /// Texts that are found before anything else, such as `[SEP]`.
    added_tokens: Vec<String>,
    /// The added tokens that start with an ASCII letter or digit, and so can start within a word.
    added_within_words: Vec<String>,
    /// [`CLASSES`], with [`ADDED`] set for each byte that starts an added token.
    classes: [u8; 256],
    scratch: RefCell<Scratch>,
}

/// Buffers, reused so that a text costs no allocation.
#[derive(Default)]
struct Scratch {
    /// The text with spaces after it, its ASCII letters lowercased if the tokenizer does that.
    lowered: Vec<u8>,
    /// A run without control characters.
    clean: String,
    /// A run after the normaliser, from which words are cut.
    normal: String,
}

impl BertEncoder {
    /// The fast path for a tokenizer, if it is exactly BERT's.
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
        // The crate finds added tokens marked as normalised only after the normaliser, which this path skips.
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

    /// As [`TextEncoder::encode`](super::text::TextEncoder::encode). `None` if the text contains an added token, which
    /// this path does not handle; `ids` then holds nothing of use.
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
        // The last word then ends at a space, and a window can be read at every position.
        lowered.extend_from_slice(&[b' '; WINDOW_BYTES]);
        let mut words = [Word::default(); MAX_WORDS];
        let mut start = 0;
        while start < text.len() {
            let found = self.find(lowered, start..text.len(), &mut words);
            let words = &mut words[..found.words];
            self.look(words);
            if self.take(words, lowered, stop, ids) == Extent::Stopped {
                return Some(Extent::Stopped);
            }
            start = found.end;
            if found.rare {
                let run = self.run(&text[start..])?;
                self.normalize(run, clean, normal);
                if self.encode_words(normal, stop, ids) == Extent::Stopped {
                    return Some(Extent::Stopped);
                }
                start += run.len() + 1;
            }
        }
        Some(Extent::Whole)
    }

    // The steps below are separate functions because a compiler keeps the values of a small loop in registers. In a
    // guest it has fewer registers, as every loop also checks the epoch.

    /// Finds words until `words` is full or text follows that needs the stages.
    #[inline(never)]
    fn find(&self, lowered: &[u8], text: Range<usize>, words: &mut [Word; MAX_WORDS]) -> Found {
        let (mut start, mut count) = (text.start, 0);
        // A round finds a word, a punctuation character after it, or both. It always writes both and then overwrites
        // the absent one, because a branch here would be mispredicted.
        while start < text.end && count + 2 <= MAX_WORDS {
            let Some(bytes) = lowered.get(start..).and_then(|rest| rest.first_chunk()) else { break };
            let window = Window::of(bytes);
            let length = window.word_bytes();
            let class = bytes.get(length).map_or(LETTER, |&after| self.classes[usize::from(after)]);
            if class > PUNCTUATION {
                return Found { words: count, end: start, rare: true };
            }
            let key = window.first(length);
            words[count] = Word { key, place: self.vocabulary.place(key), id: NO_ID, start, length };
            count += usize::from(length > 0);
            start += length;
            let id = self.vocabulary.id_of_byte(lowered[start]);
            words[count] = Word { id, start, length: 1, ..Word::default() };
            count += usize::from(class == PUNCTUATION);
            start += 1;
        }
        Found { words: count, end: start, rare: false }
    }

    /// Looks up each word that has no id yet, once.
    #[inline(never)]
    fn look(&self, words: &mut [Word]) {
        for word in words {
            word.id = word.id.min(self.vocabulary.look(word.key, word.place));
        }
    }

    /// Appends the words' ids.
    #[inline(never)]
    fn take(&self, words: &[Word], lowered: &[u8], stop: usize, ids: &mut Vec<u32>) -> Extent {
        for &Word { id, start, length, .. } in words {
            if ids.len() >= stop {
                return Extent::Stopped;
            }
            match id {
                NO_ID => self.vocabulary.encode(lowered, start..start + length, ids),
                id => ids.push(id),
            }
        }
        Extent::Whole
    }

    /// The start of `text`, up to the next space; `None` if an added token starts there.
    #[inline(never)]
    fn run<'text>(&self, text: &'text str) -> Option<&'text str> {
        let bytes = text.as_bytes();
        let end = bytes.iter().position(|&byte| self.classes[usize::from(byte)] & !ADDED == SPACE);
        let end = end.unwrap_or(bytes.len());
        // An added token may start with the space.
        let mut starts = (0..=end).map(|start| &bytes[start..]);
        if starts.any(|start| self.added_tokens.iter().any(|token| start.starts_with(token.as_bytes()))) {
            return None;
        }
        Some(&text[..end])
    }

    /// Appends the ids of a normalised run, and spaces to the run.
    #[inline(never)]
    fn encode_words(&self, normal: &mut String, stop: usize, ids: &mut Vec<u32>) -> Extent {
        let end = normal.len();
        normal.extend([' '; WINDOW_BYTES]);
        for word in words(&normal[..end]) {
            if ids.len() >= stop {
                return Extent::Stopped;
            }
            self.vocabulary.encode(normal.as_bytes(), word, ids);
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

/// Words that are looked up together: several times the number of loads that a processor keeps in flight.
const MAX_WORDS: usize = 32;

/// A word of a text, and its id once that is known.
#[derive(Clone, Copy, Default)]
struct Word {
    /// The key of no text if the id is known already.
    key: Key,
    /// Where [`Vocabulary::look`] looks for it.
    place: usize,
    /// [`NO_ID`] if the word needs [`Vocabulary::encode`].
    id: u32,
    start: usize,
    length: usize,
}

/// How far words were found.
struct Found {
    words: usize,
    /// Where the next word begins.
    end: usize,
    /// Whether the text there needs the stages.
    rare: bool,
}

const SPACE: u8 = 0;
const PUNCTUATION: u8 = 1;
const LETTER: u8 = 2;
/// Control characters, and all bytes outside ASCII.
const OTHER: u8 = 3;
/// Set in addition to one of the others for a byte that starts an added token.
const ADDED: u8 = 4;

/// The class of each byte.
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

/// Cuts a text into words. Each punctuation character is a word.
fn words(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let start = text.len() - rest.len();
        let first = rest.chars().next()?;
        let length = match is_punctuation(first) {
            true => first.len_utf8(),
            false => rest.find(|after: char| after.is_whitespace() || is_punctuation(after)).unwrap_or(rest.len()),
        };
        rest = &rest[length..];
        Some(start..start + length)
    })
}

/// Neither a control character nor U+FFFD. Tabs and line ends never get here.
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
