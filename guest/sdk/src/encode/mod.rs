//! Text to rows: tokenising a query and its documents exactly as Hugging Face's `tokenizers` would, without doing any of it twice.
//!
//! | part | what it does |
//! | --- | --- |
//! | `template` | asks the tokenizer's post-processor what goes around a pair |
//! | `text` | text to token ids, by the crate's own stages or, for BERT, by a shorter way to the same ids |
//! | `bert` | that shorter way |
//! | `pieces` | its vocabulary |
//! | `truncate` | how many tokens of each side stay |
//! | `rows` | rows packed end to end |
//!
//! Every row is a pair, even if a text is empty or all of it is dropped: `[CLS] query [SEP] [SEP]`, as `tokenizers` and sentence-transformers' `CrossEncoder` have it. (`tokenizer(query, "")` of `transformers` leaves an empty second text out. A list of texts, which is what rerankers pass, does not.)
//!
//! A `tokenizer.json` may carry settings for truncation and padding. They are dropped when it is loaded: the request and the model say how long a row may be, and nothing is ever padded.

mod bert;
mod pieces;
mod rows;
mod template;
mod text;
mod truncate;

use std::fmt;

use thiserror::Error;
use tokenizers::Tokenizer;

pub use rows::Rows;
pub use truncate::Cut;

use template::Template;
use text::{Extent, TextEncoder};

/// Why a tokenizer cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The bytes are no `tokenizer.json` that this version of `tokenizers` reads.
    #[error("tokenizer.json cannot be read: {0}")]
    Unreadable(String),
    /// The post-processor makes pairs that rows cannot express.
    #[error("tokenizer.json makes pairs that rows cannot express: {0}")]
    Template(&'static str),
}

/// Why a pair does not become a row. Which document it was is for the caller to say.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PairError {
    /// Not even the special tokens fit.
    #[error("max-tokens is {max_tokens}, but the special tokens of a pair alone take {special_tokens}")]
    NoRoom {
        /// Longest row allowed, in tokens.
        max_tokens: usize,
        /// Tokens that the template adds to every pair.
        special_tokens: usize,
    },
    /// The pair is too long and nothing may be cut.
    #[error("the pair has {tokens} tokens, more than the {max_tokens} allowed, and truncation is none")]
    TooLong {
        /// Length of the whole row, in tokens.
        tokens: usize,
        /// Longest row allowed, in tokens.
        max_tokens: usize,
    },
    /// Only the document may be cut, and the query leaves it no token.
    #[error(
        "the query has {query_tokens} tokens, which leaves none of the {max_tokens} allowed for the document, and truncation is document-only"
    )]
    QueryTooLong {
        /// Length of the query, in tokens.
        query_tokens: usize,
        /// Longest row allowed, in tokens.
        max_tokens: usize,
    },
    /// The tokenizer itself failed; a vocabulary without its unknown token can.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
}

/// A tokenizer ready to turn (query, document) pairs into rows.
pub struct PairEncoder {
    text: TextEncoder,
    pair: Template,
}

impl PairEncoder {
    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if they cannot be read, or make pairs that are not type 0 and then type 1.
    pub fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        // `tokenizers` can use threads, which a component has not got.
        tokenizers::parallelism::set_parallelism(false);
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| LoadError::Unreadable(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| LoadError::Unreadable(error.to_string()))?;
        let pair = Template::of_pair(&tokenizer)?;
        Ok(Self { text: TextEncoder::new(tokenizer), pair })
    }

    /// How many special tokens a pair has.
    #[must_use]
    pub fn special_tokens(&self) -> usize {
        self.pair.special_tokens()
    }

    /// Tokenises a query once, for all the documents that it will be paired with.
    ///
    /// `max_tokens` is the longest row, special tokens included.
    ///
    /// # Errors
    ///
    /// [`PairError::NoRoom`] if the special tokens alone are longer than `max_tokens`, [`PairError::Tokenizer`] if the tokenizer fails.
    pub fn query(&self, text: &str, max_tokens: usize, cut: Cut) -> Result<Query<'_>, PairError> {
        let special_tokens = self.special_tokens();
        if max_tokens < special_tokens {
            return Err(PairError::NoRoom { max_tokens, special_tokens });
        }
        let mut ids = Vec::new();
        self.text.encode(text, None, &mut ids)?;
        Ok(Query { encoder: self, max_tokens, cut, ids, document_ids: Vec::new() })
    }
}

impl fmt::Debug for PairEncoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PairEncoder").field("pair", &self.pair).finish_non_exhaustive()
    }
}

/// A tokenised query that documents are paired with, one after the other.
#[derive(Debug)]
pub struct Query<'encoder> {
    encoder: &'encoder PairEncoder,
    max_tokens: usize,
    cut: Cut,
    /// Of the whole query: how many there are decides what is cut.
    ids: Vec<u32>,
    /// Reused for every document, so that a row costs no allocation of its own.
    document_ids: Vec<u32>,
}

impl Query<'_> {
    /// Tokenises a document and appends the pair to `rows`; tells whether the pair was cut to fit. `rows` is left as it was where this fails.
    ///
    /// # Errors
    ///
    /// [`PairError`] if the pair does not fit and may not be cut, or the tokenizer fails.
    pub fn push_pair(&mut self, document: &str, rows: &mut Rows) -> Result<bool, PairError> {
        let Self { encoder: PairEncoder { text, pair }, max_tokens, cut, ref ids, ref mut document_ids } = *self;
        document_ids.clear();
        let extent = text.encode(document, cut.document_stop(ids.len(), max_tokens), document_ids)?;
        let kept = cut.keep(ids.len(), document_ids.len(), max_tokens, pair.special_tokens())?;
        pair.push(&ids[..kept.query], &document_ids[..kept.document], rows);
        let whole = extent == Extent::Whole && kept.query == ids.len() && kept.document == document_ids.len();
        Ok(!whole)
    }
}
