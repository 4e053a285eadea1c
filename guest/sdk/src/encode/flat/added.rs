//! Finds added tokens, such as `</s>`, in a text.
//!
//! Source: `AddedVocabulary::find_matches` in `tokenizers` 0.23: of several tokens, the one that starts first counts,
//! and of those the longest.

use std::ops::ControlFlow;

use tokenizers::AddedToken;

/// An added token, with the text by which it is found.
#[derive(Debug)]
struct Token {
    pattern: Box<str>,
    id: u32,
    /// Whether spaces before it are part of it.
    lstrip: bool,
    /// Whether spaces after it are part of it.
    rstrip: bool,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'text> {
    /// An added token's id.
    Token(u32),
    /// The text between two added tokens, never empty, and where it starts.
    Text(&'text str, usize),
}

/// Added tokens that are found together.
#[derive(Debug)]
pub(super) struct AddedTokens {
    /// By first byte, the longest first.
    tokens: Vec<Token>,
    /// For each byte, the tokens that start with it.
    by_first: Vec<(u32, u32)>,
    /// A bit for each two bytes that may start a token.
    first_two: Vec<u64>,
}

impl AddedTokens {
    /// `None` if a pattern is empty or there twice, or if a token must be a single word.
    pub(super) fn new(tokens: impl IntoIterator<Item = (String, u32, AddedToken)>) -> Option<Self> {
        let (mut made, mut first_two) = (Vec::new(), vec![0; 1 << 10]);
        for (pattern, id, AddedToken { single_word, lstrip, rstrip, .. }) in tokens {
            let bytes = pattern.as_bytes();
            let first = *bytes.first()?;
            let seconds = bytes.get(1).map_or(0..=u8::MAX, |&second| second..=second);
            for second in seconds {
                let (word, bit) = two(first, second);
                first_two[word] |= bit;
            }
            if single_word {
                return None;
            }
            made.push(Token { pattern: pattern.into(), id, lstrip, rstrip });
        }
        made.sort_by(|left, right| {
            let (left, right) = (&left.pattern, &right.pattern);
            left.as_bytes()[0].cmp(&right.as_bytes()[0]).then(right.len().cmp(&left.len())).then(left.cmp(right))
        });
        if made.windows(2).any(|pair| pair[0].pattern == pair[1].pattern) {
            return None;
        }
        let of_byte = |byte: u8| {
            let start = made.partition_point(|token| token.pattern.as_bytes()[0] < byte);
            let end = made.partition_point(|token| token.pattern.as_bytes()[0] <= byte);
            (start as u32, end as u32)
        };
        let by_first = (0..=u8::MAX).map(of_byte).collect();
        Some(Self { tokens: made, by_first, first_two })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Hands out the parts of a text, in order.
    pub(super) fn split<B>(&self, text: &str, mut each: impl FnMut(Part<'_>) -> ControlFlow<B>) -> ControlFlow<B> {
        // As in the source, which searches on from the token's own end, even if spaces after it are part of it.
        let (mut done, mut from) = (0, 0);
        while let Some((start, token)) = self.find(text.as_bytes(), from) {
            from = start + token.pattern.len();
            let (mut start, mut end) = (start, from);
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                each(Part::Text(&text[done..start], done))?;
            }
            // White space that the token before took is there no more: the source drops what is empty.
            if start < end {
                each(Part::Token(token.id))?;
            }
            done = end;
        }
        if done < text.len() {
            each(Part::Text(&text[done..], done))?;
        }
        ControlFlow::Continue(())
    }

    /// The next token from a byte on, and where it starts.
    fn find(&self, text: &[u8], from: usize) -> Option<(usize, &Token)> {
        if self.is_empty() {
            return None;
        }
        (from..text.len()).find_map(|at| {
            let (word, bit) = two(text[at], text.get(at + 1).copied().unwrap_or(0));
            if self.first_two[word] & bit == 0 {
                return None;
            }
            self.find_at(&text[at..]).map(|token| (at, token))
        })
    }

    #[inline(never)]
    fn find_at(&self, text: &[u8]) -> Option<&Token> {
        let (start, end) = self.by_first[usize::from(text[0])];
        let tokens = &self.tokens[start as usize..end as usize];
        tokens.iter().find(|token| text.starts_with(token.pattern.as_bytes()))
    }
}

/// The word and the bit of two bytes.
#[inline]
fn two(first: u8, second: u8) -> (usize, u64) {
    (usize::from(first) << 2 | usize::from(second) >> 6, 1 << (second & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(tokens: &[(&str, bool, bool)]) -> Option<AddedTokens> {
        let numbered = tokens.iter().zip(0..);
        AddedTokens::new(numbered.map(|(&(content, lstrip, rstrip), id)| {
            (content.to_owned(), id, AddedToken::from(content, true).lstrip(lstrip).rstrip(rstrip))
        }))
    }

    fn parts(tokens: &AddedTokens, text: &str) -> Vec<String> {
        let mut parts = Vec::new();
        let whole: ControlFlow<()> = tokens.split(text, |part| {
            parts.push(match part {
                Part::Token(id) => format!("#{id}"),
                Part::Text(text, at) => format!("{at}:{text}"),
            });
            ControlFlow::Continue(())
        });
        assert!(whole.is_continue());
        parts
    }

    #[test]
    fn the_first_token_counts_and_of_several_there_the_longest() {
        let tokens =
            tokens(&[("<s>", false, false), ("<s>x", false, false), ("s>", false, false), ("é", false, false)]);
        let tokens = tokens.unwrap();
        assert_eq!(parts(&tokens, "a<s>xs>b"), ["0:a", "#1", "#2", "7:b"]);
        assert_eq!(parts(&tokens, "<s>é<s"), ["#0", "#3", "5:<s"]);
        assert_eq!(parts(&tokens, ""), [] as [&str; 0]);
    }

    #[test]
    fn spaces_beside_a_token_are_part_of_it_where_it_says_so() {
        let tokens = tokens(&[("<l>", true, false), ("<r>", false, true)]).unwrap();
        assert_eq!(parts(&tokens, "a \u{a0}<l> b <r>\n c"), ["0:a", "#0", "7: b ", "#1", "15:c"]);
        assert_eq!(parts(&tokens, "<r>  <l>"), ["#1", "#0"]);
    }

    #[test]
    fn tokens_that_are_found_in_another_way_are_not_taken() {
        assert!(tokens(&[("a", false, false), ("a", false, false)]).is_none());
        assert!(tokens(&[("", false, false)]).is_none());
        let single = AddedToken::from("a", true).single_word(true);
        assert!(AddedTokens::new([("a".to_owned(), 0, single)]).is_none());
    }
}
