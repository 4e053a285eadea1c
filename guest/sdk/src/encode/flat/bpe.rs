//! BPE: a word's bytes or characters become ids by merges, the merge of the lowest rank first.
//!
//! Most words are entries of the vocabulary and are looked up at once. That gives the same ids only for entries that
//! the merges produce from their own text alone, which loading tries for each entry. (With `ignore_merges` every entry
//! counts.) Other words are merged: short ones by looking for the lowest rank over and over, long ones with a heap.
//!
//! Source: `models/bpe/word.rs` of `tokenizers` 0.23, which has a heap for all words. Ids are unique, so a pair that is
//! no longer there never has the same product as the pair at its place, and the order of merges is the same.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::strings::{Index, Strings};
use super::{bytes, characters};

/// Longest word, in bytes, that is merged without a heap.
const SHORT_BYTES: usize = 48;

/// In place of a merge: none.
const NO_MERGE: u64 = u64::MAX;

/// In place of a position: none.
const NOWHERE: u32 = u32::MAX;

/// What a word is made of before the first merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Units {
    /// Its bytes, each of which has an entry: a character stands for it there.
    #[default]
    Bytes,
    /// Its characters. The bytes of one that has no entry have entries such as `<0x0A>`.
    Characters,
}

impl Units {
    /// Writes the text that an entry stands for. `false` if it stands for none.
    pub(super) fn of_entry(self, entry: &str, text: &mut Vec<u8>) -> bool {
        match self {
            Self::Bytes => bytes::of_entry(entry, text),
            Self::Characters => {
                text.clear();
                text.extend_from_slice(entry.as_bytes());
                true
            }
        }
    }

    /// The text of the entry of a byte.
    fn entry_of(self, byte: u8) -> Vec<u8> {
        match self {
            Self::Bytes => vec![byte],
            Self::Characters => characters::entry_of(byte),
        }
    }
}

/// A vocabulary while it is read.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    pub(super) entries: Strings,
    /// The id of each entry.
    pub(super) ids: Vec<u32>,
}

/// The merges and the words of a tokenizer.
#[derive(Debug)]
pub(super) struct Bpe {
    entries: Strings,
    ids: Vec<u32>,
    /// Entries that a word with their text becomes.
    words: Index,
    longest_word: usize,
    units: Units,
    byte_ids: [u32; 256],
    merges: Merges,
    scratch: RefCell<Scratch>,
}

