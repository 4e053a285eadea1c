//! A WordPiece vocabulary, asked for the longest entry that a word begins with.
//!
//! `WordPiece` makes a string of every beginning of a word and asks a hash map for it. Nearly all entries have at most 16 bytes: here they are two numbers, which are cut with a mask, hashed with two products and compared at once, in a table of which a word that is in the vocabulary touches one place. Nor has a guest to emulate the 128-bit products of that map's hash.

use std::collections::HashMap;

use tokenizers::Model;
use tokenizers::models::wordpiece::WordPiece;

/// Bytes that a [`Key`] holds.
pub(super) const KEY_BYTES: usize = 16;

/// The first bytes of a text, as many as there are up to [`KEY_BYTES`], the first of them lowest; 0 where there are none. No text here contains a 0 of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    low: u64,
    high: u64,
}

impl Key {
    pub(super) fn of(text: &[u8]) -> Self {
        if let Some(window) = text.first_chunk() {
            return Self::of_window(window);
        }
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        let (low, high) = text.split_at(text.len().min(8));
        Self { low: number(low), high: number(high) }
    }

    pub(super) fn of_byte(byte: u8) -> Self {
        Self { low: u64::from(byte), high: 0 }
    }

    pub(super) fn of_window(window: &[u8; KEY_BYTES]) -> Self {
        let number = u128::from_le_bytes(*window);
        Self { low: number as u64, high: (number >> 64) as u64 }
    }

    /// The first bytes of these, from 1 to [`KEY_BYTES`] of them.
    pub(super) fn first(self, bytes: usize) -> Self {
        let Self { low, high } = self;
        // What is left of a number of which `bytes % 8` bytes stay, but all of it for none.
        let mask = u64::MAX >> ((64 - 8 * (bytes % 8)) % 64);
        match bytes {
            ..8 => Self { low: low & mask, high: 0 },
            8 => Self { low, high: 0 },
            _ => Self { low, high: high & mask },
        }
    }

    /// How many of the first bytes are ASCII letters and digits.
    pub(super) fn word_bytes(self) -> usize {
        match word_bytes(self.low) {
            8 => 8 + word_bytes(self.high),
            bytes => bytes,
        }
    }
}

/// How many of a number's lowest bytes are ASCII letters and digits: all eight are looked at together, their highest bits standing for the answers.
fn word_bytes(number: u64) -> usize {
    const HIGHEST: u64 = every(0x80);
    // Without the highest bits, no sum below runs over into the next byte.
    let ascii = number & !HIGHEST;
    let between = |bytes: u64, first: u8, last: u8| (bytes + every(0x80 - first)) & !(bytes + every(0x7f - last));
    let small = ascii | every(0x20);
    let word = (between(small, b'a', b'z') | between(ascii, b'0', b'9')) & !number;
    ((!word & HIGHEST).trailing_zeros() / 8) as usize
}

const fn every(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The pieces that words are covered with.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// What a word can start with.
    first: Pieces,
    /// What can follow, without the prefix that marks it in the vocabulary.
    following: Pieces,
    unknown_id: u32,
    max_word_chars: usize,
}

impl Vocabulary {
    /// `None` where the vocabulary lacks its own unknown token.
    pub(super) fn of(model: &WordPiece) -> Option<Self> {
        let vocab = model.get_vocab();
        let pieces = || vocab.iter().map(|(piece, &id)| (piece.as_str(), id));
        let prefix = &model.continuing_subword_prefix;
        Some(Self {
            first: pieces().collect(),
            following: pieces().filter_map(|(piece, id)| Some((piece.strip_prefix(prefix)?, id))).collect(),
            unknown_id: *vocab.get(&model.unk_token)?,
            max_word_chars: model.max_input_chars_per_word,
        })
    }

    /// As [`encode`](Self::encode), of a word that `key` holds all of.
    #[inline]
    pub(super) fn encode_short(&self, key: Key, word: &[u8], ids: &mut Vec<u32>) {
        match self.first.get(key) {
            Some(id) if word.len() <= self.max_word_chars => ids.push(id),
            _ => self.encode(word, ids),
        }
    }

    /// Covers a word with pieces, the longest first; a word that cannot be covered is one unknown token.
    #[inline(never)]
    pub(super) fn encode(&self, word: &[u8], ids: &mut Vec<u32>) {
        let before = ids.len();
        if word.len() <= self.max_word_chars || chars(word) <= self.max_word_chars {
            let (mut pieces, mut rest, mut key) = (&self.first, word, Key::of(word));
            while let Some((id, length)) = pieces.longest_prefix(rest, key) {
                ids.push(id);
                rest = &rest[length..];
                if rest.is_empty() {
                    return;
                }
                (pieces, key) = (&self.following, Key::of(rest));
            }
        }
        ids.truncate(before);
        ids.push(self.unknown_id);
    }
}

