//! Question: what do a precision, a cut, a smaller model, another guest or a second stage cost in ranking, and what do
//! they gain in speed?
//!
//! Baseline: the first variant. Every variant ranks the same judged queries through the host, as `assay rerank` does;
//! for each query they take turns, so that changes of the processor's speed affect all alike. Excluded: loading, and
//! one warm-up request of each variant. Measures are trec_eval's ([`measures`]). Intervals are a bootstrap over
//! queries; differences are paired by query.

pub mod measures;
pub mod queries;
mod rank;
pub mod variant;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use assay::device::DeviceOptions;
use tokio_util::sync::CancellationToken;

use self::measures::{Measure, Values, measure, trec_order};
use self::queries::{Query, QuerySet, QuerySource};
pub use self::rank::dir_name;
use self::rank::{Contest, Ranking};
use self::variant::Variant;
use crate::progress::Progress;
use crate::report::quality::{
    MeasureReport, QUALITY_SCHEMA, QUALITY_SCHEMA_VERSION, QualityReport, QuerySetReport, SpeedReport, VariantReport,
};
use crate::report::schema::Machine;
use crate::stats::{Draws, Interval, Summary, bootstrap};

/// Ranks within which relevant documents count as recalled, by default: as many as nDCG looks at.
pub const DEFAULT_RECALL_AT: usize = measures::CUT;

/// The row that shows the order of the run itself.
const AS_FOUND: &str = "the run itself";

/// The file of judgements.
pub const QRELS_FILE: &str = "qrels.txt";

/// The file of that order.
const FOUND_FILE: &str = "found.run";

/// Of the bootstrap. Fixed, so that a report repeats; equal for all variants, so that differences are paired.
const SEED: u64 = 20;

/// What to compare.
#[derive(Debug, Clone)]
pub struct QualityOptions {
    /// Where models and compiled guests are kept.
    pub data_dir: PathBuf,
    /// How the device of a variant is opened, before what the variant says.
    pub device: DeviceOptions,
    /// The model of variants that name none; the store's default if absent.
    pub model: Option<String>,
    /// The guest of variants that name none; the standard one if absent.
    pub guest: Option<PathBuf>,
    /// The judged queries.
    pub source: QuerySource,
    /// The variants; the first is the baseline.
    pub variants: Vec<Variant>,
    /// Ranks that recall looks at.
    pub recall_at: usize,
    /// Whether a bar shows the progress.
    pub progress: Progress,
}

/// What was measured.
#[derive(Debug)]
pub struct Compared {
    /// The figures.
    pub report: QualityReport,
    /// File names and texts: a run of each variant, and the judgements.
    pub files: Vec<(String, String)>,
}

