//! A WordPiece vocabulary, asked for the longest entry that a word begins with.
//!
//! `WordPiece` makes a string of every beginning of a word and asks a hash map for it. Nearly all entries have at most 12 bytes: here they are two numbers, which are cut with a mask, hashed with two products and compared at once. Nor has a guest to emulate the 128-bit products of that map's hash.
//!
//! What takes time is to wait for memory, as a vocabulary is larger than a processor's second cache. Most words are entries: one [`look`](Vocabulary::look) finds them, has no branch, and so goes on to the next word while the first is still waited for. A word that is not is asked for beginning by beginning, and a table of a bit for each hash, which is in the cache, answers for most of those that are no entries either.

use std::collections::HashMap;
use std::ops::Range;

use tokenizers::Model;
use tokenizers::models::wordpiece::WordPiece;

/// Bytes that a [`Key`] holds: what 98.8 % of BERT's vocabulary fits in, and with an id a quarter of a cache line.
pub(super) const KEY_BYTES: usize = 12;

/// Bytes that a [`Window`] shows: a key can be cut from it, and it tells where most words end.
pub(super) const WINDOW_BYTES: usize = 16;

/// Stands for an id where there is none.
pub(super) const NO_ID: u32 = u32::MAX;

/// A text of up to [`KEY_BYTES`] bytes, the first of them lowest; 0 where there are none. No text here contains a 0 of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    low: u64,
    high: u32,
}

impl Key {
    /// Of a text that is no longer than a key.
    fn of(text: &[u8]) -> Self {
        let mut window = [0; WINDOW_BYTES];
        window[..text.len()].copy_from_slice(text);
        Window::of(&window).first(text.len())
    }

    /// Multiplies, as all of a product's highest bits depend on all of the key; the constants are odd and have no pattern.
    #[inline]
    fn hash(self) -> u64 {
        (self.low ^ u64::from(self.high).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xf135_7aea_2e62_a9c5)
    }
}

/// The bytes of a text that one look takes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    low: u64,
    high: u64,
}

impl Window {
    pub(super) fn of(bytes: &[u8; WINDOW_BYTES]) -> Self {
        let half = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |&bytes| u64::from_le_bytes(bytes));
        Self { low: half(bytes.first_chunk()), high: half(bytes.last_chunk()) }
    }

    /// The first bytes, if a key holds so many; the key of no text, if not.
    pub(super) fn first(self, bytes: usize) -> Key {
        let mask = MASKS[bytes % MASKS.len()];
        Key { low: self.low & mask.low, high: self.high as u32 & mask.high }
    }

    /// How many of the first bytes are ASCII letters and digits.
    pub(super) fn word_bytes(self) -> usize {
        let (low, high) = (word_bytes(self.low), word_bytes(self.high));
        low + if low == 8 { high } else { 0 }
    }
}

/// For each number of bytes that a window can begin with, those of a key.
const MASKS: [Key; 32] = {
    let mut masks = [Key { low: 0, high: 0 }; 32];
    let mut bytes = 1;
    while bytes <= KEY_BYTES {
        let mask = (1_u128 << (8 * bytes)) - 1;
        masks[bytes] = Key { low: mask as u64, high: (mask >> 64) as u32 };
        bytes += 1;
    }
    masks
};

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
    /// The id of a word of one byte, or [`NO_ID`].
    byte_ids: [u32; 256],
    unknown_id: u32,
    max_word_chars: usize,
}

impl Vocabulary {
    /// `None` where the vocabulary lacks its own unknown token, has an id that stands for none, or has no words as long as a key.
    pub(super) fn of(model: &WordPiece) -> Option<Self> {
        let vocab = model.get_vocab();
        let mut pieces: Vec<_> = vocab.iter().map(|(piece, &id)| (piece.as_str(), id)).collect();
        // Vocabularies list first what is frequent: it gets the slot that its hash names.
        pieces.sort_unstable_by_key(|&(_, id)| id);
        let prefix = &model.continuing_subword_prefix;
        let following = pieces.iter().filter_map(|&(piece, id)| Some((piece.strip_prefix(prefix)?, id)));
        let (first, following): (Pieces, Pieces) = (pieces.iter().copied().collect(), following.collect());
        let byte_ids = std::array::from_fn(|byte| first.get(Key::of(&[byte as u8])).unwrap_or(NO_ID));
        let unknown_id = *vocab.get(&model.unk_token)?;
        let max_word_chars = model.max_input_chars_per_word;
        let usable = max_word_chars >= KEY_BYTES && pieces.last()?.1 < NO_ID;
        usable.then_some(Self { first, following, byte_ids, unknown_id, max_word_chars })
    }

    /// Where [`look`](Self::look) looks for a word.
    #[inline]
    pub(super) fn place(&self, word: Key) -> usize {
        self.first.place(word.hash())
    }

    /// The id of a word that is a piece and lies in its place; [`NO_ID`] for any other, and for the key of no text.
    #[inline]
    pub(super) fn look(&self, word: Key, place: usize) -> u32 {
        self.first.look(word, place)
    }

