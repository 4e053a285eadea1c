//! The report of rankings: quality beside speed, as `quality.md`, `quality.json` and `quality.html`.
//!
//! `docs/quality.md` explains every field. The version rises when a field is removed or changes its meaning, not when
//! one is added.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::block::{Axis, Block, Headline, Mark, Plot, PlotKind, Table};
use super::schema::Machine;
use super::{content, html, markdown, write_files};
use crate::stats::{Interval, Summary};

/// The value of `schema` in every report of rankings.
pub const QUALITY_SCHEMA: &str = "assay-bench/quality";

/// The version that this program writes.
pub const QUALITY_SCHEMA_VERSION: u32 = 1;

/// The files of a report of rankings.
pub const QUALITY_FILES: [&str; 3] = ["quality.md", "quality.json", "quality.html"];

/// Most cards at the top of the page.
const MAX_CARDS: usize = 6;

/// Digits of a revision in a table: those of its folder in the store.
const SHOWN_REVISION: usize = 16;

/// Variants side by side on the same judged queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QualityReport {
    /// [`QUALITY_SCHEMA`].
    pub schema: String,
    /// [`QUALITY_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// When the first query was ranked, in UTC.
    pub timestamp: String,
    /// Whether it was stopped before the last query.
    pub interrupted: bool,
    /// Where it ran.
    pub machine: Machine,
    /// The judged queries.
    pub query_set: QuerySetReport,
    /// The queries' ids, in the order of all columns over queries.
    pub query_ids: Vec<String>,
    /// The variants, the baseline first; the run itself last, if the queries came with one.
    pub variants: Vec<VariantReport>,
}

/// Facts about the judged queries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerySetReport {
    /// The files' names.
    pub source: String,
    /// Queries that were ranked.
    pub queries: usize,
    /// Documents that were ranked, over all queries.
    pub pairs: usize,
    /// Queries without a relevant document: they count 0 in every measure.
    pub without_relevant: usize,
    /// Ranked documents without a judgement: they count as not relevant.
    pub unjudged_documents: usize,
    /// Queries without judgements: left out.
    pub unjudged_queries: usize,
    /// Judged queries that were not asked: left out.
    pub unasked_queries: usize,
    /// Whether there are judgements; without them the report has speed alone.
    #[serde(default = "yes")]
    pub is_judged: bool,
}

/// Earlier reports all had judgements.
fn yes() -> bool {
    true
}

/// One variant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VariantReport {
    /// Its name.
    pub name: String,
    /// What else it changes: guest, cut, settings, second stage.
    pub about: String,
    /// The model's name; empty for the run itself, as are the next four.
    pub model: String,
    /// Content hash of its files.
    pub model_revision: String,
    /// `cpu` or `gpu`.
    pub engine: String,
    /// The device in its own words.
    pub device: String,
    /// Numbers as stored and multiplied.
    pub precision: String,
    /// Threads that compute; 0 if another device computes.
    pub threads: usize,
    /// The weights on the device.
    #[serde(default)]
    pub weights_bytes: u64,
    /// Means over queries; none without judgements.
    pub measures: Vec<MeasureReport>,
    /// In how many queries nDCG is higher than the baseline's, the same, and lower; absent for the baseline.
    pub outcomes: Option<[usize; 3]>,
    /// Absent for the run itself.
    pub speed: Option<SpeedReport>,
    /// The name of its run's file in the folder `runs`.
    pub run: String,
    /// The measures of each query.
    pub values: Vec<[f64; 4]>,
}

/// A measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasureReport {
    /// Its name, such as `nDCG@10`.
    pub name: String,
    /// The mean over queries.
    pub value: Interval,
    /// What it is more than the baseline's; absent for the baseline.
    pub difference: Option<Interval>,
}

/// The speed of a variant, one query at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeedReport {
    /// Documents ranked a second.
    pub pairs_per_s: Interval,
    /// Times the baseline's speed; absent for the baseline.
    pub ratio: Option<Interval>,
    /// Time of a query in milliseconds.
    pub query_ms: Summary,
    /// Rows that the model got.
    pub rows: u64,
    /// Their useful tokens.
    pub tokens: u64,
    /// Rows that were cut to fit.
    pub truncated: u64,
    /// The time of each query in milliseconds.
    pub ms: Vec<f64>,
}

