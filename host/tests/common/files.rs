//! What the tests of `assay rerank` with files share.

use std::path::Path;

use serde_json::{Value, json};

pub const DOCUMENTS: [&str; 4] = ["blue sky", "red sun", "green sea moon", "moon"];

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Hits without ids.
pub fn plain(hits: &Value) -> Value {
    let plain = |hit: &Value| json!({ "index": hit["index"], "score": hit["score"] });
    hits.as_array().unwrap().iter().map(plain).collect()
}
