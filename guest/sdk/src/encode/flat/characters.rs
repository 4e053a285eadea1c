//! The characters of a text, and the entries that stand for bytes beside entries for characters.

use std::ops::ControlFlow;

use serde_json::Value;

/// Stands for a space, at the start of most words.
const MARK: char = '▁';

/// The bytes of the character that starts with this byte.
#[inline]
pub(super) fn length(first: u8) -> usize {
    match first {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    }
}

/// Hands out the characters of a text in UTF-8.
#[inline]
pub(super) fn each(text: &[u8], mut each: impl FnMut(&[u8])) {
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let (character, others) = rest.split_at(length(first).min(rest.len()));
        each(character);
        rest = others;
    }
}

/// The text of the entry for a byte whose character has none, such as `<0x0A>`.
pub(super) fn entry_of(byte: u8) -> Vec<u8> {
    format!("<0x{byte:02X}>").into_bytes()
}

/// Whether a merge joins what [`Cuts`] at marks keep apart.
pub(super) fn crosses_mark(left: &[u8], right: &[u8]) -> bool {
    let mut mark = [0; MARK.len_utf8()];
    let mark = MARK.encode_utf8(&mut mark).as_bytes();
    right.starts_with(mark) && !left.ends_with(mark)
}

/// Where a text is cut before its characters are merged.
#[derive(Debug)]
pub(super) struct Cuts {
    /// After each space: the pre-tokenizer of Gemma's files, whose normalizer leaves no space.
    at_spaces: bool,
    /// Before each mark that follows another character: there is no pre-tokenizer for that, but where no merge joins the
    /// two, the parts have the ids of the whole.
    at_marks: bool,
}

impl Cuts {
    /// Reads pre-tokenizers as `tokenizers` writes them: none, or a `Split` after each space.
    pub(super) fn read(pre_tokenizers: &[Value], at_marks: bool) -> Option<Self> {
        let at_spaces = match pre_tokenizers {
            [] => false,
            [split] => {
                let is_known = split["type"] == "Split"
                    && split["pattern"]["String"] == " "
                    && split["behavior"] == "MergedWithPrevious"
                    && split["invert"] == false;
                is_known.then_some(true)?
            }
            _ => return None,
        };
        Some(Self { at_spaces, at_marks })
    }

    /// Hands out the words of a text.
    pub(super) fn split<B>(&self, text: &str, mut each: impl FnMut(&str) -> ControlFlow<B>) -> ControlFlow<B> {
        if !self.at_spaces {
            return self.split_at_marks(text, &mut each);
        }
        text.split_inclusive(' ').try_for_each(|part| self.split_at_marks(part, &mut each))
    }

    fn split_at_marks<B>(&self, text: &str, each: &mut impl FnMut(&str) -> ControlFlow<B>) -> ControlFlow<B> {
        let mut rest = text;
        while !rest.is_empty() {
            let marks = rest.len() - rest.trim_start_matches(MARK).len();
            let next = if self.at_marks { rest[marks..].find(MARK) } else { None };
            let (word, others) = rest.split_at(next.map_or(rest.len(), |next| marks + next));
            each(word)?;
            rest = others;
        }
        ControlFlow::Continue(())
    }
}
