//! A guest: what a tenant does with a request.
//!
//! As it stands, it answers as the standard guest does. A guest of your own changes the query or the documents before
//! they are scored, or the scores before they are ranked, with the parts of `assay_guest`.

use assay_guest::{Error, Guest, Request, Response};

struct MyGuest;

impl Guest for MyGuest {
    /// Called once, at deployment: later instances start with the memory that this leaves.
    fn prepare() {
        assay_guest::prepare();
    }

    fn rerank(request: Request) -> Result<Response, Error> {
        assay_guest::check_settings(&request)?;
        assay_guest::rerank(&request)
    }
}

assay_guest::export!(MyGuest);
