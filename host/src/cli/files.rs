//! The file formats of `assay rerank` for other programs, such as the bench: requests, texts by their ids, runs, and
//! relevance judgements.
//!
//! Every error names the file and the line. Reads no models and ranks nothing.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::CliError;
use super::formats::{
    Content, FieldChoice, Fields, Format, Header, KEEP_FIELD_HINT, Lookup, OpenFile, Overrides, Record, RequestRules,
    trec,
};
use crate::limits::RequestLimits;

/// The names of fields and columns.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FieldArgs {
    /// The field or column that is a text, id, query or query-id; several text fields are joined by spaces
    #[arg(long = "field", value_name = "ROLE=NAME")]
    fields: Vec<FieldChoice>,
}

/// A request of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileRequest {
    /// File and line, for messages.
    pub place: String,
    /// The caller's name for it.
    pub id: Option<String>,
    /// The text to rank the documents for.
    pub query: String,
    /// The candidate documents.
    pub documents: Vec<FileDocument>,
    /// Further fields that were asked for.
    pub kept: Map<String, Value>,
}

/// A document of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDocument {
    /// The caller's name for it.
    pub id: Option<String>,
    /// Its text.
    pub text: String,
}

/// A document that another system found for a query: a line of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// File and line, for messages.
    pub place: String,
    /// The query's id.
    pub query_id: String,
    /// The document's id.
    pub document_id: String,
    /// The other system's score; finite.
    pub score: f64,
}

/// How relevant a document is to a query: a line of qrels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// File and line, for messages.
    pub place: String,
    /// The query's id.
    pub query_id: String,
    /// The document's id.
    pub document_id: String,
    /// 1 or more for a relevant document.
    pub grade: i64,
}

/// Reads requests in JSONL or a JSON array, `{"query": …, "documents": […]}` each, with the further fields `keep`.
///
/// # Errors
/// The file cannot be read, has another format or no requests, or one of them is bad or has a setting such as
/// `max_tokens`, which is the caller's to decide.
pub fn read_requests(path: &Path, names: &FieldArgs, keep: &[&str]) -> Result<Vec<FileRequest>, CliError> {
    let fields = Fields::new(&names.fields);
    let file = OpenFile::open(path, Format::Auto, Format::Jsonl)?;
    let name = file.name().clone();
    if matches!(file.format(), Format::Lines | Format::Csv | Format::Tsv) {
        return Err(CliError::bad_input("requests are JSONL or a JSON array here: convert the file").at(&name));
    }
    let keep = keep.iter().map(|&name| name.to_owned()).collect();
    let rules = RequestRules { fields: fields.clone(), keep, max_documents: RequestLimits::default().max_documents };
    let (mut records, _) = file.records(Header::FirstRow, &fields)?;
    let mut requests = Vec::new();
    while let Some(record) = records.read() {
        let record = record?;
        let request = request(&record, &rules);
        requests.push(request.map_err(|message| CliError::bad_input(message).at(&record.place.to_string()))?);
    }
    if requests.is_empty() {
        return Err(CliError::bad_input("has no requests").at(&name));
    }
    Ok(requests)
}

fn request(record: &Record, rules: &RequestRules) -> Result<FileRequest, String> {
    let Content::Json(json) = &record.content else { return Err("is not JSON".to_owned()) };
    // The option that the hint names is another command's.
    let line = rules.parse(json).map_err(|error| error.replace(KEEP_FIELD_HINT, ""))?;
    if let Some(name) = setting(&line.overrides) {
        return Err(format!("has {name:?}, which the command decides for all requests: remove it"));
    }
    let documents = line.documents.into_iter();
    Ok(FileRequest {
        place: record.place.to_string(),
        id: line.id.map(|id| id.to_string()),
        query: line.query,
        documents: documents
            .map(|document| FileDocument { id: document.id.map(|id| id.to_string()), text: document.text })
            .collect(),
        kept: line.kept,
    })
}

/// The name of a setting that a request has.
fn setting(overrides: &Overrides) -> Option<&'static str> {
    let Overrides { top_n, max_tokens, truncation, scores, settings, model } = overrides;
    [
        (top_n.is_some(), "top_n"),
        (max_tokens.is_some(), "max_tokens"),
        (truncation.is_some(), "truncation"),
        (scores.is_some(), "scores"),
        (!settings.is_empty(), "settings"),
        (model.is_some(), "model"),
    ]
    .into_iter()
    .find_map(|(is_there, name)| is_there.then_some(name))
}

/// Reads the lines of a TREC run.
///
/// # Errors
/// The file cannot be read, is empty, or a line is not of a run.
pub fn read_run(path: &Path) -> Result<Vec<Found>, CliError> {
    read_lines(path, |_, text, place| {
        let line = trec::parse_text(text)?;
        if !line.score.is_finite() {
            return Err(format!("has the score {}: a score is a finite number", line.score));
        }
        let (query_id, document_id, score) = (line.query_id, line.document_id, line.score);
        Ok(Some(Found { place, query_id, document_id, score }))
    })
}

/// Reads relevance judgements: TREC's qrels, or BEIR's with or without their names of columns.
///
/// # Errors
/// The file cannot be read, is empty, or a line is not a judgement.
pub fn read_qrels(path: &Path) -> Result<Vec<Judgement>, CliError> {
    read_lines(path, |number, text, place| {
        if number == 0 && trec::names_qrels(text) {
            return Ok(None);
        }
        let line = trec::parse_qrels(text)?;
        let (query_id, document_id, grade) = (line.query_id, line.document_id, line.grade);
        Ok(Some(Judgement { place, query_id, document_id, grade }))
    })
}

