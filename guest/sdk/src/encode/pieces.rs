//! A WordPiece vocabulary that finds the longest entry at the start of a word.
//!
//! `WordPiece` makes a string of every prefix of a word and looks it up in a hash map. Nearly all entries have at most
//! 12 bytes. Here they are two numbers: cut with a mask, hashed with two products, compared at once. A guest does not
//! have to emulate the 128-bit products of the map's hash.
//!
//! Most of the time goes into waiting for memory, since a vocabulary is larger than a processor's second-level cache.
//! Most words are entries. [`look`](Vocabulary::look) finds those without a branch, so the processor goes on to the
//! next word while it waits for the first. Any other word is looked up prefix by prefix. A table with one bit per hash,
//! small enough for the cache, rejects most prefixes that are no entries.

use std::collections::HashMap;
use std::ops::Range;

use tokenizers::Model;
use tokenizers::models::wordpiece::WordPiece;

/// Bytes that a [`Key`] holds: 98.8 % of BERT's vocabulary fits, and a key with its id is a quarter of a cache line.
pub(super) const KEY_BYTES: usize = 12;

/// Bytes of a [`Window`]: a key can be cut from it, and most words end within it.
pub(super) const WINDOW_BYTES: usize = 16;

/// In place of an id: none.
pub(super) const NO_ID: u32 = u32::MAX;

/// A text of up to [`KEY_BYTES`] bytes, the first byte lowest, filled up with zeros. No text here contains a zero byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    low: u64,
    high: u32,
}

impl Key {
    /// The key of a text of at most [`KEY_BYTES`] bytes.
    fn of(text: &[u8]) -> Self {
        let mut window = [0; WINDOW_BYTES];
        window[..text.len()].copy_from_slice(text);
        Window::of(&window).first(text.len())
    }

    /// A product, because its high bits depend on every bit of the key. The constants are odd and have no pattern.
    #[inline]
    fn hash(self) -> u64 {
        (self.low ^ u64::from(self.high).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xf135_7aea_2e62_a9c5)
    }
}

/// The next [`WINDOW_BYTES`] bytes of a text.
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

    /// The key of the first `bytes` bytes; the key of no text if a key cannot hold so many.
    pub(super) fn first(self, bytes: usize) -> Key {
        let mask = MASKS[bytes % MASKS.len()];
        Key { low: self.low & mask.low, high: self.high as u32 & mask.high }
    }

    /// How many bytes from the first on are ASCII letters or digits.
    pub(super) fn word_bytes(self) -> usize {
        let (low, high) = (word_bytes(self.low), word_bytes(self.high));
        low + if low == 8 { high } else { 0 }
    }
}

/// For each number of bytes, the mask that cuts a key of them from a window.
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

/// How many of a number's lowest bytes are ASCII letters or digits. Tests all eight bytes at once; the highest bit of
/// each byte is its answer.
fn word_bytes(number: u64) -> usize {
    const HIGHEST: u64 = every(0x80);
    // Without the highest bits, no sum below carries into the next byte.
    let ascii = number & !HIGHEST;
    let between = |bytes: u64, first: u8, last: u8| (bytes + every(0x80 - first)) & !(bytes + every(0x7f - last));
    let small = ascii | every(0x20);
    let word = (between(small, b'a', b'z') | between(ascii, b'0', b'9')) & !number;
    ((!word & HIGHEST).trailing_zeros() / 8) as usize
}

const fn every(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The pieces that cover words.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// Pieces that start a word.
    first: Pieces,
    /// Pieces that continue a word, without the vocabulary's prefix for them.
    following: Pieces,
    /// The id of a word of one byte, or [`NO_ID`].
    byte_ids: [u32; 256],
    unknown_id: u32,
    max_word_chars: usize,
}

