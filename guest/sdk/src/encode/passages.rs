//! A long document as several rows: overlapping runs of its tokens, each paired with the query.

use super::error::PairError;
use super::rows::Rows;
use super::truncate::Cut;
use super::{PairEncoder, Query};

/// How a document becomes passages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passages {
    /// Most tokens of a passage, at least 1.
    pub tokens: u32,
    /// Tokens that a passage has of the one before it; fewer than `tokens`.
    pub overlap: u32,
    /// Most passages of a document, at least 1; what is beyond them is cut off.
    pub most: u32,
}

/// The passages of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// How many there are, at least 1.
    pub passages: usize,
    /// Whether the query or the document lost tokens.
    pub is_cut: bool,
}

impl Passages {
    /// Tokens from the beginning of a passage to that of the next one, if passages have `tokens` tokens. Passages that
    /// are shorter than they may be overlap by as much less.
    fn step(&self, tokens: usize) -> usize {
        let overlap = u64::from(self.overlap) * tokens as u64 / u64::from(self.tokens.max(1));
        tokens.saturating_sub(overlap as usize).max(1)
    }
}

impl Query<'_> {
    /// Tokenises a document, and appends a pair for each of its passages to `rows`: runs of tokens that together have
    /// all of the document's, up to `passages.most` of them. A document that is short enough is one passage.
    ///
    /// The query is cut as for a pair that does not fit, and a passage takes the room that is left. On an error, `rows`
    /// is unchanged.
    ///
    /// # Errors
    ///
    /// [`PairError`] if the query leaves no room for a passage and may not be cut, the document has more passages and
    /// may not be cut, or the tokenizer fails.
    pub fn push_passages(&mut self, document: &str, passages: &Passages, rows: &mut Rows) -> Result<Pushed, PairError> {
        let Self { encoder, max_tokens, cut, end, max_document_tokens, ref ids, ref mut document_ids, is_cut } = *self;
        let PairEncoder { text, pair, .. } = encoder;
        document_ids.clear();
        text.encode(document, None, document_ids)?;
        let limited = end.keep(document_ids, max_document_tokens.unwrap_or(usize::MAX));
        // A document that is longer than a row has more passages, so it need not be cut.
        let row_cut = if cut == Cut::Nothing { Cut::DocumentOnly } else { cut };
        let kept = row_cut.keep(ids.len(), limited.len(), max_tokens, pair.special_tokens())?;
        let tokens = kept.document.min(passages.tokens.max(1) as usize);
        let step = passages.step(tokens);
        let most = passages.most.max(1) as usize;
        // Passages after the first one each add a step.
        let needed = if tokens == 0 { 1 } else { 1 + limited.len().saturating_sub(tokens).div_ceil(step) };
        if needed > most && cut == Cut::Nothing {
            return Err(PairError::TooManyPassages { tokens: limited.len(), most });
        }
        let query = end.keep(ids, kept.query);
        let count = needed.min(most);
        let mut stop = 0;
        for number in 0..count {
            let begin = number * step;
            stop = (begin + tokens).min(limited.len());
            pair.push(query, &limited[begin..stop], rows);
        }
        let is_whole = stop == document_ids.len() && kept.query == ids.len();
        Ok(Pushed { passages: count, is_cut: is_cut || !is_whole })
    }
}
