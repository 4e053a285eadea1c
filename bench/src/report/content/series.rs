//! Series of samples, thinned out.

use super::super::schema::SeriesPoint;

/// Neighbours merged until at most `most` points are left.
pub(super) fn thin(series: &[SeriesPoint], most: usize) -> Vec<SeriesPoint> {
    series.chunks(series.len().div_ceil(most).max(1)).map(merge).collect()
}

/// Throughput as the mean over the second before each point: a single interval holds one request or none. At most
/// `most` points.
pub(super) fn smoothed(series: &[SeriesPoint], most: usize) -> Vec<(f64, f64)> {
    let at = |end: usize| {
        let now = series[end].at_s;
        let begin = series[..end].iter().rposition(|point| point.at_s <= now - 1.0).map_or(0, |index| index + 1);
        let window = &series[begin..=end];
        (now, window.iter().map(|point| point.pairs_per_s).sum::<f64>() / window.len() as f64)
    };
    (0..series.len()).step_by(series.len().div_ceil(most).max(1)).map(at).collect()
}

/// Several points as one: means, those of requests weighted by their number; time and queue as at the end.
fn merge(points: &[SeriesPoint]) -> SeriesPoint {
    let Some(&last) = points.last() else { return SeriesPoint::default() };
    let completed: u64 = points.iter().map(|point| point.completed).sum();
    let mean = |figure: fn(&SeriesPoint) -> f64| points.iter().map(figure).sum::<f64>() / points.len() as f64;
    let known = |figure: fn(&SeriesPoint) -> Option<f64>| {
        let values: Vec<f64> = points.iter().filter_map(figure).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let weighted = |figure: fn(&SeriesPoint) -> Option<f64>| {
        let values = points.iter().filter_map(|point| Some((figure(point)?, point.completed as f64)));
        let (sum, weight) =
            values.fold((0.0, 0.0), |(sum, total), (value, weight)| (sum + value * weight, total + weight));
        (weight > 0.0).then(|| sum / weight)
    };
    SeriesPoint {
        device_memory_mb: known(|point| point.device_memory_mb),
        device_utilization_percent: known(|point| point.device_utilization_percent),
        cpu_percent: mean(|point| point.cpu_percent),
        rss_mb: mean(|point| point.rss_mb),
        completed,
        pairs_per_s: mean(|point| point.pairs_per_s),
        latency_ms: weighted(|point| point.latency_ms),
        tokenize_ms: weighted(|point| point.tokenize_ms),
        guest_ms: weighted(|point| point.guest_ms),
        queue_ms: weighted(|point| point.queue_ms),
        inference_ms: weighted(|point| point.inference_ms),
        padded_waste_percent: weighted(|point| point.padded_waste_percent),
        ..last
    }
}
