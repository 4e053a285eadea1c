//! Why a tokenizer cannot be used, and why a pair does not become a row.

use thiserror::Error;

/// Why a tokenizer cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// This version of `tokenizers` cannot read the bytes as a `tokenizer.json`.
    #[error("tokenizer.json cannot be read: {0}")]
    Unreadable(#[source] tokenizers::Error),
    /// The post-processor makes pairs that rows cannot express.
    #[error("tokenizer.json makes pairs that rows cannot express: {0}")]
    Template(#[from] TemplateError),
}

/// What is wrong with a post-processor's pairs.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A text is missing, or there twice.
    #[error("query and document do not each appear once")]
    TextsNotOnce,
    /// Token types other than 0, or 0 and then 1.
    #[error("token types are not zeros followed by ones")]
    TokenTypes,
    /// `tokenizers` would cut such pairs to another length than the one asked for.
    #[error("it announces {announced} special tokens and adds {added}")]
    SpecialTokens {
        /// How many it says that it adds.
        announced: usize,
        /// How many it adds.
        added: usize,
    },
}

/// Why a pair does not become a row. The caller knows which document it was.
#[derive(Debug, Error)]
pub enum PairError {
    /// Not even the special tokens fit.
    #[error("a pair may have {max_tokens} tokens, but its special tokens alone take {special_tokens}")]
    NoRoom {
        /// Longest row allowed, in tokens.
        max_tokens: usize,
        /// Tokens that the template adds to every pair.
        special_tokens: usize,
    },
    /// The pair is too long and nothing may be cut.
    #[error("the pair has {tokens} tokens, more than the {max_tokens} allowed, and is not to be cut")]
    TooLong {
        /// Length of the whole row, in tokens.
        tokens: usize,
        /// Longest row allowed, in tokens.
        max_tokens: usize,
    },
    /// A text by itself is too long and nothing may be cut.
    #[error("the text has {tokens} tokens, more than the {max_tokens} allowed, and is not to be cut")]
    TextTooLong {
        /// Length of the row, in tokens.
        tokens: usize,
        /// Longest row allowed, in tokens.
        max_tokens: usize,
    },
    /// The tokenizer puts something around a single text that a row cannot express.
    #[error("the tokenizer makes no row of a single text")]
    NoSingle,
    /// The document has more passages than it may, and nothing may be cut.
    #[error("the document has {tokens} tokens, more than its {most} passages hold, and is not to be cut")]
    TooManyPassages {
        /// Length of the document, in tokens.
        tokens: usize,
        /// Most passages allowed.
        most: usize,
    },
    /// Only the document may be cut, and the query leaves it no token.
    #[error(
        "the query has {query_tokens} tokens, which leaves none of the {max_tokens} allowed for the document, and \
         truncation is document-only"
    )]
    QueryTooLong {
        /// Length of the query, in tokens.
        query_tokens: usize,
        /// Longest row allowed, in tokens.
        max_tokens: usize,
    },
    /// The tokenizer itself failed, as one without an unknown token can.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(#[source] tokenizers::Error),
}
