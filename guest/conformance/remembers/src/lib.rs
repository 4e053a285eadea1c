//! Proves that an instance is fresh, or reused if its tenant allows that: `usage.tokens` of an answer is the number of
//! requests that the instance has served, `usage.rows` the number of times that `prepare` ran in its memory.

use std::sync::atomic::{AtomicU32, Ordering};

use assay_bindings::{Error, Guest, Request, Response, Usage};

static PREPARED: AtomicU32 = AtomicU32::new(0);
static SERVED: AtomicU32 = AtomicU32::new(0);

struct Remembers;

impl Guest for Remembers {
    fn prepare() {
        PREPARED.fetch_add(1, Ordering::Relaxed);
    }

    fn rerank(_: Request) -> Result<Response, Error> {
        let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;
        let usage = Usage { tokens: served.into(), rows: PREPARED.load(Ordering::Relaxed), truncated: 0 };
        Ok(Response { hits: Vec::new(), usage })
    }
}

assay_bindings::export!(Remembers);
