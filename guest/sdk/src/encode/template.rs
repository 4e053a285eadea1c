//! What a tokenizer puts around a pair.
//!
//! `tokenizer.json` has five kinds of post-processor for that, and they nest. This module does not interpret them. When
//! a tokenizer is loaded, it passes two marked tokens through the post-processor and reads the special tokens and token
//! types from the result. So a row is always what `tokenizers` would make of the pair.

use tokenizers::{Encoding, PostProcessor, Token, Tokenizer};

use super::error::{LoadError, TemplateError};
use super::rows::Rows;

/// Mark the query and the document; no vocabulary is that large.
const QUERY_MARK: u32 = u32::MAX;
const DOCUMENT_MARK: u32 = u32::MAX - 1;

/// The special tokens, the query and the document in the order of a row. Token type 0 comes first, then type 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
    /// How many of the pieces have token type 0.
    first_segment_pieces: usize,
    special_tokens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Special(u32),
    Query,
    Document,
}

impl Template {
    /// What goes around a query and a document.
    pub(super) fn of_pair(tokenizer: &Tokenizer) -> Result<Self, LoadError> {
        let row = tokenizer
            .post_process(mark(QUERY_MARK, 0), Some(mark(DOCUMENT_MARK, 1)), true)
            .map_err(LoadError::Unreadable)?;
        let template = Self::read(row.get_ids(), row.get_type_ids())?;
        let announced = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        let added = template.special_tokens;
        if added != announced {
            return Err(TemplateError::SpecialTokens { announced, added }.into());
        }
        Ok(template)
    }

    /// Reads a row in which each mark stands once.
    fn read(ids: &[u32], type_ids: &[u32]) -> Result<Self, TemplateError> {
        let pieces: Vec<Piece> = ids
            .iter()
            .map(|&id| match id {
                QUERY_MARK => Piece::Query,
                DOCUMENT_MARK => Piece::Document,
                id => Piece::Special(id),
            })
            .collect();
        let count = |wanted| pieces.iter().filter(|&&piece| piece == wanted).count();
        if count(Piece::Query) != 1 || count(Piece::Document) != 1 {
            return Err(TemplateError::TextsNotOnce);
        }
        let first_segment_pieces = type_ids.iter().take_while(|&&type_id| type_id == 0).count();
        if type_ids[first_segment_pieces..].iter().any(|&type_id| type_id != 1) {
            return Err(TemplateError::TokenTypes);
        }
        Ok(Self { special_tokens: pieces.len() - 2, pieces, first_segment_pieces })
    }

    /// How many tokens the template adds to every row.
    pub(super) fn special_tokens(&self) -> usize {
        self.special_tokens
    }

    /// Appends one row.
    pub(super) fn push(&self, query: &[u32], document: &[u32], rows: &mut Rows) {
        let start = rows.ids.len();
        let mut second_segment = None;
        for (index, piece) in self.pieces.iter().enumerate() {
            if index == self.first_segment_pieces {
                second_segment = Some(rows.ids.len() - start);
            }
            match *piece {
                Piece::Special(id) => rows.ids.push(id),
                Piece::Query => rows.ids.extend_from_slice(query),
                Piece::Document => rows.ids.extend_from_slice(document),
            }
        }
        rows.end_row(second_segment.unwrap_or(rows.ids.len() - start));
    }
}

/// The special tokens around a single text, all of token type 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Single {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

impl Single {
    /// What goes around a text; `None` if a row cannot express it.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let row = tokenizer.post_process(mark(QUERY_MARK, 0), None, true).ok()?;
        let (ids, type_ids) = (row.get_ids(), row.get_type_ids());
        let place = ids.iter().position(|&id| id == QUERY_MARK)?;
        let (before, after) = (ids[..place].to_vec(), ids[place + 1..].to_vec());
        let is_plain = type_ids.iter().all(|&type_id| type_id == 0) && !after.contains(&QUERY_MARK);
        is_plain.then_some(Self { before, after })
    }
}

fn mark(id: u32, type_id: u32) -> Encoding {
    Encoding::from_tokens(vec![Token::new(id, String::new(), (0, 0))], type_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(template: &Template, query: &[u32], document: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let mut rows = Rows::default();
        template.push(query, document, &mut rows);
        assert_eq!(rows.offsets, [0, rows.ids.len() as u32]);
        (rows.ids, rows.second_segment)
    }

    #[test]
    fn a_bert_pair_starts_its_second_segment_at_the_document() {
        let bert = [1, QUERY_MARK, 2, DOCUMENT_MARK, 2];
        let template = Template::read(&bert, &[0, 0, 0, 1, 1]).unwrap();
        assert_eq!(template.special_tokens(), 3);
        assert_eq!(row(&template, &[7, 8], &[9]), (vec![1, 7, 8, 2, 9, 2], vec![4]));
        assert_eq!(row(&template, &[], &[]), (vec![1, 2, 2], vec![2]));
    }

    #[test]
    fn a_roberta_pair_has_no_second_segment() {
        let roberta = [0, QUERY_MARK, 2, 2, DOCUMENT_MARK, 2];
        let template = Template::read(&roberta, &[0; 6]).unwrap();
        assert_eq!(row(&template, &[7], &[8, 9]), (vec![0, 7, 2, 2, 8, 9, 2], vec![7]));
    }

    #[test]
    fn pairs_that_rows_cannot_express_are_refused() {
        let error = |ids: &[u32], type_ids: &[u32]| Template::read(ids, type_ids).unwrap_err();
        assert_eq!(error(&[QUERY_MARK], &[0]), TemplateError::TextsNotOnce);
        assert_eq!(error(&[QUERY_MARK, DOCUMENT_MARK, QUERY_MARK], &[0; 3]), TemplateError::TextsNotOnce);
        for type_ids in [[1, 0], [0, 2]] {
            assert_eq!(error(&[QUERY_MARK, DOCUMENT_MARK], &type_ids), TemplateError::TokenTypes);
        }
    }
}
