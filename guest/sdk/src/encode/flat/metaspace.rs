//! Cuts a text into the words of a Unigram tokenizer: at white space, and before each `▁`, which stands for a space.
//!
//! Source: `pre_tokenizers/metaspace.rs` and `whitespace.rs` of `tokenizers` 0.23.

use std::ops::ControlFlow;

use serde_json::Value;

/// Where a mark goes that the text does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prepend {
    /// Before each part between added tokens, and before each word if white space is cut first.
    Always,
    /// At the start of the text only.
    First,
    Never,
}

/// How a text becomes words.
#[derive(Debug)]
pub(super) struct Metaspace {
    /// Whether the text is first cut at white space, which is dropped.
    splits_at_spaces: bool,
    /// The mark, usually `▁`.
    mark: char,
    prepend: Prepend,
    /// Whether a word starts at each mark.
    splits_at_marks: bool,
}

impl Metaspace {
    /// Reads pre-tokenizers as `tokenizers` writes them: `Metaspace`, or `WhitespaceSplit` and `Metaspace`.
    pub(super) fn read(pre_tokenizers: &[Value]) -> Option<Self> {
        let (splits_at_spaces, metaspace) = match pre_tokenizers {
            [metaspace] => (false, metaspace),
            [split, metaspace] if split["type"] == "WhitespaceSplit" => (true, metaspace),
            _ => return None,
        };
        if metaspace["type"] != "Metaspace" {
            return None;
        }
        let mut mark = metaspace["replacement"].as_str()?.chars();
        let prepend = match metaspace["prepend_scheme"].as_str()? {
            "always" => Prepend::Always,
            // The crate decides by where each word stands in the text before it was normalised.
            "first" if !splits_at_spaces => Prepend::First,
            "never" => Prepend::Never,
            _ => return None,
        };
        let (mark, None) = (mark.next()?, mark.next()) else { return None };
        Some(Self { splits_at_spaces, mark, prepend, splits_at_marks: metaspace["split"].as_bool()? })
    }

    /// Whether it matters where a text starts.
    pub(super) fn needs_start(&self) -> bool {
        self.prepend == Prepend::First
    }

    /// Hands out the words of a part between added tokens; `is_first` if the whole text starts with it. `scratch` is
    /// overwritten.
    pub(super) fn split<B>(
        &self,
        text: &str,
        is_first: bool,
        scratch: &mut String,
        mut each: impl FnMut(&str) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if self.splits_at_spaces {
            for word in text.split(char::is_whitespace).filter(|word| !word.is_empty()) {
                self.marked(word, is_first, scratch);
                self.cut(scratch, &mut each)?;
            }
            return ControlFlow::Continue(());
        }
        self.marked(text, is_first, scratch);
        self.cut(scratch, &mut each)
    }

    /// Writes the text with marks in place of spaces, and a mark before it.
    fn marked(&self, text: &str, is_first: bool, marked: &mut String) {
        marked.clear();
        let prepends = match self.prepend {
            Prepend::Always => true,
            Prepend::First => is_first,
            Prepend::Never => false,
        };
        if prepends && !text.starts_with([' ', self.mark]) && !text.is_empty() {
            marked.push(self.mark);
        }
        let mut parts = text.split(' ');
        marked.push_str(parts.next().unwrap_or_default());
        for part in parts {
            marked.push(self.mark);
            marked.push_str(part);
        }
    }

    fn cut<B>(&self, marked: &str, each: &mut impl FnMut(&str) -> ControlFlow<B>) -> ControlFlow<B> {
        let mut rest = marked;
        while let Some(first) = rest.chars().next() {
            let after = first.len_utf8();
            let next = if self.splits_at_marks { rest[after..].find(self.mark) } else { None };
            let (word, others) = rest.split_at(next.map_or(rest.len(), |next| after + next));
            each(word)?;
            rest = others;
        }
        ControlFlow::Continue(())
    }
}
