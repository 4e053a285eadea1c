//! Byte strings and their numbers in flat tables: no allocation for each string, and nothing that points anywhere, so
//! that a snapshot holds them as they are.

/// Bits of a slot that hold a number; the others hold a part of the hash.
const NUMBER_BITS: u32 = 20;

/// The most strings that a table holds.
pub(super) const MAX_STRINGS: usize = (1 << NUMBER_BITS) - 2;

const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;

/// Strings numbered from 0 in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Strings {
    bytes: Vec<u8>,
    /// Where each string ends.
    ends: Vec<u32>,
}

impl Strings {
    /// Adds a string. `None` if there is no room for it.
    pub(super) fn push(&mut self, string: &[u8]) -> Option<()> {
        if self.ends.len() >= MAX_STRINGS {
            return None;
        }
        self.bytes.extend_from_slice(string);
        self.ends.push(u32::try_from(self.bytes.len()).ok()?);
        Some(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, number: usize) -> &[u8] {
        let start = if number == 0 { 0 } else { self.ends[number - 1] as usize };
        &self.bytes[start..self.ends[number] as usize]
    }

    /// Gives back memory that growing left unused.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

/// Finds the number of a string. A slot that holds a number also holds a part of its string's hash, so that other
/// strings are rarely compared.
#[derive(Debug)]
pub(super) struct Index {
    /// 0 if free. A power of two, at least a third of it free.
    slots: Vec<u32>,
}

impl Index {
    /// An index of those strings that `is_in` picks. `None` if two of them are equal.
    pub(super) fn of(strings: &Strings, is_in: impl Fn(usize) -> bool) -> Option<Self> {
        let count = (0..strings.len()).filter(|&number| is_in(number)).count();
        let mut index = Self { slots: vec![0; (count * 3 / 2).next_power_of_two().max(2)] };
        for number in (0..strings.len()).filter(|&number| is_in(number)) {
            let string = strings.get(number);
            let hash = hash(string);
            if index.find(strings, string, hash).is_some() {
                return None;
            }
            let mut at = index.place(hash);
            while index.slots[at] != 0 {
                at = (at + 1) & (index.slots.len() - 1);
            }
            index.slots[at] = tag(hash) | (number as u32 + 1);
        }
        Some(index)
    }

    /// The number of a string.
    #[inline]
    pub(super) fn get(&self, strings: &Strings, string: &[u8]) -> Option<usize> {
        self.find(strings, string, hash(string))
    }

    #[inline]
    fn find(&self, strings: &Strings, string: &[u8], hash: u64) -> Option<usize> {
        let (mut at, tag) = (self.place(hash), tag(hash));
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            let number = (slot & NUMBER_MASK) as usize - 1;
            if slot & !NUMBER_MASK == tag && strings.get(number) == string {
                return Some(number);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn place(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.slots.len() - 1)
    }
}

#[inline]
fn tag(hash: u64) -> u32 {
    hash as u32 & !NUMBER_MASK
}

/// Eight bytes at a time, each by a product, whose high bits depend on all bits of its factors.
#[inline]
fn hash(string: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = string.len() as u64;
    let (words, rest) = string.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    for word in words.iter().chain([&last]) {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        hash ^= hash >> 29;
    }
    hash.wrapping_mul(0xf135_7aea_2e62_a9c5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_string_is_found_if_it_is_in_the_index(
            texts in proptest::collection::btree_set("[ab]{0,12}", 0..200), other in "[ab]{0,12}"
        ) {
            let mut strings = Strings::default();
            texts.iter().for_each(|text| strings.push(text.as_bytes()).unwrap());
            let even = Index::of(&strings, |number| number % 2 == 0).unwrap();
            for (number, text) in texts.iter().enumerate() {
                prop_assert_eq!(even.get(&strings, text.as_bytes()), (number % 2 == 0).then_some(number));
            }
            let expected = texts.iter().position(|text| *text == other).filter(|number| number % 2 == 0);
            prop_assert_eq!(even.get(&strings, other.as_bytes()), expected);
        }
    }

    #[test]
    fn equal_strings_have_no_index() {
        let mut strings = Strings::default();
        ["a", "b", "a"].iter().for_each(|text| strings.push(text.as_bytes()).unwrap());
        assert!(Index::of(&strings, |_| true).is_none());
        assert!(Index::of(&strings, |number| number > 0).is_some());
    }
}
