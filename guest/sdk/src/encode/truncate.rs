//! How many tokens of a pair stay, as Hugging Face's `tokenizers` counts them.
//!
//! Source: `truncate_encodings` in `tokenizers` 0.23, <https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/utils/truncation.rs>, always from the right and without stride. Of two texts that both overrun, the longer one keeps the odd token. It is the longer of the whole texts, as in every release but 0.23.1 and 0.23.2: those compare the texts where tokenising stopped, which made the odd token depend on how the last word was split, and 0.23.3 took that back.

use super::PairError;

/// What may be cut from a pair that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    Nothing,
    /// The longer of query and document, token by token, until the pair fits (`longest_first`).
    LongestFirst,
    /// The document only (`only_second`).
    DocumentOnly,
}

/// Tokens that stay of each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) query: usize,
    pub(super) document: usize,
}

impl Cut {
    /// Tokenising a document may stop once there are this many tokens: more of them change nothing that [`keep`](Self::keep) decides.
    pub(super) fn document_stop(self, query: usize, max_tokens: usize) -> Option<usize> {
        match self {
            // As long as the query, it counts as the longer one.
            Self::LongestFirst => Some(query.max(max_tokens)),
            Self::DocumentOnly => Some(max_tokens),
            // The error says how long it is.
            Self::Nothing => None,
        }
    }

    /// Decides for one pair; `max_tokens` is at least `special_tokens`.
    pub(super) fn keep(
        self,
        query: usize,
        document: usize,
        max_tokens: usize,
        special_tokens: usize,
    ) -> Result<Kept, PairError> {
        let room = max_tokens - special_tokens;
        if query + document <= room {
            return Ok(Kept { query, document });
        }
        match self {
            Self::Nothing => Err(PairError::TooLong { tokens: query + document + special_tokens, max_tokens }),
            // Where the query fills the row to the last token `only_second` fails too: a document of no tokens has no meaning.
            Self::DocumentOnly if query >= room => Err(PairError::QueryTooLong { query_tokens: query, max_tokens }),
            Self::DocumentOnly => Ok(Kept { query, document: room - query }),
            Self::LongestFirst => Ok(longest_first(query, document, room)),
        }
    }
}

/// The shorter side keeps all it has up to half of the room; the longer one takes the rest, and the odd token. Of two as long as each other the document counts as the longer.
fn longest_first(query: usize, document: usize, room: usize) -> Kept {
    let (shorter, swapped) = if query > document { (document, true) } else { (query, false) };
    let shorter = shorter.min(room / 2);
    let longer = room - shorter;
    if swapped { Kept { query: longer, document: shorter } } else { Kept { query: shorter, document: longer } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(cut: Cut, query: usize, document: usize, max: usize) -> Result<(usize, usize), PairError> {
        cut.keep(query, document, max, 3).map(|kept| (kept.query, kept.document))
    }

    #[test]
    fn a_pair_that_fits_is_left_alone() {
        for cut in [Cut::Nothing, Cut::LongestFirst, Cut::DocumentOnly] {
            assert_eq!(kept(cut, 2, 3, 8), Ok((2, 3)));
            assert_eq!(kept(cut, 0, 0, 3), Ok((0, 0)));
        }
    }

    #[test]
    fn longest_first_gives_the_odd_token_to_the_longer_side() {
        assert_eq!(kept(Cut::LongestFirst, 2, 100, 13), Ok((2, 8)));
        assert_eq!(kept(Cut::LongestFirst, 100, 2, 13), Ok((8, 2)));
        assert_eq!(kept(Cut::LongestFirst, 50, 60, 14), Ok((5, 6)));
        assert_eq!(kept(Cut::LongestFirst, 60, 50, 14), Ok((6, 5)));
        assert_eq!(kept(Cut::LongestFirst, 50, 50, 14), Ok((5, 6)));
        assert_eq!(kept(Cut::LongestFirst, 1, 1, 3), Ok((0, 0)));
    }

    #[test]
    fn document_only_never_touches_the_query() {
        assert_eq!(kept(Cut::DocumentOnly, 4, 100, 10), Ok((4, 3)));
        let error = PairError::QueryTooLong { query_tokens: 7, max_tokens: 10 };
        assert_eq!(kept(Cut::DocumentOnly, 7, 1, 10), Err(error));
    }

    #[test]
    fn where_nothing_may_be_cut_length_and_limit_are_told() {
        let error = PairError::TooLong { tokens: 9, max_tokens: 8 };
        assert_eq!(kept(Cut::Nothing, 2, 4, 8), Err(error));
    }

    proptest! {
        #[test]
        fn longest_first_fills_the_room_and_never_grows_a_side(
            query in 0_usize..50, document in 0_usize..50, room in 0_usize..60
        ) {
            let kept = Cut::LongestFirst.keep(query, document, room + 3, 3).unwrap();
            prop_assert!(kept.query <= query && kept.document <= document);
            prop_assert_eq!(kept.query + kept.document, room.min(query + document));
        }
    }
}
