//! Text to rows: tokenises a query and its documents exactly as Hugging Face's `tokenizers` does, and the query only
//! once.
//!
//! | part | what it does |
//! | --- | --- |
//! | `text` | text to token ids, by `flat` or `bert` if they can, by `stages` otherwise |
//! | `stages` | the crate's own stages |
//! | `flat` | byte-level BPE and Unigram in flat tables, for all texts |
//! | `bert` | the fast path for BERT's tokenizer |
//! | `pieces` | the vocabulary of the fast path |
//! | `template` | the special tokens around a pair, from the tokenizer's post-processor |
//! | `truncate` | how many tokens of each side stay |
//! | `passages` | a long document as several rows |
//! | `single` | a text alone in a row, for embeddings |
//! | `rows` | rows packed end to end |
//!
//! Every row of a reranker is a pair, even if a text is empty or nothing is left of it: `[CLS] query [SEP] [SEP]`, as
//! `tokenizers` and sentence-transformers' `CrossEncoder` have it. (In `transformers`, `tokenizer(query, "")` leaves an
//! empty second text out, but `tokenizer([query], [""])`, which rerankers call, does not.)
//!
//! Settings for truncation and padding in a `tokenizer.json` are dropped when it is loaded: the request and the model
//! decide how long a row may be, and rows are never padded.

mod bert;
mod error;
mod flat;
mod passages;
mod pieces;
mod rows;
mod single;
mod stages;
mod template;
mod text;
mod truncate;

use std::fmt;

use tokenizers::Tokenizer;

pub use error::{LoadError, PairError, TemplateError};
pub use passages::{Passages, Pushed};
pub use rows::Rows;
pub use single::TextLimits;
pub use truncate::{Cut, End};

use flat::Recognised;
use stages::Extent;
use template::{Single, Template};
use text::TextEncoder;

/// A tokenizer ready to turn (query, document) pairs into rows.
pub struct PairEncoder {
    text: TextEncoder,
    pair: Template,
    single: Option<Single>,
}

impl PairEncoder {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if it cannot be read, or if its pairs are not token type 0 and then type 1.
    pub fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        match flat::read(json) {
            Some(recognised) => Self::of_recognised(recognised),
            None => Self::of_crate(json),
        }
    }

    /// As [`from_json`](Self::from_json), but gives the file's memory back before it builds tables: a guest's memory
    /// never shrinks, so its peak is its size.
    ///
    /// # Errors
    ///
    /// As [`from_json`](Self::from_json).
    pub fn from_owned_json(mut json: Vec<u8>) -> Result<Self, LoadError> {
        let Some(recognised) = flat::read(&json) else { return Self::of_crate(&json) };
        // So that no text of it stays in a snapshot.
        json.fill(0);
        drop(std::hint::black_box(json));
        Self::of_recognised(recognised)
    }

    fn of_recognised(recognised: Recognised) -> Result<Self, LoadError> {
        let (pair, single) = (Template::of_pair(&recognised.tokenizer)?, Single::of(&recognised.tokenizer));
        Ok(Self { text: TextEncoder::flat(recognised.build()), pair, single })
    }

    fn of_crate(json: &[u8]) -> Result<Self, LoadError> {
        // `tokenizers` would start threads, and a component has none.
        tokenizers::parallelism::set_parallelism(false);
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(LoadError::Unreadable)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(LoadError::Unreadable)?;
        let (pair, single) = (Template::of_pair(&tokenizer)?, Single::of(&tokenizer));
        Ok(Self { text: TextEncoder::of_crate(tokenizer), pair, single })
    }

    /// Whether texts become ids without the crate's model: by flat tables, for every text.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        matches!(self.text, TextEncoder::Flat(_))
    }

    /// The number of special tokens of a pair.
    #[must_use]
    pub fn special_tokens(&self) -> usize {
        self.pair.special_tokens()
    }

    /// Tokenises a query, once for all documents.
    ///
    /// `max_tokens` is the longest row, special tokens included.
    ///
    /// # Errors
    ///
    /// [`PairError::NoRoom`] if the special tokens alone are longer than `max_tokens`, [`PairError::Tokenizer`] if the
    /// tokenizer fails.
    pub fn query(&self, text: &str, max_tokens: usize, cut: Cut) -> Result<Query<'_>, PairError> {
        let special_tokens = self.special_tokens();
        if max_tokens < special_tokens {
            return Err(PairError::NoRoom { max_tokens, special_tokens });
        }
        let mut ids = Vec::new();
        self.text.encode(text, None, &mut ids)?;
        Ok(Query {
            encoder: self,
            max_tokens,
            cut,
            end: End::Right,
            max_document_tokens: None,
            ids,
            is_cut: false,
            document_ids: Vec::new(),
        })
    }
}

impl fmt::Debug for PairEncoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PairEncoder").field("pair", &self.pair).finish_non_exhaustive()
    }
}

/// A tokenised query, to be paired with one document after the other.
#[derive(Debug)]
pub struct Query<'encoder> {
    encoder: &'encoder PairEncoder,
    max_tokens: usize,
    cut: Cut,
    end: End,
    max_document_tokens: Option<usize>,
    /// The ids of the query: their number decides what is cut.
    ids: Vec<u32>,
    /// Whether the query itself was cut, so that every pair is.
    is_cut: bool,
    /// Reused for every document, so that a row costs no allocation.
    document_ids: Vec<u32>,
}

impl Query<'_> {
    /// Cuts texts off at this end; at [`End::Right`] by default. Call it before [`limit_sides`](Self::limit_sides).
    pub fn cut_from(&mut self, end: End) {
        self.end = end;
    }

    /// Cuts the query, and each document, to so many tokens before they are paired.
    pub fn limit_sides(&mut self, query_tokens: Option<usize>, document_tokens: Option<usize>) {
        if let Some(most) = query_tokens
            && most < self.ids.len()
        {
            let kept = self.end.keep(&self.ids, most).to_vec();
            (self.ids, self.is_cut) = (kept, true);
        }
        self.max_document_tokens = document_tokens;
    }

    /// Tokenises a document, appends the pair to `rows`, and returns whether the pair was cut to fit. On an error,
    /// `rows` is unchanged.
    ///
    /// # Errors
    ///
    /// [`PairError`] if the pair does not fit and may not be cut, or the tokenizer fails.
    pub fn push_pair(&mut self, document: &str, rows: &mut Rows) -> Result<bool, PairError> {
        let Self { encoder, max_tokens, cut, end, max_document_tokens, ref ids, ref mut document_ids, is_cut } = *self;
        let PairEncoder { text, pair, .. } = encoder;
        document_ids.clear();
        let stop = match end {
            End::Right => {
                let stop = cut.document_stop(ids.len(), max_tokens);
                stop.into_iter().chain(max_document_tokens).min()
            }
            // What stays is at the end.
            End::Left => None,
        };
        let extent = text.encode(document, stop, document_ids)?;
        let limited = end.keep(document_ids, max_document_tokens.unwrap_or(usize::MAX));
        let kept = cut.keep(ids.len(), limited.len(), max_tokens, pair.special_tokens())?;
        pair.push(end.keep(ids, kept.query), end.keep(limited, kept.document), rows);
        let whole = extent == Extent::Whole && kept.query == ids.len() && kept.document == document_ids.len();
        Ok(is_cut || !whole)
    }
}
