//! Cuts a text into words as the regular expressions of byte-level tokenizers do, without a regular expression.
//!
//! Each pattern is a list of alternatives of which the first that matches counts. Every character starts a match, so
//! the words are the matches, end to end.
//!
//! `tokenizers` matches with `fancy-regex`, which gives up on a run of a million spaces and takes the rest of the text
//! for one word. This code goes on, as the other engine that `tokenizers` is built with does.

use super::classes::{Class, Classes};

/// GPT-2's pattern, which `ByteLevel` uses.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The patterns of Qwen and of Llama 3 up to the numbers, which they cut after one and after three digits.
const BEFORE_NUMBERS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|";

/// The same patterns after the numbers.
const AFTER_NUMBERS: &str = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A pattern that this code knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// [`GPT2`]
    Gpt2,
    /// [`BEFORE_NUMBERS`], a number of so many digits at most, [`AFTER_NUMBERS`].
    Qwen {
        /// Most digits of a word.
        max_digits: usize,
    },
}

impl Pattern {
    /// The pattern with this text.
    pub(super) fn read(pattern: &str) -> Option<Self> {
        if pattern == GPT2 {
            return Some(Self::Gpt2);
        }
        match pattern.strip_prefix(BEFORE_NUMBERS)?.strip_suffix(AFTER_NUMBERS)? {
            r"\p{N}" => Some(Self::Qwen { max_digits: 1 }),
            r"\p{N}{1,2}" => Some(Self::Qwen { max_digits: 2 }),
            r"\p{N}{1,3}" => Some(Self::Qwen { max_digits: 3 }),
            _ => None,
        }
    }
}

/// Cuts texts by a pattern.
#[derive(Debug)]
pub(super) struct Splitter {
    pattern: Pattern,
    classes: Classes,
}

impl Splitter {
    pub(super) fn new(pattern: Pattern) -> Option<Self> {
        Some(Self { pattern, classes: Classes::new()? })
    }

    /// Where the word that starts at `at` ends. `at` is a character's start before the text's end.
    #[inline]
    pub(super) fn end(&self, text: &str, at: usize) -> usize {
        match self.pattern {
            Pattern::Gpt2 => self.gpt2(text, at),
            Pattern::Qwen { max_digits } => self.qwen(text, at, max_digits),
        }
    }

    #[inline]
    fn gpt2(&self, text: &str, at: usize) -> usize {
        let bytes = text.as_bytes();
        if bytes[at] == b'\''
            && let Some(length) = contraction(&bytes[at + 1..])
        {
            return at + 1 + length;
        }
        let Some((class, length)) = self.classes.at(text, at) else { return text.len() };
        if class != Class::Space {
            return self.run(text, at + length, class);
        }
        match self.classes.at(text, at + 1) {
            Some((next, length)) if bytes[at] == b' ' && next != Class::Space => self.run(text, at + 1 + length, next),
            _ => self.spaces(text, at + length, at),
        }
    }

    #[inline]
    fn qwen(&self, text: &str, at: usize, max_digits: usize) -> usize {
        let bytes = text.as_bytes();
        if bytes[at] == b'\''
            && let Some(length) = contraction_of_any_case(&bytes[at + 1..])
        {
            return at + 1 + length;
        }
        let Some((class, length)) = self.classes.at(text, at) else { return text.len() };
        let after = at + length;
        match class {
            Class::Letter => return self.run(text, after, Class::Letter),
            Class::Number => return self.numbers(text, after, max_digits - 1),
            Class::Space | Class::Other => {}
        }
        let next = self.classes.at(text, after);
        if let Some((Class::Letter, length)) = next
            && !is_line_end(bytes[at])
        {
            return self.run(text, after + length, Class::Letter);
        }
        match (class, next) {
            (Class::Other, _) => line_ends(bytes, self.run(text, after, Class::Other)),
            (_, Some((Class::Other, length))) if bytes[at] == b' ' => {
                line_ends(bytes, self.run(text, after + length, Class::Other))
            }
            _ => {
                let end = self.run(text, after, Class::Space);
                let line_end = bytes[at..end].iter().rposition(|&byte| is_line_end(byte));
                line_end.map_or_else(|| self.spaces(text, after, at), |line_end| at + line_end + 1)
            }
        }
    }

