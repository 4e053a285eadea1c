//! The requests to send, from a file or a seeded generator, tokenised beforehand so that the report knows their
//! lengths.
//!
//! Tokenising here is only for counting: the guest tokenises again.

mod deepen;
mod file;
mod generate;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use assay::rerank::Request;
use assay_kernels::PackedBatch;

pub(crate) use deepen::deepen;
pub use file::read as read_requests;
pub use tokens::NativeTokenizer;

use crate::scenario::LoadSection;

/// Where requests come from.
#[derive(Debug, Clone)]
pub enum LoadSource {
    /// A JSONL file with one `{"query": …, "documents": […]}` a line.
    File(PathBuf),
    /// The generator.
    Generated {
        /// Equal seeds give equal requests.
        seed: u64,
        /// How many and how long.
        section: LoadSection,
    },
}

/// Useful floating-point operations of a model's rows, by their length in tokens.
#[derive(Debug, Clone)]
pub struct RowCosts(Arc<[u64]>);

impl RowCosts {
    /// The costs in a model with rows of up to `max_tokens` tokens.
    #[must_use]
    pub fn new(max_tokens: usize, row_flops: impl Fn(usize) -> u64) -> Self {
        Self((0..=max_tokens).map(row_flops).collect())
    }

    /// The cost of one row; 0 if the model takes no row of this length.
    #[must_use]
    pub fn row_flops(&self, tokens: usize) -> u64 {
        self.0.get(tokens).copied().unwrap_or(0)
    }

    /// Of all rows of a batch.
    #[must_use]
    pub fn batch_flops(&self, batch: &PackedBatch) -> u64 {
        batch.iter().map(|row| self.row_flops(row.ids.len())).sum()
    }
}

/// A request, and what the tokenizer says of it.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What is sent.
    pub request: Arc<Request>,
    /// Useful tokens of each row, special tokens included, after truncation.
    pub row_tokens: Vec<u32>,
    /// Rows that are cut to fit the model.
    pub truncated: u32,
    /// Useful floating-point operations, by formula.
    pub useful_flops: u64,
    /// Floating-point operations if every row were padded to the request's longest, by the same formula.
    pub padded_flops: u64,
    /// What native tokenisation took.
    pub tokenize: Duration,
}

/// Requests that are sent in turn.
#[derive(Debug, Clone)]
pub struct Pool {
    requests: Vec<Prepared>,
}

impl LoadSource {
    /// Makes the requests, of `batch` documents each, or as many as the source has.
    ///
    /// # Errors
    /// The file cannot be read or is malformed, or a text cannot be tokenised.
    pub fn pool(&self, batch: Option<u32>, tokenizer: &NativeTokenizer, costs: &RowCosts) -> Result<Pool> {
        let requests = match self {
            Self::File(path) => {
                let requests = file::read(path)?;
                batch.map_or_else(|| requests.clone(), |batch| file::rebatch(&requests, batch as usize))
            }
            Self::Generated { seed, section } => {
                generate::requests(*seed, section, batch.unwrap_or(generate::DEFAULT_BATCH) as usize)
            }
        };
        let prepare = |(index, request)| {
            Prepared::new(request, tokenizer, costs).with_context(|| format!("request {index} of the load"))
        };
        Ok(Pool { requests: requests.into_iter().enumerate().map(prepare).collect::<Result<_>>()? })
    }

    /// The source in words, for the report.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::File(path) => {
                format!("file {}", path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
            }
            Self::Generated { seed, .. } => format!("generated, seed {seed}"),
        }
    }
}

impl Prepared {
    fn new(request: Request, tokenizer: &NativeTokenizer, costs: &RowCosts) -> Result<Self> {
        let started = std::time::Instant::now();
        let rows = tokenizer.rows(&request)?;
        let tokenize = started.elapsed();
        let row_tokens: Vec<u32> = rows.batch.iter().map(|row| row.ids.len() as u32).collect();
        let longest = row_tokens.iter().copied().max().unwrap_or(0) as usize;
        Ok(Self {
            useful_flops: costs.batch_flops(&rows.batch),
            padded_flops: row_tokens.len() as u64 * costs.row_flops(longest),
            request: Arc::new(request),
            row_tokens,
            truncated: rows.truncated,
            tokenize,
        })
    }

    /// The number of documents, and so of pairs.
    #[must_use]
    pub fn pairs(&self) -> u64 {
        self.request.documents.len() as u64
    }

    /// Useful tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.row_tokens.iter().copied().map(u64::from).sum()
    }

    /// Tokens of a batch that holds this request's rows, each padded to the longest.
    #[must_use]
    pub fn padded_tokens(&self) -> u64 {
        self.row_tokens.len() as u64 * u64::from(self.row_tokens.iter().copied().max().unwrap_or(0))
    }

    /// Share of padding in such a batch, 0 to 100.
    #[must_use]
    pub fn padded_waste_percent(&self) -> f64 {
        match self.padded_tokens() {
            0 => 0.0,
            padded => 100.0 * (1.0 - self.tokens() as f64 / padded as f64),
        }
    }
}

impl Pool {
    /// A pool of prepared requests.
    #[must_use]
    pub fn new(requests: Vec<Prepared>) -> Self {
        Self { requests }
    }

    /// The requests, in order.
    #[must_use]
    pub fn requests(&self) -> &[Prepared] {
        &self.requests
    }

    /// The request to send as number `sequence`; requests are used in turn.
    ///
    /// # Panics
    /// The pool is empty.
    #[must_use]
    pub fn get(&self, sequence: usize) -> &Prepared {
        &self.requests[sequence % self.requests.len()]
    }
}
