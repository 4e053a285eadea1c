//! How far two contestants' scores and rankings of the same pairs agree.

use anyhow::bail;
use serde::Serialize;

/// Documents at the top of a ranking that are compared.
const TOP: usize = 10;

/// Agreement of rankings with our f32 engine's: means over queries with at least two documents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Ranking {
    /// Kendall's rank correlation (tau-a): 1 if every two documents are in the same order.
    pub(super) kendall_tau: f64,
    /// Share of queries with the same best document.
    pub(super) top_1: f64,
    /// Share of the ten best documents that are the same.
    pub(super) top_10_overlap: f64,
}

/// Compares rankings query by query; `None` if no query has two documents.
pub(super) fn ranking(pairs: &[(String, String)], scores: &[f64], expected: &[f64]) -> Option<Ranking> {
    let (mut sum, mut queries, mut first) = ([0.0; 3], 0, 0);
    for group in pairs.chunk_by(|(query, _), (next, _)| query == next) {
        let range = first..first + group.len();
        first = range.end;
        if group.len() < 2 {
            continue;
        }
        let (mine, theirs) = (&scores[range.clone()], &expected[range]);
        let (best, expected_best) = (best(mine), best(theirs));
        let shared = best.iter().filter(|document| expected_best.contains(document)).count();
        sum[0] += kendall_tau(mine, theirs);
        sum[1] += f64::from(u8::from(best[0] == expected_best[0]));
        sum[2] += shared as f64 / best.len() as f64;
        queries += 1;
    }
    let [kendall_tau, top_1, top_10_overlap] = sum.map(|sum| sum / f64::from(queries));
    (queries > 0).then_some(Ranking { kendall_tau, top_1, top_10_overlap })
}

/// The best documents, best first; equal ones keep their order.
fn best(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(TOP);
    order
}

/// Concordant minus discordant pairs of documents, over all pairs. Kendall, "A new measure of rank correlation",
/// Biometrika 30 (1938).
fn kendall_tau(a: &[f64], b: &[f64]) -> f64 {
    let (mut agreement, mut all) = (0.0, 0.0);
    for i in 0..a.len() {
        for j in 0..i {
            agreement += ((a[i] - a[j]) * (b[i] - b[j])).partial_cmp(&0.0).map_or(0.0, |order| f64::from(order as i8));
            all += 1.0;
        }
    }
    agreement / all
}

/// The largest difference of a score, and the root mean square.
///
/// # Errors
/// There are more or fewer scores than expected.
pub(super) fn score_error(scores: &[f64], expected: &[f64]) -> anyhow::Result<[f64; 2]> {
    if scores.len() != expected.len() {
        bail!("{} scores for {} pairs", scores.len(), expected.len());
    }
    let differences = || scores.iter().zip(expected).map(|(score, expected)| (score - expected).abs());
    let square: f64 = differences().map(|difference| difference * difference).sum();
    Ok([differences().fold(0.0, f64::max), (square / scores.len().max(1) as f64).sqrt()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(queries: &[&str]) -> Vec<(String, String)> {
        queries.iter().map(|&query| (query.to_owned(), String::new())).collect()
    }

    #[test]
    fn rankings_are_compared_query_by_query() {
        let pairs = pairs(&["a", "a", "a", "b", "b", "alone"]);
        let expected = [3.0, 2.0, 1.0, 1.0, 2.0, 9.0];
        let same = ranking(&pairs, &[30.0, 20.0, 10.0, -1.0, 0.0, 0.0], &expected).unwrap();
        assert_eq!(same, Ranking { kendall_tau: 1.0, top_1: 1.0, top_10_overlap: 1.0 });
        // Swaps two of the first query's three documents, and both of the second's.
        let other = ranking(&pairs, &[2.0, 3.0, 1.0, 2.0, 1.0, 9.0], &expected).unwrap();
        assert_eq!(other.top_1, 0.0);
        assert!((other.kendall_tau - (1.0 / 3.0 - 1.0) / 2.0).abs() < 1e-12);
        assert_eq!(ranking(&pairs[5..], &[1.0], &[1.0]), None);
    }
}
