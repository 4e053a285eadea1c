//! Judged queries: their candidate documents, and which of them are relevant.
//!
//! Two sources: requests with their relevances in one file, or a TREC run with queries, documents and qrels. Ids that
//! do not fit together are refused, with the file, the line and the remedy. What trec_eval leaves out is left out and
//! counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use assay::cli::files::{
    FieldArgs, FileDocument, FileRequest, Found, Judgement, Texts, read_qrels, read_requests, read_run,
};
use serde_json::Value;

use super::measures::trec_order;

/// Fields of a request that say which of its documents are relevant.
const RELEVANT: &str = "relevant";
const RELEVANCES: &str = "relevances";

/// Where the judged queries are.
#[derive(Debug, Clone, Default)]
pub struct QuerySource {
    /// Requests, with their relevances unless there are qrels.
    pub requests: Option<PathBuf>,
    /// A TREC run, whose documents are ranked again.
    pub run: Option<PathBuf>,
    /// The queries that the run names.
    pub queries: Option<PathBuf>,
    /// The documents that the run names.
    pub documents: Option<PathBuf>,
    /// Relevance judgements.
    pub qrels: Option<PathBuf>,
    /// Names of fields and columns.
    pub names: FieldArgs,
    /// Only so many first documents of each query of a run.
    pub depth: Option<usize>,
    /// Only so many first queries.
    pub max_queries: Option<usize>,
    /// What becomes of requests none of which has relevances.
    pub unjudged: Unjudged,
}

/// What becomes of requests none of which has relevances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unjudged {
    /// They are refused: without judgements there is no quality.
    #[default]
    Refused,
    /// They are ranked, for speed alone.
    Ranked,
}

/// A judged query.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// File and line, for messages.
    pub place: String,
    /// Its id.
    pub id: String,
    /// Its text.
    pub text: String,
    /// The documents to rank.
    pub candidates: Vec<Candidate>,
    /// Every judged document with its grade, candidates or not.
    pub judged: BTreeMap<String, i64>,
}

/// A document to rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Its text.
    pub text: String,
    /// The score in the run, as trec_eval reads it.
    pub found: Option<f32>,
}

/// Judged queries, and what was left out.
#[derive(Debug, Clone, PartialEq)]
pub struct QuerySet {
    /// The queries, in the order of the file.
    pub queries: Vec<Query>,
    /// The files in words.
    pub source: String,
    /// Queries without judgements, which trec_eval leaves out.
    pub unjudged_queries: usize,
    /// Queries of the qrels that are not asked, which trec_eval leaves out.
    pub unasked_queries: usize,
    /// Whether there are judgements; without them there is only speed.
    pub is_judged: bool,
}

impl QuerySet {
    /// Reads the queries.
    ///
    /// # Errors
    /// A file cannot be read, or files do not fit together.
    pub fn read(source: &QuerySource) -> Result<Self> {
        let qrels = source.qrels.as_deref().map(Qrels::read).transpose()?;
        let mut set = match (&source.requests, &source.run, &source.queries, &source.documents) {
            (Some(requests), None, None, None) => of_requests(requests, source, qrels.as_ref())?,
            (None, Some(run), Some(queries), Some(documents)) => {
                let Some(qrels) = &qrels else {
                    bail!("a run needs relevance judgements: name their file with --qrels");
                };
                of_run(run, queries, documents, source, qrels)?
            }
            (None, Some(_), _, _) => bail!("a run needs --queries and --documents with the texts of its ids"),
            (None, None, _, _) => {
                bail!("no queries: give --requests, or --run with --queries, --documents and --qrels")
            }
            (Some(_), ..) => {
                bail!("--requests has its own queries and documents: give no --run, --queries, --documents")
            }
        };
        set.queries.truncate(source.max_queries.unwrap_or(usize::MAX));
        let names = [&source.requests, &source.run, &source.queries, &source.documents, &source.qrels];
        let names = names.into_iter().flatten().map(|path| path.file_name().unwrap_or(path.as_os_str()));
        set.source = names.map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(", ");
        for query in &set.queries {
            check_ids(query)?;
        }
        Ok(set)
    }