/// Reads a file of lines. `parse` gets the number of a line among those that are not blank, its text and its place.
fn read_lines<T>(
    path: &Path,
    parse: impl Fn(usize, &str, String) -> Result<Option<T>, String>,
) -> Result<Vec<T>, CliError> {
    let file = OpenFile::open(path, Format::Lines, Format::Lines)?;
    let name = file.name().clone();
    let (mut records, _) = file.records(Header::FirstRow, &Fields::new(&[]))?;
    let (mut parsed, mut number) = (Vec::new(), 0);
    while let Some(record) = records.read() {
        let Record { content, place, .. } = record?;
        let place = place.to_string();
        let Content::Text(text) = content else { continue };
        let line = parse(number, &text, place.clone());
        parsed.extend(line.map_err(|message| CliError::bad_input(message).at(&place))?);
        number += 1;
    }
    if parsed.is_empty() {
        return Err(CliError::bad_input("has no lines").at(&name));
    }
    Ok(parsed)
}

/// The texts of a file of queries or documents, by their ids.
pub struct Texts {
    lookup: Lookup,
    what: &'static str,
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Texts").field("what", &self.what).finish_non_exhaustive()
    }
}

impl Texts {
    /// Reads where the queries of a file are: TSV or CSV, JSONL or a JSON array.
    ///
    /// # Errors
    /// The file cannot be read, or one of its records is bad.
    pub fn queries(path: &Path, names: &FieldArgs) -> Result<Self, CliError> {
        Self::open(path, Fields::new(&names.fields).of_queries(), "query")
    }

    /// Reads where the documents of a file are, in the same formats.
    ///
    /// # Errors
    /// The file cannot be read, or one of its records is bad.
    pub fn documents(path: &Path, names: &FieldArgs) -> Result<Self, CliError> {
        Self::open(path, Fields::new(&names.fields), "document")
    }

    fn open(path: &Path, fields: Fields, what: &'static str) -> Result<Self, CliError> {
        let lookup = Lookup::open(path, Format::Auto, Header::Guess, fields, None, |_| {})?;
        Ok(Self { lookup, what })
    }

    /// The text with an id.
    ///
    /// # Errors
    /// There is no such text, or there are two.
    pub fn get(&mut self, id: &str) -> Result<String, CliError> {
        let Self { lookup, what } = self;
        lookup.get(id).map_err(|error| CliError::bad_input(format!("{what} {id:.100?} {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.txt");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn grades(text: &str) -> Result<Vec<(String, i64)>, String> {
        let (_dir, path) = file(text);
        let judgements = read_qrels(&path).map_err(|error| error.to_string())?;
        Ok(judgements.into_iter().map(|judgement| (judgement.document_id, judgement.grade)).collect())
    }

    #[test]
    fn qrels_of_trec_and_of_beir_are_read() {
        let expected = [("d1".to_owned(), 2), ("d2".to_owned(), -1)];
        for text in [
            "q1 0 d1 2\nq1 0 d2 -1\n",
            "query-id\tcorpus-id\tscore\nq1\td1\t2\n\nq1\td2\t-1",
            "\u{feff}q1 d1 2\r\nq1 d2 -1\r\n",
        ] {
            assert_eq!(grades(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_bad_line_of_qrels_is_refused_with_its_place_and_the_right_form() {
        for (text, message) in [
            ("q1 0 d1 1\nq1 0 d2 yes\n", "file.txt, line 2: has the grade \"yes\": a grade is a whole number"),
            ("q1 0 d1 1.5\n", "line 1: has the grade \"1.5\""),
            ("q1 Q0 d1 1 3.5 tag\n", "line 1: has 6 columns, as a run has: qrels have 4"),
            ("\nq1 d1\n", "line 2: has 2 columns: qrels have 4"),
            ("q1 0 d1 1\nquery-id corpus-id score\n", "line 2: has the grade \"score\""),
            ("", "file.txt: has no lines"),
        ] {
            let error = grades(text).unwrap_err();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_run_keeps_its_scores_and_refuses_those_that_have_no_order() {
        let (_dir, path) = file("q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 -1e-3 tag\n");
        let scores: Vec<f64> = read_run(&path).unwrap().into_iter().map(|found| found.score).collect();
        assert_eq!(scores, [2.5, -1e-3]);
        let (_dir, path) = file("q1 Q0 d1 1 nan tag\n");
        let error = read_run(&path).unwrap_err().to_string();
        assert!(error.contains("line 1: has the score NaN"), "{error}");
    }

    #[test]
    fn a_request_with_a_setting_of_its_own_is_refused() {
        let (_dir, path) = file("{\"query\":\"a\",\"documents\":[\"b\"],\"relevant\":[0],\"max_tokens\":9}\n");
        let error = read_requests(&path, &FieldArgs::default(), &["relevant"]).unwrap_err().to_string();
        assert!(error.contains("line 1: has \"max_tokens\""), "{error}");
        let (_dir, path) = file("{\"query\":\"a\",\"documents\":[\"b\"],\"x\":1}\n");
        let error = read_requests(&path, &FieldArgs::default(), &["relevant"]).unwrap_err().to_string();
        assert!(error.contains("unknown field \"x\"") && !error.contains("--keep-field"), "{error}");
        let (_dir, path) = file("{\"query\":\"a\",\"documents\":[\"b\"],\"relevant\":[0],\"id\":7}\n");
        let requests = read_requests(&path, &FieldArgs::default(), &["relevant"]).unwrap();
        assert_eq!((requests[0].id.as_deref(), &requests[0].kept["relevant"]), (Some("7"), &serde_json::json!([0])));
    }
}