#[derive(Debug, Default)]
struct Scratch {
    ids: Vec<u32>,
    /// The merge of each id with the next one: its rank, then its product.
    merges: Vec<u64>,
    before: Vec<u32>,
    after: Vec<u32>,
    heap: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Bpe {
    /// `None` if a byte has no entry.
    pub(super) fn new(
        units: Units,
        vocabulary: Vocabulary,
        all: &Index,
        merges: Merges,
        ignore_merges: bool,
    ) -> Option<Self> {
        let Vocabulary { entries, ids } = vocabulary;
        let mut byte_ids = [0; 256];
        for (byte, id) in (0..=u8::MAX).zip(&mut byte_ids) {
            *id = ids[all.get(&entries, &units.entry_of(byte))?];
        }
        let none = Index::of(&Strings::default(), |_| false)?;
        let mut made =
            Self { entries, ids, words: none, longest_word: 0, units, byte_ids, merges, scratch: RefCell::default() };
        let mut merged = Vec::new();
        let mut is_word = vec![ignore_merges; made.ids.len()];
        for (number, is_word) in is_word.iter_mut().enumerate() {
            let entry = made.entries.get(number);
            if !ignore_merges && !entry.is_empty() {
                merged.clear();
                made.merge(all, entry, &mut merged);
                *is_word = merged == [made.ids[number]];
            }
            if *is_word {
                made.longest_word = made.longest_word.max(entry.len());
            }
        }
        made.words = Index::of(&made.entries, |number| is_word[number])?;
        Some(made)
    }

    /// The id of any entry.
    pub(super) fn id(&self, all: &Index, entry: &[u8]) -> Option<u32> {
        all.get(&self.entries, entry).map(|number| self.ids[number])
    }

    /// Appends the ids of a word, which is not empty.
    #[inline]
    pub(super) fn encode(&self, word: &[u8], ids: &mut Vec<u32>) {
        if word.len() <= self.longest_word
            && let Some(number) = self.words.get(&self.entries, word)
        {
            ids.push(self.ids[number]);
        } else {
            // Every character that is an entry is a word.
            self.merge(&self.words, word, ids);
        }
    }

    #[inline(never)]
    fn merge(&self, characters: &Index, word: &[u8], ids: &mut Vec<u32>) {
        let scratch = &mut *self.scratch.borrow_mut();
        scratch.ids.clear();
        let of_bytes = |bytes: &[u8], ids: &mut Vec<u32>| {
            ids.extend(bytes.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
        };
        match self.units {
            Units::Bytes => of_bytes(word, &mut scratch.ids),
            Units::Characters => characters::each(word, |character| match characters.get(&self.entries, character) {
                Some(number) => scratch.ids.push(self.ids[number]),
                None => of_bytes(character, &mut scratch.ids),
            }),
        }
        scratch.merges.clear();
        scratch.merges.extend(scratch.ids.windows(2).map(|pair| self.merges.get(pair[0], pair[1])));
        scratch.merges.push(NO_MERGE);
        if word.len() <= SHORT_BYTES {
            self.merge_short(scratch, ids);
        } else {
            self.merge_long(scratch, ids);
        }
    }

    fn merge_short(&self, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { ids: symbols, merges, .. } = scratch;
        // The first of equal ranks, as in the source.
        while let Some((at, &merge)) = merges.iter().enumerate().min_by_key(|&(_, &merge)| merge)
            && merge != NO_MERGE
        {
            symbols[at] = merge as u32;
            symbols.remove(at + 1);
            merges.remove(at + 1);
            if let Some(before) = at.checked_sub(1) {
                merges[before] = self.merges.get(symbols[before], symbols[at]);
            }
            merges[at] = symbols.get(at + 1).map_or(NO_MERGE, |&after| self.merges.get(symbols[at], after));
        }
        ids.extend_from_slice(symbols);
    }

    fn merge_long(&self, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { ids: symbols, merges, before, after, heap } = scratch;
        let count = symbols.len() as u32;
        before.clear();
        before.extend((0..count).map(|at| at.wrapping_sub(1)));
        after.clear();
        after.extend((1..count).chain([NOWHERE]));
        heap.clear();
        let pushed = merges.iter().zip(0..).filter(|&(&merge, _)| merge != NO_MERGE);
        heap.extend(pushed.map(|(&merge, at)| Reverse((merge, at))));
        while let Some(Reverse((merge, at))) = heap.pop() {
            let here = at as usize;
            // Another pair stands here now, or none.
            if merges[here] != merge {
                continue;
            }
            let gone = after[here] as usize;
            symbols[here] = merge as u32;
            merges[gone] = NO_MERGE;
            after[here] = after[gone];
            let mut update = |left: u32, merges: &mut Vec<u64>| {
                let right = after[left as usize];
                let merge = match right {
                    NOWHERE => NO_MERGE,
                    right => self.merges.get(symbols[left as usize], symbols[right as usize]),
                };
                merges[left as usize] = merge;
                if merge != NO_MERGE {
                    heap.push(Reverse((merge, left)));
                }
            };
            update(at, merges);
            if before[here] != NOWHERE {
                update(before[here], merges);
            }
            if after[here] != NOWHERE {
                before[after[here] as usize] = at;
            }
        }
        let mut at = 0;
        while at != NOWHERE {
            ids.push(symbols[at as usize]);
            at = after[at as usize];
        }
    }
}

/// The rank and the product of each pair of ids that is merged.
#[derive(Debug)]
pub(super) struct Merges {
    /// A power of two, at least a third of it free.
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    pair: u64,
    /// The rank, then the product; [`NO_MERGE`] if the slot is free.
    merge: u64,
}

impl Merges {
    /// Room for so many merges.
    pub(super) fn with_capacity(merges: usize) -> Self {
        let free = Slot { pair: 0, merge: NO_MERGE };
        Self { slots: vec![free; (merges * 3 / 2).next_power_of_two().max(2)] }
    }

    /// Adds a merge. Of one that is there twice, the last rank counts, as in the source.
    pub(super) fn insert(&mut self, left: u32, right: u32, rank: u32, product: u32) {
        let pair = pair(left, right);
        let at = self.slot(pair);
        self.slots[at] = Slot { pair, merge: u64::from(rank) << 32 | u64::from(product) };
    }

    /// The rank, then the product; [`NO_MERGE`] if the pair is not merged.
    #[inline]
    fn get(&self, left: u32, right: u32) -> u64 {
        self.slots[self.slot(pair(left, right))].merge
    }

    #[inline]
    fn slot(&self, pair: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 36) as usize & mask;
        while self.slots[at].merge != NO_MERGE && self.slots[at].pair != pair {
            at = (at + 1) & mask;
        }
        at
    }
}

#[inline]
fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All bytes, and merges of what is there already, by places.
    fn bpe(merges: &[(usize, usize)]) -> Bpe {
        let mut vocabulary = Vocabulary::default();
        let mut entries: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        let mut table = Merges::with_capacity(merges.len());
        for (&(left, right), rank) in merges.iter().zip(0..) {
            // Mostly of letters, so that words have many merges.
            let place = |number: usize| if number < 4 { usize::from(b'a') + number } else { number % entries.len() };
            let (left, right) = (place(left), place(right));
            let product = [&entries[left][..], &entries[right][..]].concat();
            let known = entries.iter().position(|entry| *entry == product);
            let number = known.unwrap_or_else(|| {
                entries.push(product);
                entries.len() - 1
            });
            table.insert(left as u32, right as u32, rank, number as u32);
        }
        for (entry, id) in entries.iter().zip(0..) {
            vocabulary.entries.push(entry).unwrap();
            vocabulary.ids.push(id);
        }
        let all = Index::of(&vocabulary.entries, |_| true).unwrap();
        Bpe::new(Units::Bytes, vocabulary, &all, table, false).unwrap()
    }

