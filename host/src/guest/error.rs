//! Why a component cannot be a guest.

use std::path::PathBuf;

use crate::rerank::RerankError;

/// Why a component cannot be a guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The component is too large.
    #[error("{name} has {bytes} bytes, a component may have {limit_bytes}")]
    TooLarge {
        /// The component's name.
        name: String,
        /// Its size.
        bytes: u64,
        /// The most that it may have.
        limit_bytes: u64,
    },
    /// Not WebAssembly.
    #[error("{name} is not WebAssembly: a guest is a component, as `wasm-tools component new` makes it")]
    NotWasm {
        /// The component's name.
        name: String,
    },
    /// A core module.
    #[error("{name} is a core module, not a component: make it one with `wasm-tools component new`")]
    CoreModule {
        /// The component's name.
        name: String,
    },
    /// The component is not valid, or cannot be compiled.
    #[error("{name} cannot be compiled: {cause:#}")]
    Compile {
        /// The component's name.
        name: String,
        /// What the compiler said.
        cause: wasmtime::Error,
    },
    /// The component is not a `tenant`: it lacks an export, or imports what the host does not provide.
    #[error("{name} is not a guest of assay:rerank/tenant: {cause:#}")]
    NotATenant {
        /// The component's name.
        name: String,
        /// What is missing.
        cause: wasmtime::Error,
    },
    /// The component is not a program that calls tenants: it is no command, or imports what the host does not provide.
    #[error(
        "{name} cannot be run: {cause:#}; a program may import assay:rerank/reranker (0.1.0 or 0.2.0, under labels too) and WASI 0.2 without http, and must export wasi:cli/run"
    )]
    NotACaller {
        /// The component's name.
        name: String,
        /// What is missing.
        cause: wasmtime::Error,
    },
    /// `prepare` failed.
    #[error("{name} cannot be prepared: {cause}")]
    Prepare {
        /// The component's name.
        name: String,
        /// Why.
        cause: RerankError,
    },
    /// The WebAssembly engine cannot be set up on this machine.
    #[error("the WebAssembly engine cannot be set up: {0}")]
    Engine(#[from] EngineError),
}

/// Why the WebAssembly engine cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine itself failed, for example because the address space cannot be reserved.
    #[error("{0:#}")]
    Wasmtime(wasmtime::Error),
    /// The system starts no thread for the epoch clock or for `prepare`.
    #[error("no thread can be started: {0}")]
    Thread(std::io::Error),
}
