//! The contract as callers import it, in each of its versions: finds the imports of a component and puts a [`Link`]
//! behind each. Never decides which tenant that is.

use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::guest::link::Link;
use crate::rerank::{CallError, Request, Response};

/// What a store must hold for its component to call tenants.
pub(super) trait Calls: Send {
    /// What is behind the import without a label.
    fn unlabelled(&self) -> wasmtime::Result<Link>;
}

/// What an import is said to implement, or is named, in each version of the contract; later versions of the same minor
/// number are the same to a component.
const VERSIONS: [(&str, &str); 2] = [
    ("assay:rerank/reranker@0.2.0", "assay:rerank/reranker@0.2."),
    ("assay:rerank/reranker@0.1.0", "assay:rerank/reranker@0.1."),
];

/// The labels of a component's imports of `reranker`, in its order. `None` is the import without a label.
pub(super) fn labels(engine: &Engine, component: &Component) -> Vec<Option<String>> {
    let mut labels = Vec::new();
    for (name, import) in component.component_type().imports(engine) {
        let label = if VERSIONS.iter().any(|(interface, _)| import.is_implements(interface)) {
            Some(name.to_owned())
        } else if import.implements.is_none() && VERSIONS.iter().any(|(_, track)| name.starts_with(track)) {
            None
        } else {
            continue;
        };
        // A component may import both versions without a label.
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    labels
}

/// Puts a link behind each import of `reranker`.
///
/// # Errors
/// `link` fails for a label.
pub(super) fn add_to_linker<T: Calls + 'static>(
    linker: &mut Linker<T>,
    component: &Component,
    link: impl Fn(&str) -> wasmtime::Result<Link>,
) -> wasmtime::Result<()> {
    newest::add_to_linker(linker, component, &link)?;
    first::add_to_linker(linker, component, &link)
}

/// One version of the contract. `$bindings` has its types, and `$unavailable` is the case of its `error` for a tenant
/// or a device that cannot answer now.
macro_rules! version {
    ($version:ident, $bindings:ident, $unavailable:ident) => {
        mod $version {
            use wasmtime::component::HasData;

            use super::*;
            use crate::guest::bindings::$bindings::assay::rerank::reranker as wit;
            use crate::guest::bindings::$bindings::assay::rerank::types;
            use crate::guest::bindings::$bindings::named_imports::assay::rerank::reranker as labelled;
            use crate::rerank::{Activation, Truncation};

            /// The host's side of a store's calls, in this version.
            pub(super) struct Host<'a, T>(&'a mut T);

            struct HasHost<T>(std::marker::PhantomData<T>);

            impl<T: Calls + 'static> HasData for HasHost<T> {
                type Data<'a> = Host<'a, T>;
            }

            pub(super) fn add_to_linker<T: Calls + 'static>(
                linker: &mut Linker<T>,
                component: &Component,
                link: &impl Fn(&str) -> wasmtime::Result<Link>,
            ) -> wasmtime::Result<()> {
                types::add_to_linker::<T, HasHost<T>>(linker, |store| Host(store))?;
                wit::add_to_linker::<T, HasHost<T>>(linker, |store| Host(store))?;
                labelled::add_to_linker::<T, HasHost<T>>(linker, component, link, |store| Host(store))
            }

            impl<T: Calls> types::Host for Host<'_, T> {}

            impl<T: Calls> wit::Host for Host<'_, T> {
                async fn rerank(
                    &mut self,
                    request: wit::Request,
                ) -> wasmtime::Result<Result<wit::Response, wit::Error>> {
                    Ok(ask(self.0.unlabelled()?, request).await)
                }
            }

            impl<T: Calls> labelled::Host for Host<'_, T> {
                async fn rerank(
                    &mut self,
                    link: Link,
                    asked: wit::Request,
                ) -> wasmtime::Result<Result<wit::Response, wit::Error>> {
                    Ok(ask(link, asked).await)
                }
            }

            async fn ask(link: Link, asked: wit::Request) -> Result<wit::Response, types::Error> {
                link.ask(request(asked)).await.map(response).map_err(error)
            }

            fn request(asked: wit::Request) -> Request {
                Request {
                    query: asked.query,
                    documents: asked.documents,
                    top_n: asked.top_n,
                    max_tokens: asked.max_tokens,
                    truncation: match asked.truncation {
                        wit::Truncation::None => Truncation::None,
                        wit::Truncation::LongestFirst => Truncation::LongestFirst,
                        wit::Truncation::DocumentOnly => Truncation::DocumentOnly,
                    },
                    activation: match asked.activation {
                        wit::Activation::None => Activation::None,
                        wit::Activation::Sigmoid => Activation::Sigmoid,
                    },
                    settings: asked.settings,
                }
            }

            fn response(Response { hits, usage, .. }: Response) -> wit::Response {
                wit::Response {
                    hits: hits.iter().map(|hit| wit::Hit { index: hit.index, score: hit.score }).collect(),
                    usage: wit::Usage { tokens: usage.tokens, rows: usage.rows, truncated: usage.truncated },
                }
            }

            fn error(error: CallError) -> types::Error {
                match error {
                    CallError::AccessDenied(model) => types::Error::AccessDenied(model),
                    CallError::NotFound(model) => types::Error::NotFound(model),
                    CallError::InvalidInput(message) => types::Error::InvalidInput(message),
                    CallError::TooLarge { limit, requested, allowed } => {
                        types::Error::TooLarge(types::Exceeded { limit, requested, allowed })
                    }
                    CallError::Overloaded { retry_after_ms } => types::Error::Overloaded(retry_after_ms),
                    CallError::Unavailable { retry_after_ms } => types::Error::$unavailable(retry_after_ms),
                    CallError::DeadlineExceeded => types::Error::DeadlineExceeded,
                    CallError::Internal(message) => types::Error::Internal(message),
                }
            }
        }
    };
}

version!(newest, caller, Unavailable);
// A tenant that cannot answer now is an overloaded one in the first version's words.
version!(first, first_caller, Overloaded);