/// Characters of a text, by the bytes that start one.
fn chars(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

/// Texts and their ids.
#[derive(Debug)]
struct Pieces {
    /// Those that a key holds, each in the first free slot from its hash on; a power of two, at least half of it free.
    slots: Vec<Slot>,
    long: HashMap<Box<[u8]>, u32>,
    /// Of the long ones, descending.
    long_lengths: Vec<usize>,
}

/// Free, where the key is that of no text.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: Key,
    id: u32,
}

impl<'text> FromIterator<(&'text str, u32)> for Pieces {
    /// What is empty, or contains a 0, is left out: no word is or does.
    fn from_iter<I: IntoIterator<Item = (&'text str, u32)>>(pieces: I) -> Self {
        let pieces = pieces.into_iter().map(|(piece, id)| (piece.as_bytes(), id));
        let pieces = pieces.filter(|(piece, _)| !piece.is_empty() && !piece.contains(&0));
        let (short, long): (Vec<_>, Vec<_>) = pieces.partition(|(piece, _)| piece.len() <= KEY_BYTES);
        let mut long_lengths: Vec<_> = long.iter().map(|(piece, _)| piece.len()).collect();
        long_lengths.sort_unstable_by(|left, right| right.cmp(left));
        long_lengths.dedup();
        let long = long.into_iter().map(|(piece, id)| (Box::from(piece), id)).collect();
        let slots = vec![Slot::default(); (2 * short.len()).next_power_of_two().max(2)];
        let mut made = Self { slots, long, long_lengths };
        for (piece, id) in short {
            let key = Key::of(piece);
            let mut at = made.first_slot(key);
            while made.slots[at].key != Key::default() {
                at = (at + 1) % made.slots.len();
            }
            made.slots[at] = Slot { key, id };
        }
        made
    }
}

impl Pieces {
    /// The longest piece that `text`, whose key is `key`, starts with: its id and its length.
    fn longest_prefix(&self, text: &[u8], key: Key) -> Option<(u32, usize)> {
        if text.len() > KEY_BYTES {
            for &length in &self.long_lengths {
                if let Some(&id) = text.get(..length).and_then(|start| self.long.get(start)) {
                    return Some((id, length));
                }
            }
        }
        let mut lengths = (1..=text.len().min(KEY_BYTES)).rev();
        lengths.find_map(|length| Some((self.get(key.first(length))?, length)))
    }

    fn get(&self, key: Key) -> Option<u32> {
        let mut at = self.first_slot(key);
        loop {
            let slot = self.slots[at];
            if slot.key == key {
                return Some(slot.id);
            }
            if slot.key == Key::default() {
                return None;
            }
            at = (at + 1) % self.slots.len();
        }
    }

    /// Multiplies, as all of a product's highest bits depend on all of the key; the constants are odd and have no pattern.
    fn first_slot(&self, Key { low, high }: Key) -> usize {
        let product = (low ^ high.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xf135_7aea_2e62_a9c5);
        (product >> 32) as usize & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_the_first_bytes_and_nothing_of_those_after(text in proptest::collection::vec(1_u8.., 1..20), bytes in 1_usize..=KEY_BYTES) {
            prop_assume!(bytes <= text.len());
            prop_assert_eq!(Key::of(&text).first(bytes), Key::of(&text[..bytes]));
            prop_assert_eq!(Key::of_byte(text[0]), Key::of(&text[..1]));
            let word = text.iter().take(KEY_BYTES).take_while(|byte| byte.is_ascii_alphanumeric()).count();
            prop_assert_eq!(Key::of(&text).word_bytes(), word);
        }

        /// Texts of two letters, so that most begin with several pieces; of up to 20 bytes, so that some pieces are long.
        #[test]
        fn the_longest_piece_is_found(pieces in proptest::collection::btree_set("[ab]{1,20}", 0..60), text in "[ab]{1,24}") {
            let made: Pieces = pieces.iter().map(String::as_str).zip(0..).collect();
            let expected = pieces.iter().zip(0..).filter(|(piece, _)| text.starts_with(piece.as_str()));
            let expected = expected.max_by_key(|(piece, _)| piece.len()).map(|(piece, id)| (id, piece.len()));
            prop_assert_eq!(made.longest_prefix(text.as_bytes(), Key::of(text.as_bytes())), expected);
        }
    }

    /// Every byte alone, and before and after a letter, so that no sum runs over into a neighbour unseen.
    #[test]
    fn letters_and_digits_are_told_from_every_other_byte() {
        for byte in 0..=u8::MAX {
            let word = byte.is_ascii_alphanumeric();
            assert_eq!(Key::of_window(&[byte; KEY_BYTES]).word_bytes(), if word { KEY_BYTES } else { 0 }, "{byte}");
            let mut window = [b'z'; KEY_BYTES];
            window[9] = byte;
            assert_eq!(Key::of_window(&window).word_bytes(), if word { KEY_BYTES } else { 9 }, "{byte}");
        }
    }
}
