//! The shorter way from text to ids for BERT's tokenizer, which the default model and most rerankers have.
//!
//! `tokenizers` keeps, for every character and through every stage, where in the original text it came from, and makes a string of every token. A row needs neither, and without them the same ids take a small part of the time. The stages come down to this: control characters are dropped, accents are taken off, letters become small, Chinese characters and punctuation stand alone, and a word is the longest vocabulary entries that it can be covered with from the left. No stage looks past a space, or past ASCII's punctuation to what is before it: words are taken as they come, and one of plain ASCII needs nothing but small letters.
//!
//! Pieces are found in a trie, byte by byte: the longest comes of one walk, where a hash map would be asked once for every length. Nor has a guest to emulate the 128-bit products of that map's hash.
//!
//! Source: `normalizers/bert.rs`, `pre_tokenizers/bert.rs` and `models/wordpiece/mod.rs` of `tokenizers` 0.23. The tests hold the two ways equal.

use std::cell::RefCell;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::{Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;
use yada::builder::DoubleArrayBuilder;
use yada::unit::Unit;

use super::text::Extent;

/// Longest vocabulary entry, in bytes, that the tries take: their making calls itself once a byte.
const MAX_PIECE_BYTES: usize = 1_024;

/// All that is needed of the tokenizer.
pub(super) struct BertEncoder {
    normalizer: BertNormalizer,
    vocabulary: Vocabulary,
    /// Texts to find before anything else, such as `[SEP]`.
    added_tokens: Vec<String>,
    /// [`CLASSES`], and [`ADDED`] with every byte that an added token can start with.
    classes: [u8; 256],
    scratch: RefCell<Scratch>,
}

/// Reused, so that a text costs no allocation.
#[derive(Default)]
struct Scratch {
    /// The text, its ASCII letters small if the tokenizer makes them so.
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
        let vocabulary = Vocabulary::of(model)?;
        let scratch = RefCell::default();
        Some(Self { normalizer: *normalizer, vocabulary, added_tokens, classes, scratch })
    }

    /// As [`encode_by_stages`](super::text::encode_by_stages); `None`, and what `ids` then holds has no meaning, where an added token stands in the text: this way knows nothing of those.
    pub(super) fn encode(&self, text: &str, stop: usize, ids: &mut Vec<u32>) -> Option<Extent> {
        let Scratch { lowered, clean, normal } = &mut *self.scratch.borrow_mut();
        lowered.clear();
        lowered.extend_from_slice(text.as_bytes());
        if self.normalizer.lowercase {
            lowered.make_ascii_lowercase();
        }
        let bytes = text.as_bytes();
        // What stands between the two, if anything, is the start of a word; while it is not plain, the start of a run.
        let (mut start, mut at, mut plain) = (0, 0, true);
        loop {
            let class = bytes.get(at).map_or(SPACE, |&byte| self.classes[usize::from(byte)]);
            if class & ADDED != 0 && self.added_tokens.iter().any(|token| bytes[at..].starts_with(token.as_bytes())) {
                return None;
            }
            let class = class & !ADDED;
            plain &= class != OTHER;
            if class != SPACE && !(plain && class == PUNCTUATION) {
                at += 1;
                continue;
            }
            let (from, to) = (start, at);
            start = (at + 1).min(bytes.len());
            at = start;
            let extent = if plain {
                let punctuation = if class == PUNCTUATION { &lowered[to..start] } else { &[] };
                let words = [&lowered[from..to], punctuation].into_iter().filter(|word| !word.is_empty());
                self.vocabulary.encode(words, stop, ids)
            } else {
                plain = true;
                self.normalize(&text[from..to], clean, normal);
                let words = normal.split(char::is_whitespace).flat_map(split_punctuation);
                self.vocabulary.encode(words.map(str::as_bytes), stop, ids)
            };
            if extent == Extent::Stopped || start == bytes.len() {
                return Some(extent);
            }
        }
    }

    /// The normaliser's stages, in its order.
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

/// The pieces that words are covered with.
struct Vocabulary {
    /// What a word can start with.
    first: Trie,
    /// What can follow, without the prefix that marks it in the vocabulary; nothing, where no piece has the prefix.
    following: Option<Trie>,
    unknown_id: u32,
    max_word_chars: usize,
}

impl Vocabulary {
    /// `None` where the tries cannot hold the pieces.
    fn of(model: &WordPiece) -> Option<Self> {
        let vocab = model.get_vocab();
        let mut first: Vec<_> = vocab.iter().map(|(piece, &id)| (piece.as_str(), id)).collect();
        first.retain(|(piece, _)| !piece.is_empty());
        first.sort_unstable();
        if first.iter().any(|(piece, _)| piece.len() > MAX_PIECE_BYTES) {
            return None;
        }
        // Still sorted: all of these start alike.
        let following = first.iter().filter_map(|&(piece, id)| {
            let piece = piece.strip_prefix(&model.continuing_subword_prefix)?;
            (!piece.is_empty()).then_some((piece, id))
        });
        let following: Vec<_> = following.collect();
        Some(Self {
            first: Trie::of(&first)?,
            following: if following.is_empty() { None } else { Some(Trie::of(&following)?) },
            unknown_id: *vocab.get(&model.unk_token)?,
            max_word_chars: model.max_input_chars_per_word,
        })
    }

    fn encode<'text>(&self, words: impl Iterator<Item = &'text [u8]>, stop: usize, ids: &mut Vec<u32>) -> Extent {
        for word in words {
            if ids.len() >= stop {
                return Extent::Stopped;
            }
            self.encode_word(word, ids);
        }
        Extent::Whole
    }

    /// Covers a word with pieces, the longest first; a word that cannot be covered is one unknown token.
    fn encode_word(&self, word: &[u8], ids: &mut Vec<u32>) {
        let before = ids.len();
        if word.len() <= self.max_word_chars || chars(word) <= self.max_word_chars {
            let (mut trie, mut rest) = (Some(&self.first), word);
            // The longest of all pieces that `rest` starts with.
            while let Some((id, length)) = trie.and_then(|trie| trie.longest_prefix(rest)) {
                ids.push(id);
                rest = &rest[length..];
                if rest.is_empty() {
                    return;
                }
                trie = self.following.as_ref();
            }
        }
        ids.truncate(before);
        ids.push(self.unknown_id);
    }
}