    /// The id of a word of one byte, or [`NO_ID`].
    #[inline]
    pub(super) fn id_of_byte(&self, word: u8) -> u32 {
        self.byte_ids[usize::from(word)]
    }

    /// Covers a word with pieces, the longest first; a word that cannot be covered is one unknown token. The text goes on for [`WINDOW_BYTES`] or more after the word.
    #[inline(never)]
    pub(super) fn encode(&self, text: &[u8], word: Range<usize>, ids: &mut Vec<u32>) {
        let (before, mut start, mut pieces) = (ids.len(), word.start, &self.first);
        if word.len() <= KEY_BYTES || chars(&text[word.clone()]) <= self.max_word_chars {
            while let Some((id, length)) = pieces.longest_prefix(text, start..word.end) {
                ids.push(id);
                start += length;
                if start >= word.end {
                    return;
                }
                pieces = &self.following;
            }
        }
        ids.truncate(before);
        ids.push(self.unknown_id);
    }
}

/// Characters of a text, by the bytes that start one.
#[inline(never)]
fn chars(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

/// Texts and their ids.
#[derive(Debug)]
struct Pieces {
    /// Those that a key holds, each in the first free slot from its place on; a power of two, at least half of it free.
    slots: Vec<Slot>,
    /// Four bits for each slot, together a power of two: set where one of these has that hash.
    hashes: Vec<u64>,
    long: HashMap<Box<[u8]>, u32>,
    /// Of the long ones, descending.
    long_lengths: Vec<usize>,
}

/// A piece, or room for one.
// A key and an id would have 24 bytes, as a key by itself is padded to 16.
#[derive(Clone, Copy, Debug)]
struct Slot {
    low: u64,
    high: u32,
    id: u32,
}

const FREE: Slot = Slot { low: 0, high: 0, id: NO_ID };

impl Slot {
    /// Whether this is the piece of that text. No branch between the two halves: see the module.
    #[inline]
    fn holds(&self, key: Key) -> bool {
        (self.low ^ key.low) | u64::from(self.high ^ key.high) == 0
    }

    #[inline]
    fn is_free(&self) -> bool {
        self.id == NO_ID
    }
}

impl<'text> FromIterator<(&'text str, u32)> for Pieces {
    /// What no word is or contains is left out: nothing, a 0, and punctuation beside something else.
    fn from_iter<I: IntoIterator<Item = (&'text str, u32)>>(pieces: I) -> Self {
        let pieces = pieces.into_iter().map(|(piece, id)| (piece.as_bytes(), id));
        let pieces = pieces.filter(|(piece, _)| !piece.is_empty() && !piece.contains(&0));
        let pieces = pieces.filter(|(piece, _)| piece.len() == 1 || !piece.iter().any(u8::is_ascii_punctuation));
        let (short, long): (Vec<_>, Vec<_>) = pieces.partition(|(piece, _)| piece.len() <= KEY_BYTES);
        let mut long_lengths: Vec<_> = long.iter().map(|(piece, _)| piece.len()).collect();
        long_lengths.sort_unstable_by(|left, right| right.cmp(left));
        long_lengths.dedup();
        let long = long.into_iter().map(|(piece, id)| (Box::from(piece), id)).collect();
        let slots = vec![FREE; (2 * short.len()).next_power_of_two().max(2)];
        let hashes = vec![0; (slots.len() / 16).max(1)];
        let mut made = Self { slots, hashes, long, long_lengths };
        for (piece, id) in short {
            let key = Key::of(piece);
            let (word, bit) = made.bit(key.hash());
            made.hashes[word] |= bit;
            let mut at = made.place(key.hash());
            while !made.slots[at].is_free() {
                at = (at + 1) % made.slots.len();
            }
            made.slots[at] = Slot { low: key.low, high: key.high, id };
        }
        made
    }
}

impl Pieces {
    /// The longest piece that a part of a text starts with: its id and its length.
    #[inline]
    fn longest_prefix(&self, text: &[u8], part: Range<usize>) -> Option<(u32, usize)> {
        if part.len() > KEY_BYTES
            && let Some(found) = self.longest_long_prefix(&text[part.clone()])
        {
            return Some(found);
        }
        let window = Window::of(text.get(part.start..)?.first_chunk()?);
        let mut lengths = (1..=part.len().min(KEY_BYTES)).rev();
        lengths.find_map(|length| Some((self.get(window.first(length))?, length)))
    }

    #[inline(never)]
    fn longest_long_prefix(&self, text: &[u8]) -> Option<(u32, usize)> {
        self.long_lengths.iter().find_map(|&length| Some((*self.long.get(text.get(..length)?)?, length)))
    }

    /// See [`Vocabulary::look`].
    #[inline]
    fn look(&self, key: Key, place: usize) -> u32 {
        let slot = &self.slots[place & (self.slots.len() - 1)];
        slot.id | u32::from(slot.holds(key)).wrapping_sub(1)
    }

    #[inline]
    fn get(&self, key: Key) -> Option<u32> {
        let hash = key.hash();
        let (word, bit) = self.bit(hash);
        if self.hashes[word] & bit == 0 {
            return None;
        }
        let place = self.place(hash);
        match &self.slots[place] {
            slot if slot.holds(key) => Some(slot.id),
            slot if slot.is_free() => None,
            _ => self.get_after(place, key),
        }
    }

