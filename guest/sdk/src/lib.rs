//! Everything a reranking guest needs, so that its author writes only what is special about it.
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
//! [`rerank`] does what a request asks for and is made of public parts: open a [`Scorer`], call [`Scorer::score`] on any query and documents, change the scores, [`rank`] them.
//!
//! Two halves. `encode` and `rank` are plain functions of their arguments, tested on the build machine against golden token ids; they know nothing of the contract. `scorer` joins them to the host's `inference`, `entropy` answers for the random numbers that a component has not got, and `heap` settles the memory that a snapshot is taken of. Nothing here does input or output, keeps a request's text after its answer, or panics on what a request holds.

mod encode;
#[cfg(target_arch = "wasm32")]
mod entropy;
#[cfg(target_arch = "wasm32")]
mod heap;
mod rank;
mod scorer;

pub use assay_bindings::{
    Activation, Error, Exceeded, Guest, Hit, Model, ModelInfo, Request, Response, Task, TokenRows, Truncation, Usage,
    export,
};
pub use encode::{Cut, LoadError, PairEncoder, PairError, Query, Rows, TemplateError};
pub use rank::{order, sigmoid};
pub use scorer::{Inference, Options, SETTING_LABEL, Scorer, Scores, activate, prepare, rank, rerank};
