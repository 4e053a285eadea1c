//! The tables of a run.

use std::num::NonZeroUsize;

use serde::Serialize;

use super::agreement::Ranking;

/// One line of the table.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) name: String,
    /// Median over slices, and the least and the most.
    pub(super) pairs_per_s: [f64; 3],
    /// Our f32 engine's rate divided by this one's: median over slices, and the least and the most.
    pub(super) assay_f32_is_faster_by: [f64; 3],
    /// Milliseconds of a turn: median over slices, and the least and the most.
    pub(super) ms_a_turn: [f64; 3],
    /// Largest difference of a score from our f32 engine's, and the root mean square.
    pub(super) score_error: [f64; 2],
    pub(super) ranking: Option<Ranking>,
    pub(super) load_s: f64,
    pub(super) first_batch_s: f64,
    pub(super) peak_rss_bytes: Option<u64>,
}

/// Turns of one model and one size.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) model: String,
    pub(super) slice: usize,
    pub(super) pairs: usize,
    /// Useful tokens of a pair, on average.
    pub(super) tokens: f64,
    pub(super) threads: NonZeroUsize,
    pub(super) lines: Vec<Line>,
    /// Peers that cannot run the model, with their reasons.
    pub(super) left_out: Vec<String>,
}

impl Table {
    /// Prints it as Markdown.
    pub(super) fn print(&self) {
        let Self { model, slice, pairs, tokens, threads, lines, left_out } = self;
        println!(
            "{model}: {pairs} pairs of {tokens:.0} tokens in turns of {slice}, {threads} threads; median (least to \
             most) over turns, also of the turns' own ratios\n"
        );
        println!(
            "| | pairs/s | ms a turn | assay f32 is faster by | largest score error | rms | Kendall tau | same first | \
             same ten | load s | first batch s | peak RSS MiB |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        lines.iter().for_each(Line::print);
        println!();
        for reason in left_out {
            println!("left out: {reason}");
        }
        if !left_out.is_empty() {
            println!();
        }
    }
}

impl Line {
    fn print(&self) {
        let [rate, slowest, fastest] = self.pairs_per_s;
        let [ms, quickest, longest] = self.ms_a_turn;
        let [ratio, least, most] = self.assay_f32_is_faster_by;
        let [largest, rms] = self.score_error;
        let rss = self.peak_rss_bytes.map_or("".to_owned(), |bytes| (bytes >> 20).to_string());
        let ranking = self.ranking.map_or(" | | ".to_owned(), |ranking| {
            let Ranking { kendall_tau, top_1, top_10_overlap } = ranking;
            format!("{kendall_tau:.3} | {top_1:.2} | {top_10_overlap:.2}")
        });
        println!(
            "| {} | {rate:.1} ({slowest:.1} to {fastest:.1}) | {ms:.1} ({quickest:.1} to {longest:.1}) | \
             {ratio:.2} ({least:.2} to {most:.2}) | {largest:.1e} | {rms:.1e} | {ranking} | {:.2} | {:.2} | {rss} |",
            self.name, self.load_s, self.first_batch_s
        );
    }
}
