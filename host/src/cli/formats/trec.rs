//! TREC runs: `query-id Q0 document-id rank score tag`, one line per document, the format of trec_eval.

use super::record::{Content, Record};

/// A line of a run: a document found for a query. Rank and score are another system's.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct RunLine {
    pub(in crate::cli) query_id: String,
    pub(in crate::cli) document_id: String,
}

/// Reads a line of a run.
///
/// # Errors
/// It has other columns than a run.
pub(in crate::cli) fn parse(record: &Record) -> Result<RunLine, String> {
    let Content::Text(text) = &record.content else { return Err("is not a line of text".to_owned()) };
    parse_text(text)
}

/// Reads the text of a line.
///
/// # Errors
/// It has other columns than a run.
pub(in crate::cli) fn parse_text(text: &str) -> Result<RunLine, String> {
    let columns: Vec<&str> = text.split_ascii_whitespace().take(7).collect();
    match columns[..] {
        [query_id, _, document_id, rank, score, _] => {
            if rank.parse::<i64>().is_err() || score.parse::<f64>().is_err() {
                return Err("has no rank and score in columns 4 and 5: a run is \
                            `query-id Q0 document-id rank score tag`"
                    .to_owned());
            }
            Ok(RunLine { query_id: query_id.to_owned(), document_id: document_id.to_owned() })
        }
        [_, _, _, judged] if judged.parse::<i64>().is_ok() => {
            Err("has 4 columns, as relevance judgements (qrels) have: a run has 6, \
                 `query-id Q0 document-id rank score tag`"
                .to_owned())
        }
        _ => Err(format!(
            "has {} columns: a run has 6, `query-id Q0 document-id rank score tag`",
            if columns.len() > 6 { "more than 6".to_owned() } else { columns.len().to_string() }
        )),
    }
}

/// Whether an id fits in a run, whose columns are separated by white space.
pub(in crate::cli) fn is_column(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}
