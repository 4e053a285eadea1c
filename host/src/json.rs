//! Requests as JSON: what request files and HTTP bodies have in common.

pub mod text;

use serde::Deserialize;

/// One line of a requests file. Fields that we do not know are ignored: such files carry labels and ids of their own.
#[derive(Debug, Deserialize)]
pub struct RequestLine {
    /// The text to rank the documents for.
    pub query: String,
    /// The candidate documents.
    pub documents: Vec<Document>,
}

/// A document: its text, or an object with one.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a document must be a string or an object with a \"text\"")]
pub enum Document {
    /// `"…"`.
    Text(String),
    /// `{"text": "…"}`; other fields are ignored.
    Object {
        /// The text.
        text: String,
    },
}

impl From<Document> for String {
    fn from(document: Document) -> Self {
        match document {
            Document::Text(text) | Document::Object { text } => text,
        }
    }
}
