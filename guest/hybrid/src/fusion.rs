//! Two rankings of the same documents as one: plain functions of numbers.

/// How two stages are joined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fusion {
    pub(crate) method: Method,
    /// The first stage's weight, from 0 to 1; the second has the rest.
    pub(crate) first_weight: f64,
}

/// What of a stage counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Method {
    /// Its ranks: 1 / (k + rank), so that scores of any kind can be joined.
    ReciprocalRanks {
        /// How little the first ranks count more than the next.
        k: f64,
    },
    /// Its scores, from 0 for the lowest of the request to 1 for the highest.
    Scores,
}

impl Fusion {
    /// The joined scores, from 0 to 1. A document that a stage did not find gets nothing from it. Both slices have as
    /// many scores.
    pub(crate) fn join(&self, first: &[Option<f64>], second: &[Option<f64>]) -> Vec<f32> {
        let (first, second) = (self.worth(first), self.worth(second));
        let join =
            |(first, second): (f64, f64)| (self.first_weight * first + (1.0 - self.first_weight) * second) as f32;
        first.into_iter().zip(second).map(join).collect()
    }

    /// What each document's place in a stage is worth, from 0 to 1.
    fn worth(&self, scores: &[Option<f64>]) -> Vec<f64> {
        match self.method {
            Method::ReciprocalRanks { k } => reciprocal_ranks(scores, k),
            Method::Scores => scaled(scores),
        }
    }
}

/// (k + 1) / (k + rank), counted from 1. Equal scores have the better rank of both, so that a tie decides nothing.
fn reciprocal_ranks(scores: &[Option<f64>], k: f64) -> Vec<f64> {
    let mut worth = vec![0.0; scores.len()];
    let mut sorted: Vec<usize> = (0..scores.len()).filter(|&index| scores[index].is_some()).collect();
    let score = |index: usize| scores[index].unwrap_or_default();
    sorted.sort_by(|&left, &right| score(right).total_cmp(&score(left)));
    let mut rank = 0;
    for (place, &index) in sorted.iter().enumerate() {
        if place == 0 || scores[index] != scores[sorted[place - 1]] {
            rank = place + 1;
        }
        // A broken score must not become a good rank: it stays broken, and the host refuses it.
        worth[index] = if score(index).is_nan() { f64::NAN } else { (k + 1.0) / (k + rank as f64) };
    }
    worth
}

/// Scores as their place between the lowest and the highest. If all are equal, each is the highest.
fn scaled(scores: &[Option<f64>]) -> Vec<f64> {
    let found = || scores.iter().flatten().copied();
    let (lowest, highest) = (found().fold(f64::INFINITY, f64::min), found().fold(f64::NEG_INFINITY, f64::max));
    let range = highest - lowest;
    let scale = |score: f64| if range > 0.0 { ((score - lowest) / range).clamp(0.0, 1.0) } else { 1.0 };
    scores.iter().map(|score| score.map_or(0.0, scale)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use assay_guest::order;

    fn some(scores: &[f64]) -> Vec<Option<f64>> {
        scores.iter().copied().map(Some).collect()
    }

    #[test]
    fn ranks_count_whatever_the_scores_are() {
        let worth = reciprocal_ranks(&[Some(1e9), None, Some(-3.0), Some(2.0)], 1.0);
        assert_eq!(worth, [1.0, 0.0, 0.5, 2.0 / 3.0]);
        assert_eq!(reciprocal_ranks(&some(&[5.0, 7.0, 5.0, 1.0]), 0.0), [0.5, 1.0, 0.5, 0.25]);
    }

    #[test]
    fn scores_lie_between_the_lowest_and_the_highest() {
        assert_eq!(scaled(&[Some(-1.0), None, Some(3.0), Some(0.0)]), [0.0, 0.0, 1.0, 0.25]);
        assert_eq!(scaled(&some(&[2.0, 2.0])), [1.0, 1.0]);
        assert_eq!(scaled(&[None, None]), [0.0, 0.0]);
    }

    #[test]
    fn weights_say_how_much_each_stage_counts() {
        let (first, second) = (some(&[2.0, 1.0, 0.0]), some(&[0.0, 2.0, 1.0]));
        let join = |first_weight: f64| Fusion { method: Method::Scores, first_weight }.join(&first, &second);
        assert_eq!(join(1.0), [1.0, 0.5, 0.0]);
        assert_eq!(join(0.0), [0.0, 1.0, 0.5]);
        assert_eq!(join(0.5), [0.5, 0.75, 0.25]);
        let by_ranks = Fusion { method: Method::ReciprocalRanks { k: 60.0 }, first_weight: 0.5 };
        assert_eq!(order(&by_ranks.join(&first, &second)), [1, 0, 2]);
        assert_eq!(by_ranks.join(&some(&[1.0]), &some(&[-8.0])), [1.0]);
    }
}
