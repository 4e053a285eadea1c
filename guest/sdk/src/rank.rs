//! From scores to an order: plain functions of numbers.

/// The positions of `scores`, best first.
///
/// Equal scores keep their order, and −0 equals 0. NaN comes last: a broken score must neither win nor make sorting
/// panic.
#[must_use]
pub fn order(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&left, &right| {
        let (left, right) = (scores[left], scores[right]);
        right.partial_cmp(&left).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
    });
    order
}

/// 1 / (1 + exp(−logit)), between 0 and 1, computed in float64 and rounded once.
#[must_use]
pub fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn best_comes_first_and_ties_keep_their_order() {
        assert_eq!(order(&[1.0, 3.0, 2.0, 3.0, 1.0]), [1, 3, 2, 0, 4]);
        assert_eq!(order(&[0.0, -0.0, 0.0]), [0, 1, 2]);
        assert_eq!(order(&[]), [] as [usize; 0]);
    }

    #[test]
    fn nan_comes_last_and_keeps_its_order() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert_eq!(order(&[nan, -inf, -nan, 1.0, inf, nan]), [4, 3, 1, 0, 2, 5]);
    }

    #[test]
    fn sigmoid_is_exact_at_known_points_and_never_overflows() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(f32::MIN), 0.0);
        assert!((sigmoid(1.0) - 0.731_058_6).abs() < 1e-7);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    proptest! {
        /// Few distinct values, so that ties are common, and every bit pattern, so that all kinds of NaN are too.
        #[test]
        fn the_order_is_a_stable_descending_permutation(
            scores in proptest::collection::vec(
                prop_oneof![
                    (-2_i8..3).prop_map(f32::from),
                    any::<u32>().prop_map(f32::from_bits),
                ],
                0..200,
            )
        ) {
            let order = order(&scores);
            let mut seen = order.clone();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..scores.len()).collect::<Vec<_>>());
            for pair in order.windows(2) {
                let (first, second) = (scores[pair[0]], scores[pair[1]]);
                let tied = first == second || (first.is_nan() && second.is_nan());
                prop_assert!(
                    first > second || (second.is_nan() && !first.is_nan()) || (tied && pair[0] < pair[1]),
                    "{first} at {} before {second} at {}", pair[0], pair[1]
                );
            }
        }
    }
}
