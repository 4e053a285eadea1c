//! Native tokenisation with the standard guest's code: the same rows, without the sandbox.

use anyhow::{Context, Result};
use assay::rerank::{Request, Truncation};
use assay_guest::{Cut, PairEncoder, Rows};
use assay_kernels::PackedBatch;

/// A model's tokenizer outside the sandbox.
#[derive(Debug)]
pub struct NativeTokenizer {
    encoder: PairEncoder,
    max_tokens: usize,
}

/// A request's rows.
#[derive(Debug, Clone)]
pub struct NativeRows {
    /// The rows, in the order of the documents.
    pub batch: PackedBatch,
    /// Rows that were cut to fit.
    pub truncated: u32,
}

impl NativeTokenizer {
    /// Reads a `tokenizer.json`; rows are at most `max_tokens` long.
    ///
    /// # Errors
    /// The standard guest cannot use the tokenizer.
    pub fn new(tokenizer: &[u8], max_tokens: usize) -> Result<Self> {
        let encoder = PairEncoder::from_json(tokenizer).context("the model's tokenizer")?;
        Ok(Self { encoder, max_tokens })
    }

    /// Tokenises a request as the standard guest does.
    ///
    /// # Errors
    /// A pair does not fit and may not be cut, or the tokenizer fails.
    pub fn rows(&self, request: &Request) -> Result<NativeRows> {
        let max_tokens = request.max_tokens.map_or(self.max_tokens, |max| self.max_tokens.min(max as usize));
        let cut = match request.truncation {
            Truncation::None => Cut::Nothing,
            Truncation::LongestFirst => Cut::LongestFirst,
            Truncation::DocumentOnly => Cut::DocumentOnly,
        };
        let mut rows = Rows::default();
        let mut truncated = 0;
        let mut query = self.encoder.query(&request.query, max_tokens, cut).context("the query")?;
        for (index, document) in request.documents.iter().enumerate() {
            let was_cut = query.push_pair(document, &mut rows).with_context(|| format!("document {index}"))?;
            truncated += u32::from(was_cut);
        }
        let batch = PackedBatch::new(rows.ids, rows.offsets, rows.second_segment)?;
        Ok(NativeRows { batch, truncated })
    }
}
