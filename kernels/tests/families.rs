//! Every family against logits that PyTorch computed in float64: its configuration is read right, its tensors are found,
//! and what it describes is computed, by the reference and by the engine or not at all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use assay_kernels::{CpuEngine, Precision, Task, TokenTypes, checkpoint, families, reference};
use common::{cpu_engine, golden, pack, random_model, random_rows, run, worst};

/// The reference differs from PyTorch's float64 by the order of sums only.
const REFERENCE_TOLERANCE: f64 = 1e-9;

/// In ModernBERT, PyTorch computes rotary tables and softmax in f32, whatever the type of the states.
const MODERNBERT_TOLERANCE: f64 = 1e-5;

/// Largest differences of the engine from float64, by precision. Logits of the tiny models span up to 6.
const ENGINE_TOLERANCES: [(Precision, f64); 3] =
    [(Precision::F32, 1e-4), (Precision::Int8, 0.2), (Precision::Int16, 0.03)];

/// Families that the CPU engine computes, by what the names of their tiny models begin with.
const FAMILIES: [&str; 6] = ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra"];

#[test]
fn every_family_agrees_with_pytorch_in_the_reference_and_in_each_precision() {
    for dir in FAMILIES.into_iter().flat_map(testdata::models) {
        let name = dir.file_name().unwrap().to_string_lossy();
        let golden = golden(&dir.join("golden.json"));
        let model = checkpoint::load(&dir, None).unwrap();
        let rows = pack(&golden.cases);
        let expected: Vec<f64> = golden.cases.iter().flat_map(|case| case.logits.clone()).collect();
        check_reference(&name, &reference::forward(&model, &rows), &expected, REFERENCE_TOLERANCE);
        for (precision, tolerance) in ENGINE_TOLERANCES {
            let outputs = run(&mut cpu_engine(model.clone(), 2, precision), &rows);
            let (error, at) = worst(&outputs, &expected);
            println!("{name} in {}: largest error {error:.1e}", precision.name());
            assert!(error <= tolerance, "{name} {precision:?}, output {at}: {} for {}", outputs[at], expected[at]);
        }
    }
}

#[test]
fn modernbert_agrees_with_pytorch_in_the_reference_and_is_refused_by_the_engine_by_part() {
    for name in ["modernbert-cls", "modernbert-mean"] {
        let dir = testdata::model(name);
        let golden = golden(&dir.join("golden.json"));
        let model = checkpoint::load(&dir, None).unwrap();
        let expected: Vec<f64> = golden.cases.iter().flat_map(|case| case.logits.clone()).collect();
        check_reference(name, &reference::forward(&model, &pack(&golden.cases)), &expected, MODERNBERT_TOLERANCE);
        let error = CpuEngine::supports(&model.architecture).unwrap_err();
        assert!(error.to_string().starts_with("the cpu engine has no "), "{error}");
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
