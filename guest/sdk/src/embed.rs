//! Documents ranked by an embedding model: the cosine of each one's vector and the query's.

use assay_bindings::{Error, Task, Truncation};

use crate::encode::{Cut, PairError, Rows, TextLimits};
use crate::scorer::{Inference, MAX_TOKENS_PER_RUN, NO_USAGE, Scorer, Scores, invalid, invalid_document};
use crate::settings::Options;

/// What stands before each text, as some models were trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefixes<'a> {
    /// Before the query.
    pub query: &'a str,
    /// Before each document.
    pub document: &'a str,
}

impl<M: Inference> Scorer<M> {
    /// The cosine of every document with the query, from -1 to 1, in place of logits: each text is a row of its own, and
    /// the model pools it into a vector. Without documents, it does not call the model.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`], naming the document, if a text does not fit and may not be cut; if the model computes
    /// no embeddings, or `label` picks a label. Otherwise what the host's `run` fails with.
    pub fn cosines<D: AsRef<str>>(
        &self,
        query: &str,
        documents: &[D],
        options: &Options,
        prefixes: Prefixes<'_>,
    ) -> Result<Scores, Error> {
        let mut scores = Scores { logits: Vec::with_capacity(documents.len()), usage: NO_USAGE };
        if documents.is_empty() {
            return Ok(scores);
        }
        self.check_embeds(options)?;
        // `document-only` refuses a query that does not fit.
        let of_query = match options.truncation {
            Truncation::LongestFirst => Cut::LongestFirst,
            Truncation::None | Truncation::DocumentOnly => Cut::Nothing,
        };
        let of_document = if options.truncation == Truncation::None { Cut::Nothing } else { Cut::DocumentOnly };
        let limits = |cut: Cut, tokens: Option<u32>| TextLimits {
            max_tokens: self.max_tokens(options),
            text_tokens: tokens.map(|tokens| tokens as usize),
            cut,
            end: options.cut_end,
        };
        let mut rows = Rows::default();
        let query_limits = limits(of_query, options.max_query_tokens);
        let query_is_cut = self.push_prefixed(prefixes.query, query, &query_limits, &mut rows);
        let query_is_cut = query_is_cut.map_err(|error| invalid(&error))?;
        let document_limits = limits(of_document, options.max_document_tokens);
        // The first row is the query's.
        let mut of_the_query: Option<Vec<f32>> = None;
        let mut take = |vector: &[f32], logits: &mut Vec<f32>| match &of_the_query {
            None => of_the_query = Some(vector.to_vec()),
            Some(query) => logits.push(cosine(query, vector)),
        };
        for (index, document) in documents.iter().enumerate() {
            let is_cut = self.push_prefixed(prefixes.document, document.as_ref(), &document_limits, &mut rows);
            let is_cut = is_cut.map_err(|error| invalid_document(index, &error))?;
            scores.usage.truncated += u32::from(is_cut || query_is_cut);
            if rows.ids.len() >= MAX_TOKENS_PER_RUN {
                rows = self.run(rows, &mut scores.usage, |row| take(row, &mut scores.logits))?;
            }
        }
        self.run(rows, &mut scores.usage, |row| take(row, &mut scores.logits))?;
        Ok(scores)
    }

    fn push_prefixed(&self, prefix: &str, text: &str, limits: &TextLimits, rows: &mut Rows) -> Result<bool, PairError> {
        match prefix {
            "" => self.encoder().push_text(text, limits, rows),
            prefix => self.encoder().push_text(&format!("{prefix}{text}"), limits, rows),
        }
    }

    fn check_embeds(&self, options: &Options) -> Result<(), Error> {
        let info = self.info();
        if info.task != Task::Embedding || info.outputs == 0 {
            let message = format!("model {} is a cross-encoder: it computes no embeddings", info.name);
            return Err(Error::InvalidInput(message));
        }
        match options.label {
            None => Ok(()),
            Some(label) => Err(Error::InvalidInput(format!(
                "setting label is {label}, but model {} computes embeddings, which have no labels",
                info.name
            ))),
        }
    }
}

/// The cosine of two vectors of the same length; 0 if one has no direction.
fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let dot = |left: &[f32], right: &[f32]| -> f64 {
        left.iter().zip(right).map(|(&left, &right)| f64::from(left) * f64::from(right)).sum()
    };
    let lengths = (dot(left, left) * dot(right, right)).sqrt();
    if lengths == 0.0 { 0.0 } else { (dot(left, right) / lengths) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_needs_no_vectors_of_unit_length() {
        assert_eq!(cosine(&[2.0, 0.0], &[7.0, 0.0]), 1.0);
        assert_eq!(cosine(&[1.0, 1.0], &[-3.0, -3.0]), -1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 5.0]), 0.0);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
    }
}
