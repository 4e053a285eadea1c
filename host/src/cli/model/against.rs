//! `assay model verify --against` and `assay model check`: a model's scores beside those that somebody else gives.
//!
//! Pairs go the way of every request: through the standard guest to the chosen engine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::cards::Card;
use super::comparison::Comparison;
use crate::cli::engine::EngineArgs;
use crate::cli::error::CliError;
use crate::cli::formats::{FieldChoice, Fields, Format, Header, OpenFile, ScoredPair, Scores};
use crate::cli::ranker::Ranker;
use crate::device::Device;
use crate::limits::RequestLimits;
use crate::model::DefaultScores;
use crate::model::store::StoredModel;
use crate::rerank::Request;

/// Most pairs of a file: they are held in memory.
const MAX_PAIRS: usize = 100_000;

/// Most bytes of a file's texts.
const MAX_BYTES: usize = 256 << 20;

/// Most documents of one request: few enough that rows of 8,192 tokens fit a request too.
const MAX_DOCUMENTS: usize = 32;

/// Most that scores may differ if the command does not say: what f32 gives, with room for other orders of sums.
const DEFAULT_WITHIN: f64 = 0.001;

/// The file to compare with.
#[derive(Debug, Args)]
pub(super) struct Against {
    /// Also compare scores with those in a file of pairs: JSONL, a JSON array, CSV or TSV with a query, a text and a
    /// score each; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) against: Option<PathBuf>,
    /// How to read the file
    #[arg(long, requires = "against", default_value = "auto")]
    format: Format,
    /// The field or column that is a query, text or score; several text fields are joined by spaces
    #[arg(long = "field", requires = "against", value_name = "ROLE=NAME")]
    fields: Vec<FieldChoice>,
    /// Names of the columns of a CSV or TSV file without a row of names
    #[arg(long, requires = "against", value_delimiter = ',', value_name = "NAME,…")]
    columns: Vec<String>,
    /// What the file's scores are: the model's logit, or its sigmoid [default: as the model's files say, otherwise raw]
    #[arg(long, requires = "against")]
    scores: Option<Scores>,
    /// The label of the file's scores, of a model with several: its number, counted from 0, or its name
    #[arg(long, requires = "against")]
    label: Option<String>,
    /// Longest pair in tokens [default: the model's own maximum]
    #[arg(long, requires = "against", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
}

/// How scores are computed and judged.
#[derive(Debug, Args)]
pub(super) struct Judging {
    /// Most that a score may differ; one that differs more gives exit code 3 [default: 0.001, or what the precision of
    /// a card's figures allows]
    #[arg(long, value_name = "DIFFERENCE", value_parser = difference)]
    within: Option<f64>,
    /// As a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

impl Judging {
    /// Whether an option says how to judge.
    pub(super) fn is_asked(&self) -> bool {
        self.within.is_some() || self.json
    }
}

fn difference(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "is not a number from 0".to_owned())
}

/// Pairs, and how their scores came about.
struct Expected {
    pairs: Vec<ScoredPair>,
    scores: Option<Scores>,
    label: Option<String>,
    max_tokens: Option<u32>,
    within: f64,
    /// For people.
    source: String,
}

/// Compares with the file, if one is given.
///
/// # Errors
/// The file cannot be read, the model cannot compute its pairs, or a score differs too much.
pub(super) fn compare_with_file(
    args: &Against,
    judging: &Judging,
    open: impl FnOnce() -> Result<StoredModel, CliError>,
    data_dir: &Path,
) -> Result<(), CliError> {
    let Some(path) = &args.against else { return Ok(()) };
    let expected = Expected {
        pairs: read(args, path)?,
        scores: args.scores,
        label: args.label.clone(),
        max_tokens: args.max_tokens,
        within: judging.within.unwrap_or(DEFAULT_WITHIN),
        source: path.display().to_string(),
    };
    compare(expected, judging, &open()?, data_dir)
}

/// Compares with a card.
///
/// # Errors
/// The model cannot compute the card's pairs, or a score differs too much.
pub(super) fn compare_with_card(
    card: Card,
    judging: &Judging,
    stored: &StoredModel,
    data_dir: &Path,
) -> Result<(), CliError> {
    let expected = Expected {
        pairs: card.pairs,
        scores: Some(card.scores),
        label: None,
        max_tokens: None,
        within: judging.within.unwrap_or(card.within),
        source: card.source,
    };
    compare(expected, judging, stored, data_dir)
}

fn compare(expected: Expected, judging: &Judging, stored: &StoredModel, data_dir: &Path) -> Result<(), CliError> {
    let device = Device::open(&judging.engine.options(data_dir)?)?;
    let ranker = Ranker::open(&device, stored, None, data_dir)?;
    let scores = expected.scores.unwrap_or(match ranker.model.info().scores {
        Some(DefaultScores::Sigmoid) => Scores::Sigmoid,
        Some(DefaultScores::Raw) | None => Scores::Raw,
    });
    let compared = |scores| Ok::<_, CliError>(Comparison::of(&expected.pairs, &score(&ranker, &expected, scores)?));
    let comparison = compared(scores)?;
    let is_within = comparison.largest_difference <= expected.within;
    let (scale, other) = match scores {
        Scores::Raw => ("raw", (Scores::Sigmoid, "sigmoid")),
        Scores::Sigmoid => ("sigmoid", (Scores::Raw, "raw")),
    };
    // Which scale a file has, only a person knows, and it is a likely reason.
    let of_other = match (is_within, expected.scores) {
        (false, None) => Some(compared(other.0)?.largest_difference).filter(|&most| most <= expected.within),
        _ => None,
    };
    let Expected { within, source, .. } = expected;
    let manifest = &stored.manifest;
    if judging.json {
        let line = serde_json::json!({
            "model": manifest.name, "revision": manifest.revision, "engine": ranker.model.engine().name,
            "precision": ranker.model.engine().precision.to_string(), "scores": scale, "against": source,
            "within": within, "is_within": is_within, "comparison": comparison,
        });
        println!("{line}");
    } else {
        println!("{}@{:.16} on {}", manifest.name, manifest.revision, ranker.engine());
        println!("{scale} scores, compared with {source}");
        print!("{comparison}");
    }
    if is_within {
        return Ok(());
    }
    let way_out = match of_other {
        Some(most) => format!("with --scores {} none differs by more than {most:.6}", other.1),
        None if expected.scores.is_none() => {
            "the file's scores may be of another model, label or activation; --within \
             DIFFERENCE allows more, as an engine of fewer bits needs it"
                .to_owned()
        }
        None => "--within DIFFERENCE allows more, as an engine of fewer bits needs it".to_owned(),
    };
    let most = comparison.largest_difference;
    Err(CliError::some_failed(format!("a score differs by {most:.6}, and may differ by {within}: {way_out}")))
}

