//! The default guest: scores every document with the tenant's default model and ranks them.
//!
//! Also the example to start from. A guest of your own changes the query or the documents before they are scored, or
//! the scores before they are ranked, with the parts of [`assay_guest::rerank`].
//!
//! Settings: `label`, the label to rank by, counted from 0, for a model with several; and the three that the contract
//! names. Others are refused.

use assay_guest::{Error, Guest, Request, Response};

struct Standard;

impl Guest for Standard {
    fn prepare() {
        assay_guest::prepare();
    }

    fn rerank(request: Request) -> Result<Response, Error> {
        assay_guest::check_settings(&request)?;
        assay_guest::rerank(&request)
    }
}

assay_guest::export!(Standard);