impl Vocabulary {
    /// `None` if the vocabulary lacks its unknown token, uses [`NO_ID`] as an id, or allows only words shorter than a
    /// key.
    pub(super) fn of(model: &WordPiece) -> Option<Self> {
        let vocab = model.get_vocab();
        let mut pieces: Vec<_> = vocab.iter().map(|(piece, &id)| (piece.as_str(), id)).collect();
        // Vocabularies list frequent entries first. Those get the slot that their hash names.
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

    /// The slot in which [`look`](Self::look) looks for a word.
    #[inline]
    pub(super) fn place(&self, word: Key) -> usize {
        self.first.place(word.hash())
    }

    /// The id of a word that is a piece and lies in its place. [`NO_ID`] for all others, and for the key of no text.
    #[inline]
    pub(super) fn look(&self, word: Key, place: usize) -> u32 {
        self.first.look(word, place)
    }

    /// The id of a word of one byte, or [`NO_ID`].
    #[inline]
    pub(super) fn id_of_byte(&self, word: u8) -> u32 {
        self.byte_ids[usize::from(word)]
    }

    /// Appends the ids of the pieces that cover a word, the longest first, or of the unknown token if none do. `text`
    /// needs [`WINDOW_BYTES`] or more after the word.
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

/// The number of characters of a text: of bytes that start one.
#[inline(never)]
fn chars(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

/// Texts and their ids.
#[derive(Debug)]
struct Pieces {
    /// Texts that fit a key, each in the first free slot from its place on. A power of two, at least half of it free.
    slots: Vec<Slot>,
    /// Four bits for each slot, a power of two: a bit is set if a text of `slots` has that hash.
    hashes: Vec<u64>,
    /// Texts that are longer than a key.
    long: HashMap<Box<[u8]>, u32>,
    /// Lengths of the long texts, descending.
    long_lengths: Vec<usize>,
}

/// A piece, or room for one.
// The key's fields, because a `Key` is padded to 16 bytes and would make a slot 24.
#[derive(Clone, Copy, Debug)]
struct Slot {
    low: u64,
    high: u32,
    id: u32,
}

const FREE: Slot = Slot { low: 0, high: 0, id: NO_ID };

impl Slot {
    /// Whether this is the piece with that text. Compares without a branch: see the module.
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
    /// Leaves out entries that no word contains: the empty one, and those with a zero byte or with punctuation beside
    /// other characters.
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
    /// The longest piece at the start of a part of a text: its id and its length in bytes.
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

    /// The word and the bit in [`hashes`](Self::hashes) for a hash.
    fn bit(&self, hash: u64) -> (usize, u64) {
        ((hash >> 38) as usize & (self.hashes.len() - 1), 1 << ((hash >> 32) % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A text with the bytes after it that the functions here need.
    fn padded(text: &[u8]) -> Vec<u8> {
        [text, &[b'!'; WINDOW_BYTES]].concat()
    }

    fn window(text: &[u8]) -> Window {
        Window::of(padded(text).first_chunk().unwrap())
    }

    proptest! {
        #[test]
        fn a_key_holds_the_first_bytes_only(text in proptest::collection::vec(1_u8.., 1..20), bytes in 1..=KEY_BYTES) {
            prop_assume!(bytes <= text.len());
            prop_assert_eq!(window(&text).first(bytes), Key::of(&text[..bytes]));
            let word = text.iter().take(WINDOW_BYTES).take_while(|byte| byte.is_ascii_alphanumeric()).count();
            prop_assert_eq!(window(&text).word_bytes(), word);
        }

        /// Two letters, so that most texts start with several pieces. Up to 20 bytes, so that some pieces are long.
        #[test]
        fn the_longest_piece_is_found(
            pieces in proptest::collection::btree_set("[ab]{1,20}", 0..60), text in "[ab]{1,24}"
        ) {
            let made: Pieces = pieces.iter().map(String::as_str).zip(0..).collect();
            let expected = pieces.iter().zip(0..).filter(|(piece, _)| text.starts_with(piece.as_str()));
            let expected = expected.max_by_key(|(piece, _)| piece.len()).map(|(piece, id)| (id, piece.len()));
            prop_assert_eq!(made.longest_prefix(&padded(text.as_bytes()), 0..text.len()), expected);
        }

        /// Looks up every piece, and a word that may be no piece.
        #[test]
        fn look_finds_a_piece_in_its_place_and_nothing_else(
            pieces in proptest::collection::btree_set("[a-d]{1,14}", 1..200), other in "[a-d]{1,14}"
        ) {
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
            // Long pieces have no place. A few short ones may share a place by chance.
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
    fn a_slot_does_not_match_a_similar_text() {
        let slot = |piece: &[u8]| Slot { low: Key::of(piece).low, high: Key::of(piece).high, id: 1 };
        assert!(slot(b"transports").holds(Key::of(b"transports")));
        for other in ["transporte", "transport", "transpor", "Transports"] {
            assert!(!slot(b"transports").holds(Key::of(other.as_bytes())), "{other}");
        }
    }

    /// Every byte alone, and before and after a letter, so that a carry into a neighbour would show.
    #[test]
    fn only_ascii_letters_and_digits_count_as_word_bytes() {
        for byte in 0..=u8::MAX {
            let word = byte.is_ascii_alphanumeric();
            assert_eq!(window(&[byte; WINDOW_BYTES]).word_bytes(), if word { WINDOW_BYTES } else { 0 }, "{byte}");
            let mut text = [b'z'; WINDOW_BYTES];
            text[9] = byte;
            assert_eq!(window(&text).word_bytes(), if word { WINDOW_BYTES } else { 9 }, "{byte}");
        }
    }
}
