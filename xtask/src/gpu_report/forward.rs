//! The arithmetic-bound time of a forward pass on an M1, from issue slots per thread.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::listing::Listing;

/// An M1's GPU: cores, lanes a core that issue one instruction each clock, and the clock.
const CORES: f64 = 8.0;
const LANES: f64 = 128.0;
const CLOCK_HZ: f64 = 1.278e9;
/// Peak multiply-add rate in FLOP/s: 2.617 TF.
const PEAK: f64 = CORES * LANES * 2.0 * CLOCK_HZ;
/// Trips of a loop that is not told apart: a tree over 32 threads has five levels.
const TREE_LEVELS: u64 = 5;

/// The batch that a pass is predicted for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Batch {
    pub(crate) rows: u64,
    /// Tokens of each row.
    pub(crate) row_tokens: u64,
}

/// One dispatch of a forward pass.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// Which pass: number format, and one choice of kernel variants.
    pub(crate) pass: String,
    /// The part of the computation; layers have the same parts.
    pub(crate) part: String,
    /// The kernel's name.
    pub(crate) pipeline: String,
    /// Threads of the dispatch.
    pub(crate) threads: u64,
    /// Useful operations.
    pub(crate) flops: u64,
}

/// Time and useful operations of a part, all its dispatches together.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    seconds: f64,
    flops: u64,
}

/// How often each loop of a kernel runs for rows of `keys` tokens, in the order of the listing. `constants` are the
/// kernel's, as `NAME=VALUE`.
pub(crate) fn trips(name: &str, constants: &[String], listing: &Listing, keys: u64) -> Vec<u64> {
    let value = |name: &str| {
        let of_name = |constant: &&String| constant.split_once('=').is_some_and(|(constant, _)| constant == name);
        constants.iter().find(of_name).and_then(|constant| constant.split_once('=')?.1.parse::<u64>().ok())
    };
    let (k, hidden4) = (value("K").unwrap_or(32), value("HIDDEN4").unwrap_or(0));
    match name.split_whitespace().next().unwrap_or_default() {
        // One loop, 32 numbers of K a trip, or 16 where the variant's name says so.
        "gemm_tile" | "gemm_tile_gate" | "gemm_tile_rotary" => vec![k / if name.ends_with("k16") { 16 } else { 32 }],
        // The same, then two loops over a partial sum from each thread, that one of THREADS / 32 simdgroups runs.
        "gemm_tile_norm" => vec![k / 32, 32, 32],
        "attention" => vec![keys.div_ceil(16)],
        "pool_mean" => vec![keys],
        "classify" | "pool_normalise" => vec![hidden4],
        // LayerNorm and embeddings: groups of four over 32 threads, and trees. Some compilers unroll the trees;
        // counting every loop as the longer of the two keeps the bound a bound.
        _ => listing.loops.iter().map(|_| hidden4.div_ceil(32).max(TREE_LEVELS)).collect(),
    }
}

/// A table of the parts of a forward pass in one number format, each with its fastest variant. `slots` has the issue
/// slots of one thread of a kernel; it has none for a kernel that these compilers cannot be asked about.
///
/// # Errors
/// No variant of a part has slots.
pub(crate) fn forward_pass(
    storage: &str,
    batch: Batch,
    steps: &[Step],
    slots: &impl Fn(&str) -> Option<u64>,
) -> Result<String> {
    let of_storage = |step: &&Step| step.pass.split_whitespace().next() == Some(storage);
    let steps: Vec<&Step> = steps.iter().filter(of_storage).collect();
    let mut parts: Vec<&str> = Vec::new();
    for step in &steps {
        if !parts.contains(&step.part.as_str()) {
            parts.push(&step.part);
        }
    }
    let Batch { rows, row_tokens } = batch;
    let mut text = format!(
        "**M1, 8 cores, {:.2} TF f32 peak; {rows} rows of {row_tokens} tokens, {storage} storage, arithmetic bound:**\n\n\
         | part | ms | GFLOP | share of peak |\n|---|---:|---:|---:|\n",
        PEAK / 1e12
    );
    let mut whole = Cost::default();
    for part in parts {
        let of_part = steps.iter().filter(|step| step.part == part);
        let cost = fastest(of_part.copied(), slots).with_context(|| format!("no variant of {part} has figures"))?;
        let share = cost.flops as f64 / cost.seconds / PEAK;
        writeln!(text, "| {part} | {:.3} | {:.2} | {share:.2} |", cost.seconds * 1e3, cost.flops as f64 / 1e9)?;
        whole.seconds += cost.seconds;
        whole.flops += cost.flops;
    }
    let share = whole.flops as f64 / whole.seconds / PEAK;
    let gflop = whole.flops as f64 / 1e9;
    writeln!(text, "| **whole pass** | **{:.2}** | **{gflop:.1}** | **{share:.2}** |", whole.seconds * 1e3)?;
    writeln!(text, "\nPredicted: {:.0} pairs/s, {share:.2} of peak.", rows as f64 / whole.seconds)?;
    Ok(text)
}

/// The cost of a part in the pass in which it takes the least time.
fn fastest<'a>(steps: impl Iterator<Item = &'a Step>, slots: &impl Fn(&str) -> Option<u64>) -> Option<Cost> {
    // A pass without figures for one of the part's kernels is no candidate.
    let mut passes: BTreeMap<&str, Option<Cost>> = BTreeMap::new();
    for step in steps {
        let cost = passes.entry(&step.pass).or_insert(Some(Cost::default()));
        *cost = cost.zip(slots(&step.pipeline)).map(|(cost, slots)| Cost {
            seconds: cost.seconds + slots as f64 * step.threads as f64 / (CORES * LANES * CLOCK_HZ),
            flops: cost.flops + step.flops,
        });
    }
    passes.into_values().flatten().min_by(|a, b| a.seconds.total_cmp(&b.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(pass: &str, part: &str, pipeline: &str) -> Step {
        let [pass, part, pipeline] = [pass, part, pipeline].map(str::to_owned);
        Step { pass, part, pipeline, threads: 1000, flops: 10 }
    }

    #[test]
    fn a_part_costs_what_its_fastest_variant_takes() {
        let steps = [
            step("f32 0", "norm", "one"),
            step("f32 1", "norm", "slow"),
            step("f32 2", "norm", "one"),
            step("f32 2", "norm", "one"),
            step("f32 3", "norm", "unknown"),
        ];
        let slots = |name: &str| match name {
            "one" => Some(1),
            "slow" => Some(3),
            _ => None,
        };
        let cost = fastest(steps.iter(), &slots).unwrap();
        assert_eq!(cost.flops, 10);
        assert!(fastest(steps[4..].iter(), &slots).is_none());
        let table = forward_pass("f32", Batch { rows: 2, row_tokens: 3 }, &steps, &slots).unwrap();
        assert_eq!(table.matches("| norm |").count(), 1);
    }
}