/// Reads the pairs.
fn read(args: &Against, path: &Path) -> Result<Vec<ScoredPair>, CliError> {
    if let Some(choice) = args.fields.iter().find(|choice| !["query", "text", "score"].contains(&choice.role())) {
        let role = choice.role();
        return Err(CliError::bad_input(format!(
            "--field {role}=… is of no use: a pair has a query, a text and a score"
        )));
    }
    let fields = Fields::new(&args.fields);
    let file = OpenFile::open(path, args.format, Format::Jsonl)?;
    if file.format() == Format::Lines {
        return Err(CliError::bad_input("plain lines are not pairs with scores: --format lines does not exist"));
    }
    let name = Arc::clone(file.name());
    let header = match args.columns.is_empty() {
        true => Header::FirstRow,
        false => Header::Named(args.columns.clone()),
    };
    let (mut records, _) = file.records(header, &fields)?;
    let (mut pairs, mut bytes) = (Vec::new(), 0);
    while let Some(record) = records.read() {
        let record = record?;
        let at = |message: String| CliError::bad_input(message).at(&record.place.to_string());
        let pair = fields.scored_pair(&record).map_err(at)?;
        bytes += pair.query.len() + pair.document.len();
        pairs.push(pair);
        if pairs.len() > MAX_PAIRS || bytes > MAX_BYTES {
            let most = format!("{MAX_PAIRS} pairs and {} MiB of text are the most of a file", MAX_BYTES >> 20);
            return Err(at(format!("{most}, this one has more: compare with its parts")));
        }
    }
    if pairs.is_empty() {
        return Err(CliError::bad_input("has no pairs").at(&name));
    }
    Ok(pairs)
}

/// The scores of the pairs, in their order.
fn score(ranker: &Ranker, expected: &Expected, scores: Scores) -> Result<Vec<f32>, CliError> {
    ranker.check_label(expected.label.as_deref())?;
    let settings = match (&expected.label, ranker.needs_a_label()) {
        (Some(label), _) => vec![(assay_guest::SETTING_LABEL.to_owned(), label.clone())],
        (None, Some(labels)) => return Err(CliError::bad_input(format!("{labels}: choose one with --label"))),
        (None, None) => Vec::new(),
    };
    let limits = RequestLimits::default();
    let mut found = vec![0.0; expected.pairs.len()];
    for places in requests(&expected.pairs, limits.max_request_bytes) {
        let pairs: Vec<&ScoredPair> = places.iter().map(|&place| &expected.pairs[place]).collect();
        let request = Request {
            query: pairs[0].query.clone(),
            documents: pairs.iter().map(|pair| pair.document.clone()).collect(),
            max_tokens: expected.max_tokens,
            activation: scores.into(),
            settings: settings.clone(),
            ..Request::default()
        };
        let answer = ranker.threads.block_on(ranker.guest.rerank(Arc::clone(&ranker.model), request, &limits));
        let at = |error: CliError| error.at(&format!("the request with pair {}", places[0] + 1));
        for hit in answer.map_err(|error| at(error.into()))?.hits {
            found[places[hit.index as usize]] = hit.score;
        }
    }
    Ok(found)
}

/// The places of the pairs of each request: they share a query, and fit a request.
fn requests(pairs: &[ScoredPair], max_bytes: usize) -> Vec<Vec<usize>> {
    let mut queries: HashMap<&str, (usize, usize)> = HashMap::new();
    let mut requests: Vec<Vec<usize>> = Vec::new();
    for (place, pair) in pairs.iter().enumerate() {
        let (request, bytes) = queries.entry(&pair.query).or_insert((usize::MAX, 0));
        let fits = |places: &Vec<usize>| places.len() < MAX_DOCUMENTS && *bytes + pair.document.len() <= max_bytes;
        if !requests.get(*request).is_some_and(fits) {
            (*request, *bytes) = (requests.len(), pair.query.len());
            requests.push(Vec::new());
        }
        *bytes += pair.document.len();
        requests[*request].push(place);
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_one_query_share_requests_that_fit() {
        let pair = |query: &str, bytes| ScoredPair { query: query.to_owned(), document: "x".repeat(bytes), score: 0.0 };
        let pairs = [pair("a", 4), pair("b", 1), pair("a", 5), pair("a", 1), pair("b", 1)];
        assert_eq!(requests(&pairs, 10), [vec![0, 2], vec![1, 4], vec![3]]);
        let many: Vec<ScoredPair> = (0..MAX_DOCUMENTS + 1).map(|_| pair("a", 1)).collect();
        let lengths: Vec<usize> = requests(&many, usize::MAX).iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_DOCUMENTS, 1]);
    }
}
