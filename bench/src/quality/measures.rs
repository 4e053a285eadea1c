//! Measures of a ranking from relevance judgements, as trec_eval computes them.
//!
//! A document with a grade of 1 or more is relevant. An unjudged document counts as not relevant. A relevant document
//! that was not ranked counts as missed. Equal scores are ordered by document id, from the last to the first. A query
//! without relevant documents has the value 0 in every measure. Definitions are those of trec_eval 9
//! (<https://github.com/usnistgov/trec_eval>): `ndcg_cut`, `recip_rank`, `map`, `recall`.

use std::cmp::Ordering;

/// Ranks that nDCG and the reciprocal rank look at.
pub const CUT: usize = 10;

/// A measure. Each is between 0 and 1, and 1 is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Discounted cumulative gain of the first [`CUT`] over that of the best order, with the grade as gain (Järvelin
    /// and Kekäläinen, 2002).
    Ndcg,
    /// One over the rank of the first relevant document; 0 beyond [`CUT`].
    ReciprocalRank,
    /// Mean of the precision at the rank of each relevant document.
    AveragePrecision,
    /// Share of relevant documents within the first ranks.
    Recall,
}

impl Measure {
    /// Every measure, in the order of [`Values`].
    pub const ALL: [Self; 4] = [Self::Ndcg, Self::ReciprocalRank, Self::AveragePrecision, Self::Recall];

    /// Its name for the mean over queries; `recall_at` is the number of ranks of [`Recall`](Self::Recall).
    #[must_use]
    pub fn name(self, recall_at: usize) -> String {
        match self {
            Self::Ndcg => format!("nDCG@{CUT}"),
            Self::ReciprocalRank => format!("MRR@{CUT}"),
            Self::AveragePrecision => "MAP".to_owned(),
            Self::Recall => format!("R@{recall_at}"),
        }
    }
}

/// The measures of one query, in the order of [`Measure::ALL`].
pub type Values = [f64; 4];

/// Orders documents as trec_eval does: by score from high to low, equal ones by id from high to low, compared as bytes.
/// Scores are finite.
#[must_use]
pub fn trec_order(left: (f32, &str), right: (f32, &str)) -> Ordering {
    // Adding 0 makes one of the two zeros.
    let by_score = (right.0 + 0.0).total_cmp(&(left.0 + 0.0));
    by_score.then_with(|| right.1.as_bytes().cmp(left.1.as_bytes()))
}

/// The measures of one query. `ranked` has the grade of each ranked document, best first, and `None` for an unjudged
/// one; `judged` has every grade of the query.
#[must_use]
pub fn measure(ranked: &[Option<i64>], judged: &[i64], recall_at: usize) -> Values {
    let relevant = judged.iter().filter(|&&grade| grade > 0).count();
    if relevant == 0 {
        return [0.0; 4];
    }
    let is_relevant = |grade: &Option<i64>| grade.is_some_and(|grade| grade > 0);
    let mut best: Vec<i64> = judged.to_vec();
    best.sort_unstable_by(|left, right| right.cmp(left));
    let ideal = discounted(best.into_iter());
    let gained = discounted(ranked.iter().map(|grade| grade.unwrap_or(0)));
    let first = ranked.iter().take(CUT).position(is_relevant);
    let (mut found, mut precisions) = (0usize, 0.0);
    for (index, _) in ranked.iter().enumerate().filter(|(_, grade)| is_relevant(grade)) {
        found += 1;
        precisions += found as f64 / (index + 1) as f64;
    }
    let recalled = ranked.iter().take(recall_at).filter(|grade| is_relevant(grade)).count();
    [
        gained / ideal,
        first.map_or(0.0, |index| 1.0 / (index + 1) as f64),
        precisions / relevant as f64,
        recalled as f64 / relevant as f64,
    ]
}

/// The discounted cumulative gain of the first [`CUT`] grades. Negative grades gain nothing.
fn discounted(grades: impl Iterator<Item = i64>) -> f64 {
    let gain = |(index, grade): (usize, i64)| grade.max(0) as f64 / ((index + 2) as f64).log2();
    grades.take(CUT).enumerate().map(gain).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of ir_measures 0.4.3 (nDCG@10, RR, AP, R@5 of pytrec_eval) on the same judgements; made by
    /// `testdata/quality/make.py`.
    const GOLDEN: &str = include_str!("../../../testdata/quality/golden.json");

    #[derive(serde::Deserialize)]
    struct Case {
        about: String,
        /// Document id and score, in any order.
        run: Vec<(String, f32)>,
        /// Document id and grade.
        qrels: Vec<(String, i64)>,
        values: Values,
    }

    #[test]
    fn every_measure_is_that_of_ir_measures() {
        let cases: Vec<Case> = serde_json::from_str(GOLDEN).unwrap();
        assert!(cases.len() > 200, "{} cases", cases.len());
        for Case { about, mut run, qrels, values } in cases {
            run.sort_by(|left, right| trec_order((left.1, &left.0), (right.1, &right.0)));
            let grade = |id: &str| qrels.iter().find(|(judged, _)| judged == id).map(|(_, grade)| *grade);
            let ranked: Vec<Option<i64>> = run.iter().map(|(id, _)| grade(id)).collect();
            let judged: Vec<i64> = qrels.iter().map(|(_, grade)| *grade).collect();
            let ours = measure(&ranked, &judged, 5);
            for (index, (ours, theirs)) in ours.iter().zip(values).enumerate() {
                assert!((ours - theirs).abs() < 1e-9, "{about}, {:?}: {ours} is not {theirs}", Measure::ALL[index]);
            }
        }
    }

    #[test]
    fn a_query_without_relevant_documents_is_worth_nothing() {
        assert_eq!(measure(&[Some(0), None], &[0], 10), [0.0; 4]);
        assert_eq!(measure(&[], &[], 10), [0.0; 4]);
        assert_eq!(measure(&[Some(-1)], &[-1], 10), [0.0; 4]);
    }

    #[test]
    fn a_relevant_document_that_was_not_ranked_counts_as_missed() {
        let [ndcg, rank, precision, recall] = measure(&[Some(1)], &[1, 1], 10);
        assert!((ndcg - 1.0 / (1.0 + 1.0 / 3f64.log2())).abs() < 1e-12);
        assert_eq!((rank, precision, recall), (1.0, 0.5, 0.5));
    }

    #[test]
    fn equal_scores_are_ordered_by_id_from_the_last() {
        let mut run = [(1.0, "a"), (2.0, "b"), (1.0, "c"), (1.0, "B")];
        run.sort_by(|left, right| trec_order(*left, *right));
        assert_eq!(run.map(|(_, id)| id), ["b", "c", "a", "B"]);
    }
}
