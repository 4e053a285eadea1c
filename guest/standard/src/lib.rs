//! The default guest: scores every document with the tenant's default model and ranks them.
//!
//! It is also the example to start from. A guest of one's own changes the query or the documents before they are scored, or the scores before they are ranked; see the parts that [`assay_guest::rerank`] is made of.
//!
//! Settings it knows: `label`, the number, from 0, of the label to rank by, for a model that has several.

use assay_guest::{Error, Guest, Request, Response};

struct Standard;

impl Guest for Standard {
    fn prepare() {
        assay_guest::prepare();
    }

    fn rerank(request: Request) -> Result<Response, Error> {
        assay_guest::rerank(&request)
    }
}

assay_guest::export!(Standard);