    /// Documents to rank, over all queries.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.queries.iter().map(|query| query.candidates.len()).sum()
    }

    /// The number of queries none of whose judged documents is relevant.
    #[must_use]
    pub fn without_relevant(&self) -> usize {
        self.queries.iter().filter(|query| query.judged.values().all(|&grade| grade < 1)).count()
    }

    /// The number of documents to rank that have no judgement.
    #[must_use]
    pub fn unjudged_documents(&self) -> usize {
        let unjudged =
            |query: &Query| query.candidates.iter().filter(|document| query.grade(&document.id).is_none()).count();
        self.queries.iter().map(unjudged).sum()
    }

    /// The judgements as qrels, for other programs.
    #[must_use]
    pub fn qrels(&self) -> String {
        let lines = self.queries.iter().flat_map(|query| {
            query.judged.iter().map(|(document, grade)| format!("{} 0 {document} {grade}\n", query.id))
        });
        lines.collect()
    }
}

impl Query {
    /// The grade of a document, if it was judged.
    #[must_use]
    pub fn grade(&self, document: &str) -> Option<i64> {
        self.judged.get(document).copied()
    }
}

/// Judgements by query.
struct Qrels {
    name: String,
    queries: HashMap<String, BTreeMap<String, i64>>,
    /// The first judgement, as an example in messages.
    first: Judgement,
}

impl Qrels {
    fn read(path: &Path) -> Result<Self> {
        let judgements = read_qrels(path)?;
        let Some(first) = judgements.first().cloned() else { bail!("{} has no lines", path.display()) };
        let mut queries: HashMap<String, BTreeMap<String, i64>> = HashMap::new();
        for Judgement { place, query_id, document_id, grade } in judgements {
            let judged = queries.entry(query_id.clone()).or_default();
            if judged.insert(document_id.clone(), grade).is_some() {
                bail!(
                    "{place}: document {document_id:?} was judged for query {query_id:?} before: keep one of the lines"
                );
            }
        }
        Ok(Self { name: path.display().to_string(), queries, first })
    }

    /// Fails if no ranked query or no ranked document is judged: the files are of different collections. `ranked` has
    /// ids of queries and documents.
    fn check_fit<'a>(&self, ranked: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Result<()> {
        let Self { name, queries, first } = self;
        let (query, document) = ranked.clone().next().unwrap_or_default();
        let mut judged = ranked.filter_map(|(query, document)| Some((queries.get(query)?, document))).peekable();
        ensure!(
            judged.peek().is_some(),
            "{name} judges none of the queries: it has {:?}, and the queries have {query:?}; use the files of one \
             collection",
            first.query_id
        );
        ensure!(
            judged.any(|(judged, document)| judged.contains_key(document)),
            "{name} judges none of the documents that are ranked: it has {:?}, and they have {document:?}; use the \
             files of one collection",
            first.document_id
        );
        Ok(())
    }

    /// The number of judged queries that are not among these.
    fn unasked<'a>(&self, asked: impl Iterator<Item = &'a str>) -> usize {
        let asked: HashSet<&str> = asked.collect();
        self.queries.keys().filter(|id| !asked.contains(id.as_str())).count()
    }
}

fn of_requests(path: &Path, source: &QuerySource, qrels: Option<&Qrels>) -> Result<QuerySet> {
    ensure!(source.depth.is_none(), "--depth is for a run, whose scores say which documents come first");
    let (mut queries, mut seen) = (Vec::new(), HashSet::new());
    let requests = read_requests(path, &source.names, &[RELEVANT, RELEVANCES])?;
    let has_none = qrels.is_none() && requests.iter().all(|request| request.kept.is_empty());
    let is_judged = !(has_none && source.unjudged == Unjudged::Ranked);
    for (index, request) in requests.into_iter().enumerate() {
        let place = request.place.clone();
        let id = request.id.clone().unwrap_or_else(|| (index + 1).to_string());
        ensure!(seen.insert(id.clone()), "{place}: the id {id:?} is another query's too: ids of queries must differ");
        ensure!(!request.documents.is_empty(), "{place}: the request has no documents, so there is nothing to rank");
        let judged = match qrels {
            Some(_) if !request.kept.is_empty() => bail!("{place}: has relevances, and --qrels is given: keep one"),
            Some(qrels) => qrels.queries.get(&id).cloned(),
            None if !is_judged => Some(BTreeMap::new()),
            None => Some(relevances(&request).map_err(|message| anyhow::anyhow!("{place}: {message}"))?),
        };
        let named = |(index, document): (usize, FileDocument)| Candidate {
            id: document.id.unwrap_or_else(|| index.to_string()),
            text: document.text,
            found: None,
        };
        let candidates = request.documents.into_iter().enumerate().map(named).collect();
        queries.push((judged, Query { place, id, text: request.query, candidates, judged: BTreeMap::new() }));
    }
    let mut unasked_queries = 0;
    if let Some(qrels) = qrels {
        let ranked = queries
            .iter()
            .flat_map(|(_, query)| query.candidates.iter().map(|document| (query.id.as_str(), document.id.as_str())));
        qrels.check_fit(ranked)?;
        unasked_queries = qrels.unasked(queries.iter().map(|(_, query)| query.id.as_str()));
    }
    let all = queries.len();
    let judged = queries.into_iter().filter_map(|(judged, query)| Some(Query { judged: judged?, ..query }));
    let queries: Vec<Query> = judged.collect();
    let unjudged_queries = all - queries.len();
    Ok(QuerySet { queries, source: String::new(), unjudged_queries, unasked_queries, is_judged })
}

