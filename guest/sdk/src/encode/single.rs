//! A text alone in a row, as an embedding model takes it.

use super::PairEncoder;
use super::error::PairError;
use super::rows::Rows;
use super::truncate::{Cut, End};

/// How long a text may be, and what is cut of one that is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLimits {
    /// Longest row in tokens, special tokens included.
    pub max_tokens: usize,
    /// Most tokens of the text; the rest is cut, even if rows may not be.
    pub text_tokens: Option<usize>,
    /// [`Cut::Nothing`] refuses a text that is too long for a row.
    pub cut: Cut,
    /// The end that is cut off.
    pub end: End,
}

impl PairEncoder {
    /// Tokenises a text, appends its row, and returns whether the text was cut. On an error, `rows` is unchanged.
    ///
    /// # Errors
    ///
    /// [`PairError`] if the text does not fit and may not be cut, not even the special tokens fit, the tokenizer makes
    /// no row of a single text, or fails.
    pub fn push_text(&self, text: &str, limits: &TextLimits, rows: &mut Rows) -> Result<bool, PairError> {
        let single = self.single.as_ref().ok_or(PairError::NoSingle)?;
        let (max_tokens, special_tokens) = (limits.max_tokens, single.before.len() + single.after.len());
        let room = max_tokens.checked_sub(special_tokens).ok_or(PairError::NoRoom { max_tokens, special_tokens })?;
        let mut ids = Vec::new();
        self.text.encode(text, None, &mut ids)?;
        let limited = limits.end.keep(&ids, limits.text_tokens.unwrap_or(usize::MAX));
        if limited.len() > room && limits.cut == Cut::Nothing {
            return Err(PairError::TextTooLong { tokens: limited.len() + special_tokens, max_tokens });
        }
        let kept = limits.end.keep(limited, room);
        for part in [&single.before, kept, &single.after] {
            rows.ids.extend_from_slice(part);
        }
        rows.end_row(special_tokens + kept.len());
        Ok(kept.len() < ids.len())
    }
}