    proptest! {
        #[test]
        fn a_heap_and_a_search_merge_alike(
            merges in proptest::collection::vec((0..400_usize, 0..400_usize), 0..60), word in "[a-d]{1,40}"
        ) {
            let merges: Vec<_> = merges.into_iter().map(|(left, right)| (left % 5, right % 300)).collect();
            let bpe = bpe(&merges);
            let (mut short, mut long, mut looked_up) = (Vec::new(), Vec::new(), Vec::new());
            bpe.merge(&bpe.words, word.as_bytes(), &mut short);
            let mut scratch = Scratch::default();
            scratch.ids.extend(word.bytes().map(u32::from));
            scratch.merges.extend(scratch.ids.windows(2).map(|pair| bpe.merges.get(pair[0], pair[1])));
            scratch.merges.push(NO_MERGE);
            bpe.merge_long(&mut scratch, &mut long);
            prop_assert_eq!(&short, &long);
            bpe.encode(word.as_bytes(), &mut looked_up);
            prop_assert_eq!(short, looked_up);
        }
    }

    #[test]
    fn an_entry_that_its_merges_do_not_reach_is_no_word() {
        // `abc` is the product of `a` and `bc`, but `ab` is merged first.
        let bpe = bpe(&[(0, 1), (1, 2), (0, 257)]);
        let mut ids = Vec::new();
        bpe.encode(b"abc", &mut ids);
        assert_eq!(ids, [256, u32::from(b'c')]);
    }
}
