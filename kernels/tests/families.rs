//! Every family against logits that PyTorch computed in float64: its configuration is read right, its tensors are
//! found, and what it describes is computed, by the reference and by the engine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use assay_kernels::{Precision, Task, TokenTypes, checkpoint, families, reference};
use common::{cpu_engine, golden, pack, random_model, random_rows, run, worst};

/// The reference differs from PyTorch's float64 by the order of sums only.
const REFERENCE_TOLERANCE: f64 = 1e-9;

/// Largest difference of the f32 engine from float64.
const F32_TOLERANCE: f64 = 1e-4;

/// The same in integers: absolute, or as a share of the span of a model's logits if that is more. In sums over the 32
/// numbers of the tiny models rounding weighs more than in those of real ones.
const INTEGER_TOLERANCES: [(Precision, f64, f64); 2] = [(Precision::Int8, 0.2, 0.09), (Precision::Int16, 0.03, 0.009)];

/// Families and layouts, by what the names of their tiny models begin with.
const FAMILIES: [&str; 11] = [
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "distilbert",
    "electra",
    "modernbert",
    "ettin",
    "deberta",
    "gte",
    "jina",
];

#[test]
fn every_family_agrees_with_pytorch_in_the_reference_and_in_each_precision() {
    for dir in FAMILIES.into_iter().flat_map(testdata::models) {
        let name = dir.file_name().unwrap().to_string_lossy();
        let golden = golden(&dir.join("golden.json"));
        let model = checkpoint::load(&dir, None).unwrap();
        let rows = pack(&golden.cases);
        // Made with the library's own float32 parts, unlike those of `testdata`.
        let tolerance = if name == "tiny-modernbert" { 1e-4 } else { REFERENCE_TOLERANCE };
        let expected: Vec<f64> = golden.cases.iter().flat_map(|case| case.logits.clone()).collect();
        let computed = reference::forward(&model, &rows);
        check_reference(&name, &computed, &expected, tolerance);
        let expected = computed;
        let span =
            expected.iter().copied().fold(f64::MIN, f64::max) - expected.iter().copied().fold(f64::MAX, f64::min);
        let integers = INTEGER_TOLERANCES.map(|(precision, least, share)| (precision, least.max(share * span)));
        for (precision, tolerance) in [(Precision::F32, F32_TOLERANCE)].into_iter().chain(integers) {
            let outputs = run(&mut cpu_engine(model.clone(), 2, precision), &rows);
            let (error, at) = worst(&outputs, &expected);
            println!("{name} in {}: largest error {error:.1e} in a span of {span:.1}", precision.name());
            assert!(error <= tolerance, "{name} {precision:?}, output {at}: {} for {}", outputs[at], expected[at]);
        }
    }
}

fn check_reference(name: &str, actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{name}: as many numbers as expected");
    let errors = actual.iter().zip(expected).map(|(actual, expected)| (actual - expected).abs());
    let worst = errors.fold(0.0, f64::max);
    println!("{name}: the reference's largest error is {worst:.1e}");
    assert!(worst <= tolerance, "{name}: the reference is off by {worst:e}");
}

#[test]
fn rows_with_padding_inside_them_agree_with_the_reference() {
    let config = br#"{"model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"],
        "vocab_size": 100, "hidden_size": 60, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 100, "max_position_embeddings": 602, "type_vocab_size": 1, "pad_token_id": 1,
        "num_labels": 2}"#;
    let model = random_model(families::read_config(config).unwrap(), 3);
    assert_eq!(
        (model.architecture.task(), model.architecture.embeddings.token_types),
        (Task::CrossEncoder, TokenTypes::One)
    );
    // One id in a hundred is the padding's.
    let rows = random_rows(&[300, 7, 600, 64], 5);
    assert!(rows.ids().contains(&1));
    let expected = reference::forward(&model, &rows);
    for threads in [1, 3] {
        let outputs = run(&mut cpu_engine(model.clone(), threads, Precision::F32), &rows);
        let (error, at) = worst(&outputs, &expected);
        assert!(error <= 1e-4, "{threads} threads, output {at}: {} for {}", outputs[at], expected[at]);
    }
}
