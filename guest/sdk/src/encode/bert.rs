//! The shorter way from text to ids for BERT's tokenizer, which the default model and most rerankers have.
//!
//! `tokenizers` keeps, for every character and through every stage, where in the original text it came from, and makes a string of every token. A row needs neither, and without them the same ids take a small part of the time. The stages come down to this: control characters are dropped, accents are taken off, letters become small, Chinese characters and punctuation stand alone, and a word is the longest vocabulary entries that it can be covered with from the left. No stage looks past a space, or past ASCII's punctuation to what is before it: a word of few ASCII letters that ends there needs nothing but small letters, and is looked up as it stands. Whatever else comes, up to the next space, goes through the stages.
//!
//! Source: `normalizers/bert.rs`, `pre_tokenizers/bert.rs` and `models/wordpiece/mod.rs` of `tokenizers` 0.23. The tests hold the two ways equal.

use std::cell::RefCell;
use std::ops::Range;

use tokenizers::normalizers::BertNormalizer;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

use super::pieces::{Key, NO_ID, Vocabulary, WINDOW_BYTES, Window};
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

    /// As [`TextEncoder::encode`](super::text::TextEncoder::encode); `None`, and what `ids` then holds has no meaning, where an added token stands in the text: this way knows nothing of those.
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
        // So that the last word ends in a space, and a window can be read where any starts.
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

    // From here on, functions of their own where one would do: a compiler keeps the values of a small loop in registers. Guests' compiler has few to give, since every loop of theirs also watches the clock.

    /// Finds the words of some text, as many as there is room for, up to what needs the stages.
    #[inline(never)]
    fn find(&self, lowered: &[u8], text: Range<usize>, words: &mut [Word; MAX_WORDS]) -> Found {
        let (mut start, mut count) = (text.start, 0);
        // A round finds a word and punctuation after it, or only one of them. What there is not is written too, and then written over: a branch would be mispredicted.
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

    /// Looks once for each word that has no id yet.
    #[inline(never)]
    fn look(&self, words: &mut [Word]) {
        for word in words {
            word.id = word.id.min(self.vocabulary.look(word.key, word.place));
        }
    }

    /// Appends the ids of words.
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

    /// What `text` begins with, up to the next space; `None`, where an added token stands there.
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

    /// Appends the ids of all that a run has become, which gets spaces after it.
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

/// Words that are looked for together: several times as many as a processor waits for at once.
const MAX_WORDS: usize = 32;

/// A word of a text, and what is known of it so far.
#[derive(Clone, Copy, Default)]
struct Word {
    /// That of no text where the id is known.
    key: Key,
    /// See [`Vocabulary::look`].
    place: usize,
    /// [`NO_ID`] where only [`Vocabulary::encode`] can tell.
    id: u32,
    start: usize,
    length: usize,
}

/// How far words were found.
struct Found {
    words: usize,
    /// Where the next one begins.
    end: usize,
    /// What is there needs the stages.
    rare: bool,
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

/// Cuts a text into words and punctuation, each a word of its own.
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
