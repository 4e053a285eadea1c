//! What wasmtime generates from the contract in `wit/`, and from its first version.
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::missing_errors_doc,
    reason = "generated; the contract's own documentation is in wit/"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "tenant",
    imports: { default: async | trappable },
    exports: { default: async },
    with: { "assay:rerank/inference.model": super::models::OpenModel },
});

/// `assay:rerank@0.1.0`.
pub(super) mod first {
    wasmtime::component::bindgen!({
        path: "../wit/0.1.0",
        world: "tenant",
        imports: { default: async | trappable },
        exports: { default: async },
        with: { "assay:rerank/inference.model": crate::guest::models::OpenModel },
    });
}

/// Components that call tenants.
pub(super) mod caller {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "caller",
        imports: { default: async | trappable },
        named_imports: { "assay:rerank/reranker": crate::guest::link::Label },
    });
}

/// Components that call tenants by `assay:rerank@0.1.0`.
pub(super) mod first_caller {
    wasmtime::component::bindgen!({
        path: "../wit/0.1.0",
        world: "caller",
        imports: { default: async | trappable },
        named_imports: { "assay:rerank/reranker": crate::guest::link::Label },
    });
}