    /// The end of a run of one class.
    #[inline]
    fn run(&self, text: &str, mut at: usize, class: Class) -> usize {
        while let Some((next, length)) = self.classes.at(text, at)
            && next == class
        {
            at += length;
        }
        at
    }

    /// `\s+(?!\S)|\s+`: spaces up to the last one before a word, or that one alone.
    fn spaces(&self, text: &str, after_first: usize, first: usize) -> usize {
        let (mut at, mut last) = (after_first, first);
        while let Some((class, length)) = self.classes.at(text, at) {
            if class != Class::Space {
                return if last > first { last } else { at };
            }
            (last, at) = (at, at + length);
        }
        at
    }

    fn numbers(&self, text: &str, mut at: usize, more: usize) -> usize {
        for _ in 0..more {
            match self.classes.at(text, at) {
                Some((Class::Number, length)) => at += length,
                _ => break,
            }
        }
        at
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn line_ends(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|&&byte| is_line_end(byte)).count()
}

/// The length of what follows the apostrophe in `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` and `'d`.
fn contraction(after: &[u8]) -> Option<usize> {
    match after {
        [b's' | b't' | b'm' | b'd', ..] => Some(1),
        [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => Some(2),
        _ => None,
    }
}

/// The same in any case: the long s is an s too.
fn contraction_of_any_case(after: &[u8]) -> Option<usize> {
    if after.starts_with("ſ".as_bytes()) {
        return Some("ſ".len());
    }
    let two = [after.first()?.to_ascii_lowercase(), after.get(1).map_or(0, u8::to_ascii_lowercase)];
    contraction(&two)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

    fn patterns() -> Vec<String> {
        let digits = [r"\p{N}", r"\p{N}{1,2}", r"\p{N}{1,3}"];
        let qwens = digits.map(|digits| format!("{BEFORE_NUMBERS}{digits}{AFTER_NUMBERS}"));
        [GPT2.to_owned()].into_iter().chain(qwens).collect()
    }

    fn check(text: &str, splitter: &Splitter, reference: &Split) {
        let mut expected = PreTokenizedString::from(text);
        reference.pre_tokenize(&mut expected).unwrap();
        let expected = expected.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        let mut at = 0;
        for (word, _, _) in expected {
            let end = splitter.end(text, at);
            assert_eq!(&text[at..end], word, "in {text:?}");
            at = end;
        }
        assert_eq!(at, text.len());
    }

    fn references() -> Vec<(Splitter, Split)> {
        let made = patterns().into_iter().map(|pattern| {
            let splitter = Splitter::new(Pattern::read(&pattern).unwrap()).unwrap();
            let regex = SplitPattern::Regex(pattern);
            (splitter, Split::new(regex, SplitDelimiterBehavior::Isolated, false).unwrap())
        });
        made.collect()
    }

    #[test]
    fn any_text_is_cut_as_the_regular_expressions_cut_it() {
        let references = references();
        let part = prop_oneof![
            4 => proptest::sample::select(vec![
                " ", "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{2028}", "a", "Zé", "7", "٣", "½", "'", "'s", "'S", "'ſ",
                "'RE", "'l", "'LL", "'v", "-", "_", "\u{301}", "👩\u{200d}", "東", "\0", "\u{85}", "\u{200b}", "K",
            ]).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ];
        let texts = proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat());
        proptest!(ProptestConfig::with_cases(4000), |(text in texts)| {
            references.iter().for_each(|(splitter, reference)| check(&text, splitter, reference));
        });
    }

    #[test]
    fn every_character_is_cut_as_the_regular_expressions_cut_it() {
        for (splitter, reference) in references() {
            let characters: Vec<char> = ('\0'..=char::MAX).collect();
            for some in characters.chunks(512) {
                let text: String =
                    some.iter().map(|character| format!("a{character}1 {character}-{character}")).collect();
                check(&text, &splitter, &reference);
            }
        }
    }

    #[test]
    fn a_pattern_that_differs_is_not_known() {
        for pattern in patterns() {
            assert!(Pattern::read(&pattern).is_some());
            assert_eq!(Pattern::read(&format!("{pattern}|x")), None);
            assert_eq!(Pattern::read(&format!(" {pattern}")), None);
        }
        assert_eq!(Pattern::read(r"\s+"), None);
    }
}
