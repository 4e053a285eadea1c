//! Puts one stage's hits below another's.

use assay_guest::Hit;

/// Adds `rest` below `hits`, both best first. Scores of `rest` are lowered by one number, so that its best is not above
/// the worst of `hits`.
pub(crate) fn below(hits: &mut Vec<Hit>, rest: &[Hit]) {
    let (Some(worst), Some(best)) = (lowest(hits), rest.first()) else { return hits.extend_from_slice(rest) };
    let over = (best.score - worst).max(0.0);
    // Numbers so far apart that their difference has none stay finite.
    let lowered = |score: f32| (score - over).clamp(f32::MIN, worst);
    hits.extend(rest.iter().map(|hit| Hit { index: hit.index, score: lowered(hit.score) }));
}

fn lowest(hits: &[Hit]) -> Option<f32> {
    hits.iter().map(|hit| hit.score).reduce(f32::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(hits: &[f32], rest: &[f32]) -> Vec<f32> {
        let hit = |(index, &score): (usize, &f32)| Hit { index: index as u32, score };
        let mut joined: Vec<Hit> = hits.iter().enumerate().map(hit).collect();
        below(&mut joined, &rest.iter().enumerate().map(hit).collect::<Vec<_>>());
        joined.iter().map(|hit| hit.score).collect()
    }

    #[test]
    fn scores_stay_where_they_are_below_already_and_are_lowered_otherwise() {
        assert_eq!(joined(&[5.0, 1.0], &[0.5, -3.0]), [5.0, 1.0, 0.5, -3.0]);
        assert_eq!(joined(&[5.0, 1.0], &[4.0, 0.0]), [5.0, 1.0, 1.0, -3.0]);
        assert_eq!(joined(&[], &[4.0]), [4.0]);
        assert_eq!(joined(&[4.0], &[]), [4.0]);
        assert_eq!(joined(&[f32::MIN], &[f32::MAX, f32::MIN]), [f32::MIN, f32::MIN, f32::MIN]);
    }
}
