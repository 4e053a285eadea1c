//! What integer weights cost in accuracy: logits near those of f32, and the same ranking.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use assay_kernels::{Precision, Task, checkpoint, reference};
use common::{Shape, cpu_engine, default_adapter, default_goldens, pack, random_rows, random_weights, run, worst};

/// Largest difference from float64 on the default model, whose logits here span 14, and least Kendall tau: on our own
/// passages, and on the goldens beside the checkout.
const CASES: [(Precision, [(f64, f64); 2]); 2] =
    [(Precision::Int8, [(0.15, 0.975), (0.15, 0.985)]), (Precision::Int16, [(0.03, 0.98), (0.02, 0.995)])];

#[test]
fn the_default_model_in_integers_is_near_pytorch_and_ranks_the_same() {
    let Some(dir) = testdata::default_model() else { return };
    let weights = checkpoint::load(&dir, Some(&default_adapter())).unwrap();
    for (precision, bounds) in CASES {
        let mut engine = cpu_engine(weights.clone(), 0, precision);
        for (golden, (tolerance, least_tau)) in default_goldens().iter().zip(bounds) {
            let expected: Vec<f64> = golden.cases.iter().map(|case| case.logits[0]).collect();
            let outputs = run(&mut engine, &pack(&golden.cases));
            let (error, at) = worst(&outputs, &expected);
            let square = outputs.iter().zip(&expected).map(|(&a, e)| (f64::from(a) - e).powi(2)).sum::<f64>();
            let root_mean_square = (square / expected.len() as f64).sqrt();
            let tau = kendall_tau(&outputs, &expected);
            println!("{precision:?}: largest error {error:.2e}, root mean square {root_mean_square:.2e}, tau {tau:.4}");
            assert!(error <= tolerance, "{precision:?}, case {at}: {} for {}", outputs[at], expected[at]);
            assert!(tau >= least_tau, "{precision:?}: Kendall tau {tau}");
        }
    }
}

fn kendall_tau(a: &[f32], b: &[f64]) -> f64 {
    let (mut agree, mut pairs) = (0i64, 0i64);
    for i in 0..a.len() {
        for j in 0..i {
            let sign = (f64::from(a[i]) - f64::from(a[j])) * (b[i] - b[j]);
            agree += if sign > 0.0 { 1 } else { -1 };
            pairs += 1;
        }
    }
    agree as f64 / pairs as f64
}

#[test]
fn models_of_odd_sizes_in_integers_are_near_the_reference() {
    for (heads, head_dim, intermediate) in [(3, 20, 100), (2, 32, 450), (5, 16, 33), (1, 7, 5), (13, 31, 801)] {
        let shape = Shape { heads, head_dim, intermediate, layers: 2, outputs: 2, task: Task::CrossEncoder };
        let weights = random_weights(shape, 17);
        let rows = random_rows(&[1, 7, 40], 3);
        let expected = reference::forward(&weights, &rows);
        for (precision, tolerance) in [(Precision::Int8, 0.1), (Precision::Int16, 0.01)] {
            let outputs = run(&mut cpu_engine(weights.clone(), 0, precision), &rows);
            let (error, at) = worst(&outputs, &expected);
            assert!(error <= tolerance, "{shape:?} {precision:?}, output {at}: {} for {}", outputs[at], expected[at]);
        }
    }
}
