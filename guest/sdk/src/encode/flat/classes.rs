//! Which characters are letters, numbers and white space, as the regular expressions of pre-tokenizers have it.
//!
//! The table is made of the ranges of `regex-syntax`, which the crate's own regular expressions use, so that both know
//! the same version of Unicode.

use std::collections::HashMap;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// Characters of a block: half of the blocks of Unicode are all alike.
const BLOCK: usize = 128;

/// A character's class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// `[^\s\p{L}\p{N}]`
    #[default]
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
}

/// The class of every character.
#[derive(Debug)]
pub(super) struct Classes {
    ascii: [Class; 128],
    /// The block of each [`BLOCK`] characters.
    index: Vec<u16>,
    blocks: Vec<[Class; BLOCK]>,
}

impl Classes {
    /// `None` if the ranges are not there, which no version of `regex-syntax` is known to do.
    pub(super) fn new() -> Option<Self> {
        let mut all = vec![[Class::Other; BLOCK]; (char::MAX as usize + 1) / BLOCK];
        for (pattern, class) in [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)] {
            let parsed = regex_syntax::parse(pattern).ok()?;
            let HirKind::Class(HirClass::Unicode(ranges)) = parsed.kind() else { return None };
            for range in ranges.ranges() {
                for code in range.start() as usize..=range.end() as usize {
                    all[code / BLOCK][code % BLOCK] = class;
                }
            }
        }
        let (mut blocks, mut numbers) = (Vec::new(), HashMap::new());
        let index = all.iter().map(|block| {
            *numbers.entry(*block).or_insert_with(|| {
                blocks.push(*block);
                blocks.len() as u16 - 1
            })
        });
        let index = index.collect();
        Some(Self { ascii: all[0], index, blocks })
    }

    /// The class of the character at a byte of a text, and its length in bytes. `None` at the text's end.
    #[inline]
    pub(super) fn at(&self, text: &str, at: usize) -> Option<(Class, usize)> {
        let byte = *text.as_bytes().get(at)?;
        match self.ascii.get(usize::from(byte)) {
            Some(&class) => Some((class, 1)),
            None => self.at_other(text, at),
        }
    }

    #[inline(never)]
    fn at_other(&self, text: &str, at: usize) -> Option<(Class, usize)> {
        let character = text.get(at..)?.chars().next()?;
        let code = character as usize;
        Some((self.blocks[usize::from(self.index[code / BLOCK])][code % BLOCK], character.len_utf8()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_what_rust_has() {
        let classes = Classes::new().unwrap();
        for character in '\0'..=char::MAX {
            let text = character.to_string();
            let (class, length) = classes.at(&text, 0).unwrap();
            assert_eq!(class == Class::Space, character.is_whitespace(), "{character:?}");
            assert_eq!(length, text.len());
            assert_eq!(classes.at(&text, length), None);
        }
    }

    #[test]
    fn letters_and_numbers_have_their_classes() {
        let classes = Classes::new().unwrap();
        let all =
            |text: &str, class| text.chars().all(|c| classes.at(&c.to_string(), 0) == Some((class, c.len_utf8())));
        assert!(all("aZéßя東가ªʰ", Class::Letter));
        assert!(all("09½²Ⅳ٣", Class::Number));
        assert!(all("'-_€\u{301}👩\u{200d}\0", Class::Other));
    }
}
