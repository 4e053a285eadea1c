//! The arithmetic-bound time of a forward pass on an M1, from issue slots per thread.

use std::fmt::Write as _;

use super::listing::Listing;
use anyhow::{Context, Result};

/// An M1's GPU: cores, lanes a core that issue one instruction each clock, and the clock.
const CORES: f64 = 8.0;
const LANES: f64 = 128.0;
const CLOCK_HZ: f64 = 1.278e9;
/// Peak multiply-add rate in FLOP/s: 2.617 TF.
const PEAK: f64 = CORES * LANES * 2.0 * CLOCK_HZ;
/// The widths of MiniLM-L6, for which the kernels are compiled.
const HIDDEN: u64 = 384;
const INTERMEDIATE: u64 = 1536;
const HEADS: u64 = 12;
const HEAD_DIM: u64 = 32;
/// The batch that is predicted: rows of this many tokens each.
const ROW_TOKENS: u64 = 100;
const ROWS: u64 = 80;
const LAYERS: u64 = 6;

/// How often each loop of a kernel runs, in the order of the listing; `keys` is a row's length.
pub(crate) fn trips(name: &str, listing: &Listing, keys: u64) -> Vec<u64> {
    let k = name.split_whitespace().nth(2).and_then(|s| s.split('x').next()?.parse::<u64>().ok()).unwrap_or(32);
    if name.starts_with("gemm_tile ") {
        // One loop, 32 numbers of K a trip.
        return vec![k / 32];
    }
    if name.starts_with("gemm_tile_norm ") {
        // The same, then two loops over 96 partial sums that one of the three simdgroups runs.
        return vec![k / 32, 32, 32];
    }
    if name.starts_with("attention") {
        return vec![keys.div_ceil(16)];
    }
    // LayerNorm and embeddings: 96 groups of four over 32 threads, and trees of five levels. The trees are unrolled by
    // some compilers; counting every loop as the longer of the two keeps the bound a bound.
    listing.loops.iter().map(|_| 5).collect()
}

/// A table of the kernels' times and of the whole pass in one number format, for rows of [`ROW_TOKENS`] tokens.
///
/// # Errors
/// A kernel of the pass is not among the figures.
pub(crate) fn forward_pass(precision: &str, slots: &impl Fn(&str, u64) -> Result<u64>) -> Result<String> {
    let (h, i) = (HIDDEN, INTERMEDIATE);
    let (tokens, rows) = (ROW_TOKENS * ROWS, ROWS);
    let mut lines: Vec<(String, f64, u64)> = Vec::new();
    // The fastest of the tiles that divide `columns`, over `rows` rows.
    let gemm = |k: u64, n: u64, columns: u64, epilogue: &str, rows: u64| -> Result<(f64, u64)> {
        let mut best: Option<f64> = None;
        for threads in [32, 64, 96, 128] {
            if columns.is_multiple_of(4 * threads) && n.is_multiple_of(4 * threads) {
                let name = format!("gemm_tile {precision} {k}x{n} {epilogue} tile{threads}");
                let time = seconds(slots(&name, 0)?, rows.div_ceil(16) * columns / 4);
                best = Some(best.map_or(time, |best| best.min(time)));
            }
        }
        Ok((best.with_context(|| format!("no tile for {columns} columns"))?, 2 * rows * k * columns))
    };
    let mut add = |what: &str, count: u64, (time, flops): (f64, u64)| {
        lines.push((what.to_owned(), time * count as f64, flops * count));
    };
    let full = LAYERS - 1;
    let attention = |queries: u64, rows: u64| -> Result<(f64, u64)> {
        let mut best = f64::INFINITY;
        for threads in [32, 64, 128] {
            let slots = slots(&format!("attention {precision} head_dim {HEAD_DIM} t{threads}"), ROW_TOKENS)?;
            let lanes = queries.div_ceil(threads) * threads * rows * HEADS;
            best = best.min(seconds(slots, lanes));
        }
        Ok((best, 4 * queries * rows * ROW_TOKENS * h))
    };
    let row_op = |name: &str, rows: u64| -> Result<(f64, u64)> {
        Ok((seconds(slots(&format!("{name} {precision}"), 0)?, rows * 32), 0))
    };
    // GEMM, residual and LayerNorm: one kernel or two, whichever is faster.
    let project = |k: u64, rows: u64| -> Result<(f64, u64)> {
        let (separate, flops) = gemm(k, h, h, "residual", rows)?;
        let separate = separate + row_op("layer_norm", rows)?.0;
        let fused = slots(&format!("gemm_tile_norm {precision} {k}x{h}"), 0)?;
        Ok((separate.min(seconds(fused, rows.div_ceil(16) * h / 4)), flops))
    };
    add("embeddings", 1, row_op("embed", tokens)?);
    add("query, key, value", full, gemm(h, 3 * h, 3 * h, "bias", tokens)?);
    add("attention", full, attention(ROW_TOKENS, rows)?);
    add("attention output, LayerNorm", full, project(h, tokens)?);
    add("feed-forward in, GELU", full, gemm(h, i, i, "gelu", tokens)?);
    add("feed-forward out, LayerNorm", full, project(i, tokens)?);
    add("last layer: key, value", 1, gemm(h, 3 * h, 2 * h, "bias", tokens)?);
    add("last layer: query", 1, gemm(h, 3 * h, h, "bias", rows)?);
    add("last layer: attention", 1, attention(1, rows)?);
    add("last layer: attention output, LayerNorm", 1, project(h, rows)?);
    add("last layer: feed-forward in", 1, gemm(h, i, i, "gelu", rows)?);
    add("last layer: feed-forward out, LayerNorm", 1, project(i, rows)?);
    add("pooler", 1, gemm(h, h, h, "tanh", rows)?);

    let mut text = format!(
        "**M1, 8 cores, {:.2} TF f32 peak; {ROWS} rows of {ROW_TOKENS} tokens, {precision} storage, arithmetic bound:**\n\n\
         | part | ms | GFLOP | share of peak |\n|---|---:|---:|---:|\n",
        PEAK / 1e12
    );
    let (mut total, mut useful) = (0.0, 0);
    for (what, time, flops) in lines {
        let share = flops as f64 / time / PEAK;
        writeln!(text, "| {what} | {:.3} | {:.2} | {share:.2} |", time * 1e3, flops as f64 / 1e9)?;
        total += time;
        useful += flops;
    }
    let share = useful as f64 / total / PEAK;
    writeln!(text, "| **whole pass** | **{:.2}** | **{:.1}** | **{share:.2}** |", total * 1e3, useful as f64 / 1e9)?;
    writeln!(text, "\nPredicted: {:.0} pairs/s, {share:.2} of peak.", ROWS as f64 / total)?;
    Ok(text)
}

fn seconds(slots_per_thread: u64, threads: u64) -> f64 {
    slots_per_thread as f64 * threads as f64 / (CORES * LANES * CLOCK_HZ)
}
