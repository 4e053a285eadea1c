//! Models: [checks](check) and [adds](add) directories, keeps them by revision ([`store`]), and fetches them from a hub
//! ([`hub`]) or a Python package ([`builtin`]). [`device`](crate::device) loads them.

mod add;
pub mod builtin;
pub(crate) mod check;
mod error;
pub mod hub;
mod info;
pub mod manifest;
mod name;
pub mod store;

pub use add::{Added, Change};
pub use error::{Damage, HubError, ModelError, PackageError, TokenizerFault};
pub use info::{ModelInfo, ModelTask};
pub use manifest::{Manifest, ModelRevision, Source};
pub use store::ModelStore;