impl QualityReport {
    /// Writes the three files into a directory, which is made if necessary.
    ///
    /// # Errors
    /// The directory or a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string(self)? + "\n";
        write_files(dir, QUALITY_FILES.into_iter().zip([&self.markdown(), &json, &self.html()]))
    }

    /// The report as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        markdown::render(&blocks(self))
    }

    /// The report as one HTML file, which refers to no other.
    #[must_use]
    pub fn html(&self) -> String {
        html::render("ranking quality", &headline(self), &blocks(self))
    }

    /// The header and the rows of the table of variants.
    #[must_use]
    pub fn summary(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let Table { header, rows } = variants(self);
        (header, rows)
    }
}

/// What the figures mean.
const NOTES: [&str; 4] = [
    "Measures are those of trec_eval: an unjudged document counts as not relevant, a relevant one that was not ranked \
     as missed, equal scores are ordered by document id from the last to the first, and a query without relevant \
     documents counts 0.",
    "Intervals hold with 95 % confidence: a bootstrap over queries with 2,000 resamples and a fixed seed. Differences \
     are paired: both variants ranked the same queries. An interval that contains 0 shows no difference. Few queries \
     make wide intervals, and fewer than 20 make them too narrow to rely on.",
    "Speed is that of one query at a time. Variants take turns, query by query; loading and one warm-up request of \
     each are excluded. Pairs are the documents to rank; in two stages each counts once.",
    "Better, same and worse count queries by nDCG against the baseline.",
];

fn blocks(report: &QualityReport) -> Vec<Block> {
    let mut blocks = vec![
        Block::Heading(1, "Ranking quality".to_owned()),
        Block::Paragraph("_Quality of rankings from relevance judgements, beside speed._".to_owned()),
        Block::Facts(facts(report)),
    ];
    if report.interrupted {
        blocks.push(Block::Paragraph("It was stopped early. The report has the queries that were ranked.".to_owned()));
    }
    blocks.push(Block::Heading(2, "Variants".to_owned()));
    blocks.push(Block::Table(variants(report)));
    if report.query_set.is_judged {
        blocks.push(Block::Plots(vec![picture(report)]));
    }
    if report.variants.len() > 1 {
        blocks.push(Block::Heading(2, "Against the baseline".to_owned()));
        blocks.push(Block::Table(differences(report)));
    }
    blocks.push(Block::Heading(2, "What each variant is".to_owned()));
    blocks.push(Block::Table(setups(report)));
    blocks.push(Block::Heading(2, "Machine".to_owned()));
    let mut machine = Table::new(&["Fact", "Value"]);
    let (here, command) = content::machine_facts(&report.machine);
    here.into_iter().chain(command).for_each(|(name, value)| machine.row([name.to_owned(), value]));
    blocks.push(Block::Table(machine));
    blocks.push(Block::Heading(2, "How to read this".to_owned()));
    blocks.extend(NOTES.iter().map(|&note| Block::Paragraph(note.to_owned())));
    blocks
}

fn facts(report: &QualityReport) -> Vec<(&'static str, String)> {
    let QuerySetReport { source, queries, pairs, without_relevant, .. } = &report.query_set;
    let set = &report.query_set;
    let mut facts = vec![
        ("Timestamp", report.timestamp.clone()),
        ("Queries", format!("{queries} with {pairs} documents, from {source}")),
    ];
    if !set.is_judged {
        facts.push(("Judgements", "none: only speed is compared".to_owned()));
        return facts;
    }
    facts.push(("Unjudged", format!("{} documents, which count as not relevant", set.unjudged_documents)));
    let mut left = Vec::new();
    if *without_relevant > 0 {
        left.push(format!("{without_relevant} queries have no relevant document and count 0"));
    }
    if set.unjudged_queries > 0 {
        left.push(format!("{} queries have no judgements and are left out", set.unjudged_queries));
    }
    if set.unasked_queries > 0 {
        left.push(format!("{} judged queries were not asked and are left out", set.unasked_queries));
    }
    if !left.is_empty() {
        facts.push(("Note", left.join("; ")));
    }
    facts
}

