//! Requests from a JSONL file, whole or cut into batches of another size.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use assay::json::RequestLine;
use assay::rerank::Request;

/// Reads every request of a file, one `{"query": …, "documents": […]}` a line.
///
/// # Errors
/// The file cannot be read, a line is not a request, or there are no lines.
pub fn read(path: &Path) -> Result<Vec<Request>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let requests: Vec<Request> = lines
        .map(|(index, line)| parse(line).with_context(|| format!("{} line {}", path.display(), index + 1)))
        .collect::<Result<_>>()?;
    ensure!(!requests.is_empty(), "{} has no requests", path.display());
    Ok(requests)
}

fn parse(line: &str) -> Result<Request> {
    let RequestLine { query, documents } = serde_json::from_str(line)?;
    ensure!(!documents.is_empty(), "the request has no documents");
    Ok(Request { query, documents: documents.into_iter().map(String::from).collect(), ..Default::default() })
}

/// Gives each query exactly `batch` documents: its own first, then those of the following requests, starting over at
/// the end of the file.
pub(super) fn rebatch(requests: &[Request], batch: usize) -> Vec<Request> {
    let from = |index: usize| {
        let documents = requests[index..].iter().chain(&requests[..index]).flat_map(|request| &request.documents);
        let documents = documents.cycle().take(batch).cloned().collect();
        Request { documents, ..requests[index].clone() }
    };
    (0..requests.len()).map(from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_its_own_documents_first_and_starts_over_at_the_end() {
        let line = |query: &str, documents: &str| parse(&format!(r#"{{"query":"{query}","documents":{documents}}}"#));
        let requests = [line("a", r#"["1", {"text": "2"}]"#).unwrap(), line("b", r#"["3"]"#).unwrap()];
        let batches = |batch| -> Vec<Vec<String>> {
            rebatch(&requests, batch).into_iter().map(|request| request.documents).collect()
        };
        assert_eq!(batches(1), [["1"], ["3"]]);
        assert_eq!(batches(4), [["1", "2", "3", "1"], ["3", "1", "2", "3"]]);
        assert_eq!(rebatch(&requests, 4)[1].query, "b");
    }

    #[test]
    fn a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("requests.jsonl");
        std::fs::write(&path, "{\"query\":\"a\",\"documents\":[\"1\"]}\n\n{\"query\":\"a\"}\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("requests.jsonl line 3"));
        std::fs::write(&path, "\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("has no requests"));
    }
}
