//! The contract as components import it, in each of its versions: finds the imports of a component and has its store
//! ask the tenant behind each. Never decides which tenant that is.

use std::borrow::Cow;

use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use super::link::Label;
use crate::rerank::{CallError, Request, Response};

/// What a store must do for its component to call tenants.
pub(super) trait Calls: Send {
    /// Asks the tenant behind an import, which has this label or none.
    fn call(
        &mut self,
        label: Option<&str>,
        request: Request,
    ) -> impl Future<Output = Result<Response, CallError>> + Send;
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

/// Adds a component's imports of `reranker` to a linker.
pub(super) fn add_to_linker<T: Calls + 'static>(linker: &mut Linker<T>, component: &Component) -> wasmtime::Result<()> {
    newest::add_to_linker(linker, component)?;
    first::add_to_linker(linker, component)
}

/// A linker that has a component's imports of `reranker` too. A linker has labels, so each component that has some
/// needs one of its own; making it takes microseconds.
pub(super) fn extended<'a, T: Calls + 'static>(
    linker: &'a Linker<T>,
    component: &Component,
) -> wasmtime::Result<Cow<'a, Linker<T>>> {
    if labels(component.engine(), component).is_empty() {
        return Ok(Cow::Borrowed(linker));
    }
    let mut linker = linker.clone();
    add_to_linker(&mut linker, component)?;
    Ok(Cow::Owned(linker))
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
            ) -> wasmtime::Result<()> {
                types::add_to_linker::<T, HasHost<T>>(linker, |store| Host(store))?;
                wit::add_to_linker::<T, HasHost<T>>(linker, |store| Host(store))?;
                let label = |label: &str| Ok(Label(label.into()));
                labelled::add_to_linker::<T, HasHost<T>>(linker, component, label, |store| Host(store))
            }

            impl<T: Calls> types::Host for Host<'_, T> {}

            impl<T: Calls> wit::Host for Host<'_, T> {
                async fn rerank(&mut self, asked: wit::Request) -> wasmtime::Result<Result<wit::Response, wit::Error>> {
                    Ok(self.0.call(None, request(asked)).await.map(response).map_err(error))
                }
            }

            impl<T: Calls> labelled::Host for Host<'_, T> {
                async fn rerank(
                    &mut self,
                    Label(label): Label,
                    asked: wit::Request,
                ) -> wasmtime::Result<Result<wit::Response, wit::Error>> {
                    Ok(self.0.call(Some(&*label), request(asked)).await.map(response).map_err(error))
                }
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
                    CallError::Overloaded { retry_after_ms, .. } => types::Error::Overloaded(retry_after_ms),
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
