//! The formats of trec_eval: runs, `query-id Q0 document-id rank score tag`, and relevance judgements (qrels),
//! `query-id 0 document-id grade`, one line per document.

use super::record::{Content, Record};

/// A line of a run: a document found for a query. The score is another system's; the rank says no more than it.
#[derive(Debug, PartialEq)]
pub(in crate::cli) struct RunLine {
    pub(in crate::cli) query_id: String,
    pub(in crate::cli) document_id: String,
    pub(in crate::cli) score: f64,
}

/// A line of qrels: how relevant a document is to a query.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct QrelsLine {
    pub(in crate::cli) query_id: String,
    pub(in crate::cli) document_id: String,
    /// 1 or more for a relevant document.
    pub(in crate::cli) grade: i64,
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
            let (Ok(_), Ok(score)) = (rank.parse::<i64>(), score.parse::<f64>()) else {
                return Err("has no rank and score in columns 4 and 5: a run is \
                            `query-id Q0 document-id rank score tag`"
                    .to_owned());
            };
            Ok(RunLine { query_id: query_id.to_owned(), document_id: document_id.to_owned(), score })
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

/// Reads the text of a line of qrels: four columns, or the three of BEIR, `query-id corpus-id score`.
///
/// # Errors
/// It has other columns, or a grade that is no whole number.
pub(in crate::cli) fn parse_qrels(text: &str) -> Result<QrelsLine, String> {
    const QRELS: &str = "qrels have 4, `query-id 0 document-id grade`, or BEIR's 3, `query-id document-id grade`";
    let columns: Vec<&str> = text.split_ascii_whitespace().take(7).collect();
    let (query_id, document_id, grade) = match columns[..] {
        [query_id, _, document_id, grade] | [query_id, document_id, grade] => (query_id, document_id, grade),
        [_, _, _, _, score, _] if score.parse::<f64>().is_ok() => {
            return Err(format!("has 6 columns, as a run has: {QRELS}"));
        }
        _ if columns.len() > 6 => return Err(format!("has more than 6 columns: {QRELS}")),
        _ => return Err(format!("has {} columns: {QRELS}", columns.len())),
    };
    let grade = grade.parse().map_err(|_| format!("has the grade {grade:.40?}: a grade is a whole number"))?;
    Ok(QrelsLine { query_id: query_id.to_owned(), document_id: document_id.to_owned(), grade })
}

/// Whether a first line holds BEIR's names of columns.
pub(in crate::cli) fn names_qrels(text: &str) -> bool {
    text.split_ascii_whitespace().eq(["query-id", "corpus-id", "score"])
}

/// Whether an id fits in a run, whose columns are separated by white space.
pub(in crate::cli) fn is_column(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}
