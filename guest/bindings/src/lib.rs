//! Assay's WIT contract in Rust: the types, the host's `inference`, and the trait that a guest implements. It has no
//! logic.
//!
//! A crate apart from `assay-guest`, so that a guest with its own tokenizer, or none, does not carry the one there.
//!
//! Everything compiles for a native target too, so that a guest's logic can be tested. A call to the host aborts there.

#[allow(
    unsafe_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    reason = "wit-bindgen wrote it; the WIT files carry the documentation"
)]
#[doc(hidden)]
pub mod generated {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "tenant",
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "assay_bindings::generated",
    });
}

pub use generated::assay::rerank::inference::Model;
pub use generated::assay::rerank::types::{Error, Exceeded, ModelInfo, Task, TokenRows};
pub use generated::exports::assay::rerank::reranker::{Activation, Hit, Request, Response, Truncation, Usage};

/// A tenant's guest: what the `tenant` world exports. Give it to [`export!`].
pub trait Guest {
    /// Called once, when the guest is deployed. The host then takes a snapshot of the memory, so every later instance
    /// starts with what is loaded here. Must hold no resource when it returns. A trap fails the deployment.
    ///
    /// Does nothing by default.
    fn prepare() {}

    /// Scores the documents of one request and ranks them.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if the request is malformed or does not fit, or an error of the host's `inference`.
    fn rerank(request: Request) -> Result<Response, Error>;
}

/// Exports a type that implements [`Guest`] from this component. Use it once in a `cdylib` crate.
///
/// Exports nothing on a native target, whose linker does not accept a component's export names.
#[macro_export]
macro_rules! export {
    ($guest:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn($crate::Request) -> Result<$crate::Response, $crate::Error> = <$guest as $crate::Guest>::rerank;

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;

            impl $crate::generated::Guest for Exported {
                fn prepare() {
                    <$guest as $crate::Guest>::prepare();
                }
            }

            impl $crate::generated::exports::assay::rerank::reranker::Guest for Exported {
                fn rerank(request: $crate::Request) -> Result<$crate::Response, $crate::Error> {
                    <$guest as $crate::Guest>::rerank(request)
                }
            }

    $crate::generated::export_world!(Exported with_types_in $crate::generated);
        };
    };
}
