//! Components that call tenants, run to their end: programs of the operator, as `wasi:cli/command` has them.
//!
//! Such a component imports `assay:rerank/reranker`, by itself or several times under labels of its own
//! (`import news: assay:rerank/reranker@0.2.0;`). A [`Link`](super::Link) stands behind each import. A call leaves the
//! component's store as plain values. The tenant answers it in the tenant's own store, and the answer comes back as a
//! value. A trap of the tenant's guest is an error value for the caller, and never traps it.
//!
//! The component has an engine of its own. It runs without epochs and without the pool of the tenants' guests, and has
//! standard streams, arguments and the variables that it is given, clocks and random numbers. It has no files and no
//! network. Its memory is bounded, and its time is not.

mod program;

pub use self::program::{CallerComponent, CallerFault, CallerSetting, DEFAULT_MAX_CALLER_MEMORY_BYTES};