/// Ranks every query with every variant. Stops early when `stop` is cancelled.
///
/// # Errors
/// A file, model, guest or variant is at fault, or a request fails.
pub async fn compare(options: &QualityOptions, stop: &CancellationToken) -> Result<Compared> {
    ensure!(!options.variants.is_empty(), "there are no variants: name at least one with --variant");
    variant::check(&options.variants).map_err(anyhow::Error::msg)?;
    let set = QuerySet::read(&options.source)?;
    let contest = {
        let options = options.clone();
        // Compiling takes seconds, which the runtime's threads must not be kept from their tasks for.
        tokio::task::spawn_blocking(move || Contest::open(&options)).await??
    };
    let timestamp = jiff::Timestamp::now();
    let mut rankings: Vec<Vec<Ranking>> = options.variants.iter().map(|_| Vec::new()).collect();
    let first = set.queries.first().context("there are no queries")?;
    for variant in 0..options.variants.len() {
        contest.rank(variant, first).await?;
    }
    let bar = options.progress.bar("ranking".to_owned(), Some(set.queries.len() as u64));
    for (number, query) in set.queries.iter().enumerate() {
        let mut turn: Vec<Option<Ranking>> = options.variants.iter().map(|_| None).collect();
        for offset in 0..turn.len() {
            // Another variant begins with each query.
            let variant = (number + offset) % turn.len();
            tokio::select! {
                ranking = contest.rank(variant, query) => turn[variant] = Some(ranking?),
                () = stop.cancelled() => break,
            }
        }
        // A query counts if every variant ranked it.
        let Some(turn) = turn.into_iter().collect::<Option<Vec<Ranking>>>() else { break };
        for (rankings, ranking) in rankings.iter_mut().zip(turn) {
            rankings.push(ranking);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let answered = rankings.first().map_or(0, Vec::len);
    ensure!(answered > 0, "stopped before every variant had ranked the first query");
    let interrupted = answered < set.queries.len();
    let set = QuerySet { queries: set.queries[..answered].to_vec(), ..set };
    Ok(evaluate(options, &contest, &set, &rankings, timestamp.strftime("%F %T UTC").to_string(), interrupted))
}

fn evaluate(
    options: &QualityOptions,
    contest: &Contest,
    set: &QuerySet,
    rankings: &[Vec<Ranking>],
    timestamp: String,
    interrupted: bool,
) -> Compared {
    let recall_at = options.recall_at;
    let mut files = Vec::new();
    if set.is_judged {
        files.push((QRELS_FILE.to_owned(), set.qrels()));
    }
    let mut measured: Vec<(usize, Vec<Values>)> = Vec::new();
    for (number, (variant, rankings)) in options.variants.iter().zip(rankings).enumerate() {
        let ordered: Vec<Vec<(usize, f32)>> =
            set.queries.iter().zip(rankings).map(|(query, ranking)| ordered(query, &ranking.scores)).collect();
        files.push((run_file(number, &variant.name), run_text(set, &ordered, &slug(&variant.name))));
        measured.push((number, values(set, &ordered, recall_at)));
    }
    let baseline = measured.first().map(|(_, values)| values.clone()).unwrap_or_default();
    let mut variants: Vec<VariantReport> = measured
        .into_iter()
        .map(|(number, values)| VariantReport {
            name: options.variants[number].name.clone(),
            speed: Some(speed(set, &rankings[number], (number > 0).then_some(&rankings[0]))),
            measures: measures_of(&values, (number > 0).then_some(&baseline), recall_at),
            outcomes: (number > 0 && set.is_judged).then(|| outcomes(&values, &baseline)),
            run: run_file(number, &options.variants[number].name),
            values,
            ..contest.describe(number)
        })
        .collect();
    if let Some(found) = as_found(set) {
        let values = values(set, &found, recall_at);
        variants.push(VariantReport {
            name: AS_FOUND.to_owned(),
            measures: measures_of(&values, Some(&baseline), recall_at),
            outcomes: Some(outcomes(&values, &baseline)),
            run: FOUND_FILE.to_owned(),
            values,
            ..VariantReport::default()
        });
        files.push((FOUND_FILE.to_owned(), run_text(set, &found, "found")));
    }
    let report = QualityReport {
        schema: QUALITY_SCHEMA.to_owned(),
        schema_version: QUALITY_SCHEMA_VERSION,
        timestamp,
        interrupted,
        machine: Machine::detect(),
        query_set: QuerySetReport {
            source: set.source.clone(),
            queries: set.queries.len(),
            pairs: set.pairs(),
            without_relevant: set.without_relevant(),
            unjudged_documents: set.unjudged_documents(),
            unjudged_queries: set.unjudged_queries,
            unasked_queries: set.unasked_queries,
            is_judged: set.is_judged,
        },
        query_ids: set.queries.iter().map(|query| query.id.clone()).collect(),
        variants,
    };
    Compared { report, files }
}

/// A query's documents in the order of trec_eval, by index, with their scores.
fn ordered(query: &Query, scores: &[(usize, f32)]) -> Vec<(usize, f32)> {
    let mut ordered = scores.to_vec();
    let id = |index: usize| query.candidates.get(index).map_or("", |candidate| candidate.id.as_str());
    ordered.sort_by(|left, right| trec_order((left.1, id(left.0)), (right.1, id(right.0))));
    ordered
}

/// The order in which the run itself has the documents; absent without a run.
fn as_found(set: &QuerySet) -> Option<Vec<Vec<(usize, f32)>>> {
    let one = |query: &Query| {
        let scores = query.candidates.iter().enumerate().map(|(index, candidate)| Some((index, candidate.found?)));
        Some(ordered(query, &scores.collect::<Option<Vec<_>>>()?))
    };
    set.queries.iter().map(one).collect()
}

fn values(set: &QuerySet, ordered: &[Vec<(usize, f32)>], recall_at: usize) -> Vec<Values> {
    let one = |(query, order): (&Query, &Vec<(usize, f32)>)| {
        let ranked: Vec<Option<i64>> = order
            .iter()
            .map(|(index, _)| query.candidates.get(*index).and_then(|candidate| query.grade(&candidate.id)))
            .collect();
        let judged: Vec<i64> = query.judged.values().copied().collect();
        measure(&ranked, &judged, recall_at)
    };
    match set.is_judged {
        true => set.queries.iter().zip(ordered).map(one).collect(),
        false => Vec::new(),
    }
}

/// The mean of each measure, and its difference from the baseline's; none without judgements.
fn measures_of(values: &[Values], baseline: Option<&Vec<Values>>, recall_at: usize) -> Vec<MeasureReport> {
    if values.is_empty() {
        return Vec::new();
    }
    let one = |(index, measure): (usize, Measure)| {
        let column: Vec<f64> = values.iter().map(|values| values[index]).collect();
        let difference = baseline.map(|baseline| {
            let differences = column.iter().zip(baseline).map(|(value, baseline)| value - baseline[index]);
            mean_with_interval(&differences.collect::<Vec<_>>())
        });
        MeasureReport { name: measure.name(recall_at), value: mean_with_interval(&column), difference }
    };
    Measure::ALL.into_iter().enumerate().map(one).collect()
}

fn mean_with_interval(values: &[f64]) -> Interval {
    let mean = |values: &mut dyn Iterator<Item = f64>, count: usize| values.sum::<f64>() / count.max(1) as f64;
    let value = mean(&mut values.iter().copied(), values.len());
    let resample = |draws: &mut Draws| {
        (!values.is_empty()).then(|| mean(&mut (0..values.len()).map(|_| *draws.one(values)), values.len()))
    };
    bootstrap(value, SEED, resample).unwrap_or(Interval { value, low: value, high: value })
}

/// In how many queries nDCG is higher than the baseline's, the same, and lower.
fn outcomes(values: &[Values], baseline: &[Values]) -> [usize; 3] {
    let mut outcomes = [0; 3];
    for (values, baseline) in values.iter().zip(baseline) {
        let difference = values[0] - baseline[0];
        // Sums in another order differ in their last bits.
        let at = if difference > 1e-9 {
            0
        } else if difference < -1e-9 {
            2
        } else {
            1
        };
        outcomes[at] += 1;
    }
    outcomes
}

fn speed(set: &QuerySet, rankings: &[Ranking], baseline: Option<&Vec<Ranking>>) -> SpeedReport {
    let seconds = |ranking: &Ranking| ranking.elapsed.max(Duration::from_nanos(1)).as_secs_f64();
    let pairs: Vec<f64> = set.queries.iter().map(|query| query.candidates.len() as f64).collect();
    let indexes: Vec<usize> = (0..rankings.len()).collect();
    let rate = |of: &[Ranking], indexes: &mut dyn Iterator<Item = usize>| {
        let (pairs, time) = indexes.fold((0.0, 0.0), |sum, at| (sum.0 + pairs[at], sum.1 + seconds(&of[at])));
        pairs / time
    };
    let interval = |figure: &dyn Fn(&[usize]) -> f64| {
        let value = figure(&indexes);
        let resample =
            |draws: &mut Draws| Some(figure(&indexes.iter().map(|_| *draws.one(&indexes)).collect::<Vec<_>>()));
        bootstrap(value, SEED, resample).unwrap_or(Interval { value, low: value, high: value })
    };
    let ratio = baseline.map(|baseline| {
        interval(&|at: &[usize]| rate(rankings, &mut at.iter().copied()) / rate(baseline, &mut at.iter().copied()))
    });
    let ms: Vec<f64> = rankings.iter().map(|ranking| seconds(ranking) * 1e3).collect();
    SpeedReport {
        pairs_per_s: interval(&|at: &[usize]| rate(rankings, &mut at.iter().copied())),
        ratio,
        query_ms: Summary::of(ms.iter().copied()),
        rows: rankings.iter().map(|ranking| ranking.rows).sum(),
        tokens: rankings.iter().map(|ranking| ranking.tokens).sum(),
        truncated: rankings.iter().map(|ranking| ranking.truncated).sum(),
        ms,
    }
}

/// Lines of a run, which trec_eval reads.
fn run_text(set: &QuerySet, ordered: &[Vec<(usize, f32)>], tag: &str) -> String {
    let mut text = String::new();
    for (query, order) in set.queries.iter().zip(ordered) {
        for (rank, (index, score)) in order.iter().enumerate() {
            let Some(candidate) = query.candidates.get(*index) else { continue };
            text += &format!("{} Q0 {} {} {score} {tag}\n", query.id, candidate.id, rank + 1);
        }
    }
    text
}

fn run_file(number: usize, name: &str) -> String {
    format!("{}-{}.run", number + 1, slug(name))
}

/// A name that fits in a file's name and in a column of a run.
fn slug(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_paired_by_query() {
        // Every query loses the same: the difference is certain, however much queries differ.
        let baseline: Vec<Values> = (0..40).map(|number| [f64::from(number) / 40.0; 4]).collect();
        let values: Vec<Values> = baseline.iter().map(|values| values.map(|value| value - 0.01)).collect();
        let report = &measures_of(&values, Some(&baseline), 10)[0];
        let difference = report.difference.unwrap();
        assert!((difference.value + 0.01).abs() < 1e-12 && difference.high - difference.low < 1e-12, "{difference:?}");
        assert!(report.value.high - report.value.low > 0.1, "{report:?}");
        assert_eq!(outcomes(&values, &baseline), [0, 0, 40]);
    }

    #[test]
    fn a_name_becomes_a_column_of_a_run() {
        assert_eq!(slug("int8, 64 tokens/é"), "int8--64-tokens--");
    }
}