    #[inline(never)]
    fn get_after(&self, mut at: usize, key: Key) -> Option<u32> {
        loop {
            at = (at + 1) % self.slots.len();
            match &self.slots[at] {
                slot if slot.holds(key) => return Some(slot.id),
                slot if slot.is_free() => return None,
                _ => {}
            }
        }
    }

    fn place(&self, hash: u64) -> usize {
        (hash >> 40) as usize & (self.slots.len() - 1)
    }

    /// Where [`hashes`](Self::hashes) has the bit of a hash.
    fn bit(&self, hash: u64) -> (usize, u64) {
        ((hash >> 38) as usize & (self.hashes.len() - 1), 1 << ((hash >> 32) % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A text with room after it, as the functions here want it.
    fn padded(text: &[u8]) -> Vec<u8> {
        [text, &[b'!'; WINDOW_BYTES]].concat()
    }

    fn window(text: &[u8]) -> Window {
        Window::of(padded(text).first_chunk().unwrap())
    }

    proptest! {
        #[test]
        fn a_key_is_the_first_bytes_and_nothing_of_those_after(text in proptest::collection::vec(1_u8.., 1..20), bytes in 1..=KEY_BYTES) {
            prop_assume!(bytes <= text.len());
            prop_assert_eq!(window(&text).first(bytes), Key::of(&text[..bytes]));
            let word = text.iter().take(WINDOW_BYTES).take_while(|byte| byte.is_ascii_alphanumeric()).count();
            prop_assert_eq!(window(&text).word_bytes(), word);
        }

        /// Texts of two letters, so that most begin with several pieces; of up to 20 bytes, so that some pieces are long.
        #[test]
        fn the_longest_piece_is_found(pieces in proptest::collection::btree_set("[ab]{1,20}", 0..60), text in "[ab]{1,24}") {
            let made: Pieces = pieces.iter().map(String::as_str).zip(0..).collect();
            let expected = pieces.iter().zip(0..).filter(|(piece, _)| text.starts_with(piece.as_str()));
            let expected = expected.max_by_key(|(piece, _)| piece.len()).map(|(piece, id)| (id, piece.len()));
            prop_assert_eq!(made.longest_prefix(&padded(text.as_bytes()), 0..text.len()), expected);
        }

        /// All pieces are asked for, and a word that may be none.
        #[test]
        fn a_look_finds_a_piece_that_lies_in_its_place_and_nothing_else(pieces in proptest::collection::btree_set("[a-d]{1,14}", 1..200), other in "[a-d]{1,14}") {
            let ids: HashMap<&str, u32> = pieces.iter().map(String::as_str).zip(0..).collect();
            let made: Pieces = pieces.iter().map(String::as_str).zip(0..).collect();
            let look = |word: &str| {
                let key = window(word.as_bytes()).first(word.len());
                made.look(key, made.place(key.hash()))
            };
            prop_assert!(look(&other) == NO_ID || ids.get(other.as_str()) == Some(&look(&other)));
            let found = pieces.iter().filter(|&piece| look(piece) == ids[piece.as_str()]).count();
            let lost = pieces.iter().filter(|&piece| look(piece) == NO_ID).count();
            prop_assert_eq!(found + lost, pieces.len());
            // Long pieces have no place, and few pieces can all have the same by chance.
            let short = pieces.iter().filter(|piece| piece.len() <= KEY_BYTES).count();
            prop_assert!(short < 50 || found * 2 > short, "{} of {} are in their places", found, short);
        }
    }

    #[test]
    fn the_key_of_no_text_is_found_nowhere() {
        let made: Pieces = [("a", 1)].into_iter().collect();
        for bytes in [0, KEY_BYTES + 1, WINDOW_BYTES] {
            let key = window(&[b'a'; WINDOW_BYTES]).first(bytes);
            assert_eq!(made.look(key, made.place(key.hash())), NO_ID);
        }
    }

    #[test]
    fn a_slot_holds_no_piece_that_only_begins_or_ends_alike() {
        let slot = |piece: &[u8]| Slot { low: Key::of(piece).low, high: Key::of(piece).high, id: 1 };
        assert!(slot(b"transports").holds(Key::of(b"transports")));
        for other in ["transporte", "transport", "transpor", "Transports"] {
            assert!(!slot(b"transports").holds(Key::of(other.as_bytes())), "{other}");
        }
    }

    /// Every byte alone, and before and after a letter, so that no sum runs over into a neighbour unseen.
    #[test]
    fn letters_and_digits_are_told_from_every_other_byte() {
        for byte in 0..=u8::MAX {
            let word = byte.is_ascii_alphanumeric();
            assert_eq!(window(&[byte; WINDOW_BYTES]).word_bytes(), if word { WINDOW_BYTES } else { 0 }, "{byte}");
            let mut text = [b'z'; WINDOW_BYTES];
            text[9] = byte;
            assert_eq!(window(&text).word_bytes(), if word { WINDOW_BYTES } else { 9 }, "{byte}");
        }
    }
}