fn variants(report: &QualityReport) -> Table {
    let names = report.variants.first().map(|variant| variant.measures.iter().map(|measure| measure.name.as_str()));
    let mut header = vec!["Variant"];
    header.extend(names.into_iter().flatten());
    header.extend(["Pairs/s", "Query P50 (ms)", "P95", "Tokens/row", "Cut rows (%)", "Weights (MB)"]);
    let mut table = Table::new(&header);
    for variant in &report.variants {
        let mut cells = vec![variant.name.clone()];
        cells.extend(variant.measures.iter().map(|measure| interval(&measure.value, 3)));
        cells.extend(match &variant.speed {
            None => vec!["-".to_owned(); 6],
            Some(speed) => {
                let rows = speed.rows.max(1) as f64;
                vec![
                    interval(&speed.pairs_per_s, 1),
                    format!("{:.1}", speed.query_ms.p50),
                    format!("{:.1}", speed.query_ms.p95),
                    format!("{:.1}", speed.tokens as f64 / rows),
                    format!("{:.1}", 100.0 * speed.truncated as f64 / rows),
                    format!("{:.0}", variant.weights_bytes as f64 / 1e6),
                ]
            }
        });
        table.row(cells);
    }
    table
}

fn differences(report: &QualityReport) -> Table {
    let baseline = report.variants.first();
    let name = baseline.map_or("", |variant| &variant.name);
    let mut header = vec![format!("Against {name}")];
    header.extend(baseline.iter().flat_map(|variant| &variant.measures).map(|measure| measure.name.clone()));
    header.extend(["Times the speed", "Better", "Same", "Worse"].map(str::to_owned));
    let mut table = Table { header, rows: Vec::new() };
    for variant in report.variants.iter().skip(1) {
        let mut cells = vec![variant.name.clone()];
        let signed = |difference: &Interval| {
            let Interval { value, low, high } = difference;
            format!("{value:+.4} ({low:+.4} to {high:+.4})")
        };
        let differences = variant.measures.iter().map(|measure| measure.difference.as_ref());
        cells.extend(differences.map(|difference| difference.map_or_else(|| "-".to_owned(), signed)));
        let ratio = variant.speed.as_ref().and_then(|speed| speed.ratio.as_ref());
        cells.push(ratio.map_or_else(|| "-".to_owned(), |ratio| interval(ratio, 2)));
        let outcomes = variant.outcomes.map(|outcomes| outcomes.map(|count| count.to_string()));
        cells.extend(outcomes.unwrap_or_else(|| ["-"; 3].map(str::to_owned)));
        table.row(cells);
    }
    table
}

fn setups(report: &QualityReport) -> Table {
    let mut table = Table::new(&["Variant", "Model", "Revision", "Engine", "Device", "And"]);
    for variant in report.variants.iter().filter(|variant| variant.speed.is_some()) {
        let engine = format!("{} {}", variant.engine, variant.precision);
        let device = match variant.threads {
            0 => variant.device.clone(),
            threads => format!("{}, {threads} threads", variant.device),
        };
        let about = if variant.about.is_empty() { "-".to_owned() } else { variant.about.clone() };
        let revision = variant.model_revision.chars().take(SHOWN_REVISION).collect();
        table.row([variant.name.clone(), variant.model.clone(), revision, engine, device, about]);
    }
    table
}

/// The first measure against speed.
fn picture(report: &QualityReport) -> Plot {
    let mark = |variant: &VariantReport| {
        let (y, speed) = (variant.measures.first()?.value, variant.speed.as_ref()?);
        Some(Mark { name: variant.name.clone(), x: speed.pairs_per_s, y })
    };
    let level = |variant: &VariantReport| {
        variant.speed.is_none().then_some(())?;
        Some((variant.name.clone(), variant.measures.first()?.value.value))
    };
    let measure = report.variants.first().and_then(|variant| variant.measures.first());
    let name = measure.map_or_else(String::new, |measure| measure.name.clone());
    Plot {
        title: "Quality against speed, with 95 % intervals".to_owned(),
        x: Axis::linear("pairs/s"),
        y: Axis::linear(name),
        kind: PlotKind::Scatter {
            marks: report.variants.iter().filter_map(mark).collect(),
            levels: report.variants.iter().filter_map(level).collect(),
        },
    }
}

fn headline(report: &QualityReport) -> Vec<Headline> {
    let card = |variant: &VariantReport| {
        let measure = variant.measures.first()?;
        let speed = variant.speed.as_ref().map(|speed| format!(", {:.0} pairs/s", speed.pairs_per_s.value));
        let note = format!("{}{}", variant.name, speed.unwrap_or_default());
        Some(Headline { label: "nDCG@10", value: format!("{:.3}", measure.value.value), unit: "", note })
    };
    report.variants.iter().filter_map(card).take(MAX_CARDS).collect()
}

fn interval(Interval { value, low, high }: &Interval, digits: usize) -> String {
    format!("{value:.digits$} ({low:.digits$} to {high:.digits$})")
}