/// Pieces to ids: a double array of `yada`, walked here because its own search would read the id of every piece on the way to the longest, each from another corner of the memory.
struct Trie {
    units: Vec<Unit>,
}

impl Trie {
    /// `pieces` are sorted. `None` if they cannot be put in a double array.
    fn of(pieces: &[(&str, u32)]) -> Option<Self> {
        let bytes = DoubleArrayBuilder::build(pieces).ok()?;
        let (units, _) = bytes.as_chunks();
        Some(Self { units: units.iter().map(|&unit| Unit::from_u32(u32::from_le_bytes(unit))).collect() })
    }

    /// The longest piece that `text` starts with: its id and its length.
    fn longest_prefix(&self, text: &[u8]) -> Option<(u32, usize)> {
        let mut node = 0;
        let mut unit = *self.units.first()?;
        let mut longest = None;
        for (length, &byte) in (1..).zip(text) {
            node ^= unit.offset() as usize ^ usize::from(byte);
            unit = *self.units.get(node)?;
            if unit.label() != u32::from(byte) {
                break;
            }
            if unit.has_leaf() {
                longest = Some((node ^ unit.offset() as usize, length));
            }
        }
        let (leaf, length) = longest?;
        Some((self.units.get(leaf)?.value(), length))
    }
}

/// Characters of a text, by the bytes that start one.
fn chars(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

const LETTER: u8 = 0;
const PUNCTUATION: u8 = 1;
const SPACE: u8 = 2;
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