/// The relevances that a request carries: `relevant`, indexes or ids of documents, or `relevances`, a grade for each.
fn relevances(request: &FileRequest) -> Result<BTreeMap<String, i64>, String> {
    let ids: Vec<String> = request
        .documents
        .iter()
        .enumerate()
        .map(|(index, document)| document.id.clone().unwrap_or_else(|| index.to_string()))
        .collect();
    match (request.kept.get(RELEVANT), request.kept.get(RELEVANCES)) {
        (Some(Value::Array(relevant)), None) => {
            let one = |value: &Value| {
                let id = match value {
                    Value::String(id) => ids.iter().find(|known| *known == id),
                    value => value.as_u64().and_then(|index| ids.get(usize::try_from(index).ok()?)),
                };
                let id = id.cloned().ok_or_else(|| {
                    format!(
                        "{RELEVANT} has {value}, which is no document of the request: give the id of a document, or \
                         its index from 0 to {}",
                        ids.len().saturating_sub(1)
                    )
                })?;
                Ok((id, 1))
            };
            relevant.iter().map(one).collect()
        }
        (None, Some(Value::Array(grades))) if grades.len() == ids.len() => {
            let one = |(id, grade): (&String, &Value)| {
                let whole =
                    grade.as_i64().ok_or_else(|| format!("{RELEVANCES} has {grade}: a grade is a whole number"))?;
                Ok((id.clone(), whole))
            };
            ids.iter().zip(grades).map(one).collect()
        }
        (None, Some(Value::Array(grades))) => Err(format!(
            "{RELEVANCES} has {} grades for {} documents: give one for each document",
            grades.len(),
            ids.len()
        )),
        (Some(_), Some(_)) => Err(format!("has both {RELEVANT} and {RELEVANCES}: keep one")),
        (None, None) => Err(format!(
            "has no relevances: add {RELEVANT}, the indexes or ids of relevant documents, or {RELEVANCES}, a grade for \
             each document, or give --qrels"
        )),
        (Some(_), None) => Err(format!("{RELEVANT} must be a list")),
        (None, Some(_)) => Err(format!("{RELEVANCES} must be a list")),
    }
}

fn of_run(run: &Path, queries: &Path, documents: &Path, source: &QuerySource, qrels: &Qrels) -> Result<QuerySet> {
    let found = read_run(run)?;
    qrels.check_fit(found.iter().map(|line| (line.query_id.as_str(), line.document_id.as_str())))?;
    let unasked_queries = qrels.unasked(found.iter().map(|line| line.query_id.as_str()));
    let mut texts = (Texts::queries(queries, &source.names)?, Texts::documents(documents, &source.names)?);
    let (mut order, mut by_query): (Vec<String>, HashMap<String, Vec<Found>>) = (Vec::new(), HashMap::new());
    for line in found {
        let lines = by_query.entry(line.query_id.clone()).or_default();
        if lines.is_empty() {
            order.push(line.query_id.clone());
        }
        lines.push(line);
    }
    let all = order.len();
    order.retain(|id| qrels.queries.contains_key(id));
    let unjudged_queries = all - order.len();
    order.truncate(source.max_queries.unwrap_or(usize::MAX));
    let mut queries = Vec::with_capacity(order.len());
    for id in order {
        let (Some(lines), Some(judged)) = (by_query.remove(&id), qrels.queries.get(&id)) else { continue };
        queries.push(query_of(id, lines, judged.clone(), &mut texts, source.depth)?);
    }
    Ok(QuerySet { queries, source: String::new(), unjudged_queries, unasked_queries, is_judged: true })
}

