//! Proves that instantiation is limited: the module's `_initialize`, which runs before any export, never returns.
#![allow(unsafe_code, reason = "an export by a name of its own; it touches nothing")]

use assay_bindings::{Error, Guest, Request, Response};

struct SpinsAtStart;

/// Run by the component at instantiation.
// SAFETY: no other item of this module has the name.
#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    loop {
        std::hint::spin_loop();
    }
}

impl Guest for SpinsAtStart {
    fn rerank(_: Request) -> Result<Response, Error> {
        Err(Error::Internal("was never started".into()))
    }
}

assay_bindings::export!(SpinsAtStart);
