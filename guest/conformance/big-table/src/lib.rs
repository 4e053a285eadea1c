//! Proves that tables are limited: `build.rs` gives it a table of 25,000 elements more than its functions need. If the
//! limit allows them, it answers with no hits.

use assay_bindings::{Error, Guest, Request, Response, Usage};

struct BigTable;

impl Guest for BigTable {
    fn rerank(_: Request) -> Result<Response, Error> {
        Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } })
    }
}

assay_bindings::export!(BigTable);