fn query_of(
    id: String,
    mut lines: Vec<Found>,
    judged: BTreeMap<String, i64>,
    (queries, documents): &mut (Texts, Texts),
    depth: Option<usize>,
) -> Result<Query> {
    let place = lines.first().map(|line| line.place.clone()).unwrap_or_default();
    let text = queries.get(&id).map_err(|error| error.at(&place))?;
    // trec_eval keeps scores as floats of 32 bits.
    let score = |line: &Found| line.score as f32;
    lines.sort_by(|left, right| trec_order((score(left), &left.document_id), (score(right), &right.document_id)));
    lines.truncate(depth.unwrap_or(usize::MAX));
    let mut candidates = Vec::with_capacity(lines.len());
    for line in lines {
        let text = documents.get(&line.document_id).map_err(|error| error.at(&line.place))?;
        candidates.push(Candidate { found: Some(score(&line)), id: line.document_id, text });
    }
    Ok(Query { place, id, text, candidates, judged })
}

/// Ids must differ, and fit into the columns of a run.
fn check_ids(query: &Query) -> Result<()> {
    let place = &query.place;
    let is_column = |id: &str| !id.is_empty() && !id.contains(char::is_whitespace);
    ensure!(is_column(&query.id), "{place}: the query's id {:?} is empty or has white space: rename it", query.id);
    let mut seen = HashSet::new();
    for Candidate { id, .. } in &query.candidates {
        ensure!(is_column(id), "{place}: the document's id {id:?} is empty or has white space: rename it");
        ensure!(seen.insert(id), "{place}: document {id:?} is there twice for query {:?}: keep one", query.id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with files of these contents.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn of_lines(text: &str) -> Result<QuerySet> {
        let dir = folder(&[("requests.jsonl", text)]);
        QuerySet::read(&QuerySource { requests: Some(dir.path().join("requests.jsonl")), ..QuerySource::default() })
    }

    const RUN: [(&str, &str); 4] = [
        ("run", "q1 Q0 a 1 0.5 t\nq1 Q0 b 2 0.5 t\nq2 Q0 a 1 3 t\nq3 Q0 a 1 3 t\n"),
        ("queries.tsv", "q1\tone\nq2\ttwo\n"),
        ("documents.tsv", "a\tan a\nb\ta b\n"),
        ("qrels", "q1 0 a 1\nq1 0 z 2\nq2 0 b 0\nq9 0 a 1\n"),
    ];

    fn of_files(files: &[(&str, &str)], change: impl FnOnce(&mut QuerySource)) -> Result<QuerySet> {
        let dir = folder(files);
        let path = |name: &str| Some(dir.path().join(name));
        let mut source = QuerySource {
            run: path("run"),
            queries: path("queries.tsv"),
            documents: path("documents.tsv"),
            qrels: path("qrels"),
            ..QuerySource::default()
        };
        change(&mut source);
        QuerySet::read(&source)
    }

    #[test]
    fn relevances_of_a_request_are_indexes_ids_or_grades() {
        let documents = r#""documents":["x",{"id":"d","text":"y"}]"#;
        for (relevances, expected) in [
            (r#""relevant":[1]"#, vec![("d", 1)]),
            (r#""relevant":["d",0]"#, vec![("0", 1), ("d", 1)]),
            (r#""relevant":[]"#, vec![]),
            (r#""relevances":[0,3]"#, vec![("0", 0), ("d", 3)]),
        ] {
            let set = of_lines(&format!(r#"{{"query":"q",{documents},{relevances}}}"#)).unwrap();
            let judged: Vec<(&str, i64)> =
                set.queries[0].judged.iter().map(|(id, grade)| (id.as_str(), *grade)).collect();
            assert_eq!(judged, expected, "{relevances}");
        }
    }

    #[test]
    fn bad_relevances_are_refused_with_file_line_and_remedy() {
        let good = r#"{"id":"1","query":"q","documents":["x"],"relevant":[0]}"#;
        for (line, message) in [
            (r#"{"query":"q","documents":["x"]}"#, "requests.jsonl, line 2: has no relevances: add relevant"),
            (r#"{"query":"q","documents":["x"],"relevant":[1]}"#, "line 2: relevant has 1, which is no document"),
            (r#"{"query":"q","documents":["x"],"relevant":[-1]}"#, "relevant has -1"),
            (r#"{"query":"q","documents":["x"],"relevant":["d"]}"#, "relevant has \"d\""),
            (r#"{"query":"q","documents":["x"],"relevant":0}"#, "relevant must be a list"),
            (r#"{"query":"q","documents":["x"],"relevances":[1,2]}"#, "2 grades for 1 documents: give one for each"),
            (r#"{"query":"q","documents":["x"],"relevances":[0.5]}"#, "a grade is a whole number"),
            (r#"{"query":"q","documents":["x"],"relevant":[0],"relevances":[1]}"#, "keep one"),
            (r#"{"id":1,"query":"q","documents":["x"],"relevant":[0]}"#, "line 2: the id \"1\" is another query's too"),
            (r#"{"id":"a b","query":"q","documents":["x"],"relevant":[0]}"#, "has white space: rename it"),
            (
                r#"{"query":"q","documents":[{"id":"1","text":"x"},"y"],"relevant":[0]}"#,
                "document \"1\" is there twice",
            ),
            (r#"{"query":"q","documents":[],"relevant":[]}"#, "line 2: the request has no documents"),
        ] {
            let error = format!("{:#}", of_lines(&format!("{good}\n{line}\n")).unwrap_err());
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn requests_without_relevances_are_ranked_for_speed_only_if_asked_and_if_all_lack_them() {
        let read = |text: &str, unjudged| {
            let dir = folder(&[("requests.jsonl", text)]);
            let requests = Some(dir.path().join("requests.jsonl"));
            QuerySet::read(&QuerySource { requests, unjudged, ..QuerySource::default() })
        };
        let bare = "{\"query\":\"q\",\"documents\":[\"x\"]}\n";
        let set = read(bare, Unjudged::Ranked).unwrap();
        assert!(!set.is_judged && set.pairs() == 1, "{set:?}");
        assert!(read(bare, Unjudged::Refused).is_err());
        let judged = "{\"query\":\"q\",\"documents\":[\"x\"],\"relevant\":[0]}\n";
        assert!(read(judged, Unjudged::Ranked).unwrap().is_judged);
        let error = read(&format!("{judged}{bare}"), Unjudged::Ranked).unwrap_err().to_string();
        assert!(error.contains("line 2: has no relevances"), "{error}");
    }

    #[test]
    fn a_run_is_joined_with_texts_and_judgements_as_trec_eval_joins_them() {
        let set = of_files(&RUN, |_| {}).unwrap();
        // q3 has no judgements, and q9 is not asked.
        assert_eq!((set.unjudged_queries, set.unasked_queries, set.pairs()), (1, 1, 3));
        assert_eq!((set.without_relevant(), set.unjudged_documents()), (1, 2));
        let first: Vec<(&str, &str)> =
            set.queries[0].candidates.iter().map(|found| (found.id.as_str(), found.text.as_str())).collect();
        assert_eq!((set.queries[0].text.as_str(), first), ("one", vec![("b", "a b"), ("a", "an a")]));
        assert_eq!(set.qrels(), "q1 0 a 1\nq1 0 z 2\nq2 0 b 0\n");
        let set = of_files(&RUN, |source| (source.depth, source.max_queries) = (Some(1), Some(1))).unwrap();
        assert_eq!((set.queries.len(), set.queries[0].candidates.len()), (1, 1));
    }

    #[test]
    fn files_that_do_not_fit_together_are_refused() {
        let with = |name: &str, text: &'static str| {
            let mut files = RUN;
            files.iter_mut().find(|file| file.0 == name).unwrap().1 = text;
            format!("{:#}", of_files(&files, |_| {}).unwrap_err())
        };
        for (name, text, message) in [
            ("queries.tsv", "q2\ttwo\n", "run, line 1: query \"q1\" is not in"),
            ("documents.tsv", "a\tan a\n", "run, line 2: document \"b\" is not in"),
            ("run", "q1 Q0 a 1 1 t\nq1 Q0 a 2 0 t\n", "document \"a\" is there twice for query \"q1\""),
            ("run", "q1 Q0 a 1 1\n", "run, line 1: has 5 columns"),
            ("qrels", "7 0 a 1\n", "judges none of the queries: it has \"7\", and the queries have \"q1\""),
            ("qrels", "q1 0 A 1\n", "judges none of the documents that are ranked: it has \"A\", and they have \"a\""),
            ("qrels", "q1 0 a 1\nq1 0 a 0\n", "qrels, line 2: document \"a\" was judged for query \"q1\" before"),
        ] {
            let error = with(name, text);
            assert!(error.contains(message), "{name}: {error}");
        }
        let error = of_files(&RUN, |source| source.qrels = None).unwrap_err().to_string();
        assert!(error.contains("--qrels"), "{error}");
    }
}
