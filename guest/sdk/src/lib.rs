//! Everything that a reranking guest needs, so that its author writes only what is special about it.
//!
//! ```
//! use assay_guest::{Error, Guest, Request, Response};
//!
//! struct Mine;
//!
//! impl Guest for Mine {
//!     fn prepare() {
//!         assay_guest::prepare();
//!     }
//!
//!     fn rerank(request: Request) -> Result<Response, Error> {
//!         assay_guest::rerank(&request)
//!     }
//! }
//!
//! assay_guest::export!(Mine);
//! ```
//!
//! [`rerank`] is made of public parts: open a [`Scorer`], call [`Scorer::score`] with any query and documents, change
//! the scores, and [`rank`] them.
//!
//! `encode` and `rank` are plain functions, tested natively against golden token ids; they know nothing of the
//! contract. `settings` reads a request's settings. `scorer` joins all to the host's `inference`, and `embed` does it for
//! embedding models. `entropy` provides the random bytes that a component lacks, and `heap` tidies the memory before a
//! snapshot. Nothing here does input or output, keeps a request's text after its answer, or panics on a request's
//! contents.

mod embed;
mod encode;
#[cfg(target_arch = "wasm32")]
mod entropy;
#[cfg(target_arch = "wasm32")]
mod heap;
mod rank;
mod scorer;
mod settings;

pub use assay_bindings::{
    Activation, Error, Exceeded, Guest, Hit, Model, ModelInfo, Request, Response, Task, TokenRows, Truncation, Usage,
    export,
};
pub use embed::Prefixes;
pub use encode::{
    Cut, End, LoadError, PairEncoder, PairError, Passages, Pushed, Query, Rows, TemplateError, TextLimits,
};
pub use rank::{order, sigmoid};
pub use scorer::{Inference, Scorer, Scores, activate, hits, prepare, rank, rerank, wanted};
pub use settings::{
    Options, SETTING_LABEL, SETTING_MAX_DOCUMENT_TOKENS, SETTING_MAX_QUERY_TOKENS, SETTING_TRUNCATION_DIRECTION,
    Settings, check_settings, invalid,
};
