//! How far scores are from those that somebody else gives for the same pairs.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::cli::formats::ScoredPair;
use crate::cli::table;

/// Most pairs that are shown, the farthest first.
const MAX_SHOWN: usize = 10;

/// The outcome of a comparison.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pairs: usize,
    /// Absolute.
    pub(super) largest_difference: f64,
    mean_difference: f64,
    /// Queries with several documents.
    queries: usize,
    /// Those of them whose documents are in the same order by both scores. Documents that either scores alike may be in
    /// any order.
    queries_in_order: usize,
    farthest: Vec<Difference>,
}

/// One pair's scores.
#[derive(Debug, Serialize)]
struct Difference {
    /// Counted from 1.
    pair: usize,
    query: String,
    document: String,
    expected: f64,
    score: f32,
    difference: f64,
}

impl Comparison {
    /// Compares scores with those of the pairs, in their order. There is at least one.
    pub(super) fn of(pairs: &[ScoredPair], scores: &[f32]) -> Self {
        let mut farthest: Vec<Difference> = pairs
            .iter()
            .zip(scores)
            .enumerate()
            .map(|(index, (pair, &score))| Difference {
                pair: index + 1,
                query: pair.query.clone(),
                document: pair.document.clone(),
                expected: pair.score,
                score,
                difference: f64::from(score) - pair.score,
            })
            .collect();
        farthest.sort_by(|a, b| b.difference.abs().total_cmp(&a.difference.abs()));
        let sum: f64 = farthest.iter().map(|pair| pair.difference.abs()).sum();
        let largest_difference = farthest.first().map_or(0.0, |pair| pair.difference.abs());
        farthest.truncate(MAX_SHOWN);
        let mut queries: HashMap<&str, Vec<(f64, f32)>> = HashMap::new();
        for (pair, &score) in pairs.iter().zip(scores) {
            queries.entry(&pair.query).or_default().push((pair.score, score));
        }
        queries.retain(|_, documents| documents.len() > 1);
        let in_order = queries.values_mut().filter_map(|documents| is_in_order(documents).then_some(()));
        Self {
            pairs: pairs.len(),
            largest_difference,
            #[allow(clippy::cast_precision_loss, reason = "a file has far fewer pairs than 2^52")]
            mean_difference: sum / pairs.len() as f64,
            queries_in_order: in_order.count(),
            queries: queries.len(),
            farthest,
        }
    }
}

/// Whether no document that is expected before another has the smaller score.
fn is_in_order(documents: &mut [(f64, f32)]) -> bool {
    documents.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    documents.windows(2).all(|next| next[0].1 >= next[1].1)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |pair: &Difference| {
            vec![
                pair.pair.to_string(),
                format!("{:.6}", pair.expected),
                format!("{:.6}", pair.score),
                format!("{:+.6}", pair.difference),
                table::snippet(&pair.query),
                table::snippet(&pair.document),
            ]
        };
        let rows: Vec<Vec<String>> = self.farthest.iter().map(row).collect();
        let header = ["pair", "expected", "score", "difference", "query", "document"];
        write!(f, "{}", table::columns(&header, &rows))?;
        if self.pairs > self.farthest.len() {
            writeln!(f, "… these are the farthest")?;
        }
        write!(
            f,
            "{} pairs: the largest difference is {:.6}, the mean {:.6}",
            self.pairs, self.largest_difference, self.mean_difference
        )?;
        match self.queries {
            0 => writeln!(f, "; no query has several documents to put in order"),
            queries => writeln!(f, "; the order is the same for {} of {queries} queries", self.queries_in_order),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(scores: &[(&str, f64)]) -> Vec<ScoredPair> {
        let pair = |&(query, score): &(&str, f64)| ScoredPair {
            query: query.to_owned(),
            document: format!("document of {score}"),
            score,
        };
        scores.iter().map(pair).collect()
    }

    #[test]
    fn differences_are_absolute_and_the_farthest_pair_comes_first() {
        let comparison = Comparison::of(&pairs(&[("a", 1.0), ("b", 2.0)]), &[1.25, 1.5]);
        assert_eq!((comparison.largest_difference, comparison.mean_difference), (0.5, 0.375));
        assert_eq!((comparison.farthest[0].pair, comparison.farthest[0].difference), (2, -0.5));
        assert_eq!(comparison.queries, 0);
    }

    #[test]
    fn the_order_is_compared_query_by_query_and_ties_may_be_in_any_order() {
        let expected = pairs(&[("a", 3.0), ("b", 1.0), ("a", 2.0), ("b", 1.0), ("a", 2.0)]);
        let same = Comparison::of(&expected, &[0.9, 0.1, 0.2, 0.7, 0.5]);
        assert_eq!((same.queries, same.queries_in_order), (2, 2));
        let other = Comparison::of(&expected, &[0.4, 0.1, 0.2, 0.7, 0.5]);
        assert_eq!((other.queries, other.queries_in_order), (2, 1));
    }
}
