//! The reference and the CPU engine against logits that PyTorch computed in float64.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use assay_kernels::architecture::{Dense, Head, Pooling};
use assay_kernels::weights::{HeadWeights, Linear};
use assay_kernels::{Activation, Engine, Model, Precision, checkpoint, reference};
use candle_core::Device;
use common::{Golden, cpu_engine, default_adapter, default_goldens, golden, pack, run, worst};

/// Absolute, on every label.
const TOLERANCE: f64 = 1e-4;

/// The reference differs from PyTorch's float64 by the order of sums only.
const REFERENCE_TOLERANCE: f64 = 1e-5;

fn check_reference(weights: &Model, golden: &Golden, cases: usize) {
    for (index, case) in golden.cases.iter().take(cases).enumerate() {
        let logits = reference::forward(weights, &pack(std::slice::from_ref(case)));
        for (label, (actual, expected)) in logits.iter().zip(&case.logits).enumerate() {
            let error = (actual - expected).abs();
            assert!(error <= REFERENCE_TOLERANCE, "case {index}, label {label}: {actual} for {expected}");
        }
    }
}

fn check_engine(weights: Model, golden: &Golden) {
    let labels = weights.architecture.outputs();
    let mut engine = cpu_engine(weights, 0, Precision::F32);
    let outputs = run(&mut engine, &pack(&golden.cases));
    let expected: Vec<f64> = golden.cases.iter().flat_map(|case| case.logits.clone()).collect();
    let (error, at) = worst(&outputs, &expected);
    println!("{}: largest error {error:.2e}", engine.info().device);
    assert!(error <= TOLERANCE, "case {}, label {}: {} for {}", at / labels, at % labels, outputs[at], expected[at]);
}

#[test]
fn tiny_models_of_every_head_width_agree_with_pytorch() {
    for dir in testdata::models("bert") {
        println!("{}", dir.display());
        let golden = golden(&dir.join("golden.json"));
        let weights = checkpoint::load(&dir, None).unwrap();
        check_reference(&weights, &golden, golden.cases.len());
        check_engine(weights, &golden);
    }
}

#[test]
fn the_default_model_agrees_with_pytorch() {
    let Some(dir) = testdata::default_model() else { return };
    let weights = checkpoint::load(&dir, Some(&default_adapter())).unwrap();
    for golden in default_goldens() {
        // The reference takes a second a row.
        check_reference(&weights, &golden, 3);
        check_engine(weights.clone(), &golden);
    }
}

#[test]
fn the_backbone_with_another_head_agrees_with_pytorch() {
    let Some(dir) = testdata::default_model() else { return };
    let golden = golden(&testdata::golden("other-head.json"));
    let mut weights = checkpoint::load(&dir, None).unwrap();
    let tensors = candle_core::safetensors::load(dir.join(checkpoint::WEIGHTS_FILE), &Device::Cpu).unwrap();
    let tensor = |name: &str| tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let inputs = weights.architecture.hidden_size;
    let weight = tensor("pooler.dense.weight").into();
    let dense = Linear { weight, bias: Some(tensor("pooler.dense.bias")), inputs };
    let (weight, bias) = (golden.classifier_weight.clone().into(), Some(golden.classifier_bias.clone()));
    let classifier = Linear { weight, bias, inputs };
    weights.weights.head = Some(HeadWeights { dense: Some(dense), dense_norm: None, classifier });
    weights.architecture.pooling = Pooling::First;
    let dense = Some(Dense { bias: true, activation: Some(Activation::Tanh), norm: None });
    weights.architecture.head = Head::Classifier { dense, labels: golden.classifier_bias.len(), bias: true };
    check_engine(weights, &golden);
}
