//! How many tokens of each side of a pair stay, as Hugging Face's `tokenizers` counts them.
//!
//! Source: `truncate_encodings` in `tokenizers` 0.23,
//! <https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/utils/truncation.rs>, from either end and without
//! stride. If both texts are over the limit, the longer one keeps the odd token. Lengths are those of the whole texts,
//! as in 0.23.3 and in all releases up to 0.22. (0.23.1 and 0.23.2 stop tokenising early and compare the texts where
//! they stopped.)

use super::error::PairError;

/// What to cut from a pair that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    Nothing,
    /// The longer of query and document, token by token, until the pair fits (`longest_first`).
    LongestFirst,
    /// The document only (`only_second`).
    DocumentOnly,
}

/// The end of a text that is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Its end: the first tokens stay.
    #[default]
    Right,
    /// Its beginning: the last tokens stay.
    Left,
}

impl End {
    /// The tokens that stay of a text, if `most` may.
    pub(super) fn keep(self, ids: &[u32], most: usize) -> &[u32] {
        match self {
            Self::Right => &ids[..most.min(ids.len())],
            Self::Left => &ids[ids.len().saturating_sub(most)..],
        }
    }
}

/// Tokens that stay of each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) query: usize,
    pub(super) document: usize,
}

impl Cut {
    /// Tokenising a document may stop at this many tokens: more of them do not change what [`keep`](Self::keep)
    /// decides.
    pub(super) fn document_stop(self, query: usize, max_tokens: usize) -> Option<usize> {
        match self {
            // A document as long as the query counts as the longer one already.
            Self::LongestFirst => Some(query.max(max_tokens)),
            Self::DocumentOnly => Some(max_tokens),
            // The error reports the whole length.
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
            // `only_second` fails here too: a document cut to no tokens has no meaning.
            Self::DocumentOnly if query >= room => Err(PairError::QueryTooLong { query_tokens: query, max_tokens }),
            Self::DocumentOnly => Ok(Kept { query, document: room - query }),
            Self::LongestFirst => Ok(longest_first(query, document, room)),
        }
    }
}

/// The shorter side keeps up to half of the room. The longer side takes the rest, and with it the odd token. If both
/// are equally long, the document takes it.
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

    fn kept(cut: Cut, query: usize, document: usize, max_tokens: usize) -> (usize, usize) {
        let kept = cut.keep(query, document, max_tokens, 3).unwrap();
        (kept.query, kept.document)
    }

    #[test]
    fn a_pair_that_fits_is_left_alone() {
        for cut in [Cut::Nothing, Cut::LongestFirst, Cut::DocumentOnly] {
            assert_eq!(kept(cut, 2, 3, 8), (2, 3));
            assert_eq!(kept(cut, 0, 0, 3), (0, 0));
        }
    }

    #[test]
    fn longest_first_gives_the_odd_token_to_the_longer_side() {
        assert_eq!(kept(Cut::LongestFirst, 2, 100, 13), (2, 8));
        assert_eq!(kept(Cut::LongestFirst, 100, 2, 13), (8, 2));
        assert_eq!(kept(Cut::LongestFirst, 50, 60, 14), (5, 6));
        assert_eq!(kept(Cut::LongestFirst, 60, 50, 14), (6, 5));
        assert_eq!(kept(Cut::LongestFirst, 50, 50, 14), (5, 6));
        assert_eq!(kept(Cut::LongestFirst, 1, 1, 3), (0, 0));
    }

    #[test]
    fn document_only_never_touches_the_query() {
        assert_eq!(kept(Cut::DocumentOnly, 4, 100, 10), (4, 3));
        let error = Cut::DocumentOnly.keep(7, 1, 10, 3).unwrap_err();
        assert!(matches!(error, PairError::QueryTooLong { query_tokens: 7, max_tokens: 10 }), "{error}");
    }

    #[test]
    fn a_pair_that_may_not_be_cut_is_refused_with_its_length_and_the_limit() {
        let error = Cut::Nothing.keep(2, 4, 8, 3).unwrap_err();
        assert!(matches!(error, PairError::TooLong { tokens: 9, max_tokens: 8 }), "{error}");
    }

    proptest! {
        #[test]
        fn longest_first_fills_the_room_and_grows_no_side(
            query in 0_usize..50, document in 0_usize..50, room in 0_usize..60
        ) {
            let kept = Cut::LongestFirst.keep(query, document, room + 3, 3).unwrap();
            prop_assert!(kept.query <= query && kept.document <= document);
            prop_assert_eq!(kept.query + kept.document, room.min(query + document));
        }
    }
}
