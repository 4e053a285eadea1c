//! Which version of the contract a guest was built for, and calls to it in that version.
//!
//! A component names its version in its imports and exports. The host offers all of them; everything behind this module
//! speaks the newest one.

use wasmtime::component::{HasSelf, InstancePre, Linker};
use wasmtime::{Engine, Store};

use super::bindings::assay::rerank::types::Error;
use super::bindings::exports::assay::rerank::reranker as wit;
use super::bindings::{Tenant, TenantPre, first};
use super::convert;
use super::first_contract;
use super::inference::Inference;
use crate::rerank::Request;

/// Offers every version's interfaces to guests.
pub(super) fn add_to_linker<T: Send>(
    linker: &mut Linker<T>,
    inference: fn(&mut T) -> &mut Inference,
) -> wasmtime::Result<()> {
    Tenant::add_to_linker::<_, HasSelf<Inference>>(linker, inference)?;
    first::Tenant::add_to_linker::<_, HasSelf<Inference>>(linker, inference)
}

/// A component that is linked; `T` is what its stores hold.
pub(super) enum GuestPre<T: 'static> {
    Newest(TenantPre<T>),
    First(first::TenantPre<T>),
}

/// An instance of it.
pub(super) enum SpokenGuest {
    Newest(Tenant),
    First(first::Tenant),
}

impl<T: Send> GuestPre<T> {
    /// Finds the exports of the newest version, or else those of an earlier one.
    ///
    /// Fails if there are neither, and says what the newest version lacks.
    pub(super) fn new(component: InstancePre<T>) -> wasmtime::Result<Self> {
        match TenantPre::new(component.clone()) {
            Ok(pre) => Ok(Self::Newest(pre)),
            Err(lacks) => first::TenantPre::new(component).map(Self::First).map_err(|_| lacks),
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        match self {
            Self::Newest(pre) => pre.engine(),
            Self::First(pre) => pre.engine(),
        }
    }

    pub(super) async fn instantiate(&self, store: &mut Store<T>) -> wasmtime::Result<SpokenGuest> {
        match self {
            Self::Newest(pre) => pre.instantiate_async(store).await.map(SpokenGuest::Newest),
            Self::First(pre) => pre.instantiate_async(store).await.map(SpokenGuest::First),
        }
    }
}

impl SpokenGuest {
    pub(super) async fn prepare<T: Send>(&self, store: &mut Store<T>) -> wasmtime::Result<()> {
        match self {
            Self::Newest(guest) => guest.call_prepare(store).await,
            Self::First(guest) => guest.call_prepare(store).await,
        }
    }

    /// Runs one request. The outer error is a trap.
    pub(super) async fn rerank<T: Send>(
        &self,
        store: &mut Store<T>,
        request: Request,
    ) -> wasmtime::Result<Result<wit::Response, Error>> {
        let request = convert::request(request);
        match self {
            Self::Newest(guest) => guest.assay_rerank_reranker().call_rerank(store, &request).await,
            Self::First(guest) => {
                let request = first_contract::request(request);
                let answer = guest.assay_rerank_reranker().call_rerank(store, &request).await?;
                Ok(answer.map(first_contract::response).map_err(first_contract::newest_error))
            }
        }
    }
}
